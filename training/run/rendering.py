"""Songs sung by the torch networks of a run folder, at any checkpoint: what the runtime does, without a bundle."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.audio.pitch import told_f0
from ...runtime.audio.resampling import resample
from ...runtime.audio.spec import AudioSpec, FrontEnd
from ...runtime.conversion.source import clip_source, noise_frames, noise_samples
from ..acoustic.dataset import index_into_content
from ..acoustic.diffusion import consistency_sample, teacher_sample
from ..acoustic.model import AcousticModel, Condition
from ..acoustic.teaching import StudentConfig, denoise_with
from ..config import from_mapping
from ..content.encoders import load_content_encoders, windowed_content
from ..content.stage import CONTENT, CONTENT_LOW, encode_with
from ..data.prepare import analyse
from ..data.prepared import FeatureIndex
from ..data.record import DataRecord, data_changes, require_fitting
from ..errors import DataError, train_command
from ..loop.checkpoint import latest_checkpoint, load_module, read_metadata, require_checkpoint
from ..vocoder.light import MATCHING, AnyVocoder, build_vocoder, vocoder_config
from ..vocoder.stage import VOCODER
from .fine_tune import load_acoustic

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AnalysedSong:
    """What is taken from a recording: mel (T, M), content (S, C) and the row of each mel frame (T,), f0_hz (T,),
    loudness (T,), and the audio (L,) of those frames at the model's rate.
    """

    mel: NDArray[np.float32]
    content: NDArray[np.float32]
    content_index: NDArray[np.int32]
    f0_hz: NDArray[np.float32]
    loudness: NDArray[np.float32]
    audio: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Rendering:
    """A song in another voice: mel (T, M), the f0_hz (T,) it was asked for, and audio (L,) at the model's rate."""

    mel: NDArray[np.float32]
    f0_hz: NDArray[np.float32]
    audio: NDArray[np.float32]


@dataclass(frozen=True)
class LoadedStage:
    """An acoustic checkpoint that is ready to sing."""

    name: str
    step: int
    model: AcousticModel
    singers: tuple[str, ...]
    student: StudentConfig | None
    """None: a teacher."""


def load_stage(checkpoint: Path) -> LoadedStage:
    """A teacher's or a student's checkpoint, its averaged weights. Raises `DataError` where it is none."""
    step, config = read_metadata(checkpoint)
    if "acoustic" not in config:
        raise DataError(f"{checkpoint} is no checkpoint of a teacher or a student\nhint: look in RUN/teacher")
    return LoadedStage(
        name=checkpoint.parent.name,
        step=step,
        model=load_acoustic(checkpoint, "ema"),
        singers=tuple(config["singers"]),
        student=sampled_as(config, str(checkpoint)),
    )


def sampled_as(config: Mapping[str, Any], where: str) -> StudentConfig | None:
    """The student configuration that a checkpoint samples with; None for a teacher, which follows its ODE."""
    found = config.get("student") or config.get("sampled_as")
    return None if found is None else from_mapping(StudentConfig, found, where)


def load_vocoder(run: Path) -> tuple[AnyVocoder, AudioSpec]:
    """The averaged vocoder of a run, trained there or taken from elsewhere, and the audio settings that it is for.

    Raises `ConfigError` for a kind or size that this version does not know.
    """
    path = require_checkpoint(run / VOCODER)
    _, config = read_metadata(path)
    spec = from_mapping(AudioSpec, config["audio"], str(path))
    vocoder = build_vocoder(vocoder_config(config.get("kind", MATCHING), config["network"], str(path)), spec).eval()
    load_module(path, "ema", vocoder)
    return vocoder, spec


def _front_end(config: dict[str, Any]) -> dict[str, Any]:
    """The front end of a checkpoint's configuration, by the names of a `DataRecord`."""
    front_end = from_mapping(FrontEnd, config.get("front_end", {}), "front_end")
    return {f"front_end.{name}": value for name, value in asdict(front_end).items()}


class Renderer:
    """The content encoder and the vocoder of `run`, for its teachers and students."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.features = FeatureIndex.open(run / "features")
        self.spec = self.features.audio
        require_fitting(run, self.features, (CONTENT, CONTENT_LOW), (VOCODER,))
        self._encoders = load_content_encoders(run)
        self.encoder, _ = self._encoders[CONTENT]

    def require_own(self, checkpoint: Path) -> None:
        """Raise `DataError` for a checkpoint of other audio settings or content encoders than the run has now.

        Logs a warning for a checkpoint of other data.
        """
        now, config = DataRecord.of(self.features), read_metadata(checkpoint)[1]
        changes = now.changed_settings({**config.get("audio", {}), **_front_end(config)})
        hashes = {name: encoder_hash for name, (_, encoder_hash) in self._encoders.items()}
        if (theirs := config.get("content_encoders", hashes)) != hashes:
            changes.append(f"the content encoders are now {hashes}, were {theirs}")
        if changes:
            raise DataError(
                f"{checkpoint} does not fit what {self.run} holds now: {'; '.join(changes)}\n"
                f"hint: bring back the features and the content encoders that it was trained with, or train it again: "
                f"{train_command(checkpoint.parent)}"
            )
        if changes := data_changes(checkpoint, now):
            logger.warning(
                "%s was trained on other data than %s holds now: %s", checkpoint, self.run, "; ".join(changes)
            )

    @cached_property
    def vocoder(self) -> AnyVocoder:
        """Loaded when first needed. Raises `TrainingError` where none is trained yet."""
        return load_vocoder(self.run)[0]

    @property
    def has_vocoder(self) -> bool:
        return latest_checkpoint(self.run / VOCODER) is not None

    @torch.inference_mode()
    def listen(self, audio: NDArray[np.float32], sample_rate: int) -> AnalysedSong:
        """Take from `audio` (L,) what a conversion needs of it. Raises `DataError` where it is too short for that."""
        signal = resample(audio, sample_rate, self.spec.sample_rate)
        if self.spec.frames(len(signal)) < 8:
            raise DataError(f"the song has {len(audio)} samples at {sample_rate} Hz: too short to convert")
        found = analyse(signal, self.spec, self.features.f0, self.features.front_end)
        at_16k = resample(signal, self.spec.sample_rate, self.spec.content_sample_rate)
        content, index = self._content(at_16k, len(found["mel"]))
        f0_hz = told_f0(found["f0_hz"], self.spec, self.features.front_end)
        audio = signal[: self.spec.samples(len(found["mel"]))]
        return AnalysedSong(found["mel"], content, index, f0_hz, found["loudness"], audio)

    def _content(self, at_16k: NDArray[np.float32], n_frames: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        front_end, encode = self.features.front_end, encode_with(self.encoder)
        if front_end.content_window_s:
            return windowed_content(encode, self.encoder.n_content, at_16k, n_frames, self.spec, front_end)
        content = encode(at_16k)
        return content, index_into_content(self.features, len(content), n_frames).astype(np.int32)

    @torch.inference_mode()
    def render(
        self, stage: LoadedStage, song: AnalysedSong, singer: str, *, key: float = 0.0, steps: int, seed: int = 0
    ) -> Rendering:
        """`song` by `singer`, `key` semitones higher, in `steps` evaluations of the network.

        Raises `DataError` for a singer that the checkpoint does not have.
        """
        mel, f0_hz = self.paint(stage, song, singer, key=key, steps=steps, seed=seed)
        return Rendering(mel, f0_hz, self.sing(mel, f0_hz, seed))

    @torch.inference_mode()
    def paint(
        self, stage: LoadedStage, song: AnalysedSong, singer: str, *, key: float = 0.0, steps: int, seed: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """mel (T, M) and f0_hz (T,) of `render`, on the device that the model is on."""
        if singer not in stage.singers:
            raise DataError(f"{stage.name} has no singer {singer}\nhint: it has {', '.join(stage.singers)}")
        f0_hz = song.f0_hz * np.float32(2.0 ** (key / 12.0))
        model, n_frames = stage.model, len(song.mel)

        def tensor(array: NDArray) -> torch.Tensor:
            return torch.from_numpy(array)[None].to(model.mel_mean.device)

        condition = Condition(
            tensor(song.content),
            tensor(song.content_index),
            tensor(f0_hz),
            tensor(song.loudness),
            model.singer_embed(tensor(np.array(stage.singers.index(singer)))),
        )
        draws = [tensor(noise_frames(seed, 0, n_frames, self.spec.n_mels, step)) for step in range(steps)]
        denoise, sigma = denoise_with(model, model.embed(condition)), model.config.sigma
        if stage.student is None:
            x = teacher_sample(denoise, draws[0], steps, sigma)
        else:
            x = consistency_sample(denoise, [stage.student.noise_scale * draws[0], *draws[1:]], sigma)
        return model.denormalise(x)[0].cpu().numpy(), f0_hz

    @torch.inference_mode()
    def sing(self, mel: NDArray[np.float32], f0_hz: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
        """The vocoder's audio (L,) of a mel (T, M) and its F0 (T,)."""
        source = clip_source(self.vocoder.source_kind, f0_hz, self.spec, seed)
        noise = noise_samples(seed, 0, self.spec.samples(len(mel)))
        parts = {"mel": mel, "f0_hz": f0_hz, "source": source, "noise": noise}
        taken = signature(self.vocoder.forward).parameters
        return self.vocoder(**{name: torch.from_numpy(parts[name])[None] for name in taken})[0].numpy()
