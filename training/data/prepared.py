"""Features of a run: mel, F0 and loudness of every clip, their files, and F0 by the runtime's pitch graph."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ...runtime.audio.pitch import PITCH_SAMPLE_RATE, PitchSession, f0_at_frames, second_opinion, told_f0, track_pitch
from ...runtime.audio.resampling import resample
from ...runtime.audio.spec import AudioSpec, F0Name, FrontEnd
from ...runtime.audio.world_f0 import CONTOURS, squeezed
from ...runtime.errors import ComosvcError, install
from ...runtime.providers.sessions import open_session
from ...runtime.storage import decode, encode, reason, replacing, sha256, write_whole
from ..errors import ConfigError, DataError, train_command
from .augmentation import AugmentationConfig, variation_path

F0Extractor = Callable[[NDArray[np.float32], AudioSpec, FrontEnd], NDArray[np.float32]]
"""(audio (L,) at the spec's rate, spec, front end) -> F0 in Hz (T,), T = spec.frames(L), 0 where unvoiced.

`runtime.pitch.told_f0` gives the model's input for unvoiced frames.
"""


def swift_f0(audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """The shipped pitch graph (swift-f0), taken at the front end's instants."""
    at_16k = resample(audio, spec.sample_rate, PITCH_SAMPLE_RATE)
    f0_hz, confidence, _ = second_opinion(at_16k, *track_pitch(pitch_session(), at_16k))
    return f0_at_frames(f0_hz, confidence, spec.frames(len(audio)), spec, instant=front_end.instant)


def _world_f0(name: F0Name, audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """WORLD's DIO or Harvest. Frames begin at the clip's start, for every `front_end`."""
    try:
        return squeezed(CONTOURS[name](audio, spec), spec.frames(len(audio)))
    except ImportError as error:
        raise ConfigError(f"the F0 extractors dio and harvest need pyworld ({error})\nhint: {install('f0')}") from error


EXTRACTORS: dict[F0Name, F0Extractor] = {"swift-f0": swift_f0, **{name: partial(_world_f0, name) for name in CONTOURS}}
"""By name; those of WORLD raise `ConfigError` where its package is not installed."""


@cache
def pitch_session() -> PitchSession:
    """One session a process: the shipped pitch graph on one thread."""
    model = resources.files("comosvc.runtime").joinpath("data/pitch.onnx").read_bytes()
    return open_session(model, "the pitch graph", threads=1)


INDEX = "index.json"
_VERSION = b"2"
"""Increased when `prepare.analyse` or `augmentation.vary` change their results for the same audio."""
_AGAIN = "delete it and run prepare again with the same options; only what is missing is made anew"


@dataclass(frozen=True)
class PreparedSinger:
    """A singer as found in the material. `index` is the row of the embedding table, or None for one who is not
    trained on.
    """

    kind: str  # "synthetic", "recorded": what the audio is
    split: str  # "train" or "heldout"
    demo: bool  # exposed by the bundle
    index: int | None
    minutes: float
    f0_median_hz: float
    f0_range_hz: tuple[float, float]
    """5th to 95th percentile of the voiced frames."""


@dataclass(frozen=True)
class PreparedClip:
    """One stretch of audio; `key` names its feature file and is a hash of the audio and of the audio spec."""

    key: str
    id: str
    singer: str
    song: str
    split: str  # "train", "valid" or "test"
    frames: int
    text: str = ""
    """What is sung, where it is known."""


@dataclass(frozen=True)
class RecordingSource:
    """The recordings that features were made from."""

    dataset: str
    """Layout: a name of `datasets.DATASETS`, or "corpus"."""
    folder: str
    """Absolute path of the recordings."""
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Recording's id to the size (bytes) and the modification time (ns) of its file."""


@dataclass(frozen=True)
class FeatureIndex:
    folder: Path
    audio: AudioSpec
    singers: dict[str, PreparedSinger]
    clips: tuple[PreparedClip, ...]
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How the varied copies were made, if there are any."""
    front_end: FrontEnd = field(default_factory=FrontEnd)
    """How the conditions were taken from the audio."""
    f0: F0Name = "swift-f0"
    """Extractor of F0."""
    source: RecordingSource | None = None
    """The recordings; None where they are unknown."""
    recipe: str = ""
    """The -c of `prepare`, for hints."""

    @classmethod
    def open(cls, folder: Path) -> "FeatureIndex":
        """Read `index.json`; a `DataError` names the command to run when it is not there."""
        path = folder / INDEX
        if not path.is_file():
            raise DataError(
                f"{folder} holds no features\nhint: run it first: {train_command(folder.with_name('features'))}"
            )
        try:
            return decode(cls, {**json.loads(path.read_text("utf-8")), "folder": folder}, "the index")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {reason(error)}") from None
        except (ValueError, TypeError, ComosvcError) as error:
            raise DataError(f"{path} is damaged: {type(error).__name__}: {error}\nhint: {_AGAIN}") from None

    def save(self) -> None:
        """Write `index.json`."""
        data = {name: encode(value) for name, value in vars(self).items() if name != "folder"}
        write_whole(self.folder / INDEX, json.dumps(data, indent=1).encode())

    @property
    def trained_singers(self) -> list[str]:
        """Names in the order of the embedding table."""
        rows = {singer.index: name for name, singer in self.singers.items() if singer.index is not None}
        return [rows[index] for index in sorted(rows)]

    @property
    def songs(self) -> dict[str, str]:
        """The `song_mark` of each song of a trained singer to its split."""
        trained = [clip for clip in self.clips if self.singers[clip.singer].index is not None]
        return {song_mark(clip.singer, clip.song): clip.split for clip in trained}

    def select(self, split: str, *, trained: bool | None = None) -> list[PreparedClip]:
        """Clips of a split; `trained` keeps those of singers that have (or do not have) an embedding."""
        return [
            clip
            for clip in self.clips
            if clip.split == split and trained in (None, self.singers[clip.singer].index is not None)
        ]

    def load(self, clip: PreparedClip) -> dict[str, NDArray]:
        """mel (T, M), f0_hz (T,), loudness (T,) float32 and audio (L,) int16 of a clip, T whole hops of L; F0 as the
        model takes it.
        """
        arrays = load_arrays(feature_path(self.folder, clip.key))
        if "f0_hz" in arrays:
            arrays["f0_hz"] = told_f0(arrays["f0_hz"], self.audio, self.front_end)
        return arrays

    def load_varied(self, clip: PreparedClip) -> dict[str, NDArray] | None:
        """mel (T, M), key_shift () and gain () of the varied copy of a clip; None where none are used."""
        if not self.augmentation.probability:
            return None
        return load_arrays(variation_path(self.folder, clip.key, self.augmentation))

    def content_path(self, clip: PreparedClip, encoder: str) -> Path:
        """Where the content (S, C) that the encoder with hash `encoder` gives for a clip is kept."""
        return self.folder / f"{clip.key}.{encoder}.safetensors"


def song_mark(singer: str, song: str) -> str:
    """A hash in place of a song's title, 12 hexadecimal digits."""
    return sha256(f"{singer}/{song}".encode(errors="surrogateescape"))[:12]


def require_audio(run: Path, audio: AudioSpec) -> None:
    """Raise `ConfigError` unless the features of `run` were made with these audio settings."""
    made = FeatureIndex.open(run / "features").audio
    if differing := [name for name, value in asdict(audio).items() if getattr(made, name) != value]:
        pairs = ", ".join(f"{name} {getattr(audio, name)} (features: {getattr(made, name)})" for name in differing)
        raise ConfigError(
            f"the recipe's [audio] is not that of {run / 'features'}: {pairs}\n"
            "hint: give the recipe that they were prepared with, or prepare again into another -o folder"
        )


def require_crops(run: Path, n_frames: int) -> None:
    """Raise `DataError` where a singer of `run` has no clip to train on of `n_frames` frames, which a stage to come
    takes at a time.
    """
    features = FeatureIndex.open(run / "features")
    longest = dict.fromkeys(features.trained_singers, 0)
    for clip in features.select("train", trained=True):
        longest[clip.singer] = max(longest[clip.singer], clip.frames)
    if short := [f"{name} ({frames} frames)" for name, frames in longest.items() if frames < n_frames]:
        raise DataError(
            f"no clip of {', '.join(short)} is as long as the {n_frames} frames that the recipe's stages take at a "
            "time\nhint: lower crop_frames in [vocoder], [teacher] and [student], or give longer recordings"
        )


def feature_path(folder: Path, key: str) -> Path:
    """Where the features of a clip are kept."""
    return folder / f"{key}.safetensors"


def feature_key(audio: bytes, spec: AudioSpec) -> str:
    """Name of a feature file, a hash of audio, spec and version of the feature code."""
    return sha256(_VERSION + audio + json.dumps(asdict(spec), sort_keys=True).encode())[:20]


def save_arrays(path: Path, arrays: dict[str, NDArray]) -> None:
    """Write arrays to `path`, all or nothing. Raises `DataError` on a full disk, or where nothing may be written."""
    try:
        with replacing(path) as partial:
            save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, partial)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} could not be written: {reason(error)}\n"
            "hint: free some space, or see that you may write there; then run the same command again: it goes on where "
            "it stopped"
        ) from None


def load_arrays(path: Path, hint: str = _AGAIN) -> dict[str, NDArray]:
    """Read the file of `save_arrays`. Raises `DataError` with `hint` where the file is damaged or gone."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged or gone: {error}\nhint: {hint}") from None
