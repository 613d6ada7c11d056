"""Something to sing, of any length: what stages on the host and whole voices are timed on."""

import numpy as np
from numpy.typing import NDArray

_LOW_HZ, _HIGH_HZ, _PHRASE_S = 130.0, 390.0, 4.0
_VIBRATO_HZ, _VIBRATO_DEPTH = 5.5, 0.02
_HARMONICS = 16
_BREATH = 3e-3


def sung_clip(seconds: float, sample_rate: int) -> NDArray[np.float64]:
    """A glide up and down with vibrato, (L,), peak 0.5. Never silent: silence costs a voice nothing."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    rise = 0.5 - 0.5 * np.cos(2.0 * np.pi * t / _PHRASE_S)
    f0_hz = _LOW_HZ * (_HIGH_HZ / _LOW_HZ) ** rise * (1.0 + _VIBRATO_DEPTH * np.sin(2.0 * np.pi * _VIBRATO_HZ * t))
    phase = 2.0 * np.pi * np.cumsum(f0_hz) / sample_rate
    clip = _BREATH * np.random.default_rng(0).standard_normal(len(t))
    for harmonic in range(1, _HARMONICS + 1):
        clip += np.sin(harmonic * phase) / harmonic
    return 0.5 * clip / max(float(np.abs(clip).max(initial=0.0)), 1e-9)
