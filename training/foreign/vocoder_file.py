"""NSF-HiFi-GAN checkpoints: M4Singer's (CoMoSVC's vocoder), openvpi's and so-vits-svc's, DiffSinger's older ones."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...runtime.audio.spec import AudioSpec
from ...runtime.errors import BundleError
from ...runtime.voice import manifest_rules as limits
from ...runtime.voice.manifest_rules import check_audio
from ..errors import ConfigError, ForeignFileError
from ..vocoder.hifigan import HifiGanConfig, NsfHifiGan
from .checkpoints import read_checkpoint
from .weights import ForeignWeights, Ignored, Part, Settings, build, require_part

logger = logging.getLogger(__name__)
VOCODER_CONFIG_NAMES = ("config.yaml", "config.yml", "config.json")
IGNORED = (
    Ignored(r"discriminator\..*|mpd\..*|msd\..*", "discriminators: only training needs them"),
    Ignored(r"m_source\.l_sin_gen\..*", "tables that the sine source is computed with"),
)
MEL_LOG_BASE = 10.0
"""Of CoMoSVC's mels."""
_MEL_FLOOR = 1e-5


@dataclass(frozen=True)
class Kind:
    """What distinguishes systems whose checkpoints have the same names and shapes."""

    normalised_source: bool
    mel_log_base: float


KINDS = {
    "m4singer": Kind(True, 10.0),
    "openvpi": Kind(False, math.e),
    "diffsinger": Kind(False, 10.0),
}


@dataclass(frozen=True)
class ImportedVocoder:
    """A vocoder, the audio settings that it was trained with, and what of its file was left out (keys by reason)."""

    network: NsfHifiGan
    audio: AudioSpec
    kind: str
    ignored: dict[str, int]
    guessed: bool = False
    """Whether the layout of the file leaves open that it is of another kind."""

    def warn_of_guess(self, name: str) -> None:
        """Say so in the log; `name` is the file's."""
        if self.guessed:
            logger.warning(
                "%s is taken for M4Singer's vocoder. DiffSinger's older ones look the same but work differently (no "
                "LayerNorm in the source's branches): if it is one of those, say --vocoder-kind diffsinger; "
                "--vocoder-kind m4singer if not",
                name,
            )


def read_vocoder(
    path: Path, settings: Settings, kind: str = "auto", mel_log_base: float = MEL_LOG_BASE
) -> ImportedVocoder:
    """The generator of a checkpoint, for mels whose logarithm has the base `mel_log_base`. `kind` is one of `KINDS` or
    "auto", which goes by where the weights lie.

    Raises `ForeignFileError` where weights and settings do not agree.
    """
    if kind not in ("auto", *KINDS):
        raise ForeignFileError(f"{kind!r} is no kind of vocoder\nhint: auto, {', '.join(KINDS)}")
    content = read_checkpoint(path)
    require_part(content, Part.VOCODER, path)
    tensors, found = _generator(content, str(path))
    guessed = kind == "auto" and found == "m4singer"
    kind = found if kind == "auto" else kind
    audio, config = _audio(settings, mel_log_base), _network(settings, KINDS[kind], mel_log_base)
    if config.hop_length != audio.hop_length:
        rates = " x ".join(map(str, config.upsample_rates))
        raise ForeignFileError(
            f"{settings.where}: upsample_rates {rates} = {config.hop_length}, hop_size is {audio.hop_length}; "
            "they must be the same\nhint: give the configuration that this vocoder was trained with"
        )
    weights = ForeignWeights(tensors, str(path))
    network = build(
        lambda: NsfHifiGan(config), lambda key, shape: _value(weights, key, shape, config.resblock), str(path)
    )
    return ImportedVocoder(network, audio, kind, weights.finish(IGNORED), guessed)


def _generator(content: Any, path: str) -> tuple[dict[str, Any], str]:
    """The generator's weights and the kind of system that keeps them there."""
    state = content.get("state_dict") if isinstance(content, dict) else None
    if isinstance(state, dict) and isinstance(state.get("model_gen"), dict):
        return state["model_gen"], "m4singer"
    if isinstance(content, dict) and isinstance(content.get("generator"), dict):
        return content["generator"], "openvpi"
    prefix = "generator."
    if isinstance(state, dict) and any(str(key).startswith(prefix) for key in state):
        return {str(key).removeprefix(prefix): value for key, value in state.items()}, "openvpi"
    keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
    raise ForeignFileError(
        f"{path} is no vocoder checkpoint: it has {keys}; one has state_dict.model_gen (M4Singer) or generator "
        "(openvpi, so-vits-svc)\nhint: was the file of another stage given?"
    )


def _audio(settings: Settings, mel_log_base: float) -> AudioSpec:
    rate = settings.integer(settings.first("audio_sample_rate", "sampling_rate"))
    f_min_hz, f_max_hz = settings.number("fmin"), settings.number("fmax", rate / 2)
    if not 0.0 < f_max_hz <= rate / 2:
        raise ForeignFileError(
            f"{settings.where}: fmax is {f_max_hz:g}; half of the rate, {rate / 2:g} Hz, is the most"
        )
    if not 0.0 <= f_min_hz < f_max_hz:
        raise ForeignFileError(
            f"{settings.where}: fmin is {f_min_hz:g}; it must be 0 Hz to below fmax, {f_max_hz:g} Hz"
        )
    spec = AudioSpec(
        sample_rate=rate,
        n_fft=settings.integer(settings.first("fft_size", "n_fft")),
        win_length=settings.integer("win_size"),
        hop_length=settings.integer("hop_size"),
        n_mels=settings.integer(settings.first("audio_num_mel_bins", "num_mels")),
        f_min_hz=f_min_hz,
        f_max_hz=f_max_hz,
        content_sample_rate=16_000,
        content_hop_length=320,
        mel_log_base=mel_log_base,
        mel_floor=_MEL_FLOOR,
    )
    try:
        limits.check_limits(spec, "audio")
        check_audio(spec)
    except BundleError as error:
        raise ForeignFileError(f"{settings.where}: no voice can have these settings: {error}") from None
    return spec


def _network(settings: Settings, kind: Kind, mel_log_base: float) -> HifiGanConfig:
    sizes = settings.table("model_args") if "model_args" in settings else settings
    for option, wanted in (("use_pitch_embed", True), ("mini_nsf", False)):
        for table in (settings, sizes):
            if option in table and table.flag(option) != wanted:
                raise ForeignFileError(
                    f"{table.where}: {option} is {not wanted}; only NSF-HiFi-GANs with it {wanted} are known"
                )
    resblock = sizes.text("resblock")
    if resblock not in ("1", "2"):
        raise ForeignFileError(f"{sizes.where}: resblock is {resblock!r}; known: 1, 2")
    try:
        return HifiGanConfig(
            sample_rate=settings.integer(settings.first("audio_sample_rate", "sampling_rate")),
            n_mels=settings.integer(settings.first("audio_num_mel_bins", "num_mels")),
            upsample_rates=sizes.integers("upsample_rates"),
            upsample_kernel_sizes=sizes.integers("upsample_kernel_sizes"),
            upsample_initial_channel=sizes.integer("upsample_initial_channel"),
            resblock=resblock,
            resblock_kernel_sizes=sizes.integers("resblock_kernel_sizes"),
            resblock_dilation_sizes=sizes.lists("resblock_dilation_sizes"),
            normalised_source=kind.normalised_source,
            mel_gain=math.log(mel_log_base) / math.log(kind.mel_log_base),
        )
    except ConfigError as error:
        raise ForeignFileError(f"{sizes.where}: {error}") from None


def _value(weights: ForeignWeights, key: str, shape: Sequence[int], resblock: str) -> Tensor:
    """The value of an entry of our state dict: names are theirs but for two, and weight norm is folded."""
    name = key.replace("source_mix.", "m_source.l_linear.")
    if resblock == "2":
        name = name.replace(".convs1.", ".convs.")
    if name.endswith(".weight"):
        return weights.take_normed(name.removesuffix(".weight"), shape)
    return weights.take(name, shape)
