"""What can be evaluated: a voice bundle, a stage of a run folder, or a folder of what another program made."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...runtime import Converter
from ...runtime.bundle import SUFFIX, open_bundle
from ...runtime.files import read_audio
from ..checkpoint import require_checkpoint
from ..errors import DataError
from ..rendering import Renderer, load_stage
from .clips import Pair

TEACHER_STEPS = 50
"""Of the paper's teacher."""
SOURCE = "source"
"""Name of the row that is no system's."""


class System(Protocol):
    """Turns a clip into the same clip by another singer."""

    @property
    def name(self) -> str: ...

    @property
    def steps(self) -> int | None:
        """Evaluations of the denoiser, where that is known."""
        ...

    @property
    def singers(self) -> Sequence[str] | None:
        """Whom it can imitate; None: whomever it has files of."""
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


def open_system(argument: str) -> System:
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
