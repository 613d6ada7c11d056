"""Checkpoints: one safetensors file each, written atomically, with everything needed to go on. No pickle."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import TrainingError

_SLOTS = ("step", "exp_avg", "exp_avg_sq")  # of torch.optim.AdamW


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.safetensors"


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, or None."""
    return max(folder.glob("step_*.safetensors"), default=None)


def require_checkpoint(folder: Path) -> Path:
    """The latest checkpoint of a stage, or a `TrainingError` that names the command to run first."""
    path = latest_checkpoint(folder)
    if path is None:
        raise TrainingError(
            f"no checkpoint in {folder}\nhint: run it first: comosvc-train {folder.name} -o {folder.parent}"
        )
    return path


def save_checkpoint(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    config: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write `step_<step>.safetensors` and drop all but the last `keep`.

    Tensors are named `<module>.<parameter>` and `optimizer.<parameter index>.<slot>`; the header's metadata holds the
    step and the resolved configuration as JSON.
    """
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{slot}": torch.as_tensor(state[slot]) for slot in _SLOTS})
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    require_space(folder, 2 * sum(tensor.nbytes for tensor in tensors.values()))
    path = checkpoint_path(folder, step)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step), "config": json.dumps(config)})
    partial.replace(path)
    for old in sorted(folder.glob("step_*.safetensors"))[:-keep]:
        old.unlink()
    return path


def read_metadata(path: Path) -> tuple[int, dict[str, Any]]:
    """The step and the configuration that a checkpoint was made with."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]), json.loads(metadata["config"])


def load_module(path: Path, name: str, module: nn.Module) -> None:
    """Load the module stored as `name`, strictly: a missing, foreign or misshapen tensor is an error."""
    with safe_open(path, "pt") as file:
        prefix = f"{name}."
        state = {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(
            f"{path} does not fit the {name} network of this configuration: {error}\n"
            "hint: give the configuration that the run was made with, or another run folder"
        ) from None


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimiser's moments."""
    state: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            if key.startswith("optimizer."):
                _, index, slot = key.split(".")
                state.setdefault(int(index), {})[slot] = file.get_tensor(key)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def require_space(folder: Path, n_bytes: int) -> None:
    """Raise `TrainingError` unless the disk of `folder` can take `n_bytes` more."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise TrainingError(
            f"{folder} needs {n_bytes / 1e6:.0f} MB, its disk has {free / 1e6:.0f} MB free; nothing was overwritten\n"
            "hint: free some space, then run the same command again: it goes on from the last checkpoint"
        )
