"""New singers on a trained model: where their training starts, and what of the network it may change."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...runtime.audio.spec import AudioSpec
from ..acoustic.dataset import build_acoustic
from ..acoustic.model import AcousticConfig, AcousticModel
from ..config import from_mapping
from ..content.adopt import adopt_stage
from ..content.stage import CONTENT, CONTENT_LOW
from ..data.prepared import FeatureIndex
from ..errors import TrainingError
from ..loop.checkpoint import latest_checkpoint, load_module, load_tensors, read_metadata, save_checkpoint, sha256_of
from ..options import Part
from ..vocoder.stage import VOCODER
from .voice_run import is_voice, open_voice, run_of_voice

_TABLE = "singer_embed.weight"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights that training starts from."""

    source: Path
    """A run folder, a checkpoint in one, or the authors' model_<step>.pt. `of` also takes a voice."""
    train: Part = "all"
    """embedding: the singers' vectors only, so that minutes of audio cannot spoil the rest; all: everything."""

    @classmethod
    def of(cls, source: Path, train: Part, run: Path) -> "Start":
        """The start of a stage of `run`. Reads a voice back into `run / "voice"` first.

        Raises `TrainingError` for `train` "all" with a voice, which holds its network at a few noise levels.
        """
        if not is_voice(source):
            return cls(source=source, train=train)
        voice = open_voice(source)
        if train != "embedding":
            raise TrainingError(
                f"{source} is a voice, and a voice holds a student at a few noise levels: only the vectors of new "
                "singers can be trained on it\n"
                "hint: add --train embedding (recipe fine-tune-embedding), or give the run folder that it came from"
            )
        return cls(source=run_of_voice(voice, run / "voice"), train=train)

    def checkpoint(self, stage: str) -> Path:
        """The checkpoint to start `stage` from: the file itself, or the last one of that stage of the run folder.

        Raises `TrainingError` where there is none, or it is of another stage.
        """
        if not self.source.exists():
            raise TrainingError(
                f"--init-from {self.source} is not there\nhint: give a run folder, or a checkpoint in one"
            )
        path = self.source if self.source.is_file() else latest_checkpoint(self.source / stage)
        if path is None:
            raise TrainingError(
                f"{self.source} has no trained {stage}\n"
                "hint: --init-from takes a run folder, or a .safetensors file of a stage of one"
            )
        try:
            config = read_metadata(path)[1]
        except TrainingError as error:
            raise TrainingError(
                f"{path} is no checkpoint of a training stage: {str(error).partition(': ')[2].partition(chr(10))[0]}\n"
                "hint: give a run folder, or a .safetensors file of a stage of one; a voice (.comosvc) is none"
            ) from None
        if stage not in config or (stage == "teacher" and "student" in config):
            raise TrainingError(
                f"{path} is no checkpoint of a {stage}\nhint: give the run folder, or one of its {stage}"
            )
        return path

    def adopt_parts(self, run: Path, stage: str) -> None:
        """Give `run` the content encoders and the vocoder of the run that the weights are from, where it lacks them."""
        source = self.checkpoint(stage).parent.parent
        if adopt_stage(source, run, CONTENT):
            adopt_stage(source, run, CONTENT_LOW)
        adopt_stage(source, run, VOCODER)

    def levels(self, stage: str) -> dict[str, Any]:
        """`sigmas` and `sampled_as` of a checkpoint from a voice; empty for others."""
        config = read_metadata(self.checkpoint(stage))[1]
        return {key: config[key] for key in ("sigmas", "sampled_as") if key in config}

    def facts(self, stage: str) -> dict[str, Any]:
        """For the configuration that a checkpoint carries."""
        path = self.checkpoint(stage)
        step, config = read_metadata(path)
        taken = {"taken_from": config["taken_from"]} if "taken_from" in config else {}
        return {"step": step, "sha256": sha256_of(path, "ema"), "train": self.train, **taken}


def initial_model(start: Start, stage: str, features: FeatureIndex, encoders: dict[str, str]) -> AcousticModel:
    """The acoustic model of the checkpoint with a table of the singers of `features`: known ones keep their vectors,
    new ones begin at the mean of all.

    Raises `TrainingError` where the audio settings or the content encoders are not those that it was trained with.
    """
    path = start.checkpoint(stage)
    _, config = read_metadata(path)
    for what, stored, ours in (
        ("audio settings", from_mapping(AudioSpec, config["audio"], str(path)), features.audio),
        ("content encoders", config["content_encoders"], encoders),
    ):
        if stored != ours:
            raise TrainingError(
                f"{path} was trained with other {what}: {stored}, this run has {ours}\n"
                "hint: prepare with the recipe of that run, and leave out `content`: it is taken over with the weights"
            )
    model = build_acoustic(from_mapping(AcousticConfig, config["acoustic"], str(path)), features, config["n_content"])
    state = load_tensors(path, "ema")
    known = dict(zip(config["singers"], state[_TABLE], strict=True))
    mean = state[_TABLE].mean(dim=0)
    state[_TABLE] = torch.stack([known.get(name, mean) for name in features.trained_singers])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(f"{path} does not fit the network that it describes: {error}") from None
    return freeze_but(model, start.train)


def keep_student(start: Start, teacher: Path, folder: Path) -> Path:
    """The student of `start` with the singers of `teacher`, of which only the singers' vectors were trained: the
    distilled network still follows it, so there is nothing to distil. Writes a checkpoint into `folder`.

    Raises `TrainingError` where the student follows another network.
    """
    path = start.checkpoint("student")
    step, config = read_metadata(path)
    _, of_teacher = read_metadata(teacher)
    origin = of_teacher.get("init_from", {})
    if origin.get("train") != "embedding" or origin.get("sha256") != config.get("teacher", {}).get("sha256"):
        raise TrainingError(
            f"{path} was not distilled from the network that {teacher} still has\n"
            "hint: train the teacher with the same --init-from and --train embedding, or the student with --train all"
        )
    model = load_acoustic(teacher, "ema")
    model.denoiser.load_state_dict(load_acoustic(path, "ema").denoiser.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    resolved = {
        **{key: value for key, value in config.items() if key != "data"},
        **{key: of_teacher[key] for key in ("singers", "data") if key in of_teacher},
        "teacher": {"step": read_metadata(teacher)[0], "sha256": sha256_of(teacher, "ema")},
        "init_from": start.facts("student"),
    }
    modules, unused = {"model": model, "ema": model}, torch.optim.AdamW(model.parameters())
    return save_checkpoint(folder, step, modules, unused, resolved)


def load_acoustic(checkpoint: Path, weights: str) -> AcousticModel:
    """The acoustic model of a teacher or student checkpoint; `weights` is "model" or "ema"."""
    _, config = read_metadata(checkpoint)
    spec = from_mapping(AudioSpec, config["audio"], str(checkpoint))
    acoustic = from_mapping(AcousticConfig, config["acoustic"], str(checkpoint))
    model = AcousticModel(acoustic, spec, config["n_content"], len(config["singers"])).eval()
    load_module(checkpoint, weights, model)
    return model


def freeze_but(model: AcousticModel, part: Part) -> AcousticModel:
    """Leave only `part` of the model to be trained."""
    model.requires_grad_(part == "all")
    model.singer_embed.requires_grad_(True)
    return model
