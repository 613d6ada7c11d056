"""The content encoders of a run folder: trained there, or taken from elsewhere."""

import hashlib
from pathlib import Path

from ..runtime.spec import AudioSpec
from .checkpoint import latest_checkpoint, load_module, read_metadata, require_checkpoint
from .config import from_mapping
from .content import ContentConfig, ContentEncoder
from .content_stage import CONTENT, CONTENT_LOW
from .contentvec import ContentVec, ContentVecConfig

CONTENTVEC = "contentvec"
"""`kind` in the configuration of a checkpoint that holds a `ContentVec`; a `ContentEncoder`'s names none."""


def load_content_encoders(run: Path) -> dict[str, tuple[ContentEncoder | ContentVec, str]]:
    """The averaged content encoders of a run by their folder, each with the hash that names what it makes.

    `CONTENT` first; `CONTENT_LOW` where the run has one.
    """
    names = [CONTENT, *([CONTENT_LOW] if latest_checkpoint(run / CONTENT_LOW) else [])]
    return {name: _load_content_encoder(run / name) for name in names}


def _load_content_encoder(folder: Path) -> tuple[ContentEncoder | ContentVec, str]:
    path = require_checkpoint(folder)
    _, config = read_metadata(path)
    if config.get("kind") == CONTENTVEC:
        encoder = ContentVec(from_mapping(ContentVecConfig, config["network"], str(path))).fold()
    else:
        spec = from_mapping(AudioSpec, config["audio"], str(path))
        encoder = ContentEncoder(from_mapping(ContentConfig, config["network"], str(path)), spec).eval()
    load_module(path, "ema", encoder)
    weights = hashlib.sha256()
    for parameter in encoder.parameters():
        weights.update(parameter.detach().numpy().tobytes())
    return encoder, weights.hexdigest()[:12]
