"""Renders a performance in a singer's voice, and the held-out parallel set."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from .performance import CONTROL_RATE_HZ, Performance
from .plan import CorpusConfig, demo_singers, held_out_songs, noise_seed, perform_plan
from .singer import SyntheticSinger, glottal_pulses, held_out_singers, noise_shapes, tract_frames

SAMPLE_RATE = 24_000
HOP = SAMPLE_RATE // CONTROL_RATE_HZ
NOISE_FLOOR_DB = -75.0
PEAK_LIMIT = 0.9

_FFT = 1200
_BEFORE_PULSE = 320  # samples of the growing open phase kept before closure
_NOISE_WINDOW = 4 * HOP
_PULSE_BLOCK = 512
_LEVEL_WINDOW = 480  # two passes: a triangle of 40 ms, about the analysis window of the mel
_BINS_HZ = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE).astype(np.float32)

Float = NDArray[np.float32]


def render(performance: Performance, singer: SyntheticSinger, noise_seed: int) -> Float:
    """Sing `performance` as `singer`: mono audio (L,) at `SAMPLE_RATE`, |x| < 0.95, L = seconds * SAMPLE_RATE.

    Two singers rendered from one performance agree in F0, timing and RMS envelope. `noise_seed` decides jitter, shimmer
    and all noise, and nothing else.
    """
    rng = np.random.default_rng([noise_seed, 5101])
    samples = len(performance.pitch_hz) * HOP
    tract = tract_frames(performance, singer, _BINS_HZ)
    voice_level = _level(performance.voice_db, samples)
    noise_level = _level(performance.noise_db, samples)
    phase = _phase(performance, samples)
    harmonic = _voiced(performance, singer, tract, phase, voice_level > 0, rng)
    breath = _normalised(_breath(performance, singer, tract, phase, samples, rng))
    voice = _normalised(_normalised(harmonic) + breath * _breath_gain(performance, singer, samples))
    noise = _normalised(_frication(performance, singer, tract, samples, rng))
    audio = voice * voice_level + noise * noise_level
    wanted = np.sqrt(voice_level**2 + noise_level**2)
    audio *= _smooth_rms(wanted) / np.maximum(_smooth_rms(audio), 1e-6)
    audio += hiss(samples, rng)
    return _limited(audio).astype(np.float32)


def hiss(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The noise floor (L,): rising by 6 dB an octave, as the self-noise of equipment does after the rumble is cut."""
    white = rng.standard_normal(samples + 1)
    return 10 ** (NOISE_FLOOR_DB / 20) * np.diff(white) / np.sqrt(2)


def _at_samples(track: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    return np.interp(np.arange(samples) / HOP, np.arange(len(track)), track)


def _level(level_db: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """Linear RMS per sample; nothing below -80 dBFS."""
    level = _at_samples(level_db, samples)
    return np.where(level > -80.0, 10 ** (level / 20), 0.0)


def _phase(performance: Performance, samples: int) -> NDArray[np.float64]:
    """Cycles sung since the start, per sample."""
    return np.cumsum(np.exp(_at_samples(np.log(performance.pitch_hz), samples))) / SAMPLE_RATE


def _smooth_rms(x: NDArray[np.float64]) -> NDArray[np.float64]:
    once = uniform_filter1d(x * x, _LEVEL_WINDOW, mode="nearest")
    return np.sqrt(np.maximum(uniform_filter1d(once, _LEVEL_WINDOW, mode="nearest"), 0.0))


def _normalised(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit RMS within 40 ms, so that neither a formant nor a high note makes a singer quieter than another."""
    rms = _smooth_rms(x)
    return x / np.maximum(rms, 1e-4 * rms.max() + 1e-12)


def _voiced(
    performance, singer: SyntheticSinger, tract, phase, active, rng: np.random.Generator
) -> NDArray[np.float64]:
    samples = len(phase)
    cycle = np.arange(np.ceil(phase[0]), np.floor(phase[-1]) + 1)
    shimmer = 1 + singer.shimmer * rng.standard_normal(len(cycle))
    places = np.interp(cycle + singer.jitter * rng.standard_normal(len(cycle)), phase, np.arange(samples))
    sung = active[np.clip(places.astype(int), 0, samples - 1)]
    places, shimmer = places[sung], shimmer[sung].astype(np.float32)
    frame = np.minimum(places / HOP, len(tract) - 1.001)
    pitch_hz = np.interp(frame, np.arange(len(tract)), performance.pitch_hz).astype(np.float32)
    effort = np.interp(frame, np.arange(len(tract)), performance.effort).astype(np.float32)
    out = np.zeros(samples + 2 * _FFT)
    for start in range(0, len(places), _PULSE_BLOCK):
        block = slice(start, start + _PULSE_BLOCK)
        index = frame[block].astype(int)
        weight = (frame[block] - index).astype(np.float32)[:, None]
        spectrum = tract[index] * (1 - weight) + tract[index + 1] * weight
        spectrum *= glottal_pulses(pitch_hz[block], effort[block], singer, _BINS_HZ)
        whole = np.floor(places[block]).astype(int)
        delay = (places[block] - whole + _BEFORE_PULSE).astype(np.float32)[:, None]
        spectrum *= np.exp(np.complex64(-2j * np.pi / SAMPLE_RATE) * _BINS_HZ * delay) * shimmer[block, None]
        for position, pulse in zip(whole, np.asarray(irfft(spectrum, _FFT, axis=1)), strict=True):
            out[position + _FFT - _BEFORE_PULSE : position + 2 * _FFT - _BEFORE_PULSE] += pulse
    return out[_FFT : _FFT + samples]


def _shaped_noise(magnitude, samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """White noise (L,) through a filter (K, F) that changes every `HOP` samples; the windows sum to one."""
    frames = len(magnitude)
    white = np.concatenate([np.zeros(_NOISE_WINDOW), rng.standard_normal(samples + _NOISE_WINDOW)]).astype(np.float32)
    first = _NOISE_WINDOW - _NOISE_WINDOW // 2
    blocks = np.lib.stride_tricks.sliding_window_view(white, _NOISE_WINDOW)[first::HOP][:frames]
    window = np.hanning(_NOISE_WINDOW + 1)[:-1].astype(np.float32) / 2
    filtered = np.asarray(irfft(rfft(blocks * window, _FFT, axis=1) * magnitude, _FFT, axis=1))
    lead = _NOISE_WINDOW // 2
    out = np.zeros((frames + _FFT // HOP) * HOP)
    rows = out.reshape(-1, HOP)
    for part in range(_FFT // HOP):
        rows[part : part + frames] += filtered[:, part * HOP : (part + 1) * HOP]
    return out[lead : lead + samples]


def _breath(performance, singer: SyntheticSinger, tract, phase, samples: int, rng) -> NDArray[np.float64]:
    """Turbulence at the glottis through the tract, strongest in the open part of each cycle."""
    source = np.sqrt(1 + (_BINS_HZ / 1500.0) ** 2) / (1 + (_BINS_HZ / 6000.0) ** 2)
    noise = _shaped_noise(tract * source.astype(np.float32), samples, rng)
    return noise * (1 + 0.6 * np.cos(2 * np.pi * phase))


def _breath_gain(performance: Performance, singer: SyntheticSinger, samples: int) -> NDArray[np.float64]:
    return 10 ** ((singer.breath_db + 6.0 * (0.5 - _at_samples(performance.effort, samples))) / 20)


def _frication(performance: Performance, singer: SyntheticSinger, tract, samples: int, rng) -> NDArray[np.float64]:
    mix = np.sqrt(performance.noise_mix).astype(np.float32)
    source = (1 / np.sqrt(1 + (_BINS_HZ / 3000.0) ** 2)).astype(np.float32)
    aspiration = np.abs(tract) * source
    aspiration /= np.sqrt(np.mean(aspiration**2, axis=1, keepdims=True))
    magnitude = mix[:, :1] * aspiration + mix[:, 1:] @ noise_shapes(singer, _BINS_HZ)
    return _shaped_noise(magnitude, samples, rng)


def _limited(audio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the neighbourhood of a peak down so that it stays below the limit; nothing else changes."""
    over = np.maximum(np.abs(audio) / PEAK_LIMIT, 1.0)
    if over.max() == 1.0:
        return audio
    gain = 1 / maximum_filter1d(over, 2 * _LEVEL_WINDOW)
    return np.clip(audio * uniform_filter1d(gain, _LEVEL_WINDOW), -PEAK_LIMIT, PEAK_LIMIT)


@dataclass(frozen=True)
class ParallelSong:
    """One performance sung by several singers, sample by sample in step."""

    song: str
    performance: Performance
    audio: dict[str, NDArray[np.float32]]
    """Singer's name to (L,) at 24 kHz; L is the same for all."""
    sources: tuple[str, ...]
    """Held-out singers."""
    targets: tuple[str, ...]
    """Demo voices."""


def held_out_set(config: CorpusConfig | None = None) -> Iterator[ParallelSong]:
    """The held-out songs by all held-out singers and demo voices, equal to the clips of a corpus of this configuration.

    Up to the 16-bit rounding of the corpus files.
    """
    config = config or CorpusConfig()
    sources = held_out_singers(config.seed, config.held_out_singers)
    targets = demo_singers(config)
    for song in held_out_songs(config):
        performance = perform_plan(config, song)
        audio = {
            singer.name: render(performance, singer, noise_seed(config, f"{singer.name}-{song.id}"))
            for singer in (*sources, *targets)
        }
        yield ParallelSong(song.id, performance, audio, tuple(s.name for s in sources), tuple(s.name for s in targets))
