"""The vocoders that a run may train, by the name that recipes and checkpoints know them by."""

from collections.abc import Mapping
from typing import Any

from ..runtime.spec import AudioSpec
from .config import from_mapping
from .errors import ConfigError
from .hifigan import M4SINGER_24K, HifiGanConfig, NsfHifiGan
from .vocoder import LIGHT_24K, Vocoder, VocoderConfig

MATCHING, LIGHT, NSF_HIFIGAN = "matching", "light", "nsf-hifigan"
KINDS: dict[str, VocoderConfig | HifiGanConfig] = {
    MATCHING: VocoderConfig(),
    LIGHT: LIGHT_24K,
    NSF_HIFIGAN: M4SINGER_24K,
}
"""Sizes of each kind unless told. "matching" is the demo voice's, "light" the same with a network of full size."""

AnyVocoder = Vocoder | NsfHifiGan


def vocoder_config(kind: str, changes: Mapping[str, Any], where: str) -> VocoderConfig | HifiGanConfig:
    """The sizes of `kind` with those in `changes` instead; a checkpoint's are all there. `ConfigError` for an unknown
    kind or size; `where` is the place named in it.
    """
    if kind not in KINDS:
        raise ConfigError(f"{where}: there is no vocoder {kind!r}\nhint: kind is one of {', '.join(KINDS)}")
    usual = KINDS[kind]
    return from_mapping(type(usual), {**vars(usual), **changes}, f"{where}.network")


def build_vocoder(config: VocoderConfig | HifiGanConfig, spec: AudioSpec) -> AnyVocoder:
    """The network, untrained. Raises `ConfigError` where it is for other mels than those of `spec`."""
    if isinstance(config, VocoderConfig):
        return Vocoder(config, spec)
    for name in ("sample_rate", "n_mels", "hop_length"):
        if getattr(config, name) != getattr(spec, name):
            raise ConfigError(
                f"this HiFi-GAN has {name} {getattr(config, name)}, the audio settings {getattr(spec, name)}\n"
                "hint: set sample_rate, n_mels and upsample_rates, whose product is hop_length, under [vocoder.network]"
            )
    return NsfHifiGan(config)
