"""Reading a corpus folder: clips with their audio, F0 and phones."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ..errors import DataError, train_command
from .performance import CONTROL_RATE_HZ
from .plan import FORMAT_VERSION


@dataclass(frozen=True)
class SingerInfo:
    """What the corpus says of a singer; `parameters` holds everything else that was written."""

    name: str
    kind: str
    """"synthetic" or "recorded" (resting on recordings of a person)."""
    split: str
    """"train" or "heldout"."""
    demo: bool
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Labels:
    """Exact F0 and phones of a clip."""

    f0_hz: NDArray[np.float32]
    """(K,) at 200 Hz, value k at k / 200 s, 0 = unvoiced. All NaN for recorded voices: track their F0 instead."""
    phone_start_s: NDArray[np.float64]
    """(P,) ascending, the first at 0; each phone lasts until the next begins."""
    phone: NDArray[np.int32]
    """(P,) indices into PHONES."""

    def f0_at(self, times_s: NDArray[np.floating]) -> NDArray[np.float32]:
        """F0 in Hz at each of `times_s`, any shape: log-linear within voiced runs, 0 unvoiced, NaN unknown."""
        position = np.clip(np.asarray(times_s) * CONTROL_RATE_HZ, 0, len(self.f0_hz) - 1)
        nearest = np.rint(position).astype(int)
        below = np.floor(position).astype(int)
        above = np.minimum(below + 1, len(self.f0_hz) - 1)
        low, high = self.f0_hz[below], self.f0_hz[above]
        with np.errstate(divide="ignore", invalid="ignore"):
            blend = np.exp(np.log(low) * (1 - (position - below)) + np.log(high) * (position - below))
        return np.where((low > 0) & (high > 0), blend, self.f0_hz[nearest]).astype(np.float32)

    def phones_at(self, times_s: NDArray[np.floating]) -> NDArray[np.int32]:
        """Phone index at each of `times_s`, any shape; before the clip its first phone, after it its last."""
        return self.phone[np.maximum(np.searchsorted(self.phone_start_s, times_s, side="right") - 1, 0)]


@dataclass(frozen=True)
class CorpusClip:
    """One audio file of the corpus."""

    folder: Path
    id: str
    singer: str
    song: str
    performance: str
    """Clips of one performance agree in F0, timing and loudness."""
    split: str
    seconds: float
    kind: str

    @property
    def audio_path(self) -> Path:
        """The FLAC file."""
        return self.folder / "audio" / f"{self.id}.flac"

    @property
    def label_path(self) -> Path:
        """The file with F0 and phones."""
        return self.folder / "labels" / f"{self.id}.safetensors"

    def audio(self) -> NDArray[np.float32]:
        """Mono audio (L,) at the corpus' rate. Raises DataError where the file is missing or damaged."""
        try:
            return np.asarray(soundfile.read(self.audio_path, dtype="float32")[0], dtype=np.float32)
        except (soundfile.LibsndfileError, OSError) as error:
            raise DataError(
                f"{self.audio_path} cannot be read: {error}\nhint: delete it and write the corpus again"
            ) from None

    def labels(self) -> Labels:
        """F0 and phones. Raises DataError where the file is missing or damaged."""
        try:
            return Labels(**load_file(self.label_path))
        except Exception as error:
            raise DataError(
                f"{self.label_path} cannot be read: {error}\nhint: delete it and write the corpus again"
            ) from None


def _again(index: Path) -> str:
    return train_command(index.parent.with_name("corpus"))


@dataclass(frozen=True)
class Corpus:
    """A corpus folder as `write_corpus` leaves it."""

    folder: Path
    sample_rate: int
    phones: tuple[str, ...]
    recipe: str
    data_card: str
    singers: dict[str, SingerInfo]
    all_clips: tuple[CorpusClip, ...]

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Read `folder`/corpus.json. Raises DataError where it is not a finished corpus of this version."""
        path = Path(folder) / "corpus.json"
        if not path.is_file():
            raise DataError(
                f"{path} is missing: no corpus, or one not finished\n"
                f"hint: write it: {_again(path)}; with recordings of your own it is not needed: "
                "comosvc-train prepare takes them with --data FOLDER, and comosvc-train content takes ContentVec with "
                "--from FILE"
            )
        try:
            data = json.loads(path.read_text("utf-8"))
            version = data["format_version"]
            if version != FORMAT_VERSION:
                raise DataError(
                    f"{path} has format version {version}, this is {FORMAT_VERSION}\n"
                    f"hint: delete the folder and write it again: {_again(path)}"
                )
            singers = {
                name: SingerInfo(name, values["kind"], values["split"], values["demo"], values)
                for name, values in data["singers"].items()
            }
            clips = tuple(CorpusClip(folder=Path(folder), kind=singers[c["singer"]].kind, **c) for c in data["clips"])
            phones = tuple(data["phones"])
            return cls(Path(folder), data["sample_rate"], phones, data["recipe"], data["data_card"], singers, clips)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is damaged: {error!r}\nhint: delete it and write it again: {_again(path)}"
            ) from None

    def clips(
        self, *, split: str | None = None, kind: str | None = None, singer: str | None = None
    ) -> tuple[CorpusClip, ...]:
        """The clips of a split (train, valid, test), of a kind (synthetic, recorded), of a singer; None: any."""
        return tuple(
            clip
            for clip in self.all_clips
            if split in (None, clip.split) and kind in (None, clip.kind) and singer in (None, clip.singer)
        )
