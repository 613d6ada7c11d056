"""Excitation of the vocoder (pulses or sines) and noise, fixed by absolute position.

Made outside of the graphs: a phase summed in float32 drifts by a percent between backends, and random numbers inside a
graph cannot be reproduced. `data/source.cu` computes the same on a GPU from `sine_frames`, `pulse_frames` and
`NormalStream`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..audio.spec import SINE_HARMONICS, AudioSpec

_MEL_NOISE, _AUDIO_NOISE, _SINE_NOISE, _SINE_PHASE = range(4)
_TOP_OF_BAND = 0.98
"""Harmonics end here, as a share of the Nyquist frequency."""
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
    frames, end = pulse_frames(f0_hz, spec, start_phase)
    return pulses(frames, spec), end


def pulse_frames(f0_hz: NDArray[np.float32], spec: AudioSpec, start_phase: float) -> tuple[NDArray[np.float64], float]:
    """First phase in cycles and F0 in Hz of each frame, (T, 2), and the phase at the end."""
    f0 = f0_hz.astype(np.float64)
    cycles = f0 * spec.hop_length / spec.sample_rate
    starts = start_phase + np.concatenate(([0.0], np.cumsum(cycles)))
    return np.stack((starts[:-1] % 1.0, f0), axis=1), float(starts[-1] % 1.0)


def pulses(frames: NDArray[np.float64], spec: AudioSpec) -> NDArray[np.float32]:
    """The pulses (L, 1) of `pulse_frames` (T, 2)."""
    starts, f0 = frames.T
    within = np.arange(spec.hop_length) / spec.sample_rate
    voiced = f0 > 0.0
    phase = (starts[:, None] + f0[:, None] * within)[voiced]
    source = np.zeros((len(f0), spec.hop_length), np.float32)
    source[voiced] = _pulses(phase, pulse_band_hz(spec) / f0[voiced, None])
    return source.reshape(-1, 1)


def pulse_band_hz(spec: AudioSpec) -> float:
    """Where the harmonics of pulses end."""
    return _TOP_OF_BAND * spec.sample_rate / 2


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
    frames, end = sine_frames(f0_hz, spec, start_phase)
    return sines(frames, spec, seed, first_frame), end


def sine_frames(f0_hz: NDArray[np.float32], spec: AudioSpec, start_phase: int) -> tuple[NDArray[np.uint64], int]:
    """Phase before each frame's first sample and step from sample to sample, (T, 2), in 2^-64 cycles, and the phase at
    the end. The step is 0 where unvoiced.
    """
    step = np.round(f0_hz.astype(np.float64) / spec.sample_rate * _TURN).astype(np.uint64)
    ends = np.cumsum(step * np.uint64(spec.hop_length)) + np.uint64(start_phase)
    starts = np.concatenate(([np.uint64(start_phase)], ends))
    return np.stack((starts[:-1], step), axis=1), int(starts[-1])


def sines(frames: NDArray[np.uint64], spec: AudioSpec, seed: int, first_frame: int) -> NDArray[np.float32]:
    """The sines and noise (L, 9) of `sine_frames` (T, 2), the first of which is `first_frame` of the clip."""
    hop, (starts, step) = spec.hop_length, frames.T
    phase = starts[:, None] + step[:, None] * np.arange(1, hop + 1, dtype=np.uint64)
    harmonics = np.arange(1, SINE_HARMONICS + 1, dtype=np.uint64)
    cycles = (phase.reshape(-1, 1) * harmonics).astype(np.float64) / _TURN + sine_phases(seed)
    voiced = np.repeat(step > 0, hop)[:, None]
    noise = sine_noise(seed, first_frame, spec).numbers(cycles.size).reshape(cycles.shape)
    sung = _SINE_AMPLITUDE * np.sin(2.0 * np.pi * cycles) * voiced
    return (sung + noise * np.where(voiced, _VOICED_NOISE, _UNVOICED_NOISE)).astype(np.float32)


def sine_phases(seed: int) -> NDArray[np.float64]:
    """Phases, in cycles, that the sines of `seed` begin with, (9,): 0 for the fundamental, uniform for the others."""
    philox = np.random.Philox(key=np.array((seed, _SINE_PHASE), np.uint64))
    words = philox.random_raw(SINE_HARMONICS) >> np.uint64(11)
    return np.where(np.arange(SINE_HARMONICS) == 0, 0.0, words.astype(np.float64) * 2.0**-53)


def clip_source(kind: str, f0_hz: NDArray[np.float32], spec: AudioSpec, seed: int) -> NDArray[np.float32]:
    """The source (L, H) of a whole clip with F0 (T,). `kind`: "pulse" or "sine", as in a manifest."""
    source, _ = sine_source(f0_hz, spec, seed) if kind == "sine" else pulse_source(f0_hz, spec)
    return source


@dataclass(frozen=True)
class NormalStream:
    """Standard normal numbers from Philox 4x64 (key, counter), the first `skip` of them left out: fewer than four."""

    key: tuple[int, int]
    counter: tuple[int, int]
    skip: int = 0

    def numbers(self, count: int) -> NDArray[np.float32]:
        """The first `count`."""
        return _normal(self.key, self.counter, self.skip + count)[self.skip :]


def frame_noise(seed: int, first_frame: int, n_mels: int, step: int = 0) -> NormalStream:
    """Noise of mel frames `first_frame` on."""
    if n_mels % 4:
        raise ValueError(f"n_mels must be a multiple of 4 (one Philox block), got {n_mels}")
    return NormalStream((seed, _MEL_NOISE), (first_frame * n_mels // 4, step))


def sample_noise(seed: int, first_sample: int) -> NormalStream:
    """Noise of samples `first_sample` on."""
    return _from((seed, _AUDIO_NOISE), first_sample)


def sine_noise(seed: int, first_frame: int, spec: AudioSpec) -> NormalStream:
    """Noise of the sines from frame `first_frame` on."""
    return _from((seed, _SINE_NOISE), first_frame * spec.hop_length * SINE_HARMONICS)


def _from(key: tuple[int, int], first: int) -> NormalStream:
    return NormalStream(key, (first // 4, 0), first % 4)


def noise_frames(seed: int, first_frame: int, n_frames: int, n_mels: int, step: int = 0) -> NDArray[np.float32]:
    """Standard normal noise for mel frames `first_frame` on, (T, M). `step` counts the sampler's draws.

    Each frame's numbers depend on its position only, so pieces of a clip equal the whole.
    """
    return frame_noise(seed, first_frame, n_mels, step).numbers(n_frames * n_mels).reshape(n_frames, n_mels)


def noise_samples(seed: int, first_sample: int, n_samples: int) -> NDArray[np.float32]:
    """Standard normal noise for samples `first_sample` on, (L,), fixed by absolute position."""
    return sample_noise(seed, first_sample).numbers(n_samples)


def _normal(key: tuple[int, int], counter: tuple[int, int], count: int) -> NDArray[np.float32]:
    """`count` normals from Philox 4x64 at `counter`. Raw words, because numpy may change its own normal draw
    between versions.
    """
    philox = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([*counter, 0, 0], np.uint64))
    words = philox.random_raw(-(-count // 4) * 4).reshape(-1, 2)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:, 0])), 2.0 * np.pi * uniform[:, 1]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).astype(np.float32).reshape(-1)[:count]
