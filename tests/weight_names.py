"""Names and shapes of every weight of the baselines, as the originals' checkpoints have them.

    python tests/weight_names.py sovits-flow > tests/reference/weights/sovits-flow.txt

The content encoder has the names of `transformers`. Left out: what is no weight (the diffusion's constants), and what
CoMoSVC's student has beside its network: two copies of it, and a pitch extractor that nothing calls.
"""

import sys
from math import prod

import torch
from torch import nn

from comosvc.benchmarks.baselines import BASELINES
from comosvc.benchmarks.baselines.diffsvc import NETWORK
from comosvc.benchmarks.baselines.sovits_networks import WN, ChannelNorm, FeedForward, SovitsConfig
from comosvc.benchmarks.baselines.steps import TimedStep
from comosvc.runtime.audio.spec import OPENVPI_44K

Table = dict[str, dict[str, tuple[int, ...]]]

WRITTEN = ("comosvc-authors", "sovits-flow", "sovits-diff", "diffsvc")
"""Systems whose tables are in `reference/weights/`; all others are made of the same networks."""
TRAINING_ONLY = "training only"

_NORMALISED = {"conv_pre", "ups", "resblocks", "conv_post", "cond_layer", "in_layers", "res_skip_layers"}
"""Modules that have weight norm in the checkpoints: a length for each of the weight's first axis, and a direction."""
_RENAMED = {
    "encoder.hubert.": "",
    "hubert.": "",
    "generator.": "",
    "source_mix.": "m_source.l_linear.",
    "network.": "denoise_fn.",
}
"""Beginnings of our names and what the checkpoints have, one after another."""
_EMBEDDINGS = ("unit_embed.", "f0_embed.", "volume_embed.", "spk_embed.")


def parameter_table(id: str) -> Table:
    """Shapes by name for each stage of a system that has a network, and for what only training uses."""
    table: Table = {}
    for stage in BASELINES[id]().stages:
        if isinstance(stage, TimedStep):
            with torch.device("meta"):
                table[stage.name] = _in_checkpoint(stage.build(), _prefix(id, stage.name))
    with torch.device("meta"):
        return {**table, TRAINING_ONLY: _training_only(id)}


def written(id: str) -> str:
    """The table as text: a line for each weight, under its stage and the number of its weights."""
    lines = []
    for part, shapes in parameter_table(id).items():
        lines.append(f"[{part}] {sum(map(prod, shapes.values())):,}")
        lines += [f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes.items()]
    return "\n".join(lines) + "\n"


def _prefix(id: str, stage: str) -> str:
    """What the checkpoint puts before the names of a stage's weights."""
    if id.startswith("sovits-flow") or stage.startswith("first_"):
        return "dec." if stage.endswith("vocoder") else ""
    if id in ("diffsvc", "diffsvc-1000"):
        return "fs2." if stage == "condition" else ""
    return "decoder." if stage == "acoustic" else ""


def _in_checkpoint(module: nn.Module, prefix: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, parameter in module.named_parameters():
        name, shape = _renamed(ours), tuple(parameter.shape)
        name = name if name.startswith(_EMBEDDINGS) else prefix + name
        if name.endswith("pos_conv_embed.conv.weight"):
            shapes[f"{name}_g"], shapes[f"{name}_v"] = (1, 1, shape[2]), shape
        elif name.endswith(".weight") and _NORMALISED.intersection(name.split(".")):
            shapes[f"{name}_g"], shapes[f"{name}_v"] = (shape[0], 1, 1), shape
        else:
            shapes[name] = shape
    return shapes


def _renamed(name: str) -> str:
    for ours, theirs in _RENAMED.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    return name


def _training_only(id: str) -> dict[str, tuple[int, ...]]:
    if id == "sovits-flow":
        return _in_checkpoint(of_sovits(SovitsConfig(), OPENVPI_44K.n_fft // 2 + 1), "")
    if id in ("diffsvc", "diffsvc-1000"):
        return _in_checkpoint(of_diffsvc(NETWORK.hidden, NETWORK.n_mels), "fs2.")
    return {"aug_shift_embed.weight": (NETWORK.hidden, 1)}


def of_sovits(config: SovitsConfig, n_bins: int) -> nn.Module:
    """Parts beside `Latent` and `Decoder`: the posterior's encoder, of a spectrum with `n_bins`, and an
    F0 predictor for speech. Names and shapes only: there is no forward.
    """
    hidden, gin, layers = config.hidden_channels, config.gin_channels, range(config.n_layers)

    def attention() -> nn.Module:
        return nn.ModuleDict({f"conv_{which}": nn.Conv1d(hidden, hidden, 1) for which in "qkvo"})

    posterior = {
        "pre": nn.Conv1d(n_bins, hidden, 1),
        "enc": WN(hidden, 16, gin),
        "proj": nn.Conv1d(hidden, 2 * config.inter_channels, 1),
    }
    decoder = {
        "self_attn_layers": nn.ModuleList(attention() for _ in layers),
        "norm_layers_0": nn.ModuleList(ChannelNorm(hidden) for _ in layers),
        "ffn_layers": nn.ModuleList(FeedForward(hidden, config.filter_channels, config.kernel_size) for _ in layers),
        "norm_layers_1": nn.ModuleList(ChannelNorm(hidden) for _ in layers),
    }
    f0_decoder = {
        "prenet": nn.Conv1d(hidden, hidden, 3),
        "decoder": nn.ModuleDict(decoder),
        "proj": nn.Conv1d(hidden, 1, 1),
        "f0_prenet": nn.Conv1d(1, hidden, 3),
        "cond": nn.Conv1d(gin, hidden, 1),
    }
    return nn.ModuleDict({"enc_q": nn.ModuleDict(posterior), "f0_decoder": nn.ModuleDict(f0_decoder)})


def of_diffsvc(hidden: int, n_mels: int) -> nn.Module:
    """A pitch predictor and a projection of the checkpoint that inference does without. Names and shapes only."""
    layers = []
    for _ in range(5):
        convolution = nn.Conv1d(hidden, hidden, 5)
        layers.append(nn.ModuleDict({"1": convolution, "3": nn.LayerNorm(hidden)}))
    predictor = nn.ModuleDict({"conv": nn.ModuleList(layers), "linear": nn.Linear(hidden, 2)})
    predictor.register_parameter("pos_embed_alpha", nn.Parameter(torch.ones(1)))
    return nn.ModuleDict({"mel_out": nn.Linear(hidden, n_mels), "pitch_predictor": predictor})


if __name__ == "__main__":
    sys.stdout.write(written(sys.argv[1]))
