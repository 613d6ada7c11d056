"""The layouts of data sets, what is held out, and where recordings are cut."""

import io
import json
import os

import librosa
import numpy as np
import pytest
import soundfile
from dataset_trees import RATE, m4singer, opensinger, tone, write
from rich.console import Console

from comosvc.runtime.audio import sources
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.data.datasets import (
    Recording,
    folder_material,
    m4singer_material,
    open_dataset,
    opensinger_material,
)
from comosvc.training.data.datasets import split_by_song as split
from comosvc.training.data.material import report_tables
from comosvc.training.data.prepare import SlicingConfig, prepare, slice_at_silences
from comosvc.training.errors import DataError

SONGS = ("美错", "Let It Go", "奇妙", "童话", "消愁", "问春")


def test_m4singer_by_its_listing(tmp_path):
    material = m4singer_material(m4singer(tmp_path, {"Alto-1": 300.0, "Tenor-2": 150.0}, SONGS))
    assert material.trained == ["Alto-1", "Tenor-2"]
    assert len(material.recordings) == 2 * 6 * 2
    one = next(r for r in material.recordings if r.id == "Alto-1#Let It Go#0001")
    assert (one.singer, one.song, one.text) == ("Alto-1", "Let It Go", "歌1词1")
    assert one.path == tmp_path / "Alto-1#Let-It-Go" / "0001.wav"
    assert material.dropped == []


def test_m4singer_names_what_does_not_fit_its_listing(tmp_path):
    m4singer(tmp_path, {"Alto-1": 300.0}, SONGS)
    (tmp_path / "Alto-1#美错" / "0001.wav").unlink()
    write(tmp_path / "Alto-1#美错" / "0009.wav", tone(200.0))
    reasons = {d.id: d.reason for d in m4singer_material(tmp_path).dropped}
    assert "is not there" in reasons["Alto-1#美错#0001"]
    assert reasons["Alto-1#美错/0009.wav"] == "not in meta.json"


@pytest.mark.parametrize("text", ["{", '{"item_name": 1}', '[{"name": "x"}]', "[1]"])
def test_damaged_listing_is_named(tmp_path, text):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(DataError, match=r"meta\.json"):
        m4singer_material(tmp_path)


def test_opensinger_by_its_folders(tmp_path):
    material = opensinger_material(opensinger(tmp_path, {"Man_0": 120.0, "Woman_0": 240.0}, ("光年之外", "a_b")))
    assert material.trained == ["Man_0", "Woman_0"]
    one = next(r for r in material.recordings if r.id == "WomanRaw/0_光年之外/0_光年之外_1")
    assert (one.singer, one.song, one.text) == ("Woman_0", "光年之外", "歌0词1")
    assert {r.song for r in material.recordings} == {"光年之外", "a_b"}
    (tmp_path / "ManRaw" / "notes").mkdir()
    assert [d.id for d in opensinger_material(tmp_path).dropped] == ["ManRaw/notes"]


@pytest.mark.parametrize("name", ["m4singer", "opensinger", "folder"])
def test_another_layout_says_what_is_missing(tmp_path, name):
    with pytest.raises(DataError, match=r"meta\.json|ManRaw|sub-folder"):
        open_dataset(name, tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        open_dataset(name, tmp_path / "nowhere")


def test_unknown_layout_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="folder, m4singer, opensinger"):
        open_dataset("librispeech", tmp_path)


def test_songs_of_a_folder(tmp_path):
    names = ("a/one/0.wav", "a/one/1.wav", "a/two_1.wav", "a/two_2.wav", "a/three.wav", "b/take_1.wav", "b/take_2.wav")
    for name in names:
        write(tmp_path / name, tone(200.0, 0.1))
    songs = {r.id: (r.singer, r.song) for r in folder_material(tmp_path).recordings}
    assert songs == {
        "a/one/0.wav": ("a", "one"),
        "a/one/1.wav": ("a", "one"),
        "a/two_1.wav": ("a", "two"),
        "a/two_2.wav": ("a", "two"),
        "a/three.wav": ("a", "three"),
        "b/take_1.wav": ("b", "take_1"),
        "b/take_2.wav": ("b", "take_2"),
    }


def test_what_a_folder_holds_that_is_not_used_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "has_pyav", lambda: False)
    for name in ("a/one.wav", "a/two.WAV", "loose.wav"):
        write(tmp_path / "data" / name, tone(200.0))
    for name in ("a/three.m4a", "a/live/four.M4A", "a/notes", "loose.m4a", "a/.DS_Store", ".hidden"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"something")
    for name in ("b/deep", ".git"):
        (tmp_path / "data" / name).mkdir(parents=True)
    material = folder_material(tmp_path / "data")
    assert [r.id for r in material.recordings] == ["a/one.wav", "a/two.WAV"]
    assert {d.id: d.reason.partition("\n")[0] for d in material.dropped} == {
        "a/three.m4a": ".m4a files need PyAV",
        "a/live/four.M4A": ".m4a files need PyAV",
        "a/notes": f"a file without ending is not read: only {', '.join(sources.READABLE)}",
        "loose.m4a": ".m4a files need PyAV",
        "loose.wav": "beside the singers' folders, in none",
        "b": "a folder without recordings",
    }
    prepare(material, COMOSVC_24K, tmp_path / "out", 1, Console(quiet=True))
    screen = Console(width=200, record=True, file=io.StringIO())
    screen.print(*report_tables(tmp_path / "out"))
    shown = screen.export_text()
    assert ".m4a files need PyAV" in shown
    assert "beside the singers' folders, in none: loose.wav" in shown
    assert "a folder without recordings: b" in shown


def test_training_reads_the_files_that_conversion_reads(tmp_path):
    for ending in sources.READABLE:
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"song{ending}").write_bytes(b"any")
    assert {r.path.suffix for r in folder_material(tmp_path).recordings} == set(sources.READABLE)


def test_a_name_that_is_not_utf_8_is_written_with_its_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    name = os.fsdecode(b"caf\xe9.wav")
    soundfile.write(tmp_path / "a" / "x.wav", tone(200.0), RATE)
    (tmp_path / "a" / "x.wav").rename(tmp_path / "a" / name)
    prepare(folder_material(tmp_path), COMOSVC_24K, tmp_path / "out", 1, Console(quiet=True))
    assert "a/caf\\\\xe9.wav" in (tmp_path / "out" / "index.json").read_text("utf-8")


def test_names_cannot_steer_the_terminal(tmp_path):
    write(tmp_path / "e\x1b[31mvil\n" / "\x1b[2Jx.wav", tone(200.0))
    (tmp_path / "\u202egone").mkdir()
    material = folder_material(tmp_path)
    assert material.trained == [r"e\x1b[31mvil\n"]
    assert material.recordings[0].id == r"e\x1b[31mvil\n/\x1b[2Jx.wav"
    assert material.dropped[0].id == r"\u202egone"
    features = prepare(material, COMOSVC_24K, tmp_path / "out", 1, Console(quiet=True))
    shown = Console(file=io.StringIO(), width=80)
    shown.print(*report_tables(features.folder))
    assert "\x1b" not in shown.file.getvalue()


def test_what_a_singers_folder_holds_beside_recordings_is_said(tmp_path, monkeypatch):
    singer = tmp_path / "a"
    write(singer / "x.wav", tone(200.0))
    write(singer / ".trash" / "y.wav", tone(200.0))
    (singer / "gone.wav").symlink_to("nowhere")
    (singer / "other").symlink_to("../a")
    (singer / "closed").mkdir()
    os.mkfifo(singer / "pipe.wav")

    def scandir(path, scandir=os.scandir):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    material = folder_material(tmp_path)
    assert [r.id for r in material.recordings] == ["a/x.wav"]
    assert {d.id: d.reason for d in material.dropped} == {
        "a/gone.wav": "a link to nothing",
        "a/other": "a link to a folder",
        "a/closed": "cannot be read: Permission denied",
        "a/pipe.wav": "not a plain file",
    }


def test_a_recording_beyond_full_scale_is_brought_down_whole(tmp_path):
    """Else its mel would be that of another sound than its samples, which are clipped."""
    loud = tone(200.0, 2.0) / np.abs(tone(200.0, 2.0)).max()
    soundfile.write(tmp_path / "x.wav", 4.0 * loud, RATE, "FLOAT")
    write(tmp_path / "a" / "x.wav", loud)
    (tmp_path / "x.wav").replace(tmp_path / "a" / "y.wav")
    index = prepare(folder_material(tmp_path), COMOSVC_24K, tmp_path / "out", 1, Console(quiet=True))
    usual, brought_down = (index.load(clip) for clip in index.clips)
    assert np.abs(usual["mel"] - brought_down["mel"]).max() < 0.02
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["used_in_part"] == [
        {"clip": "a/y.wav", "reason": "beyond full scale (its peak is 12.0 dB), brought down to it"}
    ]


def test_a_recording_that_was_cut_short_is_used_and_reported(tmp_path):
    """As conversion reads it, with the same words."""
    cut = write(tmp_path / "a" / "cut.wav", tone(200.0, 2.0))
    whole = write(tmp_path / "a" / "whole.wav", tone(200.0, 2.0))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    stereo = np.stack([tone(300.0, 1.0), -tone(300.0, 1.0)], axis=1)
    soundfile.write(tmp_path / "a" / "opposite.wav", stereo, RATE)
    index = prepare(folder_material(tmp_path), COMOSVC_24K, tmp_path / "out", 1, Console(quiet=True))
    assert len(index.clips) == 3
    seconds = len(soundfile.read(whole)[0]) / RATE
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["dropped"] == [], "all three are used"
    reasons = {d["clip"]: d["reason"] for d in report["used_in_part"]}
    assert f"{seconds / 2:.2f} of {seconds:.2f} s could be read" in reasons["a/cut.wav"]
    assert "opposite phase" in reasons["a/opposite.wav"]


def recordings(songs_of):
    named = [(s, t, f"{s}-{t}-{i}") for s, titles in songs_of.items() for t in titles for i in (0, 1)]
    return [Recording(name, name, singer, title) for singer, title, name in named]


def test_no_song_is_split():
    titles = [f"song {i}" for i in range(40)]
    found = split(recordings({"a": titles, "b": titles[10:], "c": titles[:3]}))
    by_song = {}
    for recording in found:
        by_song.setdefault((recording.singer, recording.song), set()).add(recording.split)
    assert all(len(splits) == 1 for splits in by_song.values())
    held_out = {key for key, splits in by_song.items() if splits == {"valid"}}
    assert {singer for singer, _ in held_out} == {"a", "b"}  # three songs are too few to hold one out
    assert 2 <= sum(singer == "a" for singer, _ in held_out) <= 8
    titles_a, titles_b = ({title for singer, title in held_out if singer == name} for name in "ab")
    assert titles_b == titles_a & set(titles[10:])


def test_held_out_songs_stay_when_others_come(tmp_path):
    titles = [f"song {i}" for i in range(20)]
    few = {r.song for r in split(recordings({"a": titles[:19]})) if r.split == "valid"}
    more = {r.song for r in split(recordings({"a": titles})) if r.split == "valid"}
    assert few
    assert len(few - more) <= 1


def test_slices_lie_between_silences():
    rest, config = np.zeros(2 * RATE), SlicingConfig(max_seconds=3.0)
    signal = np.concatenate([rest, tone(200.0, 2.0), rest, tone(200.0, 5.0), rest]).astype(np.float32)
    pieces = list(slice_at_silences(signal, RATE, config))
    assert len(pieces) == 3  # the second phrase is divided in two
    seconds = np.array(pieces) / RATE
    np.testing.assert_allclose(seconds, [[2.0, 4.0], [6.0, 8.5], [8.5, 11.0]], atol=0.11)
    assert list(slice_at_silences(np.zeros(RATE, np.float32), RATE, config)) == []


@pytest.mark.parametrize("seed", range(3))
def test_sounding_stretches_are_those_of_librosa(seed):
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0.0, 1e-4, 0.01, 0.5], 40), 3_000)
    signal = (level * rng.standard_normal(len(level))).astype(np.float32)
    config = SlicingConfig(rest_seconds=0.0, max_seconds=1e9)
    ours = list(slice_at_silences(signal, RATE, config))
    theirs = librosa.effects.split(signal, top_db=40, frame_length=RATE // 10, hop_length=RATE // 40)
    assert ours == [tuple(piece) for piece in theirs.tolist()]


def test_listing_may_be_read_in_any_order(tmp_path):
    m4singer(tmp_path, {"Alto-1": 300.0}, SONGS)
    whole = m4singer_material(tmp_path)
    items = json.loads((tmp_path / "meta.json").read_text("utf-8"))
    (tmp_path / "meta.json").write_text(json.dumps(items[::-1]), "utf-8")
    assert {(r.id, r.split) for r in m4singer_material(tmp_path).recordings} == {
        (r.id, r.split) for r in whole.recordings
    }


@pytest.mark.parametrize(("offset", "f_hz", "level"), [(0.002, 0, 0), (0.1, 0, 0), (0, 20, 0.1), (0, 100, 0.0045)])
def test_silence_is_found_with_what_nobody_sings(offset, f_hz, level):
    """An offset, rumble and hum do not join what a rest of two seconds divides, and are no piece by themselves."""
    seconds = np.arange(4 * RATE) / RATE
    song = 0.3 * np.sin(2 * np.pi * 220 * seconds) * ((seconds < 1) | (seconds >= 3))
    low = offset + level * np.sin(2 * np.pi * f_hz * seconds)
    config = SlicingConfig(max_seconds=3.0)
    wanted = list(slice_at_silences(song.astype(np.float32), RATE, config))
    found = list(slice_at_silences((song + low).astype(np.float32), RATE, config))
    assert len(found) == len(wanted) == 2
    np.testing.assert_allclose(found, wanted, atol=RATE // 20)
    assert list(slice_at_silences(np.full(RATE, offset, np.float32), RATE, config)) == []
