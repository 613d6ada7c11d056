"""Audio files: what cannot be read is said, what cannot be written leaves nothing behind."""

import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile

from comosvc.runtime import AudioError, OutputError
from comosvc.runtime.files import AudioReader, AudioWriter, read_audio, write_audio

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


def write_bytes(path, data):
    path.write_bytes(data)
    return path


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing.wav", "no such file"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: write_bytes(folder / "text.wav", b"not a sound"), "is not audio that can be read"),
        (lambda folder: write_bytes(folder / "empty.wav", b""), "is not audio that can be read"),
        (lambda folder: damaged(folder, ".flac", 0.5), "is damaged"),
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


def test_a_file_without_samples_is_an_error(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 24_000)
    with pytest.raises(AudioError, match="is empty"):
        read_audio(tmp_path / "none.wav")


@pytest.mark.parametrize("ending", [".wav", ".FLAC"])
def test_what_is_written_is_read_back(tmp_path, ending):
    path = tmp_path / f"ü{ending}"
    write_audio(path, TONE, 48_000)
    audio, rate = read_audio(path)
    assert rate == 48_000
    np.testing.assert_allclose(audio, TONE, atol=2.0**-23)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_true_zeros_and_full_scale_survive_the_file(tmp_path):
    write_audio(tmp_path / "a.wav", np.float32([0.0, 1.0, -1.0, 0.0]), 24_000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], [0.0, 1.0, -1.0, 0.0], atol=2.0**-23)
    assert read_audio(tmp_path / "a.wav")[0][0] == 0.0


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

    def fail():
        with AudioWriter(tmp_path / "a.wav", 24_000) as writer:
            writer.write(TONE)
            assert not (tmp_path / "a.wav").exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"), [("a.mp3", "written as .wav or .flac"), ("a", "without ending"), ("no/a.wav", "no folder")]
)
def test_an_impossible_output_is_one_clear_error(tmp_path, name, words):
    with pytest.raises(OutputError, match=words):
        write_audio(tmp_path / name, TONE, 24_000)


def test_a_folder_with_a_sounds_name_is_not_replaced(tmp_path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_audio(tmp_path / "a.wav", TONE, 24_000, overwrite=True)


def test_a_read_only_file_system_is_one_clear_error(tmp_path, monkeypatch):
    """There even the removal of a file that was never made is refused."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(soundfile, "SoundFile", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match=r"a\.wav cannot be written: .*Read-only file system"):
        AudioWriter(tmp_path / "a.wav", 24_000)
