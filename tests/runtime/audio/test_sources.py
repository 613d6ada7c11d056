"""Pipes, devices, file objects, names that the system refuses, and formats that PyAV reads."""

import errno
import io
import os
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from sound_files import RATE, SONG, encoded, read, write_bytes

from comosvc.runtime import AudioError
from comosvc.runtime.audio import sources

WAV, FLAC = encoded("WAV"), encoded("FLAC")


class OneWay(io.RawIOBase):
    """A pipe's end: bytes that can be read once."""

    def __init__(self, data):
        self._data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._data.readinto(buffer)


class Failing(io.BytesIO):
    """A file on a disk that fails in the `good`th call, or behind byte 20,000."""

    name, good = "disk", 10_000

    def read(self, count=-1):
        self.good -= count != 0
        if count and (self.tell() > 20_000 or self.good < 0):
            raise OSError(errno.EIO, "Input/output error")
        return super().read(count)


def test_objects_are_read_from_their_start(tmp_path):
    path = write_bytes(tmp_path / "a.flac", FLAC)
    whole, _ = read(path)
    with path.open("rb") as file:
        file.read(1_000)
        np.testing.assert_array_equal(read(file)[0], whole)
        assert not file.closed
    np.testing.assert_array_equal(read(OneWay(FLAC))[0], whole)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: io.StringIO("RIFF"), "gives text, not bytes"),
        (lambda folder: (folder / "w").open("wb"), "cannot be read: "),
        (lambda folder: io.BytesIO(), "it is empty"),
        (lambda folder: 5, "cannot be read"),
        (lambda folder: Path("/dev/zero"), "is a device"),
        (lambda folder: folder / ("x" * 300), "File name too long"),
        (lambda folder: folder / "\ud800.wav", "cannot be read"),
        (lambda folder: folder / "a\0.wav", "null"),
        (lambda folder: write_bytes(folder / "file", b"x") / "a.wav", "Not a directory"),
        (lambda folder: symlink_loop(folder / "loop"), "symbolic links"),
    ],
)
def test_an_unusable_source_is_one_clear_error(tmp_path, make, words):
    with pytest.raises(AudioError, match=words):
        read(make(tmp_path))


@pytest.mark.parametrize("good", [*range(12), 100])
def test_an_error_of_the_disk_names_the_source(good):
    """In the header, when libsndfile opens it, and between samples."""
    source = Failing(WAV)
    source.good = good
    with pytest.raises(AudioError, match=r"^disk cannot be read: Input/output error"):
        read(source)


def symlink_loop(path):
    path.symlink_to(path)
    return path


def test_a_named_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(FLAC,))
    writer.start()
    audio, warnings = read(tmp_path / "pipe")
    writer.join()
    assert (len(audio), warnings) == (len(SONG), [])


def test_a_named_pipe_that_nobody_writes_into_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "NO_WRITER_S", 0.3)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AudioError, match="is a pipe, and nothing came out of it"):
        read(tmp_path / "pipe")


def test_a_pipe_without_an_end_is_an_error(monkeypatch):
    monkeypatch.setattr(sources, "MOST_PIPED_BYTES", 1 << 20)
    with pytest.raises(AudioError, match="gave more than"):
        read(OneWay(bytes(4 << 20)))


def test_one_list_says_what_is_read_in_folders(tmp_path, monkeypatch):
    for name in ("a.caf", "._a.wav", ".hidden.flac", "b.M4A", "c.mid", "notes.txt", "cover.jpg"):
        (tmp_path / name).write_bytes(b"any")
    (tmp_path / "folder.wav").mkdir()
    found = sources.files_in(tmp_path)
    assert [path.name for path in found] == ["a.caf", "b.M4A", "c.mid", "cover.jpg", "notes.txt"]
    monkeypatch.setattr(sources, "has_pyav", lambda: False)
    assert [path.name for path in found if sources.is_readable(path)] == ["a.caf"]
    unread = {path.name: sources.unread_reason(path) for path in found[1:]}
    assert "need PyAV\nhint: " in unread["b.M4A"]
    assert "ffmpeg -i c.mid" in unread["c.mid"]
    assert unread["cover.jpg"] is unread["notes.txt"] is None
    monkeypatch.setattr(sources, "has_pyav", lambda: True)
    assert sources.is_readable(Path("b.M4A"))


def m4a(path, n_samples, codec="aac", rate=RATE):
    """AAC as encoders write it: 1024 samples ahead of the sound, and the last frame filled up."""
    av = pytest.importorskip("av")
    tone = (0.3 * np.sin(np.arange(n_samples) / 20)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in (*av.AudioResampler(format="fltp", layout="mono", rate=rate).resample(frame), None):
            container.mux(stream.encode(part))
    return tone


@pytest.mark.parametrize("n_samples", [44_100, 50_003, 700])
def test_m4a_is_read_without_what_its_encoder_added(tmp_path, n_samples):
    tone = m4a(tmp_path / "a.m4a", n_samples)
    audio, warnings = read(tmp_path / "a.m4a")
    assert (len(audio), warnings) == (n_samples, [])
    if n_samples > 10_000:
        assert np.abs(audio - tone)[1_000:-2_000].max() < 0.05
    np.testing.assert_array_equal(read(io.BytesIO((tmp_path / "a.m4a").read_bytes()))[0], audio)


def test_without_pyav_the_error_says_what_reads_the_file(tmp_path, monkeypatch):
    m4a(tmp_path / "a.m4a", 5_000)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"needs PyAV\nhint: .*media.*ffmpeg -i .*a\.m4a"):
        read(tmp_path / "a.m4a")


def test_a_webm_that_was_cut_short_is_a_warning(tmp_path):
    tone = m4a(tmp_path / "a.webm", 96_000, "libopus", 48_000)
    data = (tmp_path / "a.webm").read_bytes()
    audio, warnings = read(io.BytesIO(data))
    assert (len(audio), warnings) == (len(tone), [])
    audio, warnings = read(io.BytesIO(data[: len(data) // 2]))
    assert 0.3 * len(tone) < len(audio) < 0.7 * len(tone)
    assert "the file was cut short" in warnings[0]


def test_an_mp2_is_read_without_a_warning(tmp_path):
    """It has no place for a count of its frames."""
    m4a(tmp_path / "a.mp2", 44_100, "mp2")
    audio, warnings = read(tmp_path / "a.mp2")
    assert (44_100 <= len(audio) < 46_500, warnings) == (True, [])
