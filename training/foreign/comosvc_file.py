"""CoMoSVC's own checkpoints: `model_<step>.pt` of a teacher or a student, and the `config.yaml` beside it."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...runtime.audio.spec import AudioSpec
from ...runtime.errors import BundleError
from ...runtime.voice import manifest_rules as limits
from ..acoustic.model import AUTHORS_ACOUSTIC, AcousticConfig, AcousticModel, DenoiserConfig
from ..errors import ForeignFileError
from .checkpoints import read_checkpoint
from .weights import ForeignWeights, Ignored, Part, Settings, build, require_part

logger = logging.getLogger(__name__)
CONFIG_NAMES = ("config.yaml", "config.yml")
Network = Literal["online", "ema"]
_ONLINE, _EMA = "decoder.denoise_fn.", "decoder.denoise_fn_ema."
IGNORED = (
    Ignored(r"decoder\.pe\..*", "pitch extractor: loaded by the authors' training, never run"),
    Ignored(r"decoder\.denoise_fn_pretrained\..*", "the teacher's copy inside a student"),
)
_OTHER_NETWORK = {
    "online": Ignored(r"decoder\.denoise_fn_ema\..*", "the averaged network: the online one was asked for"),
    "ema": Ignored(r"decoder\.denoise_fn\..*", "the online network: the averaged one was asked for"),
}
_ENCODER, _INTERPOLATION = "vec768l12", "nearest"
_MODEL_TYPE, _VOCODER_TYPE = "Diffusion", "m4-gan"


@dataclass(frozen=True)
class ImportedAcoustic:
    """A model, whether it is a teacher, its singers by name with their rows of the table, and what was left out."""

    model: AcousticModel
    is_teacher: bool
    network: Network
    step: int | None
    singers: dict[str, int]
    ignored: dict[str, int]


def read_comosvc(
    path: Path, settings: Settings, audio: AudioSpec, network: Network = "online", of: str = "the vocoder"
) -> ImportedAcoustic:
    """The model of a checkpoint for `audio`; messages call `audio` that of `of`.

    `network`: the authors convert with the online network; a student's file has the averaged one ("ema") too. Raises
    `ForeignFileError` where weights, settings and vocoder do not belong together.
    """
    _check_front_end(settings.table("data"), audio, of)
    _check_type(settings.table("model"))
    content = read_checkpoint(path)
    require_part(content, Part.MODEL, path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        found = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        raise ForeignFileError(
            f"{path} is no CoMoSVC checkpoint: it has {found}; one has global_step and model\n"
            "hint: it is logs/teacher/model_<step>.pt or logs/como/model_<step>.pt"
        )
    weights = ForeignWeights(content["model"], str(path))
    is_teacher = not weights.matching(r"decoder\.denoise_fn_ema\..*")
    if network == "ema" and is_teacher:
        raise ForeignFileError(f"{path} is a teacher: it has no averaged network\nhint: --network online")
    sizes = settings.table("model")
    n_singers = sizes.integer("n_spk")
    n_content = settings.table("data").integer("encoder_out_channels")
    if n_singers < 1:
        raise ForeignFileError(f"{sizes.where}: n_spk is {n_singers}; it must be 1 or more")
    config, prefix = _config(sizes), _EMA if network == "ema" else _ONLINE
    differing = _differing(weights, prefix, settings)
    try:
        weights.shape(f"{prefix}residual_layers.{config.denoiser.layers - 1}.dilated_conv.weight")
        model = build(
            lambda: AcousticModel(config, audio, n_content, n_singers),
            lambda key, shape: _value(weights, prefix, key, shape, config),
            str(path),
        )
        singers = singers_of(settings)
        ignored = weights.finish((*IGNORED, _OTHER_NETWORK[network]))
    except ForeignFileError as error:
        if not differing:
            raise
        what = str(error).partition("\n")[0]
        hint = f"{settings.where} is of another model: {differing}; see --config"
        raise ForeignFileError(f"{what}\nhint: {hint}") from None
    step = content.get("global_step")
    return ImportedAcoustic(model, is_teacher, network, step if isinstance(step, int) else None, singers, ignored)


def _differing(weights: ForeignWeights, prefix: str, settings: Settings) -> str:
    """Sizes that differ between configuration and weights, in words: "n_spk is 4, the weights have 3"."""
    model, data = settings.table("model"), settings.table("data")
    content, first = weights.sizes("unit_embed.weight"), weights.sizes(f"{prefix}input_projection.weight")
    singers = weights.sizes("spk_embed.weight") or (1,)
    layers = weights.matching(re.escape(prefix) + r"residual_layers\.\d+\.dilated_conv\.weight")
    pairs = {
        "n_spk": (model.integer("n_spk"), singers[0]),
        "n_hidden": (model.integer("n_hidden"), content[0] if len(content) == 2 else None),
        "encoder_out_channels": (data.integer("encoder_out_channels"), content[1] if len(content) == 2 else None),
        "n_chans": (model.integer("n_chans"), first[0] if first else None),
        "n_layers": (model.integer("n_layers"), len(layers) or None),
        "use_pitch_aug": (model.flag("use_pitch_aug", False), "aug_shift_embed.weight" in weights),
    }
    return ", ".join(
        f"{key} is {said}, the weights have {found}"
        for key, (said, found) in pairs.items()
        if found is not None and said != found
    )


def _check_front_end(data: Settings, audio: AudioSpec, of: str) -> None:
    """Raise `ForeignFileError` unless model, vocoder and our front end have the same audio settings."""
    pairs = {
        "sampling_rate": audio.sample_rate,
        "hop_length": audio.hop_length,
        "filter_length": audio.n_fft,
        "win_length": audio.win_length,
    }
    for key, given in pairs.items():
        if data.integer(key) != given:
            raise ForeignFileError(
                f"{data.where}: {key} is {data.integer(key)}, {of}'s is {given}\n"
                f"hint: {of} must be for what the model was trained with"
            )
    for key, wanted in (
        ("encoder_sample_rate", audio.content_sample_rate),
        ("encoder_hop_size", audio.content_hop_length),
    ):
        if data.integer(key, wanted) != wanted:
            raise ForeignFileError(f"{data.where}: {key} is {data.integer(key)}; ContentVec's is {wanted}")
    for key, known in (("encoder", _ENCODER), ("unit_interpolate_mode", _INTERPOLATION)):
        if data.text(key, known) != known:
            raise ForeignFileError(f"{data.where}: {key} is {data.text(key)!r}; only {known!r} can be imported")


def _check_type(model: Settings) -> None:
    """Warn of another model type. The authors' code ignores the type, so the network may still be theirs."""
    if (found := model.text("type", _MODEL_TYPE)) != _MODEL_TYPE:
        logger.warning("%s: type is %r, the authors' is %r; imported as theirs", model.where, found, _MODEL_TYPE)


def says_m4singer(settings: Settings) -> bool:
    """Whether the configuration of a model names M4Singer's vocoder; False where it names none.

    Raises `ForeignFileError` where it names one that the authors' code does not know.
    """
    if "vocoder" not in settings or "type" not in (vocoder := settings.table("vocoder")):
        return False
    if (found := vocoder.text("type")) != _VOCODER_TYPE:
        raise ForeignFileError(
            f"{vocoder.where}: type is {found!r}; CoMoSVC knows {_VOCODER_TYPE!r} only\n"
            "hint: a model for another vocoder has other mels, and would be imported wrongly"
        )
    return True


def _config(sizes: Settings) -> AcousticConfig:
    denoiser = DenoiserConfig(
        channels=sizes.integer("n_chans"), hidden=sizes.integer("n_hidden"), layers=sizes.integer("n_layers")
    )
    shifted = sizes.flag("use_pitch_aug", False)
    return replace(AUTHORS_ACOUSTIC, denoiser=denoiser, key_shift_embedding=shifted)


def singers_of(settings: Settings) -> dict[str, int]:
    """Singers by name with their rows, as the configuration has them. Raises `ForeignFileError`."""
    table, n_singers = settings.table("spk"), settings.table("model").integer("n_spk")
    singers = {str(name): table.integer(name) for name in table.values}
    beyond = [name for name, row in singers.items() if not 0 <= row < n_singers]
    if beyond or not singers:
        what = f"{beyond[0]} has number {singers[beyond[0]]}" if beyond else "there is no singer"
        raise ForeignFileError(f"{table.where}: {what}; the model has singers 0 to {n_singers - 1} (n_spk)")
    try:
        for name in singers:
            limits.check_text("a singer's name", name, limits.LONGEST_NAME)
    except BundleError as error:
        raise ForeignFileError(f"{table.where}: {error}") from error
    return singers


_DIRECT = {
    "content_embed": "unit_embed",
    "f0_embed": "f0_embed",
    "loudness_embed": "volume_embed",
    "key_shift_embed": "aug_shift_embed",
    "denoiser.input_projection": "input_projection",
    "denoiser.step_embedding.mlp": "mlp",
    "denoiser.layers": "residual_layers",
    "denoiser.skip_projection": "skip_projection",
    "denoiser.output_projection": "output_projection",
}
_STACKED = {  # one product for all layers, where the authors have one in each
    "denoiser.step_projection": "diffusion_projection",
    "denoiser.condition_projection": "conditioner_projection",
}


def _value(
    weights: ForeignWeights, prefix: str, key: str, shape: Sequence[int], config: AcousticConfig
) -> Tensor | None:
    """The value of an entry of our state dict."""
    if key in ("mel_mean", "mel_scale"):
        return None  # `mel_range` of the configuration has made them
    if key == "singer_embed.weight":
        # With one singer the authors' model has no table.
        return weights.take("spk_embed.weight", shape) if shape[0] > 1 else torch.zeros(tuple(shape))
    name, part = key.rpartition(".")[::2]
    if name in _STACKED:
        n_layers = config.denoiser.layers
        one = (shape[0] // n_layers, *shape[1:])
        wide = (*one, 1) if name.endswith("condition_projection") and part == "weight" else one
        keys = [f"{prefix}residual_layers.{i}.{_STACKED[name]}.{part}" for i in range(n_layers)]
        return torch.cat([weights.take(key, wide).reshape(one) for key in keys])
    ours = next(ours for ours in _DIRECT if key.startswith(f"{ours}."))
    inside = prefix if ours.startswith("denoiser.") else ""
    return weights.take(f"{inside}{_DIRECT[ours]}{key.removeprefix(ours)}", shape)
