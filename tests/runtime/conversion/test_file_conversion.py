"""Files: one at a time, many at once, in constant memory, and nothing half-written."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from opened import wrap
from tiny_bundle import SPEC

from comosvc.runtime import AudioError, BundleError, CancelledError, Converter, OptionError, OutputError
from comosvc.runtime.audio.files import AudioWriter
from comosvc.runtime.conversion.synthesis import FullContext
from comosvc.runtime.providers.self_test import vowel

GLIDE, _ = vowel(SPEC)


@pytest.fixture
def songs(tmp_path):
    """Three songs, a text file that claims to be one, and the path of a file that is not there."""
    folder = tmp_path / "Lieder ♪"
    folder.mkdir()
    for number, rate in ((1, 24_000), (2, 44_100), (3, 8_000)):
        soundfile.write(folder / f"süß {number}.wav", GLIDE[: 8_000 * number], rate)
    (folder / "text.wav").write_text("not a sound")
    return [*sorted(folder.glob("*.wav")), folder / "gone.flac"]


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_one_file(converter, songs, tmp_path):
    result = converter.convert_file(songs[1], tmp_path / "ö.flac", singer="bass", key="auto")
    audio, rate = soundfile.read(result.output)
    assert (len(audio), rate) == (16_000, 44_100)
    assert result.source == songs[1]
    assert result.error is None
    assert result.seconds == pytest.approx(16_000 / 44_100)
    assert result.rtf == pytest.approx(result.timings_ms["total"] / 1e3 / result.seconds)
    assert result.as_dict()["options"]["singer"] == {"bass": 1.0}


def test_an_error_stops_its_own_file_only(converter, songs, tmp_path):
    results = list(converter.convert_many(songs, tmp_path / "new" / "out", singer="Ténor 1", key=-3))
    by_name = {result.source.name: result for result in results}
    assert len(results) == 5
    assert isinstance(by_name["text.wav"].error, AudioError)
    assert isinstance(by_name["gone.flac"].error, AudioError)
    assert "gone.flac" in str(by_name["gone.flac"].error)
    assert by_name["gone.flac"].output is None
    assert by_name["gone.flac"].rtf == 0.0
    assert names(tmp_path / "new" / "out") == [f"süß {number}_Ténor 1_-3key.wav" for number in (1, 2, 3)]


def test_names_tell_song_singer_and_key(converter, songs, tmp_path):
    for options, wanted in (
        ({"key": 2.5}, "süß 1_alto_2.5key.wav"),
        ({"key": "auto", "singer": {"alto": 0.7, "bass": 0.3}}, "süß 1_alto0.7+bass0.3_3key.wav"),
        ({"key": "octave", "singer": "bass"}, "süß 1_bass_-12key.wav"),
        ({"ending": ".flac"}, "süß 1_alto_0key.flac"),
    ):
        (result,) = converter.convert_many(songs[:1], tmp_path / "out", **options)
        assert result.output.name == wanted
        assert result.output.exists()


def test_a_result_of_the_same_key_is_not_overwritten_by_one_that_is_found(converter, songs, tmp_path):
    """Nor is it converted once more with `skip_existing`."""
    (first,) = converter.convert_many(songs[:1], tmp_path / "out", key="auto")
    before = first.output.read_bytes()
    (again,) = converter.convert_many(songs[:1], tmp_path / "out", key="auto")
    assert "exists" in str(again.error)
    (again,) = converter.convert_many(songs[:1], tmp_path / "out", key="auto", skip_existing=True)
    assert (again.skipped, again.error, again.output) == (True, None, first.output)
    assert names(tmp_path / "out") == [first.output.name]
    assert first.output.read_bytes() == before


def test_two_songs_of_one_name_do_not_share_a_result(converter, songs, tmp_path):
    twin = tmp_path / songs[0].name
    twin.write_bytes(songs[0].read_bytes())
    first, second = sorted(
        converter.convert_many([songs[0], twin], tmp_path / "out"), key=lambda r: r.error is not None
    )
    assert first.error is None
    assert isinstance(second.error, OutputError)
    assert str(songs[0]) in str(second.error)
    assert str(twin) in str(second.error)


def test_nothing_is_overwritten_unasked(converter, songs, tmp_path):
    path = tmp_path / "there.wav"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        converter.convert_file(songs[0], path)
    assert path.read_text() == "mine"
    converter.convert_file(songs[0], path, overwrite=True)
    assert soundfile.info(path).frames == 8_000
    list(converter.convert_many(songs[:1], tmp_path / "out"))
    (again,) = converter.convert_many(songs[:1], tmp_path / "out")
    assert isinstance(again.error, OutputError)


def test_a_source_is_never_replaced_by_its_result(converter, songs):
    before = songs[0].read_bytes()
    with pytest.raises(OutputError, match="is the source itself"):
        converter.convert_file(songs[0], songs[0].parent / "." / songs[0].name, overwrite=True)
    assert songs[0].read_bytes() == before


@pytest.mark.parametrize("how", ["cancelled", "broken graph", "damaged source"])
def test_a_failure_leaves_no_file_behind(bundle_path, tmp_path, how):
    converter = Converter(bundle_path, threads=1)
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * 24_000)
    source, out = tmp_path / "song.flac", tmp_path / "out"
    out.mkdir()
    soundfile.write(source, noise, 24_000)
    progress, kind = None, BundleError
    if how == "cancelled":
        progress, kind = (lambda share: share < 0.3), CancelledError
    elif how == "damaged source":
        source.write_bytes(source.read_bytes()[:1_000])
        kind = AudioError
    else:
        factors = iter([1.0])
        wrap(converter, "vocoder", lambda inputs, run: (next(factors, np.nan) * run(inputs)[0],))
    with pytest.raises(kind):
        converter.convert_file(source, out / "result.wav", progress=progress)
    assert names(out) == []


def test_a_source_that_was_cut_short_is_converted_with_a_warning(converter, tmp_path):
    source = tmp_path / "song.flac"
    soundfile.write(source, 0.1 * np.random.default_rng(0).standard_normal(6 * 24_000), 24_000)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    for key in (0.0, "auto"):
        result = converter.convert_file(source, tmp_path / "out.wav", overwrite=True, key=key)
        assert result.seconds == soundfile.info(tmp_path / "out.wav").duration
        assert 2.0 < result.seconds < 3.1
        assert sum(f"{result.seconds:.2f} of 6.00 s could be read" in warning for warning in result.warnings) == 1


def test_one_channel_of_two(converter, tmp_path):
    """The left one where both cancel each other, in arrays as in files."""
    left, right = GLIDE[:9_000], -GLIDE[:9_000]
    stereo = np.stack([left, right], axis=1)
    wanted = {"mid": converter.convert(left, 24_000), "right": converter.convert(right, 24_000)}
    soundfile.write(tmp_path / "a.wav", stereo, 24_000, "FLOAT")
    for channel, whole in wanted.items():
        out = converter.convert(stereo, 24_000, channel=channel)
        np.testing.assert_array_equal(out.audio, whole.audio)
        (result,) = converter.convert_many([tmp_path / "a.wav"], tmp_path / channel, channel=channel)
        np.testing.assert_allclose(soundfile.read(result.output)[0], whole.audio, atol=2.0**-22)
        for warnings in (out.warnings, result.warnings):
            assert any("opposite phase" in warning for warning in warnings) == (channel == "mid")
    same = np.stack([left, left], axis=1)
    assert "2 channels were mixed to mono" in converter.convert(same, 24_000).warnings
    with pytest.raises(OptionError, match="channel is 'middle'"):
        converter.convert(same, 24_000, channel="middle")


def test_file_objects_come_in_and_go_out(converter, songs, tmp_path):
    converter.convert_file(songs[0], tmp_path / "a.wav")
    source, target = io.BytesIO(songs[0].read_bytes()), io.BytesIO()
    result = converter.convert_file(source, target)
    assert target.getvalue() == (tmp_path / "a.wav").read_bytes()
    assert (str(result.source), str(result.output)) == ("<BytesIO>", "<BytesIO>")
    with (tmp_path / "b.flac").open("wb") as file:
        converter.convert_file(source, file)
    assert soundfile.info(tmp_path / "b.flac").format == "FLAC"
    (result,) = converter.convert_many([source], tmp_path / "out")
    assert result.output.name == "BytesIO_alto_0key.wav"
    with pytest.raises(OptionError, match=r"ending is '\.mp3'"):
        converter.convert_file(source, target, ending=".mp3")


def test_what_the_system_refuses_stops_its_own_file_only(converter, songs, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    latin = tmp_path / os.fsdecode(b"caf\xe9.wav")
    long = tmp_path / ("x" * 248 + ".wav")
    for path in (latin, long):
        path.write_bytes(songs[0].read_bytes())
    bad = {
        tmp_path / ("x" * 300): "File name too long",
        long: "File name too long",
        tmp_path / "loop.wav": "symbolic links",
        songs[0] / "a.wav": "Not a directory",
        tmp_path / "\ud800.wav": "surrogates",
        tmp_path / "a\0.wav": "null",
        Path("/dev/zero"): "is a device",
        tmp_path: "is a folder",
    }
    results = {r.source: r for r in converter.convert_many([*bad, latin, songs[0]], tmp_path / "out")}
    for path, words in bad.items():
        assert words in str(results[path].error)
    assert results[latin].error is None
    assert results[songs[0]].error is None
    assert len(names(tmp_path / "out")) == 2


def test_a_second_run_skips_what_is_done(converter, songs, tmp_path):
    list(converter.convert_many(songs[:1], tmp_path / "out"))
    before = (tmp_path / "out" / "süß 1_alto_0key.wav").stat()
    first, second = sorted(
        converter.convert_many(songs[:2], tmp_path / "out", skip_existing=True), key=lambda r: r.source
    )
    assert (first.skipped, first.error, first.output.stat()) == (True, None, before)
    assert (second.skipped, second.error) == (False, None)


def test_a_killed_run_leaves_nothing_for_good(bundle_path, converter, songs, tmp_path):
    source, out = tmp_path / "song.wav", tmp_path / "out"
    out.mkdir()
    soundfile.write(source, np.tile(GLIDE[:24_000], 900), 24_000)
    options = ["-o", str(out), "-m", str(bundle_path), "--provider", "cpu", "--threads", "1"]
    with subprocess.Popen([sys.executable, "-c", COMMAND, str(source), *options]) as command:
        while not names(out) and command.poll() is None:
            time.sleep(0.005)
        list(converter.convert_many(songs[:1], out))
        assert [Path(name).suffix for name in names(out)] == [".partial", ".wav"]  # it lives
        command.kill()
    converter.convert_file(songs[1], out / "two.wav")
    assert names(out) == ["süß 1_alto_0key.wav", "two.wav"]


COMMAND = """
import signal
from comosvc.runtime.cli.convert import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
main()
"""


@pytest.mark.parametrize("output", ["result.wav", "."])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_command_that_is_stopped_leaves_no_file_behind(bundle_path, tmp_path, output, number, code):
    source, out = tmp_path / "song.wav", tmp_path / "out"
    out.mkdir()
    soundfile.write(source, np.tile(GLIDE[:24_000], 900), 24_000)
    options = ["-o", str(out / output), "-m", str(bundle_path), "--provider", "cpu", "--threads", "1"]
    with subprocess.Popen([sys.executable, "-c", COMMAND, str(source), *options]) as command:
        while not names(out) and command.poll() is None:
            time.sleep(0.005)
        begun = names(out)
        command.send_signal(number)
        assert command.wait() == code
    assert [Path(name).suffix for name in begun] == [".partial"]
    assert names(out) == []


def test_a_signal_between_two_lines_leaves_no_file_behind(tmp_path):
    """Its exception comes at any line, also where nobody has got the writer yet whose block would end it."""
    writer = AudioWriter(tmp_path / "a.wav", 24_000)
    assert names(tmp_path)
    del writer
    assert names(tmp_path) == []
    ends = (
        "import sys, pathlib; from comosvc.runtime.audio.files import AudioWriter; path = pathlib.Path(sys.argv[1]); "
    )
    ends += "writer = AudioWriter(path / 'a.wav', 24_000); sys.exit(len(list(path.iterdir())))"
    assert subprocess.run([sys.executable, "-c", ends, tmp_path], check=False).returncode == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("output", "words"),
    [("a.mp3", "written as .wav or .flac"), ("no folder/a.wav", "there is no folder"), ("taken.wav", "is a folder")],
)
def test_an_impossible_output_is_one_clear_error(converter, songs, tmp_path, output, words):
    (tmp_path / "taken.wav").mkdir()
    with pytest.raises(OutputError, match=words):
        converter.convert_file(songs[0], tmp_path / output, overwrite=True)


def test_wrong_arguments_raise_at_once(converter, songs, tmp_path):
    for options in ({"singer": "nobody"}, {"key": 99}, {"ending": ".mp3"}, {"batch": 0}):
        with pytest.raises(OptionError):
            converter.convert_many(songs, tmp_path / "out", **options)
    for one in (songs[0], str(songs[0])):
        with pytest.raises(OptionError, match=r"sources is one path, .*; it must be several"):
            converter.convert_many(one, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        converter.convert_many(songs, tmp_path / "file")


def test_progress_names_the_file(converter, songs, tmp_path):
    seen: dict[Path, list[float]] = {song: [] for song in songs}
    list(converter.convert_many(songs, tmp_path / "out", key="auto", progress=lambda path, s: seen[path].append(s)))
    for song in songs[:3]:
        assert seen[song] == sorted(seen[song])
        assert seen[song][-1] == 1.0
        assert len([share for share in seen[song] if share < 1.0]) >= 5, "one for each graph, pitch twice"
    assert not any(seen[song] for song in songs[3:])


def test_files_and_functions_that_are_none_are_refused_at_once(converter, songs, tmp_path):
    wrong_calls = (
        lambda wrong: converter.convert_file(wrong, tmp_path / "out.wav"),
        lambda wrong: converter.convert_file(songs[0], wrong),
        lambda wrong: converter.convert_file(songs[0], tmp_path / "out.wav", progress=wrong),
        lambda wrong: converter.convert_file(songs[0], tmp_path / "out.wav", ending=wrong),
        lambda wrong: converter.convert_many([songs[0], wrong], tmp_path / "out"),
        lambda wrong: converter.convert_many(wrong, tmp_path / "out"),
        lambda wrong: converter.convert_many(songs, wrong),
        lambda wrong: converter.convert_many(songs, tmp_path / "out", progress=wrong),
        lambda wrong: converter.convert_many(songs, tmp_path / "out", ending=wrong),
    )
    for call in wrong_calls:
        for wrong in (5, b"x", [1], 10**5000, np.zeros(2)):
            with pytest.raises(OptionError):
                call(wrong)
    assert names(tmp_path) == [songs[0].parent.name]


@pytest.mark.parametrize("after", [1, 3, 4])
def test_progress_cancels_between_pieces(converter, songs, tmp_path, after):
    shares = []
    with pytest.raises(CancelledError, match="cancelled at"):
        converter.convert_file(
            songs[0], tmp_path / "out.wav", progress=lambda share: len(shares) < after and shares.append(share) is None
        )
    assert len(shares) == after
    assert names(tmp_path) == [songs[0].parent.name]


def test_progress_that_says_false_cancels_its_file_only(converter, songs, tmp_path):
    found = list(
        converter.convert_many(songs[:2], tmp_path / "out", progress=lambda path, _: np.bool_(path != songs[0]))
    )
    assert {result.source: type(result.error) for result in found} == {songs[0]: CancelledError, songs[1]: type(None)}


PEAK = """
import resource, sys
import numpy as np, soundfile
from comosvc.runtime import Converter
from comosvc.runtime.providers.self_test import vowel
bundle, folder, seconds, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
converter = Converter(bundle, provider="cpu", threads=threads)
glide, _ = vowel(converter.spec)
with soundfile.SoundFile(f"{folder}/{seconds}.wav", "w", 24_000, 1) as file:
    for _ in range(seconds):
        file.write(glide[:24_000])
converter.convert_file(f"{folder}/{seconds}.wav", f"{folder}/out{seconds}.wav", overwrite=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(bundle_path, folder, seconds, threads):
    command = [sys.executable, "-c", PEAK, str(bundle_path), str(folder), str(seconds), str(threads)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_memory_is_flat(bundle_path, tmp_path):
    """Ten minutes take no more memory than half of one; as samples in float32 they are 55 MB more at each stage."""

    assert peak_kib(bundle_path, tmp_path, 600, threads=1) - peak_kib(bundle_path, tmp_path, 30, threads=1) < 4_000
    assert soundfile.info(tmp_path / "out600.wav").frames == 600 * 24_000


def test_no_track_grows_with_the_clip(converter, monkeypatch, tracks_of):
    """Numbers that are held, of everything that is kept by position: also of what is too small to be seen above."""
    held, listen = [], FullContext.listen

    def count(self, *block):
        listen(self, *block)
        held.append([track.end - track.start for track in tracks_of(self)])

    monkeypatch.setattr(FullContext, "listen", count)
    converter.convert(np.tile(GLIDE[:24_000], 60), 24_000)
    assert len(held) == 15
    assert len(held[0]) > 10
    assert np.all(np.max(held[5:], axis=0) <= 1.1 * np.max(held[1:5], axis=0))


def test_pieces_side_by_side_keep_memory_flat(tmp_path):
    """What is promised for any length is 1.5 times the memory of half a minute; with memory patterns it was that."""
    short, long = (peak_kib("demo", tmp_path, seconds, threads=8) for seconds in (30, 240))
    assert long < 1.3 * short
