"""Taking up a half-done stage: the same configuration, the same state, and then the same figures."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..runtime.strict import MismatchError, decode
from .checkpoint import (
    latest_checkpoint,
    load_module,
    load_optimizer,
    load_tensors,
    read_metadata,
    save_checkpoint,
)
from .config import to_mapping
from .errors import TrainingError
from .precision import MixedPrecision

logger = logging.getLogger(__name__)

_PLACEMENT = ("batch_size", "accumulate", "devices", "nodes", "strategy")
_HOUSEKEEPING = ("keep", "best_by", "best_is", "checkpoint_every", "log_every")
_SINCE = {"accumulate": 1, "devices": 1, "nodes": 1}
"""Settings of the loop that the first checkpoints did not name."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a checkpoint of a stage holds. Values of `config` may be dataclasses."""

    folder: Path
    modules: Mapping[str, nn.Module]
    optimizer: Optimizer
    precision: MixedPrecision
    config: Mapping[str, Any]

    def save(self, step: int, keep: int, figures: Mapping[str, float]) -> Path:
        """Write the checkpoint of `step` and drop all but the last `keep`. Raises `TrainingError` on a full disk."""
        state = {f"scaler.{name}": value for name, value in self.precision.state().items()}
        return save_checkpoint(
            self.folder, step, self.modules, self.optimizer, to_mapping(self.config), keep, state, figures
        )


def restore(snapshot: Snapshot, resume: bool) -> int:
    """Load the latest checkpoint of the stage's folder, if any, and return the step to go on from.

    Raises `TrainingError` under another configuration, and without `resume` if the stage is not finished.
    """
    folder = snapshot.folder
    path = latest_checkpoint(folder)
    if path is None:
        return 0
    step, stored = read_metadata(path)
    if changed := _differences(stored, snapshot.config):
        raise TrainingError(
            f"{folder} was trained with another configuration (differs in: {', '.join(changed)})\n"
            "hint: use the same configuration, another -o folder, or delete this stage's folder"
        )
    if step < snapshot.config["loop"]["steps"] and not resume:
        raise TrainingError(
            f"{folder} stopped at step {step}\nhint: add --resume to go on from there, or delete the folder"
        )
    for name, module in snapshot.modules.items():
        load_module(path, name, module)
    load_optimizer(path, snapshot.optimizer)
    snapshot.precision.restore(load_tensors(path, "scaler"))
    logger.info("%s: going on from step %d", folder.name, step)
    return step


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of what decides the result and is not the same, those of the loop by their own names."""
    mine, theirs = _decisive(wanted["loop"]), _decisive(stored["loop"])
    changed = [f"loop.{key}" for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    for key in sorted({*stored, *wanted} - {"loop", "data"}):  # the data has its own check: `require_same_data`
        if not _same(stored.get(key), wanted.get(key)):
            changed.append(key)
    return changed


def _decisive(loop: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may change under way: how often to save, and how the samples of a step are dealt out."""
    loop = {**_SINCE, **loop}
    samples = loop["batch_size"] * loop["accumulate"] * loop["devices"] * loop["nodes"]
    kept = {key: value for key, value in loop.items() if key not in (*_PLACEMENT, *_HOUSEKEEPING)}
    return {**kept, "samples a step": samples}


def _same(stored: Any, wanted: Any) -> bool:
    """Whether a stored value means `wanted`; what a dataclass has gained since has its default."""
    if is_dataclass(wanted) and isinstance(stored, dict):
        try:
            stored = to_mapping(decode(type(wanted), stored, ""))
        except MismatchError:
            return False
    return _without_loop(stored) == _without_loop(to_mapping(wanted))


def _without_loop(value: Any) -> Any:
    """A stage's own table holds the loop's a second time."""
    return {k: v for k, v in value.items() if k != "loop"} if isinstance(value, dict) else value
