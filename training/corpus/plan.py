"""Which clips a corpus holds. All follows from the configuration, so any clip can be rendered alone, in any order."""

import zlib
from dataclasses import dataclass

import numpy as np

from .config import CorpusConfig
from .performance import Performance, perform_song
from .score import Range
from .singer import DEMO_SINGERS, Singer, held_out_singers, training_singers

_DEMO_RANGE = Range(95.0, 560.0)
_LOWEST_HZ, _HIGHEST_HZ = 90.0, 270.0  # lowest note of the further singers; each sings about an octave and a half
_HELD_OUT_RANGES = (Range(110, 230), Range(200, 440), Range(140, 310), Range(250, 520), Range(165, 370))


@dataclass(frozen=True)
class SongPlan:
    """A song before it is composed."""

    id: str
    seconds: float
    notes: Range


@dataclass(frozen=True)
class ClipPlan:
    """One singer's rendering of one song."""

    id: str
    singer: Singer
    song: SongPlan
    split: str


def stable_seed(config: CorpusConfig, *names: str) -> list[int]:
    """A seed that depends on the names alone, not on the order in which clips are made."""
    return [config.seed, *(zlib.crc32(name.encode()) for name in names)]


def perform_plan(config: CorpusConfig, song: SongPlan) -> Performance:
    """The performance of a planned song: the same whoever sings it."""
    return perform_song(np.random.default_rng(stable_seed(config, "song", song.id)), song.seconds, song.notes)


def noise_seed(config: CorpusConfig, clip_id: str) -> int:
    """The seed of a clip's jitter and noise."""
    return zlib.crc32(f"{config.seed}/{clip_id}".encode())


def demo_singers(config: CorpusConfig) -> tuple[Singer, ...]:
    """The voices that the bundle offers."""
    return DEMO_SINGERS[: config.demo_singers]


def held_out_songs(config: CorpusConfig) -> tuple[SongPlan, ...]:
    """The songs of the parallel test set."""
    return tuple(
        SongPlan(f"heldout-{n + 1}", config.held_out_seconds, _HELD_OUT_RANGES[n % len(_HELD_OUT_RANGES)])
        for n in range(config.held_out_songs)
    )


def synthetic_clips(config: CorpusConfig) -> tuple[ClipPlan, ...]:
    """All clips of synthetic singers, demo voices first."""
    clips: list[ClipPlan] = []
    for singer in demo_singers(config):
        clips += _training_clips(config, singer, config.demo_minutes, demo=True)
        clips += _held_out_clips(config, singer, "valid")
    for singer in held_out_singers(config.seed, config.held_out_singers):
        clips += _held_out_clips(config, singer, "test")
    for singer in training_singers(config.seed, config.other_singers):
        clips += _training_clips(config, singer, config.other_minutes, demo=False)
    return tuple(clips)


def _held_out_clips(config: CorpusConfig, singer: Singer, split: str) -> list[ClipPlan]:
    return [ClipPlan(f"{singer.name}-{song.id}", singer, song, split) for song in held_out_songs(config)]


def _training_clips(config: CorpusConfig, singer: Singer, minutes: float, demo: bool) -> list[ClipPlan]:
    rng = np.random.default_rng(stable_seed(config, "plan", singer.name))
    shortest, longest = config.clip_seconds
    count = max(1, round(minutes * 60 / (0.5 * (shortest + longest))))
    lowest_hz = _LOWEST_HZ * (_HIGHEST_HZ / _LOWEST_HZ) ** rng.random()
    # Demo voices go through their whole range evenly: the model must know each of them wherever a source may sing.
    place = (rng.permutation(count) + rng.random(count)) / count
    clips = []
    for n in range(count):
        octaves = rng.uniform(1.1, 1.6)
        if demo:
            span = _DEMO_RANGE.high_hz / 2**octaves / _DEMO_RANGE.low_hz
            low_hz = _DEMO_RANGE.low_hz * span ** place[n]
        else:
            low_hz = lowest_hz * rng.uniform(0.95, 1.1)
        seconds = float(rng.uniform(shortest, longest))
        song = SongPlan(f"{singer.name}-s{n + 1:02d}", seconds, Range(low_hz, min(low_hz * 2**octaves, 700.0)))
        clips.append(ClipPlan(song.id, singer, song, "train"))
    return clips
