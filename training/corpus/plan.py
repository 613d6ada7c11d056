"""Configuration of a corpus, the clips that follow from it, and its data card."""

import zlib
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .performance import Performance, perform_song
from .singer import DEMO_SINGERS, SyntheticSinger, held_out_singers, training_singers
from .songs import NoteRange

FORMAT_VERSION = 1
RENDER_VERSION = 4
"""Raised whenever the same configuration would give other audio."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Amounts and seed of the demo corpus. The defaults are the shipped recipe; small values make a smoke corpus."""

    seed: int = 20_240_613
    demo_singers: int = 4
    """Voices that the bundle offers, 1 to 4 of the designed ones."""
    demo_minutes: float = 7.0
    """Training audio per demo voice."""
    other_singers: int = 60
    """Further training singers, for variety."""
    other_minutes: float = 1.1
    """Training audio per further singer."""
    held_out_singers: int = 4
    """Source singers of the parallel test set, never trained on."""
    held_out_songs: int = 5
    """Songs sung in parallel by every held-out singer and every demo voice, never trained on."""
    held_out_seconds: float = 15.5
    clip_seconds: tuple[float, float] = (8.5, 14.5)
    """Training songs last about so long: one clip is one song."""
    recorded_minutes: float = 33.0
    """Training audio resting on recorded human voices, over all of them."""
    recorded_test_minutes: float = 2.5
    """Audio of the recorded voice that is kept from training."""

    def __post_init__(self) -> None:
        if not 1 <= self.demo_singers <= 4:
            raise ConfigError(f"demo_singers is {self.demo_singers}; the corpus has 1 to 4 designed voices")
        for name in ("other_singers", "held_out_singers", "held_out_songs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it cannot be negative")
        low, high = self.clip_seconds
        if not 2.0 <= low <= high <= 60.0:
            raise ConfigError(f"clip_seconds is {self.clip_seconds}; give (shortest, longest) within 2 to 60 s")


_DEMO_RANGE = NoteRange(95.0, 560.0)
_LOWEST_HZ, _HIGHEST_HZ = 90.0, 270.0  # lowest note of the further singers; each sings about an octave and a half
_HELD_OUT_RANGES = (
    NoteRange(110, 230),
    NoteRange(200, 440),
    NoteRange(140, 310),
    NoteRange(250, 520),
    NoteRange(165, 370),
)


@dataclass(frozen=True)
class SongPlan:
    """A song before it is composed."""

    id: str
    seconds: float
    notes: NoteRange


@dataclass(frozen=True)
class ClipPlan:
    """One singer's rendering of one song."""

    id: str
    singer: SyntheticSinger
    song: SongPlan
    split: str


def stable_seed(config: CorpusConfig, *names: str) -> list[int]:
    """A seed that depends on the names alone, not on the order in which clips are made."""
    return [config.seed, *(zlib.crc32(name.encode()) for name in names)]


def perform_plan(config: CorpusConfig, song: SongPlan) -> Performance:
    """The performance of a planned song, equal for all singers."""
    return perform_song(np.random.default_rng(stable_seed(config, "song", song.id)), song.seconds, song.notes)


def noise_seed(config: CorpusConfig, clip_id: str) -> int:
    """The seed of a clip's jitter and noise."""
    return zlib.crc32(f"{config.seed}/{clip_id}".encode())


def demo_singers(config: CorpusConfig) -> tuple[SyntheticSinger, ...]:
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


def _held_out_clips(config: CorpusConfig, singer: SyntheticSinger, split: str) -> list[ClipPlan]:
    return [ClipPlan(f"{singer.name}-{song.id}", singer, song, split) for song in held_out_songs(config)]


def _training_clips(config: CorpusConfig, singer: SyntheticSinger, minutes: float, demo: bool) -> list[ClipPlan]:
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
        song = SongPlan(f"{singer.name}-s{n + 1:02d}", seconds, NoteRange(low_hz, min(low_hz * 2**octaves, 700.0)))
        clips.append(ClipPlan(song.id, singer, song, "train"))
    return clips


_SYNTHETIC = """\
Synthetic singers ({minutes:.0f} min, {singers} voices). A source-filter synthesiser in comosvc.training.corpus composes
random melodies with invented syllables and sings them: glottal pulses and noise through twelve resonances. No recording
of a person is in it. F0, phones and timing are exact. It is robotically clean; a model trained on it alone does not
know people.
Licence: MIT, as this software; no one's likeness is used."""

_RECORDED = """\
Recorded voices ({minutes:.0f} min, {singers} voices: {names}).
Invented sentences spoken, and a few words at a time drawn out on single notes, by speech synthesisers whose voices were
built from recordings of people: of flite, slt, awb and rms from the CMU ARCTIC databases and kal16 from the KAL diphone
recordings; of Festival, ked_diphone from the KED diphone recordings. Band limited to 8 kHz. Phone times are the
synthesisers' own; F0 is not labelled. rms is held
out: nothing is trained on it. Only the content encoder needs these voices; none of them is offered as a target.
Licence: CMU's and CSTR's permissive terms (use, copy, modify and distribute freely, with their notice; no endorsement).
Credit: flite, Alan W Black and Kevin Lenzo; CMU ARCTIC, John Kominek and Alan W Black, Language Technologies Institute,
Carnegie Mellon University; Festival and KED, Centre for Speech Technology Research, University of Edinburgh."""

_SPLITS = """\
Splits. train: training singers on their own songs. valid: the demo voices on held-out songs. test: held-out singers on
the same held-out songs, in step sample by sample with valid (the ground truth of a conversion), and the held-out
recorded voice. Not for: claims about real singers. All follows from the configuration and seed in corpus.json."""


def data_card(clips: list[dict], singers: dict[str, dict]) -> str:
    """The card of a corpus with these clips and singers (as in corpus.json)."""
    parts = []
    for kind, text in (("synthetic", _SYNTHETIC), ("recorded", _RECORDED)):
        names = sorted(name for name, singer in singers.items() if singer["kind"] == kind)
        if names:
            minutes = sum(clip["seconds"] for clip in clips if clip["singer"] in names) / 60
            parts.append(text.format(minutes=minutes, singers=len(names), names=", ".join(names)))
    return "\n\n".join([*parts, _SPLITS])
