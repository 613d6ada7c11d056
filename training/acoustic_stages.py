"""The commands `teacher` and `student`: from the features of a run to checkpoints."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import safe_open

from ..runtime.spec import AudioSpec
from .acoustic import AcousticConfig, AcousticModel
from .acoustic_data import AcousticData, ClipFeatures, build_acoustic, encode_content, load_clip
from .checkpoint import latest_checkpoint, load_module, read_metadata, require_checkpoint
from .config import from_mapping, to_mapping
from .content import ContentConfig, ContentEncoder
from .content_stage import CONTENT, CONTENT_LOW
from .draws import Draws
from .features import FeatureIndex
from .loop import fit
from .student import StudentConfig, StudentObjective
from .teacher import TeacherConfig, TeacherObjective, denoising_errors

logger = logging.getLogger(__name__)
TEACHER, STUDENT = "teacher", "student"
_VALIDATION_BATCH = 16


def load_content_encoders(run: Path) -> dict[str, tuple[ContentEncoder, str]]:
    """The averaged content encoders of a run by their folder, each with the hash that names what it makes.

    `CONTENT` first; `CONTENT_LOW` where the run has one.
    """
    names = [CONTENT, *([CONTENT_LOW] if latest_checkpoint(run / CONTENT_LOW) else [])]
    return {name: _load_content_encoder(run / name) for name in names}


def _load_content_encoder(folder: Path) -> tuple[ContentEncoder, str]:
    path = require_checkpoint(folder)
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
) -> tuple[list[list[ClipFeatures]], dict[str, str], int]:
    """The clips of trained singers in each split with what each encoder makes of them, the encoders' hashes by name,
    and their number of channels.
    """
    encoders = load_content_encoders(run)
    groups = [features.select(split, trained=True) for split in splits]
    for encoder, encoder_hash in encoders.values():
        encode_content(features, [clip for group in groups for clip in group], encoder, encoder_hash, console)
    hashes = {name: encoder_hash for name, (_, encoder_hash) in encoders.items()}
    loaded = [[load_clip(features, clip, list(hashes.values())) for clip in group] for group in groups]
    return loaded, hashes, encoders[CONTENT][0].config.n_phones


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
    (train, valid), encoder_hashes, n_content = training_clips(features, run, ("train", "valid"), console)
    torch.manual_seed(seed)
    model = build_acoustic(acoustic, features, n_content, train)
    data = AcousticData(train, config.crop_frames)
    probe = AcousticData(valid or train, config.crop_frames).batch(Draws(seed, -1, range(_VALIDATION_BATCH)))
    resolved = {
        "audio": to_mapping(features.audio),
        "acoustic": acoustic,
        "teacher": config,
        "loop": to_mapping(config.loop),
        "seed": seed,
        "singers": features.trained_singers,
        "n_content": n_content,
        "content_encoders": encoder_hashes,
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
    (train,), encoder_hashes, _ = training_clips(features, run, ("train",), console)
    teacher = require_checkpoint(run / TEACHER)
    step, of_teacher = read_metadata(teacher)
    resolved: dict[str, Any] = {
        **{key: of_teacher[key] for key in ("audio", "acoustic", "singers", "n_content", "content_encoders")},
        "teacher": {"step": step, "sha256": _sha256_of_tensors(teacher, "ema")},
        "student": config,
        "loop": to_mapping(config.loop),
        "seed": seed,
    }
    if encoder_hashes != of_teacher["content_encoders"]:
        logger.warning(
            "the teacher was trained on content of encoders %s, not %s", of_teacher["content_encoders"], encoder_hashes
        )
    data = AcousticData(train, config.crop_frames)
    return fit(
        StudentObjective(load_acoustic(teacher, "ema").train(), config),
        data.batch,
        config.loop,
        run / folder,
        seed=seed,
        resolved_config=resolved,
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
