"""Converters under test and the clips that they convert."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...runtime import Converter
from ...runtime.audio.files import read_audio
from ...runtime.errors import AudioError
from ...runtime.voice.bundle import SUFFIX, open_bundle
from ..data.datasets import Material, Recording
from ..data.prepare import SlicingConfig, slice_at_silences
from ..errors import DataError
from ..loop.checkpoint import require_checkpoint
from ..run.rendering import Renderer, load_stage

SPLITS = ("valid", "train", "all")


@dataclass(frozen=True, eq=False)
class EvaluationClip:
    """Audio (L,) at `rate`; `text` is what is sung in it, empty where that is not known."""

    id: str
    singer: str
    song: str
    text: str
    audio: NDArray[np.float32]
    rate: int


def choose_clips(
    material: Material, split: str, per_singer: int, slicing: SlicingConfig | None = None
) -> dict[str, list[EvaluationClip]]:
    """Up to `per_singer` clips of each trained singer, from recordings spread evenly over those of the split.

    Raises `DataError` where the split has none.
    """
    if split not in SPLITS:
        raise DataError(f"there is no split {split}\nhint: --split takes {', '.join(SPLITS)}")
    chosen: dict[str, list[EvaluationClip]] = {}
    for singer in material.trained:
        own = [r for r in material.recordings if r.singer == singer and split in ("all", r.split)]
        clips: list[EvaluationClip] = []
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


def _pieces(recording: Recording, slicing: SlicingConfig) -> Iterator[EvaluationClip]:
    try:
        signal, rate = read_audio(recording.path)
    except AudioError:
        return  # `prepare` reports it
    pieces = list(slice_at_silences(signal, rate, slicing)) if recording.cut else [(0, len(signal))]
    pieces = [(start, stop) for start, stop in pieces if stop - start >= slicing.min_seconds * rate]
    for k, (start, stop) in enumerate(pieces):
        name = f"{recording.id}#{k}" if len(pieces) > 1 else recording.id
        text = recording.text if len(pieces) == 1 else ""
        yield EvaluationClip(name, recording.singer, recording.song, text, signal[start:stop], rate)


@dataclass(frozen=True)
class Pair:
    """A conversion to measure."""

    clip: EvaluationClip
    target: str
    key: float
    """Semitones."""


def reconstructions(clips: Mapping[str, Sequence[EvaluationClip]]) -> list[Pair]:
    """Every clip to its own singer: what comes out has the clip for its reference."""
    return [Pair(clip, singer, 0.0) for singer, own in clips.items() for clip in own]


def conversions(
    clips: Mapping[str, Sequence[EvaluationClip]],
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


TEACHER_STEPS = 50
"""Of the paper's teacher."""
SOURCE = "source"
"""Name of the row that is no system's."""


class ConverterUnderTest(Protocol):
    """Turns a clip into the same clip by another singer."""

    @property
    def name(self) -> str: ...

    @property
    def steps(self) -> int | None:
        """Evaluations of the denoiser, where that is known."""
        ...

    @property
    def singers(self) -> Sequence[str] | None:
        """Singers that it can imitate; None: those that it has files of."""
        ...

    @property
    def songs(self) -> Mapping[str, str]:
        """The `song_mark` of each song of the singers to "train" or "valid".

        Bundles record the held-out songs only; empty where nothing is recorded.
        """
        ...

    def convert(self, pair: Pair) -> tuple[NDArray[np.float32], int] | None:
        """Audio (L,) and its rate; None where it has nothing for this pair."""
        ...


class Unconverted:
    """The source as it is: what the figures are without a system."""

    name, steps, singers, songs = SOURCE, None, None, MappingProxyType[str, str]({})

    def convert(self, pair: Pair) -> tuple[NDArray[np.float32], int] | None:
        return pair.clip.audio, pair.clip.rate


def _held_out(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Held-out songs in the provenance of a bundle; empty in bundles of earlier versions."""
    data = provenance.get("data")
    marks = data.get("held_out") if isinstance(data, Mapping) else None
    return dict.fromkeys(map(str, marks), "valid") if isinstance(marks, list) else {}


class BundleSystem:
    """A .comosvc file, as applications convert with it. Without a name it is called by its path and steps."""

    def __init__(self, name: str | None, path: Path | str, steps: int | None = None) -> None:
        self.converter = Converter(path)
        self.steps = steps or self.converter.manifest.model.usual_steps
        self.name = f"{path}@{self.steps}" if name is None else name
        self.singers = tuple(self.converter.singers)
        self.songs = _held_out(open_bundle(path).manifest.provenance)

    def convert(self, pair: Pair) -> tuple[NDArray[np.float32], int] | None:
        clip = pair.clip
        out = self.converter.convert(clip.audio, clip.rate, singer=pair.target, key=pair.key, steps=self.steps)
        return out.audio, out.sample_rate


class StageSystem:
    """A teacher or a student of a run folder: RUN/teacher, RUN/student, or one of their checkpoints.

    Without a name it is called by the run's folder, the stage, the checkpoint if that was given, and its steps.
    """

    def __init__(self, name: str | None, path: Path, steps: int | None = None) -> None:
        checkpoint = path if path.is_file() else require_checkpoint(path)
        self.run = checkpoint.parent.parent
        self._checkpoint, self._renderer, self._stage = checkpoint, Renderer(self.run), load_stage(checkpoint)
        self.steps = steps or (TEACHER_STEPS if self._stage.student is None else 1)
        place = path.absolute().with_suffix("").parts[-3 if path.is_file() else -2 :]
        self.name = f"{'/'.join(place)}@{self.steps}" if name is None else name
        self.singers = self._stage.singers

    @property
    def songs(self) -> Mapping[str, str]:
        """Songs in the index of the run's features."""
        return self._renderer.features.songs

    def require_own(self) -> None:
        """Raise `DataError` for a checkpoint that does not fit its run."""
        self._renderer.require_own(self._checkpoint)

    def convert(self, pair: Pair) -> tuple[NDArray[np.float32], int] | None:
        song = self._renderer.listen(pair.clip.audio, pair.clip.rate)
        rendering = self._renderer.render(self._stage, song, pair.target, key=pair.key, steps=self.steps)
        return rendering.audio, self._renderer.spec.sample_rate


class FolderSystem:
    """Files that another program wrote, named as `file_name` says."""

    steps, singers, songs = None, None, MappingProxyType[str, str]({})

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder

    def convert(self, pair: Pair) -> tuple[NDArray[np.float32], int] | None:
        path = self._folder / file_name(pair)
        return read_audio(path) if path.is_file() else None


def file_name(pair: Pair) -> str:
    """`<clip>__<target>.wav`, with what is no letter, digit or hyphen as an underscore."""
    clip, target = (re.sub(r"[^\w\-]+", "_", text) for text in (pair.clip.id, pair.target))
    return f"{clip}__{target}.wav"


def open_system(argument: str) -> ConverterUnderTest:
    """A system as the command line names it: `[NAME=]PATH[@STEPS]`, PATH a .comosvc file or a shipped voice, a stage
    of a run folder, or a folder of WAV files. Without NAME it is called by its path and steps. Raises `ComosvcError`
    where it is none of them.
    """
    given, equals, rest = argument.partition("=")
    rest = rest if equals else argument
    place, steps = _split_steps(rest)
    path, name = Path(place), given if equals else rest
    if any(path.glob("step_*.safetensors")) or path.suffix == ".safetensors":
        return StageSystem(given if equals else None, path, steps)
    if path.is_dir() and any(path.glob("*.wav")):
        return FolderSystem(name, path)
    if path.suffix == SUFFIX or not path.exists() or (path / "bundle.json").is_file():
        return BundleSystem(given if equals else None, place, steps)
    raise DataError(
        f"{place} is no system: no .comosvc file, no checkpoints of a teacher or student, no .wav files\n"
        "hint: give a bundle, RUN/student, RUN/teacher@50, or a folder of WAV files"
    )


def _split_steps(place: str) -> tuple[str, int | None]:
    """PATH and STEPS of `PATH[@STEPS]`."""
    path, _, number = place.rpartition("@")
    if not path or not number.isdecimal():
        return place, None
    if int(number) < 1:
        raise DataError(f"{place} asks for {number} steps\nhint: one or more, or no @ for the usual number")
    return path, int(number)
