"""Stages of a run that are taken from files instead of trained: ContentVec, and an NSF-HiFi-GAN."""

import json
import logging
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import AdamW

from ...runtime.spec import AudioSpec, FrontEnd
from ..checkpoint import latest_checkpoint, read_metadata, save_checkpoint
from ..config import to_mapping
from ..content_stage import CONTENT, CONTENT_LOW
from ..encoders import CONTENTVEC
from ..errors import ConfigError, DataError
from ..vocoder_kinds import NSF_HIFIGAN
from ..vocoder_stage import VOCODER
from ..windows import require_windows
from .parts import content_at, vocoder_at

logger = logging.getLogger(__name__)
_MADE_WITH = ("sample_rate", "hop_length", "n_fft", "win_length", "n_mels", "f_min_hz", "f_max_hz", "mel_floor")


def take_content(address: str, audio: AudioSpec, front_end: FrontEnd, run: Path) -> Path:
    """Make ContentVec, from a path or hf:// address, the content encoder of `run`; returns its checkpoint.

    Raises `ForeignFileError` where the file cannot be used, `ConfigError` where the recipe's settings do not suit it,
    `DataError` where `run` has another encoder.
    """
    imported, file = content_at(address)
    network = imported.network
    rate, hop = audio.content_sample_rate, audio.content_hop_length
    if (rate, hop) != (16_000, network.config.hop_length):
        raise ConfigError(
            f"{file.name} gives a frame every {network.config.hop_length} samples at 16000 Hz; the recipe has "
            f"content_sample_rate {rate} and content_hop_length {hop}\n"
            f"hint: set them under [audio] and prepare again; the recipe authors has them"
        )
    require_windows(network, front_end)
    if latest_checkpoint(run / CONTENT_LOW) is not None:
        raise DataError(
            f"{run / CONTENT_LOW} holds the live encoder of another content encoder\n"
            "hint: delete it, or give another -o folder"
        )
    facts = file.facts(format=imported.format, ignored_weights=imported.ignored)
    config = {"kind": CONTENTVEC, "audio": to_mapping(audio), "network": to_mapping(network.config)}
    return keep(run / CONTENT, network, config, facts)


def take_vocoder(address: str, settings: str | None, kind: str, audio: AudioSpec, run: Path) -> Path:
    """Make an NSF-HiFi-GAN, from a path or hf:// address, the vocoder of `run`; returns its checkpoint.

    `settings`: its configuration, None looks beside it; `kind`: one of `vocoder_file.KINDS`, or "auto".

    Raises `ForeignFileError` where a file cannot be used, `ConfigError` where it is for other mels than the recipe's,
    `DataError` where `run` has another vocoder.
    """
    imported, file = vocoder_at(address, settings, kind, audio.mel_log_base)
    imported.warn_of_guess(file.name)
    if differing := [name for name in _MADE_WITH if getattr(imported.audio, name) != getattr(audio, name)]:
        wanted = ", ".join(f"{name} = {getattr(imported.audio, name)}" for name in differing)
        raise ConfigError(
            f"{file.name} is for other mels than the recipe's: it needs {wanted}, the recipe has "
            f"{', '.join(str(getattr(audio, name)) for name in differing)}\n"
            "hint: set them under [audio] and prepare again"
        )
    network = imported.network
    facts = file.facts(kind=imported.kind, ignored_weights=imported.ignored)
    config = {"kind": NSF_HIFIGAN, "audio": to_mapping(audio), "network": to_mapping(network.config)}
    return keep(run / VOCODER, network, config, facts)


def keep(folder: Path, network: nn.Module, config: dict[str, Any], facts: dict[str, Any], step: int = 0) -> Path:
    """Save the network as the one checkpoint of a stage. Raises `DataError` where `folder` has another."""
    config = {**config, "taken_from": facts}
    if (path := latest_checkpoint(folder)) is not None:
        if read_metadata(path)[1] == json.loads(json.dumps(config)):
            logger.info("%s holds %s already", folder, facts["file"])
            return path
        raise DataError(
            f"{folder} holds another network already, or the same one taken with other settings: {path}\n"
            "hint: delete it, or give another -o folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    unused = AdamW(network.parameters())
    return save_checkpoint(folder, step, {"ema": network}, unused, config)
