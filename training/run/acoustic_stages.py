"""The commands `teacher` and `student`: from the features of a run to checkpoints."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ...runtime.audio.spec import FrontEnd
from ...runtime.voice.file_kinds import FileKind, file_kind
from ..acoustic.dataset import AcousticData, ClipFeatures, build_acoustic, encode_content, load_clip
from ..acoustic.model import AcousticConfig
from ..acoustic.teaching import (
    PROBED_SIGMAS,
    StudentConfig,
    StudentObjective,
    TeacherConfig,
    TeacherObjective,
    denoising_errors,
    distances_to_teacher,
)
from ..config import to_mapping
from ..content.adopt import adopt_content
from ..content.encoders import load_content_encoders, require_windows
from ..content.stage import CONTENT, CONTENT_LOW, encode_with
from ..data.prepared import FeatureIndex
from ..data.record import begin_stage, require_fitting, require_same_data
from ..errors import ConfigError, TrainingError
from ..foreign.stages import ENDINGS, take_acoustic
from ..loop.batches import Draws
from ..loop.checkpoint import latest_checkpoint, read_metadata, require_checkpoint, sha256_of
from ..loop.devices import own_device
from ..loop.loop import fit
from ..vocoder.stage import VOCODER
from .fine_tune import Start, initial_model, keep_student, load_acoustic
from .pictures import illustrate
from .rendering import LoadedStage, load_stage, sampled_as

logger = logging.getLogger(__name__)
TEACHER, STUDENT = "teacher", "student"
_VALIDATION_BATCH = 16


def training_clips(
    features: FeatureIndex, run: Path, splits: tuple[str, ...], device: str, console: Console | None
) -> tuple[list[list[ClipFeatures]], dict[str, str], int]:
    """The clips of trained singers in each split with what each encoder makes of them, the encoders' hashes by name,
    and their number of channels.

    A run without a corpus cannot train a content encoder and adopts that of the shipped voice.
    """
    if latest_checkpoint(run / CONTENT) is None and not (run / "corpus").is_dir():
        adopt_content(run, features.audio)
    require_fitting(run, features, (CONTENT, CONTENT_LOW), (VOCODER,))
    encoders = load_content_encoders(run)
    require_windows(encoders[CONTENT][0], features.front_end)
    groups = [features.select(split, trained=True) for split in splits]
    for encoder, encoder_hash in encoders.values():
        encode = encode_with(encoder.to(own_device(device)))
        encode_content(features, [clip for group in groups for clip in group], encode, encoder_hash, console)
    hashes = {name: encoder_hash for name, (_, encoder_hash) in encoders.items()}
    loaded = [[load_clip(features, clip, list(hashes.values())) for clip in group] for group in groups]
    return loaded, hashes, encoders[CONTENT][0].n_content


def train_teacher(
    acoustic: AcousticConfig,
    config: TeacherConfig,
    run: Path,
    *,
    seed: int,
    resume: bool,
    device: str = "auto",
    console: Console | None = None,
    start: Start | None = None,
) -> Path:
    """Train the teacher on the features of `run` and return its last checkpoint. `start` gives it weights to begin
    with, and their network in place of `acoustic`.
    """
    features = FeatureIndex.open(run / "features")
    record = begin_stage(run, TEACHER, features)
    if start is not None:
        start = _in_our_format(start, TEACHER, run)
        start.adopt_parts(run, TEACHER)
    (train, valid), encoder_hashes, n_content = training_clips(features, run, ("train", "valid"), device, console)
    torch.manual_seed(seed)
    if start is None:
        model = build_acoustic(acoustic, features, n_content, train)
    else:
        model = initial_model(start, TEACHER, features, encoder_hashes)
    data = AcousticData(train, config.crop_frames, features.augmentation.probability)
    probe = AcousticData(valid or train, config.crop_frames).batch(Draws(seed, -1, range(_VALIDATION_BATCH)))
    of_voice = {} if start is None else start.levels(TEACHER)
    sigmas = of_voice.get("sigmas")
    resolved = {
        "audio": to_mapping(features.audio),
        "acoustic": model.config,
        "teacher": config,
        "loop": to_mapping(config.loop),
        "seed": seed,
        "singers": features.trained_singers,
        "n_content": n_content,
        "content_encoders": encoder_hashes,
        "data": record.write(run / TEACHER),
        **_augmentation(features),
        **({"init_from": start.facts(TEACHER)} if start else {}),
        **of_voice,
    }
    return fit(
        TeacherObjective(model, config, sigmas),
        data.batch,
        config.loop,
        run / TEACHER,
        seed=seed,
        resolved_config=resolved,
        resume=resume,
        device=device,
        validate=denoising_errors(probe, sigmas or PROBED_SIGMAS),
        illustrate=illustrate(
            run, LoadedStage(TEACHER, 0, model, tuple(features.trained_singers), sampled_as(of_voice, "--init-from"))
        ),
        console=console,
    )


def take_teacher(address: str, settings: str | None, run: Path) -> Path:
    """Make the authors' teacher at a path or hf:// address the teacher of `run`, for the singers of its features.

    `settings`: its config.yaml; None looks beside it. Returns its checkpoint. Raises `ConfigError` for a teacher that
    was trained here, and as `take_acoustic` does.
    """
    if (kind := file_kind(Path(address))) in (FileKind.RUN, FileKind.STAGE, FileKind.SAFETENSORS):
        raise ConfigError(
            f"--teacher is {address}, {kind}; it takes model_<step>.pt of the CoMoSVC authors' code\n"
            "hint: a teacher that comosvc-train trained is distilled in its own run folder, without --teacher"
        )
    singers = FeatureIndex.open(run / "features").trained_singers
    return take_acoustic(address, settings, TEACHER, run, run / TEACHER, singers)


def train_student(
    config: StudentConfig,
    run: Path,
    *,
    seed: int,
    resume: bool,
    device: str = "auto",
    console: Console | None = None,
    folder: str = STUDENT,
    start: Start | None = None,
) -> Path:
    """Distil the teacher of `run` and return the student's last checkpoint, in `run / folder`. `start` gives it another
    student's network to begin with; where only singers' vectors are trained, that is the end of it too.
    """
    teacher = require_checkpoint(run / TEACHER)
    features = FeatureIndex.open(run / "features")
    record = begin_stage(run, TEACHER, features)
    require_same_data(run / folder, record, features.folder)
    start = None if start is None else _in_our_format(start, STUDENT, run)
    if start is not None and start.train == "embedding":
        path = keep_student(start, teacher, run / folder)
        record.write(run / folder)
        return path
    step, of_teacher = _read_teacher(teacher)
    (train, valid), encoder_hashes, _ = training_clips(features, run, ("train", "valid"), device, console)
    resolved: dict[str, Any] = {
        **{key: of_teacher[key] for key in ("audio", "acoustic", "singers", "n_content", "content_encoders")},
        "teacher": {"step": step, "sha256": sha256_of(teacher, "ema")},
        "data": record.write(run / folder),
        **({"init_from": start.facts(STUDENT)} if start else {}),
        "student": config,
        "loop": to_mapping(config.loop),
        "seed": seed,
        **_augmentation(features),
    }
    if encoder_hashes != of_teacher["content_encoders"]:
        logger.warning(
            "the teacher was trained on content of encoders %s, not %s", of_teacher["content_encoders"], encoder_hashes
        )
    data = AcousticData(train, config.crop_frames, features.augmentation.probability)
    probe = AcousticData(valid or train, config.crop_frames).batch(Draws(seed, -1, range(_VALIDATION_BATCH)))
    initial = load_acoustic(start.checkpoint(STUDENT), "ema") if start else None
    objective = StudentObjective(load_acoustic(teacher, "ema").train(), config, initial.denoiser if initial else None)
    taught = load_stage(teacher)
    return fit(
        objective,
        data.batch,
        config.loop,
        run / folder,
        seed=seed,
        resolved_config=resolved,
        resume=resume,
        device=device,
        validate=distances_to_teacher(probe, objective.teacher, config),
        illustrate=illustrate(run, LoadedStage(folder, 0, objective.model, taught.singers, config), taught),
        console=console,
    )


def _read_teacher(checkpoint: Path) -> tuple[int, dict[str, Any]]:
    """Step and configuration of a teacher. Raises `TrainingError` for a network that cannot be distilled."""
    step, config = read_metadata(checkpoint)
    if "sigmas" in config:
        raise TrainingError(
            f"{checkpoint} is the student of a voice with new singers' vectors: there is no teacher to distil\n"
            "hint: give the same --init-from VOICE --train embedding as to teacher"
        )
    return step, config


def _in_our_format(start: Start, stage: str, run: Path) -> Start:
    """`start` with a checkpoint of the authors' converted to our format, in `run / "init-from"`."""
    if start.source.suffix not in ENDINGS or not start.source.is_file():
        return start
    taken = take_acoustic(str(start.source), None, stage, run, run / "init-from" / stage)
    return replace(start, source=taken)


def _augmentation(features: FeatureIndex) -> dict[str, Any]:
    """Augmentation, front end and F0 extractor for a stage's configuration, as far as they are not the defaults."""
    return {
        **({"augmentation": features.augmentation} if features.augmentation.probability else {}),
        **({"front_end": features.front_end} if features.front_end != FrontEnd() else {}),
        **({"f0": features.f0} if features.f0 != "swift-f0" else {}),
    }
