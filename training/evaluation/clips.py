"""What systems are evaluated on: clips of a data set, who sings them, and how the singers' own voices sound."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import AudioError
from ...runtime.files import read_audio
from ..datasets import Material, Recording
from ..errors import DataError
from ..slicing import SlicingConfig, slice_at_silences

SPLITS = ("valid", "train", "all")


@dataclass(frozen=True, eq=False)
class Clip:
    """Audio (L,) at `rate`; `text` is what is sung in it, empty where that is not known."""

    id: str
    singer: str
    song: str
    text: str
    audio: NDArray[np.float32]
    rate: int


def choose_clips(
    material: Material, split: str, per_singer: int, slicing: SlicingConfig | None = None
) -> dict[str, list[Clip]]:
    """Up to `per_singer` clips of each trained singer, from recordings spread evenly over those of the split.

    Raises `DataError` where the split has none.
    """
    if split not in SPLITS:
        raise DataError(f"there is no split {split}\nhint: --split takes {', '.join(SPLITS)}")
    chosen: dict[str, list[Clip]] = {}
    for singer in material.trained:
        own = [r for r in material.recordings if r.singer == singer and split in ("all", r.split)]
        clips: list[Clip] = []
        for recording in _spread(own):
            if len(clips) >= per_singer:
                break
            clips += list(_pieces(recording, slicing or SlicingConfig()))[: per_singer - len(clips)]
        if clips:
            chosen[singer] = clips
    if not chosen:
        raise DataError(
            f"the data has no usable clip in the split {split!r}; songs are held out of singers with five or more\n"
            "hint: --split all takes every song, those that were trained on too"
        )
    return chosen


def _spread(recordings: Sequence[Recording]) -> Iterator[Recording]:
    """All of them, in steps of the golden ratio: however few are taken, they lie far apart."""
    order = np.argsort(np.arange(len(recordings)) * 0.6180339887 % 1.0, kind="stable")
    return (recordings[i] for i in order.tolist())


def _pieces(recording: Recording, slicing: SlicingConfig) -> Iterator[Clip]:
    try:
        signal, rate = read_audio(recording.path)
    except AudioError:
        return  # `prepare` reports it
    pieces = list(slice_at_silences(signal, rate, slicing)) if recording.cut else [(0, len(signal))]
    pieces = [(start, stop) for start, stop in pieces if stop - start >= slicing.min_seconds * rate]
    for k, (start, stop) in enumerate(pieces):
        name = f"{recording.id}#{k}" if len(pieces) > 1 else recording.id
        text = recording.text if len(pieces) == 1 else ""
        yield Clip(name, recording.singer, recording.song, text, signal[start:stop], rate)


@dataclass(frozen=True)
class Pair:
    """A conversion to measure."""

    clip: Clip
    target: str
    key: float
    """Semitones."""


def reconstructions(clips: Mapping[str, Sequence[Clip]]) -> list[Pair]:
    """Every clip to its own singer: what comes out has the clip for its reference."""
    return [Pair(clip, singer, 0.0) for singer, own in clips.items() for clip in own]


def conversions(
    clips: Mapping[str, Sequence[Clip]],
    targets: Sequence[str],
    f0_median_hz: Mapping[str, float],
    target_f0_median_hz: Mapping[str, float],
) -> list[Pair]:
    """Every clip to one of `targets` in turn, never to its own singer, moved by semitones to where that one sings.

    The medians are of the singers of the clips and of the targets.
    """
    pairs: list[Pair] = []
    for singer, own in clips.items():
        others = [target for target in targets if target != singer]
        for clip in own if others else ():
            target = others[len(pairs) % len(others)]
            key = 12.0 * np.log2(target_f0_median_hz[target] / f0_median_hz[singer])
            pairs.append(Pair(clip, target, float(np.round(key))))
    return pairs
