"""Files in the formats of CoMoSVC, its vocoders and ContentVec, with random weights, and a cache of huggingface_hub."""

import argparse
import hashlib
import json
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_hub_cache(cache: Path, repo: str, files: Mapping[str, bytes], small: Collection[str] = ()) -> None:
    """The cache as huggingface_hub leaves it after `files` of `repo` at `COMMIT`; `small` ones are not in git LFS."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        blob = folder / "blobs" / (git if name in small else hashlib.sha256(data).hexdigest())
        blob.write_bytes(data)
        pointer = folder / "snapshots" / COMMIT / name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        pointer.symlink_to(f"{up}blobs/{blob.name}")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths of the files that tests write; `FULL` are the authors'."""

    n_layers: int = 3
    n_chans: int = 16
    n_hidden: int = 12
    n_spk: int = 3
    n_content: int = 32
    n_mels: int = 80
    sample_rate: int = 24_000
    n_fft: int = 512
    hop_length: int = 128
    vocoder_channels: int = 32
    upsample_rates: tuple[int, ...] = (8, 4, 2, 2)
    upsample_kernels: tuple[int, ...] = (16, 16, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7)
    dilations: tuple[int, ...] = (1, 3, 5)
    hubert_layers: int = 2
    hubert_heads: int = 2
    hubert_dense: int = 48
    hubert_conv: int = 16


FULL = Sizes(
    n_layers=20,
    n_chans=512,
    n_hidden=256,
    n_spk=20,
    n_content=768,
    vocoder_channels=512,
    resblock_kernels=(3, 7, 11),
    hubert_layers=12,
    hubert_heads=12,
    hubert_dense=3072,
    hubert_conv=512,
)
Weights = dict[str, torch.Tensor]


SMALL = Sizes()
TINY = Sizes(
    n_layers=2,
    hubert_layers=1,
    upsample_rates=(16, 8),
    upsample_kernels=(32, 16),
    resblock_kernels=(3,),
    dilations=(1, 3),
)
"""Few operations: what a test of export waits for is the tracing of each."""
TINY_44K = replace(TINY, n_mels=128, sample_rate=44_100, n_fft=2_048, hop_length=512)
"""An acoustic model for openvpi's vocoder."""


class _Maker:
    """Weights by name, in proportion to what goes in, so that no layer saturates or dies."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.weights: Weights = {}

    def normal(self, name: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> None:
        self.weights[name] = mean + scale * torch.randn(*shape, generator=self._generator)

    def layer(self, name: str, *shape: int, bias: bool = True, gain: float = 1.0) -> None:
        """weight (out, in, ...) and bias (out)."""
        self.normal(f"{name}.weight", *shape, scale=gain * math.prod(shape[1:]) ** -0.5)
        if bias:
            self.normal(f"{name}.bias", shape[0], scale=0.1)

    def normed(self, name: str, *shape: int, dim: int = 0, biases: int | None = None, gain: float = 1.0) -> None:
        """weight_g, weight_v and bias; norms are over all axes but `dim`."""
        self.normal(f"{name}.weight_v", *shape)
        g = [size if axis == dim else 1 for axis, size in enumerate(shape)]
        self.normal(f"{name}.weight_g", *g, scale=0.05 * gain, mean=gain)
        self.normal(f"{name}.bias", shape[0] if biases is None else biases, scale=0.02)

    def norm(self, name: str, size: int) -> None:
        self.normal(f"{name}.weight", size, scale=0.1, mean=1.0)
        self.normal(f"{name}.bias", size, scale=0.1)


def comosvc_weights(sizes: Sizes, student: bool, pitch_aug: bool = True) -> Weights:
    """`model` of a `model_<step>.pt`: the teacher's names, and with `student` the two copies of the denoiser."""
    make, H = _Maker(1), sizes.n_hidden
    make.layer("unit_embed", H, sizes.n_content)
    make.layer("f0_embed", H, 1)
    make.layer("volume_embed", H, 1)
    if pitch_aug:
        make.layer("aug_shift_embed", H, 1, bias=False)
    if sizes.n_spk > 1:
        make.normal("spk_embed.weight", sizes.n_spk, H)
    for copy in ("denoise_fn", *(("denoise_fn_ema", "denoise_fn_pretrained") if student else ())):
        _denoiser(make, f"decoder.{copy}", sizes)
    make.normal("decoder.pe.mel_encoder.conv.weight", 4, 4)
    make.normal("decoder.pe.pitch_predictor.embed_positions._float_tensor", 1)
    return make.weights


def _denoiser(make: _Maker, name: str, sizes: Sizes) -> None:
    C, H = sizes.n_chans, sizes.n_hidden
    make.layer(f"{name}.input_projection", C, sizes.n_mels, 1)
    make.layer(f"{name}.mlp.0", 4 * C, C)
    make.layer(f"{name}.mlp.2", C, 4 * C)
    for i in range(sizes.n_layers):
        layer = f"{name}.residual_layers.{i}"
        make.layer(f"{layer}.dilated_conv", 2 * C, C, 3)
        make.layer(f"{layer}.diffusion_projection", C, C)
        make.layer(f"{layer}.conditioner_projection", 2 * C, H, 1)
        make.layer(f"{layer}.output_projection", 2 * C, C, 1)
    make.layer(f"{name}.skip_projection", C, C, 1)
    make.layer(f"{name}.output_projection", sizes.n_mels, C, 1, gain=0.5)


def comosvc_config(sizes: Sizes, pitch_aug: bool = True) -> dict[str, Any]:
    """What the authors' training leaves as `config.yaml`."""
    singers = {f"Singer-{i}": i for i in range(sizes.n_spk)}
    return {
        "data": {
            "sampling_rate": sizes.sample_rate,
            "hop_length": sizes.hop_length,
            "duration": 2,
            "filter_length": sizes.n_fft,
            "win_length": sizes.n_fft,
            "encoder": "vec768l12",
            "cnhubertsoft_gate": 10,
            "encoder_sample_rate": 16_000,
            "encoder_hop_size": 320,
            "encoder_out_channels": sizes.n_content,
            "training_files": "filelists/train.txt",
            "validation_files": "filelists/val.txt",
            "extensions": ["wav"],
            "unit_interpolate_mode": "nearest",
        },
        "device": "cuda",
        "env": {"expdir": "logs/teacher", "gpu_id": 0},
        "infer": {"method": "dpm-solver++"},
        "model": {
            "n_chans": sizes.n_chans,
            "n_hidden": sizes.n_hidden,
            "n_layers": sizes.n_layers,
            "n_spk": sizes.n_spk,
            "type": "Diffusion",
            "use_pitch_aug": pitch_aug,
        },
        "spk": singers,
        "train": {"lr": 1e-4, "batch_size": 48, "save_opt": False},
        "vocoder": {"ckpt": "m4singer_hifigan", "type": "m4-gan"},
    }


def write_comosvc(folder: Path, sizes: Sizes = SMALL, student: bool = True, pitch_aug: bool = True) -> Path:
    """`model_800000.pt` with its `config.yaml` in `folder`; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model_800000.pt"
    model = OrderedDict(comosvc_weights(sizes, student, pitch_aug))
    torch.save({"global_step": 800_000, "model": model}, path)
    (folder / "config.yaml").write_text(yaml.dump(comosvc_config(sizes, pitch_aug)))
    return path


def vocoder_weights(sizes: Sizes, rates: Sequence[int], kernels: Sequence[int], n_mels: int) -> Weights:
    """A generator with weight norm, under the names that all NSF-HiFi-GANs share."""
    make, C = _Maker(2), sizes.vocoder_channels
    make.layer("m_source.l_linear", 1, 9)
    make.normed("conv_pre", C, n_mels, 7)
    for i, (rate, kernel) in enumerate(zip(rates, kernels, strict=True)):
        assert kernel >= rate
        C //= 2
        make.normed(f"ups.{i}", 2 * C, C, kernel, biases=C)  # norms over the *input* channels
        stride = math.prod(rates[i + 1 :])
        make.layer(f"noise_convs.{i}", C, 1, 2 * stride if stride > 1 else 1)
        for j, size in enumerate(sizes.resblock_kernels):
            for part in ("convs1", "convs2"):
                for k in range(len(sizes.dilations)):
                    make.normed(f"resblocks.{i * len(sizes.resblock_kernels) + j}.{part}.{k}", C, C, size, gain=0.6)
    make.normed("conv_post", 1, C, 7, gain=0.3)
    return make.weights


def _vocoder_sizes(sizes: Sizes, rates: Sequence[int], kernels: Sequence[int]) -> dict[str, Any]:
    return {
        "resblock": "1",
        "resblock_kernel_sizes": list(sizes.resblock_kernels),
        "resblock_dilation_sizes": [list(sizes.dilations) for _ in sizes.resblock_kernels],
        "upsample_rates": list(rates),
        "upsample_kernel_sizes": list(kernels),
        "upsample_initial_channel": sizes.vocoder_channels,
    }


def write_m4singer_vocoder(folder: Path, sizes: Sizes = SMALL) -> Path:
    """`model_ckpt_steps_1970000.ckpt` with discriminators beside the generator, and `config.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    rates, kernels = sizes.upsample_rates, sizes.upsample_kernels
    make = _Maker(3)
    make.layer("discriminators.0.conv", 4, 4)
    state = {"model_gen": OrderedDict(vocoder_weights(sizes, rates, kernels, 80)), "model_disc": make.weights}
    path = folder / "model_ckpt_steps_1970000.ckpt"
    torch.save({"state_dict": state, "global_step": 1_970_000, "optimizer_states": [{}], "epoch": 3}, path)
    config = {
        **_vocoder_sizes(sizes, rates, kernels),
        "audio_sample_rate": 24_000,
        "audio_num_mel_bins": 80,
        "hop_size": 128,
        "fft_size": 512,
        "win_size": 512,
        "fmin": 30,
        "fmax": 12_000,
        "use_pitch_embed": True,
        "base_config": ["egs/egs_bases/tts/vocoder/hifigan.yaml"],
    }
    (folder / "config.yaml").write_text(yaml.dump(config))
    return path


def write_openvpi_vocoder(folder: Path, sizes: Sizes = SMALL) -> Path:
    """`model` with `config.json`, as so-vits-svc's `pretrain/nsf_hifigan`."""
    folder.mkdir(parents=True, exist_ok=True)
    rates, kernels = (8, 8, 2, 2, 2), (16, 16, 4, 4, 4)
    torch.save({"generator": vocoder_weights(sizes, rates, kernels, 128)}, folder / "model")
    config = {
        **_vocoder_sizes(sizes, rates, kernels),
        "num_mels": 128,
        "n_fft": 2048,
        "hop_size": 512,
        "win_size": 2048,
        "sampling_rate": 44_100,
        "fmin": 40,
        "fmax": 16_000,
        "fmax_for_loss": None,
        "discriminator_periods": [3, 5, 7, 11, 17, 23, 37],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model"


def contentvec_weights(sizes: Sizes) -> Weights:
    """`model` of fairseq's checkpoint_best_legacy_500.pt."""
    make, D, C, F = _Maker(4), sizes.n_content, sizes.hubert_conv, sizes.hubert_dense
    make.normal("mask_emb", D)
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        make.layer(f"feature_extractor.conv_layers.{i}.0", C, C if i else 1, kernel, bias=False, gain=1.5)
    make.norm("feature_extractor.conv_layers.0.2", C)
    make.norm("layer_norm", C)
    make.layer("post_extract_proj", D, C)
    make.normed("encoder.pos_conv.0", D, D // 16, 128, dim=2)
    for i in range(sizes.hubert_layers):
        layer = f"encoder.layers.{i}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            make.layer(f"{layer}.self_attn.{name}", D, D)
        make.norm(f"{layer}.self_attn_layer_norm", D)
        make.layer(f"{layer}.fc1", F, D)
        make.layer(f"{layer}.fc2", D, F)
        make.norm(f"{layer}.final_layer_norm", D)
    make.norm("encoder.layer_norm", D)
    make.layer("final_proj", 16, D)
    make.normal("label_embs_concat", 20, 16)
    return make.weights


class Dictionary:
    """fairseq's, of which every one of its checkpoints has a few."""


Dictionary.__module__, Dictionary.__qualname__ = "fairseq.data.dictionary", "Dictionary"


def write_contentvec(path: Path, sizes: Sizes = SMALL, legacy: bool = False) -> Path:
    """A fairseq checkpoint: foreign objects around the weights, so that `weights_only` refuses it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    C = sizes.hubert_conv
    layers = f"[({C},10,5)] + [({C},3,2)] * 4 + [({C},2,2)] * 2"
    args = argparse.Namespace(encoder_attention_heads=sizes.hubert_heads, conv_feature_layers=layers)
    content = {
        "args": None,
        "cfg": {"_name": None, "model": args},
        "model": OrderedDict(contentvec_weights(sizes)),
        "task_state": {"dictionaries": [_foreign_object()]},
        "optimizer_history": [{"num_updates": 100_000, "best_loss": np.float64(3.25)}],
    }
    with _importable("fairseq.data.dictionary", Dictionary):
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def _foreign_object() -> Dictionary:
    made = Dictionary()
    made.symbols, made.count = ["<s>", "<pad>"], [1, 1]
    return made


@contextmanager
def _importable(module: str, kind: type) -> Iterator[None]:
    """pickle checks that a class can be imported by its name."""
    names = [module.rsplit(".", depth)[0] for depth in range(module.count("."), -1, -1)]
    for name in names:
        sys.modules[name] = ModuleType(name)
    setattr(sys.modules[module], kind.__name__, kind)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


_TO_HF = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^feature_extractor\.conv_layers\.(\d)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)


def write_hf_contentvec(folder: Path, sizes: Sizes = SMALL, modern: bool = False) -> Path:
    """The weights of `write_contentvec` as a Hugging Face folder; `modern`: weight norm as transformers 5 names it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, tensor in contentvec_weights(sizes).items():
        if name == "label_embs_concat":
            continue
        for pattern, other in _TO_HF:
            name = re.sub(pattern, other, name)
        if modern:
            name = name.replace("weight_g", "parametrizations.weight.original0")
            name = name.replace("weight_v", "parametrizations.weight.original1")
        weights[name] = tensor
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "hubert",
        "hidden_size": sizes.n_content,
        "num_hidden_layers": sizes.hubert_layers,
        "num_attention_heads": sizes.hubert_heads,
        "intermediate_size": sizes.hubert_dense,
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
