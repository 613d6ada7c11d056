"""The systems that are trained side by side: their objectives on the same clips, and their configurations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from ...training.acoustic.dataset import AcousticData, ClipFeatures, build_acoustic, encode_content, load_clip
from ...training.acoustic.model import AcousticConfig, AcousticModel
from ...training.acoustic.teaching import StudentConfig, StudentObjective, TeacherObjective
from ...training.config import to_mapping
from ...training.content.adopt import adopt_content
from ...training.content.encoders import load_content_encoders
from ...training.content.stage import CONTENT, encode_with
from ...training.data.prepared import FeatureIndex
from ...training.errors import ConfigError
from ...training.loop.batches import Batch, Draws
from ...training.loop.checkpoint import latest_checkpoint, require_checkpoint
from ...training.loop.loop import LoopConfig, Objective
from ...training.recipe import Recipe
from ...training.run.fine_tune import load_acoustic
from .rivals import FlowConfig, FlowModel, FlowObjective, NoisePredictionConfig, NoisePredictionObjective

FLOW, DIFFSVC, TEACHER, STUDENTS_TEACHER, STUDENT = "flow", "diffsvc", "teacher", "students-teacher", "student"
DISTILLATION_SHARE = 0.3
"""Of the student's training, its teacher's included; the demo voice spends about that."""
BUDGET_SHARES = {
    FLOW: 1.0, DIFFSVC: 1.0, TEACHER: 1.0, STUDENTS_TEACHER: 1.0 - DISTILLATION_SHARE, STUDENT: DISTILLATION_SHARE,
}  # fmt: skip
"""Share of each stage in the compute of its system, in the order in which they can be trained."""
_RIVALS_LEARNING_RATE = 2.0
"""Over our teacher's, by a pilot on the validation songs. Flow, a minute each: a loss of 30.8 at half our teacher's
rate, 27.3 at the same, 23.7 at twice. DiffSVC, half a minute each: 0.0269 at the same, 0.0243 at twice.
"""
_VALIDATION_BATCH = 64


def require_stages(wanted: Sequence[str] | None) -> list[str]:
    """The stages to train, all if none is named, in order of their needs. Raises `ConfigError` for unknown ones."""
    if unknown := sorted({*(wanted or ())} - {*BUDGET_SHARES}):
        raise ConfigError(f"there is no stage {', '.join(unknown)}\nhint: there are {', '.join(BUDGET_SHARES)}")
    return [name for name in BUDGET_SHARES if not wanted or name in wanted]


@dataclass(frozen=True)
class RunMaterial:
    """The training and validation clips of a run with the content of the shipped voice's encoder."""

    features: FeatureIndex
    train: list[ClipFeatures]
    valid: list[ClipFeatures]
    n_content: int
    encoder_hash: str

    @property
    def singers(self) -> list[str]:
        return self.features.trained_singers


def load_material(run: Path, console: Console | None = None) -> RunMaterial:
    """Read the features in `run`; its content encoder becomes that of the shipped voice, unless it trained its own."""
    features = FeatureIndex.open(run / "features")
    if latest_checkpoint(run / CONTENT) is None:
        adopt_content(run, features.audio)
    # One encoder, not also the one for live use: every system is judged on files.
    encoder, encoder_hash = load_content_encoders(run)[CONTENT]
    train, valid = (features.select(split, trained=True) for split in ("train", "valid"))
    encode_content(features, train + valid, encode_with(encoder), encoder_hash, console)
    loaded = ([load_clip(features, clip, [encoder_hash]) for clip in group] for group in (train, valid))
    return RunMaterial(features, *loaded, n_content=encoder.n_content, encoder_hash=encoder_hash)


@dataclass(frozen=True)
class TrainedPart:
    """One network in training."""

    objective: Objective[Any]
    loop: LoopConfig
    make_batch: Callable[[Draws], Batch]
    config: Mapping[str, Any]
    """Metadata of its checkpoints beside the common facts."""
    validate: Callable[[nn.Module], Mapping[str, float]]


def acoustic_config(recipe: Recipe) -> AcousticConfig:
    """The recipe's, with every layer symmetric: no system here has to be fit for live use."""
    return replace(recipe.acoustic, denoiser=replace(recipe.acoustic.denoiser, lookahead_frames=None))


def noise_prediction_config(recipe: Recipe) -> NoisePredictionConfig:
    """Trained like our teacher but for the learning rate."""
    return NoisePredictionConfig(loop=_rivals_loop(recipe), crop_frames=recipe.teacher.crop_frames)


def flow_config(recipe: Recipe) -> FlowConfig:
    """Trained like our teacher but for the learning rate, and with VITS' weight decay."""
    loop = replace(_rivals_loop(recipe), weight_decay=0.01)
    return FlowConfig(loop=loop, crop_frames=recipe.teacher.crop_frames)


def _rivals_loop(recipe: Recipe) -> LoopConfig:
    loop, factor = recipe.teacher.loop, _RIVALS_LEARNING_RATE
    return replace(
        loop, learning_rate=factor * loop.learning_rate, final_learning_rate=factor * loop.final_learning_rate
    )


def build_stage(name: str, recipe: Recipe, material: RunMaterial, run: Path | None) -> TrainedPart:
    """The stage `name`, untrained. `run` holds the teacher that the student starts from; None: an untrained one, for
    measuring the cost of a step.
    """
    torch.manual_seed(recipe.seed)
    return _BUILDERS[name](recipe, material, run)


def _flow(recipe: Recipe, material: RunMaterial, run: Path | None) -> TrainedPart:
    config = flow_config(recipe)
    model = FlowModel(config, material.features.audio, material.n_content, len(material.singers))
    mean, scale = mel_statistics(material.train)
    model.mel_mean.copy_(mean)
    model.mel_scale.copy_(scale)
    return _stage(FlowObjective(model, config), config, {"flow": config}, material, recipe)


def _diffsvc(recipe: Recipe, material: RunMaterial, run: Path | None) -> TrainedPart:
    config = noise_prediction_config(recipe)
    acoustic = replace(acoustic_config(recipe), mel_range=mel_extremes(material.train))
    model = build_acoustic(acoustic, material.features, material.n_content)
    facts = {"acoustic": acoustic, "diffsvc": config}
    return _stage(NoisePredictionObjective(model, config), config, facts, material, recipe)


def _teacher(recipe: Recipe, material: RunMaterial, run: Path | None) -> TrainedPart:
    config, model = recipe.teacher, _untrained(recipe, material)
    return _stage(
        TeacherObjective(model, config), config, {"acoustic": model.config, "teacher": config}, material, recipe
    )


def _student(recipe: Recipe, material: RunMaterial, run: Path | None) -> TrainedPart:
    config = recipe.student
    teacher = (
        _untrained(recipe, material)
        if run is None
        else load_acoustic(require_checkpoint(run / STUDENTS_TEACHER), "ema").train()
    )
    facts = {"acoustic": teacher.config, "student": config}
    return _stage(StudentObjective(teacher, config), config, facts, material, recipe)


_BUILDERS: dict[str, Callable[[Recipe, RunMaterial, Path | None], TrainedPart]] = {
    FLOW: _flow, DIFFSVC: _diffsvc, TEACHER: _teacher, STUDENTS_TEACHER: _teacher, STUDENT: _student,
}  # fmt: skip


def _untrained(recipe: Recipe, material: RunMaterial) -> AcousticModel:
    return build_acoustic(acoustic_config(recipe), material.features, material.n_content, material.train)


def _stage(
    objective: Objective[Any],
    config: Any,
    facts: Mapping[str, Any],
    material: RunMaterial,
    recipe: Recipe,
) -> TrainedPart:
    common = {
        "audio": to_mapping(material.features.audio),
        "n_content": material.n_content,
        "singers": material.singers,
        "content_encoder": material.encoder_hash,
        "seed": recipe.seed,
    }
    data = AcousticData(material.train, config.crop_frames)
    return TrainedPart(
        objective, config.loop, data.batch, {**common, **facts}, _validation(objective, config, material)
    )


def _validation(
    objective: Objective[Any], config: Any, material: RunMaterial
) -> Callable[[nn.Module], Mapping[str, float]]:
    """The objective's own loss on songs that are not trained on. A student's loss is no measure: its target moves."""
    if isinstance(config, StudentConfig):
        return lambda average: {}
    draws = Draws(0, -1, range(_VALIDATION_BATCH))
    batch = objective.draw(AcousticData(material.valid, config.crop_frames).batch(draws), draws)

    @torch.no_grad()
    def validate(average: nn.Module) -> Mapping[str, float]:
        loss, _ = type(objective)(average, config)(batch)
        return {"valid_loss": float(loss)}

    return validate


def mel_extremes(clips: list[ClipFeatures]) -> tuple[float, float]:
    """Least and greatest log-mel, which diff-svc scales to -1 .. 1, here for all bands alike as in so-vits-svc's
    diffusion.
    """
    return min(float(clip.mel.min()) for clip in clips), max(float(clip.mel.max()) for clip in clips)


def mel_statistics(clips: list[ClipFeatures]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of each band (M,) and the standard deviation over all after it is taken off ()."""
    mel = np.concatenate([clip.mel for clip in clips])
    mean = mel.mean(axis=0)
    return torch.from_numpy(mean), torch.tensor(float((mel - mean).std()))
