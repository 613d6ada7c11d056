"""Others' checkpoints as stages of a run folder."""

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from ...runtime.audio.spec import AUTHORS_FRONT_END, AudioSpec, FrontEnd
from ..config import to_mapping
from ..content.encoders import CONTENTVEC, load_content_encoders, require_windows
from ..content.stage import CONTENT, CONTENT_LOW
from ..data.prepared import FeatureIndex
from ..errors import ConfigError, DataError, ForeignFileError
from ..loop.checkpoint import latest_checkpoint, read_metadata, save_checkpoint
from ..vocoder.light import NSF_HIFIGAN
from ..vocoder.stage import VOCODER
from .checkpoints import read_checkpoint
from .comosvc_file import CONFIG_NAMES, ImportedAcoustic, read_comosvc
from .content_file import ImportedContent, content_files, read_content
from .locations import ForeignSource, sha256_of
from .vocoder_file import MEL_LOG_BASE, VOCODER_CONFIG_NAMES, ImportedVocoder, read_vocoder
from .weights import Part, Settings, read_settings, require_part


@dataclass(frozen=True)
class ForeignFile:
    """A file that was read: what it is called in manifests and checkpoints, and where it lies."""

    name: str
    path: Path

    @classmethod
    def of(cls, source: ForeignSource, path: Path) -> "ForeignFile":
        return cls(source.text if source.repo else path.name, path)

    def facts(self, **more: Any) -> dict[str, Any]:
        """For the record of what a voice is made of."""
        return {"file": self.name, "sha256": sha256_of(self.path), **more}


def content_at(address: str) -> tuple[ImportedContent, ForeignFile]:
    """ContentVec at a path or hf:// address: fairseq's .pt, or a Hugging Face folder. Raises `ForeignFileError`."""
    source = ForeignSource.parse(address)
    weights, config = content_files(source)
    return read_content(weights, config), ForeignFile.of(source, weights)


def vocoder_at(
    address: str, config: str | None = None, kind: str = "auto", mel_log_base: float = MEL_LOG_BASE
) -> tuple[ImportedVocoder, ForeignFile]:
    """An NSF-HiFi-GAN at a path or hf:// address, for mels of that logarithm; `config` None is looked for beside it.

    Raises `ForeignFileError`.
    """
    source = ForeignSource.parse(address)
    path = source.file()
    settings = settings_at(source, config, VOCODER_CONFIG_NAMES, "--vocoder-config", Part.VOCODER)
    return read_vocoder(path, settings, kind, mel_log_base), ForeignFile.of(source, path)


def settings_at(source: ForeignSource, given: str | None, names: Sequence[str], option: str, part: Part) -> Settings:
    """The configuration that `option` gives, else the one of `names` that lies beside `source`, a `part`.

    Raises `ForeignFileError`; where there is none, because `source` is no such part, the error says so.
    """
    found = source.beside(*names) if given is None else ForeignSource.parse(given)
    if found is None:
        require_part(read_checkpoint(source.file()), part, source.text)
        raise ForeignFileError(
            f"no configuration beside {source.text}: looked for {', '.join(names)}\nhint: name it with {option}"
        )
    return read_settings(found.file())


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
    features, source = FeatureIndex.open(run / "features"), ForeignSource.parse(address)
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
