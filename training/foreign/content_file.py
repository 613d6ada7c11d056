"""ContentVec: fairseq's checkpoint, or a Hugging Face folder or file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...runtime.voice.file_kinds import inside
from ..content.encoders import ContentVec, ContentVecConfig
from ..errors import ForeignFileError
from .checkpoints import read_checkpoint
from .inert_pickle import Record
from .locations import CHECKPOINT_SUFFIXES, ForeignSource
from .weights import ForeignWeights, Ignored, Part, Settings, build, read_settings, require_part

HF_CONFIG, HF_WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
IGNORED = (
    Ignored(r"final_proj\..*|label_embs_concat", "projection to training targets: layer 12 itself is taken"),
    Ignored(r"lm_head\..*|project_hid\..*|project_q\..*|quantizer\..*", "heads of training tasks"),
)
_MASK = "masked_spec_embed"
_HF_PREFIX = "hubert."
_HEAD_WIDTH = 64  # of HuBERT and wav2vec 2.0, all sizes
_POSITION_KERNEL_AXIS = 2
_STRIDES = (5, 2, 2, 2, 2, 2, 2)
_LAYERS = r"\[\((\d+), ?(\d+), ?(\d+)\)\](?: ?\* ?(\d+))?"
_FAIRSEQ = {  # our name, which is transformers' -> fairseq's; {n} is a layer
    r"feature_extractor\.conv_layers\.(\d+)\.conv\.": r"feature_extractor.conv_layers.\1.0.",
    r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.": r"feature_extractor.conv_layers.\1.2.",
    r"feature_projection\.layer_norm\.": "layer_norm.",
    r"feature_projection\.projection\.": "post_extract_proj.",
    r"encoder\.pos_conv_embed\.conv\.": "encoder.pos_conv.0.",
    r"encoder\.layers\.(\d+)\.attention\.": r"encoder.layers.\1.self_attn.",
    r"encoder\.layers\.(\d+)\.layer_norm\.": r"encoder.layers.\1.self_attn_layer_norm.",
    r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.": r"encoder.layers.\1.fc1.",
    r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.": r"encoder.layers.\1.fc2.",
    rf"{_MASK}$": "mask_emb",
}


@dataclass(frozen=True)
class ImportedContent:
    """An encoder, its weight norm folded, the format it came in, and what of its file was left out."""

    network: ContentVec
    format: str
    ignored: dict[str, int]


def content_files(source: ForeignSource) -> tuple[Path, Path | None]:
    """The weights, and the config.json of a Hugging Face model, of what `--content` names."""
    if source.is_folder:
        weights = next((name for name in HF_WEIGHTS if _there(source.inside(name))), None)
        if weights is None:
            found = inside(Path(source.text), *CHECKPOINT_SUFFIXES)
            raise ForeignFileError(
                f"{source.text}/{HF_WEIGHTS[0]} is not there, nor is {HF_WEIGHTS[1]}\n"
                f"hint: {found or 'give the folder of a Hugging Face model, or the .pt file of fairseq'}"
            )
        return source.inside(weights).file(), source.inside(HF_CONFIG).file()
    path = source.file()
    config = source.beside(HF_CONFIG) if path.suffix in (".safetensors", ".bin") else None
    return path, None if config is None else config.file()


def read_content(path: Path, config: Path | None = None) -> ImportedContent:
    """ContentVec from fairseq's .pt, or Hugging Face's .safetensors or .bin with its config.json.

    Raises `ForeignFileError` where a weight is missing, left over or of another shape than the rest calls for.
    """
    tensors, described = _tensors(path)
    require_part(tensors, Part.CONTENT, path)
    tensors = {str(key).removeprefix(_HF_PREFIX): value for key, value in tensors.items()}
    weights = ForeignWeights(tensors, str(path))
    is_fairseq = "post_extract_proj.weight" in weights
    settings = Settings("", {}) if config is None else _hf_settings(config)
    sizes = _config(weights, is_fairseq, settings, described)
    network = build(
        lambda: ContentVec(sizes).fold(),
        lambda key, shape: _value(weights, key.removeprefix(_HF_PREFIX), shape, is_fairseq),
        str(path),
    )
    return ImportedContent(network, "fairseq" if is_fairseq else "hugging face", weights.finish(IGNORED))


def _there(source: ForeignSource) -> bool:
    try:
        source.file()
    except ForeignFileError:
        return False
    return True


def _tensors(path: Path) -> tuple[dict[str, Any], Any]:
    """The weights, and fairseq's own description of the network if it left one."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, None  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise ForeignFileError(
                f"{path} is damaged, or not a safetensors file: {error}\nhint: fetch it again"
            ) from error
    content = read_checkpoint(path)
    require_part(content, Part.CONTENT, path)
    if not isinstance(content, dict):
        raise ForeignFileError(f"{path} holds a {type(content).__name__}, not the weights of a content encoder")
    if isinstance(content.get("model"), dict):
        described = content.get("cfg") or content.get("args")
        model = _entry(described, "model") if _entry(described, "model") is not None else described
        return content["model"], model
    return content, None


def _entry(record: Any, key: str) -> Any:
    """An entry of a dictionary, argparse.Namespace or OmegaConf node; None where there is none."""
    return record.get(key) if isinstance(record, dict | Record) else None


def _hf_settings(path: Path) -> Settings:
    settings = read_settings(path)
    wanted = {"feat_extract_norm": "group", "hidden_act": "gelu", "feat_extract_activation": "gelu"}
    for key, value in wanted.items():
        if settings.text(key, value) != value:
            raise ForeignFileError(f"{path}: {key} is {settings.text(key)!r}; ContentVec's is {value!r}")
    for key in ("do_stable_layer_norm", "conv_bias"):
        if key in settings and settings.flag(key):
            raise ForeignFileError(f"{path}: {key} is true; ContentVec, a HuBERT base, has it false")
    return settings


def _config(weights: ForeignWeights, is_fairseq: bool, settings: Settings, described: Any) -> ContentVecConfig:
    """Sizes as far as shapes tell them; heads, groups and strides from the settings, else HuBERT's own."""
    conv = r"feature_extractor\.conv_layers\.\d+\." + ("0" if is_fairseq else "conv") + r"\.weight"
    shapes = [
        weights.shape(key, 3) for key in sorted(weights.matching(conv), key=lambda key: int(re.findall(r"\d+", key)[0]))
    ]
    hidden = weights.shape("encoder.layer_norm.weight", 1)[0]
    dense = "fc1" if is_fairseq else "feed_forward.intermediate_dense"
    position = "encoder.pos_conv.0" if is_fairseq else "encoder.pos_conv_embed.conv"
    parts = ("weight_v", "parametrizations.weight.original1", "weight")
    grouped = weights.shape(
        next((f"{position}.{p}" for p in parts if f"{position}.{p}" in weights), f"{position}.weight")
    )
    config = ContentVecConfig(
        hidden_size=hidden,
        num_hidden_layers=len(weights.matching(rf"encoder\.layers\.\d+\.{re.escape(dense)}\.weight")),
        num_attention_heads=_heads(hidden, settings, described),
        intermediate_size=weights.shape(f"encoder.layers.0.{dense}.weight", 2)[0],
        conv_dim=tuple(shape[0] for shape in shapes),
        conv_kernel=tuple(shape[2] for shape in shapes),
        conv_stride=_strides(settings, described),
        num_conv_pos_embeddings=grouped[2],
        num_conv_pos_embedding_groups=hidden // grouped[1],
        layer_norm_eps=settings.number("layer_norm_eps", 1e-5),
    )
    strides, eps = config.conv_stride, config.layer_norm_eps
    if len(config.conv_dim) != len(strides) or strides != _STRIDES:
        raise ForeignFileError(
            f"{weights.origin}: {len(config.conv_dim)} convolutions with strides {strides[:9]}; "
            f"ContentVec has {_STRIDES}"
        )
    if not 0.0 < eps < 1.0:
        raise ForeignFileError(f"{settings.where}: layer_norm_eps is {eps:g}; ContentVec's is 1e-5")
    return config


def _heads(hidden: int, settings: Settings, described: Any) -> int:
    found = _entry(described, "encoder_attention_heads")
    heads = found if isinstance(found, int) else settings.integer("num_attention_heads", max(1, hidden // _HEAD_WIDTH))
    if heads < 1 or hidden % heads:
        raise ForeignFileError(f"{heads} attention heads do not divide {hidden} channels")
    return heads


def _strides(settings: Settings, described: Any) -> tuple[int, ...]:
    """fairseq writes them as a Python expression, "[(512,10,5)] + [(512,3,2)] * 4", which is read, not evaluated."""
    text = _entry(described, "conv_feature_layers")
    if not isinstance(text, str):
        return settings.integers("conv_stride", _STRIDES)
    strides: list[int] = []
    for _, _, stride, times in re.findall(_LAYERS, text):
        strides += [int(stride)] * min(int(times or 1), len(_STRIDES) + 1)
    return tuple(strides)


def _value(weights: ForeignWeights, key: str, shape: Sequence[int], is_fairseq: bool) -> Tensor:
    name = _fairseq_name(key) if is_fairseq else key
    if key == _MASK and name not in weights:
        return torch.zeros(tuple(shape))  # of masked training only; converters leave it out
    if key.startswith("encoder.pos_conv_embed.conv.") and key.endswith(".weight"):
        return weights.take_normed(name.removesuffix(".weight"), shape, dim=_POSITION_KERNEL_AXIS)
    return weights.take(name, shape)


def _fairseq_name(key: str) -> str:
    for pattern, theirs in _FAIRSEQ.items():
        name, count = re.subn(f"^{pattern}", theirs, key)
        if count:
            return name
    return key
