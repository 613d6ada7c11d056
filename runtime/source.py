"""What excites the vocoder and seeds the student: a pulse train and noise, both fixed by absolute position.

Made on the host: a phase summed in float32 drifts by a percent between backends, and random numbers inside a graph
cannot be reproduced. Both are arguments of the graphs.
"""

import numpy as np
from numpy.typing import NDArray

from .spec import AudioSpec

_MEL_NOISE, _AUDIO_NOISE = 0, 1
_TOP_OF_BAND = 0.98
"""Harmonics end here, as a share of the Nyquist frequency."""


def pulse_source(
    f0_hz: NDArray[np.float32], spec: AudioSpec, start_phase: float = 0.0
) -> tuple[NDArray[np.float32], float]:
    """Band-limited pulse train of about unit power where voiced, zero where not: (L, 1) for `f0_hz` (T,), and the phase
    at its end.

    F0 is held within a frame. Phases are counted in cycles, in float64; passing the returned phase on as `start_phase`
    of the next piece gives exactly the train of the whole.
    """
    f0 = f0_hz.astype(np.float64)
    cycles = f0 * spec.hop_length / spec.sample_rate
    starts = start_phase + np.concatenate(([0.0], np.cumsum(cycles)))
    within = np.arange(spec.hop_length) / spec.sample_rate
    voiced = f0 > 0.0
    phase = (starts[:-1, None] % 1.0 + f0[:, None] * within)[voiced]
    source = np.zeros((len(f0), spec.hop_length), np.float32)
    source[voiced] = _pulses(phase, _TOP_OF_BAND * spec.sample_rate / 2 / f0[voiced, None])
    return source.reshape(-1, 1), float(starts[-1] % 1.0)


def _pulses(phase: NDArray[np.float64], n_harmonics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines 1 to floor(n) - 1, and the next by the fraction of n, in closed form (Dirichlet kernel)."""
    whole = np.floor(n_harmonics)
    angle = 2.0 * np.pi * phase
    half = np.sin(angle / 2.0)
    at_pulse = np.abs(half) < 1e-9
    kernel = np.sin((whole - 0.5) * angle) / (2.0 * np.where(at_pulse, 1.0, half)) - 0.5
    total = np.where(at_pulse, whole - 1.0, kernel) + (n_harmonics - whole) * np.cos(whole * angle)
    return total * np.sqrt(2.0 / n_harmonics)


def noise_frames(seed: int, first_frame: int, n_frames: int, n_mels: int, step: int = 0) -> NDArray[np.float32]:
    """Standard normal noise for mel frames `first_frame` on, (T, M). `step` counts the sampler's draws.

    Frame n is the same numbers whatever else is asked for, so pieces of a clip equal the whole.
    """
    if n_mels % 4:
        raise ValueError(f"n_mels must be a multiple of 4 (one Philox block), got {n_mels}")
    flat = _normal((seed, _MEL_NOISE), (first_frame * n_mels // 4, step), n_frames * n_mels)
    return flat.reshape(n_frames, n_mels)


def noise_samples(seed: int, first_sample: int, n_samples: int) -> NDArray[np.float32]:
    """Standard normal noise for samples `first_sample` on, (L,), fixed by absolute position."""
    skip = first_sample % 4
    return _normal((seed, _AUDIO_NOISE), (first_sample // 4, 0), skip + n_samples)[skip:]


def _normal(key: tuple[int, int], counter: tuple[int, int], count: int) -> NDArray[np.float32]:
    """`count` normals from Philox 4x64 at `counter`. Raw words, because numpy may change its own normal draw
    between versions.
    """
    philox = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([*counter, 0, 0], np.uint64))
    words = philox.random_raw(-(-count // 4) * 4).reshape(-1, 2)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:, 0])), 2.0 * np.pi * uniform[:, 1]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).astype(np.float32).reshape(-1)[:count]
