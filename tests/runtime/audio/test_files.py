"""Audio files: what cannot be read is said, what cannot be written leaves nothing behind."""

import errno
import io
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sound_files import RATE, SONG, read, write_bytes

from comosvc.runtime import AudioError, OutputError
from comosvc.runtime.audio import files
from comosvc.runtime.audio.files import AudioReader, AudioWriter, read_audio, write_audio

TONE = (0.3 * np.sin(np.arange(20_000) / 5.0)).astype(np.float32)


@pytest.mark.parametrize(("ending", "error"), [(".wav", 4e-5), (".flac", 4e-5), (".ogg", 0.05), (".mp3", 0.05)])
def test_common_formats_are_read(tmp_path, ending, error):
    path = tmp_path / f"tôn 音{ending}"
    soundfile.write(path, np.stack((TONE, TONE), axis=1), 44_100)
    audio, rate = read_audio(path)
    assert rate == 44_100
    assert len(audio) == len(TONE)
    assert np.abs(audio - TONE)[2_000:-2_000].max() < error


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_file_in_blocks_is_the_file_and_can_be_read_again(tmp_path, ending):
    """Seeking in an MP3, as soundfile does after each read, would distort every block."""
    path = tmp_path / f"a{ending}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(20_000), 24_000)
    whole, _ = soundfile.read(path, dtype="float32")
    with AudioReader(path) as reader:
        for _ in range(2):
            pieces = list(reader.blocks(3_000))
            assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]
            np.testing.assert_allclose(np.concatenate([block for block, _ in pieces]), whole, atol=1e-6)


def damaged(tmp_path, ending, keep):
    """A sound file of which only a share is left."""
    path = tmp_path / f"damaged{ending}"
    noise = 0.1 * np.random.default_rng(0).standard_normal(50_000)
    soundfile.write(path, noise, 24_000)
    return write_bytes(path, path.read_bytes()[: int(keep * path.stat().st_size)])


def with_nan(tmp_path):
    audio = TONE.copy()
    audio[12_345] = np.nan
    soundfile.write(tmp_path / "nan.wav", audio, 24_000, "FLOAT")
    return tmp_path / "nan.wav"


def of_rate(tmp_path, rate):
    soundfile.write(tmp_path / "rate.wav", TONE, rate)
    return tmp_path / "rate.wav"


def without_samples(path):
    soundfile.write(path, np.zeros(0), 24_000)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing.wav", "no such file"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: write_bytes(folder / "text.wav", b"not a sound"), "is not audio that can be read"),
        (lambda folder: write_bytes(folder / "empty.wav", b""), "empty\nhint: these can be read: .wav, .flac"),
        (lambda folder: without_samples(folder / "none.wav"), "is empty"),
        (lambda folder: damaged(folder, ".flac", 0.01), "damaged"),
        (lambda folder: damaged(folder, ".wav", 0.0004), "is not audio that can be read"),
        (with_nan, "1 samples that are NaN or infinite, the first at sample 12345"),
        (lambda folder: of_rate(folder, 4_000), "4000 Hz"),
        (lambda folder: of_rate(folder, 384_000), "384000 Hz"),
    ],
)
def test_an_unusable_file_is_one_clear_error_with_its_name(tmp_path, make, words):
    path = make(tmp_path)
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("ending", [".wav", ".FLAC"])
def test_what_is_written_is_read_back(tmp_path, ending):
    """True zeros and full scale too."""
    path, written = tmp_path / f"ü{ending}", np.append(TONE, np.float32([0.0, 1.0, -1.0, 0.0]))
    write_audio(path, written, 48_000)
    audio, rate = read_audio(path)
    assert (rate, audio[-1]) == (48_000, 0.0)
    np.testing.assert_allclose(audio, written, atol=2.0**-23)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_nothing_is_overwritten_unasked(tmp_path):
    write_audio(tmp_path / "a.wav", TONE, 24_000)
    with pytest.raises(OutputError, match=r"exists\nhint"):
        write_audio(tmp_path / "a.wav", TONE, 24_000)
    write_audio(tmp_path / "a.wav", TONE[:100], 24_000, overwrite=True)
    assert len(read_audio(tmp_path / "a.wav")[0]) == 100


def test_a_file_made_meanwhile_by_others_is_not_overwritten(tmp_path):
    def race():
        with AudioWriter(tmp_path / "a.wav", 24_000) as writer:
            writer.write(TONE)
            (tmp_path / "a.wav").write_text("theirs")

    with pytest.raises(OutputError, match="exists"):
        race()
    assert [item.read_text() for item in tmp_path.iterdir()] == ["theirs"]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with suppress(ZeroDivisionError), AudioWriter(tmp_path / "a.wav", 24_000) as writer:
        writer.write(TONE)
        assert not (tmp_path / "a.wav").exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.mp3", "written as .wav or .flac"),
        ("a", "without ending"),
        ("no/a.wav", "no folder"),
        ("folder.wav", "is a folder"),
    ],
)
def test_an_impossible_output_is_one_clear_error(tmp_path, name, words):
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(OutputError, match=words):
        write_audio(tmp_path / name, TONE, 24_000, overwrite=True)


def test_a_read_only_file_system_is_one_clear_error(tmp_path, monkeypatch):
    """There even the removal of a file that was never made is refused."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(soundfile, "SoundFile", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match=r"a\.wav cannot be written: .*Read-only file system"):
        AudioWriter(tmp_path / "a.wav", 24_000)


def test_opposite_channels_are_not_mixed_to_silence(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([SONG, -0.9 * SONG], axis=1), RATE, "FLOAT")
    audio, warnings = read(path)
    np.testing.assert_array_equal(audio, SONG)
    assert "opposite phase" in warnings[0]


def test_channels_can_be_chosen(tmp_path):
    left, right = SONG, SONG[::-1]
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([left, right], axis=1), RATE, "FLOAT")
    for channel, wanted in (("left", left), ("right", right), ("mid", (left.astype(np.float64) + right) / 2)):
        audio, warnings = read(path, channel=channel)
        np.testing.assert_allclose(audio, wanted, atol=1e-7)
        assert warnings == []


# --- what was written is checked

LIMITED = """
import resource, signal, sys
import numpy as np
from comosvc.runtime import OutputError
from comosvc.runtime.audio.files import write_audio
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
noise = (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)
for path, limit in zip(sys.argv[1::2], sys.argv[2::2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        write_audio(path, noise, 24_000)
        print("written")
    except OutputError as error:
        print(str(error).splitlines()[0])
"""


def test_a_disk_that_lacks_the_end_is_an_error_and_no_file(tmp_path):
    """libsndfile does not report that the last bytes of a FLAC file were refused."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)
    out, arguments = tmp_path / "out", []
    out.mkdir()
    for ending in (".wav", ".flac"):
        write_audio(tmp_path / f"whole{ending}", noise, 24_000)
        for missing in (1, 500, 5_000, 20_000):
            limit = (tmp_path / f"whole{ending}").stat().st_size - missing
            arguments += [str(out / f"{missing}{ending}"), str(limit)]
    command = [sys.executable, "-c", LIMITED, *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 8
    assert all("cannot be written: File too large" in line for line in said)
    assert list(out.iterdir()) == []


def test_a_wav_that_gets_too_long_is_rf64(tmp_path, monkeypatch):
    """Its length need not be known before; a short one has a plain header in the end."""
    monkeypatch.setattr(files, "MOST_WAV_BYTES", 150_000)
    for n_samples, samples, form in ((40_000, None, "WAV"), (60_000, None, "RF64"), (60_000, 60_000, "RF64")):
        path = tmp_path / f"{n_samples}-{samples}.wav"
        audio = np.resize(TONE, n_samples)
        with AudioWriter(path, 24_000, samples=samples) as writer:
            writer.write(audio)
        assert soundfile.info(path).format in (form, f"{form}EX")
        np.testing.assert_allclose(soundfile.read(path)[0], audio, atol=2.0**-22)
        assert path.read_bytes()[:4] == {"WAV": b"RIFF", "RF64": b"RF64"}[form]


def test_a_source_that_claims_too_little_is_no_broken_wav(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_WAV_BYTES", 150_000)
    with (
        pytest.raises(OutputError, match=r"than WAV can be\nhint: \.flac"),
        AudioWriter(tmp_path / "a.wav", 24_000, samples=1_000) as writer,
    ):
        writer.write(np.resize(TONE, 60_000))
    assert list(tmp_path.iterdir()) == []


class OneWay(io.RawIOBase):
    """A pipe's end: bytes that can be written once."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize("ending", [None, ".wav", ".flac"])
def test_objects_get_all_bytes_at_the_end(ending):
    for target in (io.BytesIO(), OneWay()):
        with AudioWriter(target, 24_000, ending=ending) as writer:
            writer.write(TONE)
            assert not (target.data if isinstance(target, OneWay) else target.getvalue())
        data = target.data if isinstance(target, OneWay) else target.getvalue()
        np.testing.assert_allclose(soundfile.read(io.BytesIO(data))[0], TONE, atol=2.0**-22)
        assert data[:4] == (b"fLaC" if ending == ".flac" else b"RIFF")


def test_an_object_that_refuses_bytes_is_one_clear_error():
    closed = io.BytesIO()
    closed.close()
    for target in (io.StringIO(), closed):
        with pytest.raises(OutputError, match="cannot be written"), AudioWriter(target, 24_000) as writer:
            writer.write(TONE)
