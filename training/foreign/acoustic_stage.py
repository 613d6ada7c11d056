"""The CoMoSVC authors' teacher or student as a stage of a run: to be distilled here, or trained on."""

import logging
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from ...runtime.spec import AUTHORS_FRONT_END
from ..checkpoint import latest_checkpoint
from ..config import to_mapping
from ..content_stage import CONTENT
from ..encoders import load_content_encoders
from ..errors import ConfigError, DataError, ForeignFileError
from ..features import FeatureIndex
from .comosvc_file import CONFIG_NAMES, ImportedAcoustic, read_comosvc
from .parts import ForeignFile, settings_at
from .recognise import Part
from .sources import Source
from .stages import keep

logger = logging.getLogger(__name__)
ENDINGS = (".pt", ".pth", ".ckpt")
"""Endings of checkpoints of `torch.save`; ours end in .safetensors."""
_CONDITIONS = ("loudness", "condition_at", "unvoiced_f0", "content_index")
_F0 = "dio"


def take_acoustic(
    address: str, settings: str | None, stage: str, run: Path, folder: Path, singers: Collection[str] | None = None
) -> Path:
    """Make the authors' checkpoint at a path or hf:// address the one checkpoint of `folder`, and return that.

    `stage`: what it must be, "teacher" or "student". `settings`: its config.yaml; None looks beside it. `singers`:
    names of the rows of the singers' table, in order; None keeps the checkpoint's own. The features and the content
    encoder of `run` must be such as it was trained on.

    Raises `ForeignFileError` where a file cannot be used, `ConfigError` where the features of `run` are not the
    authors', `DataError` where `run` has another content encoder, singers that the checkpoint lacks, or `folder`
    another network.
    """
    features, source = FeatureIndex.open(run / "features"), Source.parse(address)
    path = source.file()
    read = read_comosvc(
        path, settings_at(source, settings, CONFIG_NAMES, "--teacher-config", Part.MODEL), features.audio, of="the run"
    )
    file = ForeignFile.of(source, path)
    if read.is_teacher != (stage == "teacher"):
        found, place = ("teacher", "logs/como") if read.is_teacher else ("student", "logs/teacher")
        raise ForeignFileError(f"{file.name} is a {found}, not a {stage}\nhint: give {place}/model_<step>.pt")
    _require_authors_features(features, run, file.name)
    model = read.model
    encoders = _content_encoders(run, model.content_embed.in_features, file.name)
    names = sorted(read.singers, key=lambda name: read.singers[name]) if singers is None else list(singers)
    model.singer_embed = _table(read, names, file.name)
    config = {
        "audio": to_mapping(features.audio),
        "acoustic": to_mapping(model.config),
        stage: {},  # its training is unknown
        "singers": names,
        "n_content": model.content_embed.in_features,
        "content_encoders": encoders,
        "front_end": to_mapping(features.front_end),
    }
    return keep(folder, model, config, file.facts(ignored_weights=read.ignored), read.step or 0)


def _require_authors_features(features: FeatureIndex, run: Path, name: str) -> None:
    """Raise `ConfigError` unless the conditions are taken as the authors take them; warn of another F0."""
    again = f"comosvc-train prepare -c authors -o {run}"
    found = {key: getattr(features.front_end, key) for key in _CONDITIONS}
    wanted = {key: getattr(AUTHORS_FRONT_END, key) for key in _CONDITIONS}
    if found != wanted or features.audio.mel_log_base != 10.0:
        raise ConfigError(
            f"{name} was trained on the authors' conditions, {wanted}, and mels of log10; the features of {run} have "
            f"{found} and base {features.audio.mel_log_base:g}\nhint: prepare into a new run folder: {again}"
        )
    if features.f0 != _F0:
        logger.warning(
            '%s was trained on F0 from %s, the features of %s have that of %s: set f0 = "%s" under [prepare]',
            name, _F0, run, features.f0, _F0,
        )  # fmt: skip


def _content_encoders(run: Path, n_content: int, name: str) -> dict[str, str]:
    """Hashes of the run's content encoders by name."""
    if latest_checkpoint(run / CONTENT) is None:
        raise DataError(
            f"{run} has no content encoder; {name} was trained on ContentVec\n"
            f"hint: run it first: comosvc-train content -o {run} --from checkpoint_best_legacy_500.pt"
        )
    encoders = load_content_encoders(run)
    if (given := encoders[CONTENT][0].n_content) != n_content:
        raise DataError(
            f"the content encoder of {run} gives {given} channels; {name} was trained with {n_content}\n"
            "hint: CoMoSVC's encoder is ContentVec, layer 12, 768 channels: comosvc-train content --from FILE"
        )
    return {encoder: digest for encoder, (_, digest) in encoders.items()}


def _table(read: ImportedAcoustic, names: list[str], name: str) -> nn.Embedding:
    """The vectors of the singers `names`, in that order."""
    if missing := [singer for singer in names if singer not in read.singers]:
        raise DataError(
            f"{name} does not have the singers {', '.join(missing)} of the recordings; it has "
            f"{', '.join(read.singers)}\nhint: call the recordings' singers as spk in config.yaml does, or train the "
            f"new ones first: comosvc-train teacher --init-from {name}"
        )
    rows = torch.tensor([read.singers[singer] for singer in names])
    return nn.Embedding.from_pretrained(read.model.singer_embed.weight.detach()[rows].clone(), freeze=False)
