"""Formats that PyAV reads."""

import io
import sys
from fractions import Fraction

import numpy as np
import pytest
from sound_files import RATE, read

from comosvc.runtime import AudioError


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
