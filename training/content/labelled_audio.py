"""Labelled audio for the content encoder: crops, and the variation that makes the encoder deaf to who sings.

Singers differ by vocal tract length (the frequency axis stretches), by timbre (a smooth random filter), by level, room
and noise; none of that changes the phone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..corpus import PHONES, Labels
from ..loop.batches import Draws
from .encoder import ContentConfig, mel_edges_hz, triangular_filters

_TARGET_OFFSETS_S = (-0.008, -0.004, 0.0, 0.004, 0.008)
"""Instants whose phones share a frame's target: a boundary inside the window makes both sides right in proportion."""

_FORMANT_REGIONS_HZ = (300.0, 900.0, 2200.0, 4500.0)
_TRACT_SHARES = np.array([1.0, 1.0, 1.0, 0.6])
"""How far each region moves with the length of the tract. Hiss is made by the front of the mouth, which differs less:
an s that follows a long tract becomes a sh.
"""


@dataclass(frozen=True)
class LabelledClip:
    """A clip at the content rate."""

    singer: str
    song: str
    recorded: bool
    """Whether the voice rests on recordings of a person."""
    tract_scale: float
    """Factor on a neutral voice's resonances: 0.86 a long vocal tract, 1.2 a short one."""
    audio: NDArray[np.int16]
    """(N,)"""
    labels: Labels

    @property
    def waveform(self) -> NDArray[np.float32]:
        """(N,) within ±1."""
        return self.audio.astype(np.float32) / np.float32(2**15)

    def frame_phones(self, hop: int, sample_rate: int) -> NDArray[np.int32]:
        """Phone at the centre of each content frame, (S,)."""
        return self.labels.phones_at((np.arange(len(self.audio) // hop) + 0.5) * hop / sample_rate)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of the random variation of a training crop; each draw is uniform unless said."""

    speed: float = 1.25
    """Largest factor by which a synthetic voice is played faster or slower, log-uniform: pitch and pace."""
    recorded_speed: float = 1.4
    """The same for recorded voices, which only ever speak and must also be known at a singer's pitch and pace."""
    tract: float = 1.2
    """Largest factor on a synthetic voice's vocal tract length, log-uniform, whatever the speed."""
    recorded_tract_scales: tuple[float, float] = (0.85, 1.2)
    """Tract scales, as of synthetic singers, that recorded voices are brought to, log-uniform: a man's voice is seldom
    stretched further down, a woman's seldom further up. Beyond what people have, an s lies where others' sh does.
    """
    bend: float = 1.15
    """Largest factor by which the region of each formant moves on its own, log-uniform."""
    tilt_db: float = 6.0
    """Largest spectral slope, from the lowest to the highest band."""
    equaliser_db: tuple[float, float] = (2.0, 8.0)
    """Standard deviation of the gain at each of ten points along the mel axis, from the lowest to the highest:
    speakers and microphones differ most where s and sh are told apart.
    """
    gain_db: tuple[float, float] = (-18.0, 9.0)
    noise_db: tuple[float, float] = (-90.0, -30.0)
    """White noise, relative to the crop's level."""
    band_limit: float = 0.15
    """Share of crops that lose everything above a frequency of 3.4 kHz to 8 kHz."""
    reverb: float = 0.2
    """Share of crops in a room."""


class CropSampler:
    """Random batches of `n_frames` frames, half of them recorded voices where `clips` has any.

    Gives `audio` (B, N), `target` (B, S, C), each frame's phone probabilities, and `filters` (B, F, M), the mel filters
    seen through each crop's vocal tract and timbre.
    """

    def __init__(
        self,
        clips: Sequence[LabelledClip],
        config: ContentConfig,
        bins_hz: NDArray[np.float64],
        hop: int,
        n_frames: int,
        augmentation: Augmentation,
    ) -> None:
        self.config, self.bins_hz, self.hop = config, bins_hz, hop
        self.sample_rate = 2.0 * float(bins_hz[-1])
        self.n_frames = n_frames
        self.augmentation = augmentation
        self.groups: list[list[list[LabelledClip]]] = []
        for recorded in (False, True):
            singers = sorted({clip.singer for clip in clips if clip.recorded is recorded})
            own = [[c for c in clips if c.singer == name and c.recorded is recorded] for name in singers]
            self.groups += [own] if own else []

    def __call__(self, draws: Draws) -> dict[str, Tensor]:
        crops = [self._crop(self.groups[number % len(self.groups)], rng) for number, rng in draws]
        names = ("audio", "target", "filters")
        return {
            name: torch.from_numpy(np.stack(parts)) for name, parts in zip(names, zip(*crops, strict=True), strict=True)
        }

    def _crop(self, singers: list[list[LabelledClip]], rng: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
        clips = singers[rng.integers(len(singers))]
        lengths = np.array([len(clip.audio) for clip in clips], float)
        clip = clips[rng.choice(len(clips), p=lengths / lengths.sum())]
        widest = self.augmentation.recorded_speed if clip.recorded else self.augmentation.speed
        speed = _log_uniform(rng, widest)
        n_samples = self.n_frames * self.hop
        first = int(rng.integers(-self.hop, max(1, len(clip.audio) - int(n_samples * speed))))
        audio = played(clip.audio, first, n_samples, speed)
        centres = (first + speed * self.hop * (np.arange(self.n_frames, dtype=np.float64) + 0.5)) / self.sample_rate
        phones = clip.labels.phones_at(centres[:, None] + np.array(_TARGET_OFFSETS_S))
        phones = np.where(centres[:, None] * self.sample_rate < len(clip.audio), phones, PHONES.index("sil"))
        target = np.eye(len(PHONES), dtype=np.float32)[phones].mean(axis=1)
        if clip.recorded:
            low, high = np.log(self.augmentation.recorded_tract_scales)
            tract = clip.tract_scale / float(np.exp(rng.uniform(low, high)))
        else:
            tract = _log_uniform(rng, self.augmentation.tract)
        filters = random_filters(self.config, self.bins_hz, self.augmentation, speed, tract, rng)
        return disturbed(audio, self.sample_rate, self.augmentation, rng), target, filters


def _log_uniform(rng: np.random.Generator, factor: float) -> float:
    return float(np.exp(rng.uniform(-1.0, 1.0) * np.log(factor)))


def played(audio: NDArray[np.int16], first: int, n_samples: int, speed: float) -> NDArray[np.float32]:
    """`n_samples` of `audio` from sample `first` on, within ±1, `speed` times as fast; silence beyond its ends."""
    n_source = int(np.ceil(n_samples * speed)) + 1
    segment = audio[max(first, 0) : max(first, 0) + n_source + min(first, 0)]
    source = np.zeros(n_source, np.float32)
    source[max(-first, 0) : max(-first, 0) + len(segment)] = segment / np.float32(2**15)
    result = np.zeros(n_samples, np.float32)
    resampled = soxr.resample(source, speed, 1.0, quality="LQ")[:n_samples]
    result[: len(resampled)] = resampled
    return result


def disturbed(
    audio: NDArray[np.float32], sample_rate: float, augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """`audio` (N,) in a random room (sometimes), with noise, at a random level."""
    if rng.random() < augmentation.reverb:
        audio = _in_room(audio, sample_rate, rng)
    level = float(np.sqrt(np.mean(audio**2))) + 1e-6
    noise = rng.standard_normal(len(audio), np.float32)
    noisy = audio + level * 10.0 ** (rng.uniform(*augmentation.noise_db) / 20.0) * noise
    return (noisy * 10.0 ** (rng.uniform(*augmentation.gain_db) / 20.0)).astype(np.float32)


def _in_room(audio: NDArray[np.float32], sample_rate: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """The direct sound and an exponentially decaying noise behind it, 60 dB down after 0.1-0.5 s."""
    decay_s, direct_db = rng.uniform(0.1, 0.5), rng.uniform(3.0, 20.0)
    times = np.arange(int(0.5 * decay_s * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(times)) * 10.0 ** (-3.0 * times / decay_s)
    response = tail * 10.0 ** (-direct_db / 20.0) / np.sqrt(np.sum(tail**2))
    response[0] = 1.0
    size = 1 << (len(audio) + len(response)).bit_length()  # a power of two: other sizes can be ten times slower
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(response, size), size)
    return wet[: len(audio)].astype(np.float32)


def bent(
    edges_hz: NDArray[np.float64], speed: float, tract: float, bend: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """`edges_hz` times `speed` and `tract`, and in each region times up to `bend` more or less; the last stays.

    Speakers do not differ in tract length alone: one man's first formant is 20 % lower than another's, his second not.
    """
    last_hz = edges_hz[-1]
    factors = speed * tract**_TRACT_SHARES * [_log_uniform(rng, bend) for _ in _FORMANT_REGIONS_HZ]
    targets_hz = np.minimum(factors * _FORMANT_REGIONS_HZ, 0.95 * last_hz)  # else the edges would cross below the last
    shift = np.log(np.append(targets_hz / _FORMANT_REGIONS_HZ, 1.0))
    return edges_hz * np.exp(np.interp(np.log(edges_hz), np.log([*_FORMANT_REGIONS_HZ, last_hz]), shift))


def random_filters(
    config: ContentConfig,
    bins_hz: NDArray[np.float64],
    augmentation: Augmentation,
    speed: float,
    tract: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Mel filters (F, M) for a voice played `speed` times as fast: at its own pace, its formants `tract` times too low,
    through a random microphone.
    """
    edges = bent(mel_edges_hz(config), speed, tract, augmentation.bend, rng)
    filters = triangular_filters(edges, bins_hz)
    along = np.linspace(0.0, 1.0, config.n_mels)
    points = rng.normal(0.0, np.linspace(*augmentation.equaliser_db, 10))
    gain_db = np.interp(along, np.linspace(0.0, 1.0, 10), points)
    gain_db += rng.uniform(-1.0, 1.0) * augmentation.tilt_db * (along - 0.5)
    if rng.random() < augmentation.band_limit:
        cut_hz = rng.uniform(3400.0, bins_hz[-1])
        gain_db -= 60.0 * np.clip((edges[1:-1] - cut_hz) / 500.0, 0.0, 1.0)
    return filters * (10.0 ** (gain_db / 10.0)).astype(np.float32)
