from importlib import resources

import numpy as np
import onnxruntime
import pytest

from comosvc.benchmarks.quality.bundle_parts import f0_held, track_pitch_bounded
from comosvc.runtime.audio.pitch import track_pitch
from comosvc.runtime.audio.spec import COMOSVC_24K


@pytest.fixture(scope="module")
def session():
    model = resources.files("comosvc.runtime").joinpath("data/pitch.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def glide(seconds=1.0, low_hz=150.0, high_hz=300.0):
    """A harmonic tone gliding evenly on the logarithmic scale, at 16 kHz, and its F0 at each 16 ms."""
    t = np.arange(int(16_000 * seconds)) / 16_000
    f0 = low_hz * (high_hz / low_hz) ** (t / seconds)
    phase = 2 * np.pi * np.cumsum(f0) / 16_000
    audio = sum(np.cos(k * phase) / k for k in range(1, 12)) * 0.1
    return audio.astype(np.float32), f0[::256]


def test_no_frame_sees_further_ahead_than_one_hop(session):
    audio, _ = glide()
    changed = audio.copy()
    frame = 30
    changed[256 * (frame + 1) :] = np.random.default_rng(0).normal(0, 0.3, len(audio) - 256 * (frame + 1))
    before, after = (track_pitch_bounded(session, a) for a in (audio, changed))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[: frame + 1], other[: frame + 1])
    whole, whole_changed = (track_pitch(session, a)[1] for a in (audio, changed))
    assert np.abs(whole - whole_changed)[: frame + 1].max() > 1e-3  # the plain graph does look further


def test_it_follows_a_glide(session):
    audio, truth = glide()
    f0_hz, confidence = track_pitch_bounded(session, audio)
    assert len(f0_hz) == len(audio) // 256
    settled = slice(12, -1)
    assert (confidence[settled] > 0.5).mean() > 0.95
    cents = 1200 * np.log2(f0_hz[settled] / truth[: len(f0_hz)][settled])
    assert np.sqrt(np.mean(cents**2)) < 60  # a one-sided window lags behind; it must not be lost


def test_held_f0_never_comes_from_a_later_pitch_frame():
    f0_hz = np.arange(100.0, 110.0, dtype=np.float32)
    confidence = np.ones(10, np.float32)
    confidence[4] = 0.0
    held = f0_held(f0_hz, confidence, 30, COMOSVC_24K)
    times_s = (np.arange(30) + 0.5) * 128 / 24_000
    for value, time_s in zip(held, times_s, strict=True):
        frame = min(int(time_s / 0.016), 9)
        assert value == (0.0 if frame == 4 else f0_hz[frame])
