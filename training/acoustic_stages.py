"""The commands `teacher` and `student`: from the features of a run to checkpoints."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import safe_open

from ..runtime.spec import AudioSpec
from .acoustic import AcousticConfig, AcousticModel
from .acoustic_data import AcousticData, ClipFeatures, build_acoustic, encode_content, load_clip
from .checkpoint import load_module, read_metadata, require_checkpoint
from .config import from_mapping, to_mapping
from .content import ContentConfig, ContentEncoder
from .features import FeatureIndex
from .loop import fit, step_generator
from .student import StudentConfig, StudentObjective
from .teacher import TeacherConfig, TeacherObjective, denoising_errors

logger = logging.getLogger(__name__)
CONTENT, TEACHER, STUDENT = "content", "teacher", "student"
_VALIDATION_BATCH = 16


def load_content_encoder(run: Path) -> tuple[ContentEncoder, str]:
    """The averaged content encoder of a run, and the hash that names what it makes."""
    path = require_checkpoint(run / CONTENT)
    _, config = read_metadata(path)
    spec = from_mapping(AudioSpec, config["audio"], str(path))
    encoder = ContentEncoder(from_mapping(ContentConfig, config["network"], str(path)), spec).eval()
    load_module(path, "ema", encoder)
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in encoder.parameters()))
    return encoder, weights.hexdigest()[:12]


def load_acoustic(checkpoint: Path, weights: str) -> AcousticModel:
    """The acoustic model of a teacher or student checkpoint; `weights` is "model" or "ema"."""
    _, config = read_metadata(checkpoint)
    spec = from_mapping(AudioSpec, config["audio"], str(checkpoint))
    acoustic = from_mapping(AcousticConfig, config["acoustic"], str(checkpoint))
    model = AcousticModel(acoustic, spec, config["n_content"], len(config["singers"])).eval()
    load_module(checkpoint, weights, model)
    return model


def training_clips(
    features: FeatureIndex, run: Path, splits: tuple[str, ...], console: Console | None
) -> tuple[list[list[ClipFeatures]], str, int]:
    """The clips of trained singers in each split with their content, the encoder's hash, and its number of channels."""
    encoder, encoder_hash = load_content_encoder(run)
    groups = [features.select(split, trained=True) for split in splits]
    encode_content(features, [clip for group in groups for clip in group], encoder, encoder_hash, console)
    loaded = [[load_clip(features, clip, encoder_hash) for clip in group] for group in groups]
    return loaded, encoder_hash, encoder.config.n_phones


def train_teacher(
    acoustic: AcousticConfig,
    config: TeacherConfig,
    run: Path,
    *,
    seed: int,
    resume: bool,
    device: str = "auto",
    console: Console | None = None,
) -> Path:
    """Train the teacher on the features of `run` and return its last checkpoint."""
    features = FeatureIndex.open(run / "features")
    (train, valid), encoder_hash, n_content = training_clips(features, run, ("train", "valid"), console)
    torch.manual_seed(seed)
    model = build_acoustic(acoustic, features, n_content, train)
    data = AcousticData(train, config.crop_frames, config.loop.batch_size)
    probe = AcousticData(valid or train, config.crop_frames, _VALIDATION_BATCH).batch(step_generator(seed, -1))
    resolved = {
        "audio": to_mapping(features.audio),
        "acoustic": to_mapping(acoustic),
        "teacher": to_mapping(config),
        "loop": to_mapping(config.loop),
        "seed": seed,
        "singers": features.trained_singers,
        "n_content": n_content,
        "content_encoder": encoder_hash,
    }
    return fit(
        TeacherObjective(model, config),
        data.batch,
        config.loop,
        run / TEACHER,
        seed=seed,
        resolved_config=resolved,
        resume=resume,
        device=device,
        validate=denoising_errors(probe),
        console=console,
    )


def train_student(
    config: StudentConfig,
    run: Path,
    *,
    seed: int,
    resume: bool,
    device: str = "auto",
    console: Console | None = None,
    folder: str = STUDENT,
) -> Path:
    """Distil the teacher of `run` and return the student's last checkpoint, in `run / folder`."""
    features = FeatureIndex.open(run / "features")
    (train,), encoder_hash, _ = training_clips(features, run, ("train",), console)
    teacher = require_checkpoint(run / TEACHER)
    step, of_teacher = read_metadata(teacher)
    resolved: dict[str, Any] = {
        **{key: of_teacher[key] for key in ("audio", "acoustic", "singers", "n_content", "content_encoder")},
        "teacher": {"step": step, "sha256": _sha256_of_tensors(teacher, "ema")},
        "student": to_mapping(config),
        "loop": to_mapping(config.loop),
        "seed": seed,
    }
    if encoder_hash != of_teacher["content_encoder"]:
        logger.warning(
            "the teacher was trained on content of encoder %s, not %s", of_teacher["content_encoder"], encoder_hash
        )
    data = AcousticData(train, config.crop_frames, config.loop.batch_size)
    return fit(
        StudentObjective(load_acoustic(teacher, "ema").train(), config),
        data.batch,
        config.loop,
        run / folder,
        seed=seed,
        resolved_config=json.loads(json.dumps(resolved)),
        resume=resume,
        device=device,
        console=console,
    )


def _sha256_of_tensors(path: Path, module: str) -> str:
    digest = hashlib.sha256()
    with safe_open(path, "np") as file:
        for key in sorted(key for key in file.keys() if key.startswith(f"{module}.")):  # noqa: SIM118
            digest.update(file.get_tensor(key).tobytes())
    return digest.hexdigest()
