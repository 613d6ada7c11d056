"""What excites the vocoder and seeds the student: pulses or sines, and noise, all fixed by absolute position.

Made on the host: a phase summed in float32 drifts by a percent between backends, and random numbers inside a graph
cannot be reproduced. Both are arguments of the graphs.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .spec import AudioSpec

_MEL_NOISE, _AUDIO_NOISE, _SINE_NOISE, _SINE_PHASE = range(4)
_TOP_OF_BAND = 0.98
"""Harmonics end here, as a share of the Nyquist frequency."""
SINE_HARMONICS = 9
"""Sines of an NSF source: the fundamental and eight overtones."""
_SINE_AMPLITUDE, _VOICED_NOISE, _UNVOICED_NOISE = 0.1, 0.003, 0.1 / 3
_TURN = 2.0**64
"""Phases of sines are whole numbers of 2^-64 cycles: sums that wrap by themselves and are the same in any order."""


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


def sine_source(
    f0_hz: NDArray[np.float32], spec: AudioSpec, seed: int, first_frame: int = 0, start_phase: int = 0
) -> tuple[NDArray[np.float32], int]:
    """Source of an NSF vocoder for frames `first_frame` on, (L, 9) for `f0_hz` (T,), and the fundamental's phase at
    its end.

    Sine h is 0.1 sin(2 pi (h (f_1 + ... + f_n) / sample_rate + phi_h)) at sample n, F0 held within a frame and 0 where
    unvoiced; phi is 0 for the fundamental, else drawn. Noise is added: 0.003 where voiced, 0.1 / 3 where not. Source:
    M4Singer's and openvpi's SineGen, with both draws from `seed`.

    Passing the returned phase on gives the source of the whole to the last bit, however long it is.
    """
    hop = spec.hop_length
    increment = np.round(f0_hz.astype(np.float64) / spec.sample_rate * _TURN).astype(np.uint64)
    starts = np.concatenate(([np.uint64(start_phase)], np.cumsum(increment * np.uint64(hop)) + np.uint64(start_phase)))
    phase = starts[:-1, None] + increment[:, None] * np.arange(1, hop + 1, dtype=np.uint64)
    harmonics = np.arange(1, SINE_HARMONICS + 1, dtype=np.uint64)
    cycles = (phase.reshape(-1, 1) * harmonics).astype(np.float64) / _TURN + sine_phases(seed)
    voiced = np.repeat(f0_hz > 0.0, hop)[:, None]
    noise = _normals_from((seed, _SINE_NOISE), first_frame * hop * SINE_HARMONICS, cycles.size).reshape(cycles.shape)
    sines = _SINE_AMPLITUDE * np.sin(2.0 * np.pi * cycles) * voiced
    return (sines + noise * np.where(voiced, _VOICED_NOISE, _UNVOICED_NOISE)).astype(np.float32), int(starts[-1])


def sine_phases(seed: int) -> NDArray[np.float64]:
    """Phases, in cycles, that the sines of `seed` begin with, (9,): 0 for the fundamental, uniform for the others."""
    philox = np.random.Philox(key=np.array((seed, _SINE_PHASE), np.uint64))
    words = philox.random_raw(SINE_HARMONICS) >> np.uint64(11)
    return np.where(np.arange(SINE_HARMONICS) == 0, 0.0, words.astype(np.float64) * 2.0**-53)


class Excitation(Protocol):
    """The source of one clip, made frame after frame."""

    def extend(self, f0_hz: NDArray[np.float32], /) -> NDArray[np.float32]:
        """The source (L, H) of the next frames, whose F0 is (T,)."""
        ...


class PulseExcitation:
    """`pulse_source` with its phase carried on."""

    def __init__(self, spec: AudioSpec) -> None:
        self._spec, self._phase = spec, 0.0

    def extend(self, f0_hz: NDArray[np.float32], /) -> NDArray[np.float32]:
        source, self._phase = pulse_source(f0_hz, self._spec, self._phase)
        return source


class SineExcitation:
    """`sine_source` with its phase carried on."""

    def __init__(self, spec: AudioSpec, seed: int) -> None:
        self._spec, self._seed = spec, seed
        self._frame, self._phase = 0, 0

    def extend(self, f0_hz: NDArray[np.float32], /) -> NDArray[np.float32]:
        source, self._phase = sine_source(f0_hz, self._spec, self._seed, self._frame, self._phase)
        self._frame += len(f0_hz)
        return source


def make_excitation(kind: str, spec: AudioSpec, seed: int) -> Excitation | None:
    """The excitation that a manifest's `source.kind` names; None for "none"."""
    if kind == "none":
        return None
    return SineExcitation(spec, seed) if kind == "sine" else PulseExcitation(spec)


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
    return _normals_from((seed, _AUDIO_NOISE), first_sample, n_samples)


def _normals_from(key: tuple[int, int], first: int, count: int) -> NDArray[np.float32]:
    """Normals `first` to `first + count` of the stream `key`."""
    skip = first % 4
    return _normal(key, (first // 4, 0), skip + count)[skip:]


def _normal(key: tuple[int, int], counter: tuple[int, int], count: int) -> NDArray[np.float32]:
    """`count` normals from Philox 4x64 at `counter`. Raw words, because numpy may change its own normal draw
    between versions.
    """
    philox = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([*counter, 0, 0], np.uint64))
    words = philox.random_raw(-(-count // 4) * 4).reshape(-1, 2)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:, 0])), 2.0 * np.pi * uniform[:, 1]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).astype(np.float32).reshape(-1)[:count]
