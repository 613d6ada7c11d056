"""Names and shapes of every weight, as the originals' checkpoints have them, to hold ours against those.

    python -m comosvc.benchmarks.baselines.weight_names sovits-flow > benchmarks/baselines/tables/sovits-flow.txt

The content encoder has the names of `transformers`. Left out: what is no weight (the diffusion's constants), and what
CoMoSVC's student has beside its network: two copies of it, and a pitch extractor that nothing calls.
"""

import sys
from math import prod

import torch
from torch import nn

from ...runtime.audio.spec import OPENVPI_44K
from .diffsvc import NETWORK
from .diffsvc import training_only as diffsvc_training_only
from .registry import BASELINES
from .sovits_networks import SovitsConfig
from .sovits_networks import training_only as sovits_training_only
from .steps import TimedStep

Table = dict[str, dict[str, tuple[int, ...]]]

WRITTEN = ("comosvc-authors", "sovits-flow", "sovits-diff", "diffsvc")
"""Systems whose tables are in `tables/`; all others are made of the same networks."""
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
        return _in_checkpoint(sovits_training_only(SovitsConfig(), OPENVPI_44K.n_fft // 2 + 1), "")
    if id in ("diffsvc", "diffsvc-1000"):
        return _in_checkpoint(diffsvc_training_only(NETWORK.hidden, NETWORK.n_mels), "fs2.")
    return {"aug_shift_embed.weight": (NETWORK.hidden, 1)}


if __name__ == "__main__":
    sys.stdout.write(written(sys.argv[1]))
