"""Checkpoints: one safetensors file each, written atomically, and resuming a stage from them. No pickle."""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ...runtime.storage import MismatchError, decode, replacing
from ..config import to_mapping
from ..errors import TrainingError, train_command
from .devices import MixedPrecision

BEST = "best.safetensors"
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
        raise TrainingError(f"no checkpoint in {folder}\nhint: run it first: {train_command(folder)}")
    return path


def missing_commands(run: Path, names: Sequence[str]) -> str:
    """The missing commands, in order, for the trained stages `names` of `run`; empty where none is missing.

    Runs with a corpus train a content encoder first; other runs adopt one.
    """
    stages = [*(["content"] if (run / "corpus").is_dir() else []), *names]
    folders = [] if (run / "features" / "index.json").is_file() else [run / "features"]
    folders += [run / name for name in stages if latest_checkpoint(run / name) is None]
    return ", then ".join(train_command(folder) for folder in folders)


def save_checkpoint(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    config: Mapping[str, Any],
    keep: int = 2,
    state: Mapping[str, Tensor] | None = None,
    figures: Mapping[str, float] | None = None,
) -> Path:
    """Write `step_<step>.safetensors` and drop all but the last `keep`.

    Tensors are named `<module>.<parameter>` and `optimizer.<parameter index>.<slot>`, further ones by `state`; the
    header's metadata holds the step, the resolved configuration and the figures of the validation as JSON.

    Raises `TrainingError` on a full disk; the checkpoints that are there stay as they are.
    """
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{slot}": torch.as_tensor(slots[slot]) for slot in _SLOTS})
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in {**tensors, **(state or {})}.items()}
    require_space(folder, 2 * sum(tensor.nbytes for tensor in tensors.values()))
    path = checkpoint_path(folder, step)
    metadata = {"step": str(step), "config": json.dumps(config), "figures": json.dumps(figures or {})}
    _write(tensors, metadata, path)
    for old in sorted(folder.glob("step_*.safetensors"))[:-keep]:
        old.unlink()
    return path


def _write(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, metadata=metadata)
    except (OSError, SafetensorError) as error:
        last = latest_checkpoint(path.parent)
        kept = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise TrainingError(
            f"{path} could not be written: {error}; nothing was overwritten, {kept}\n"
            f"hint: free {sum(t.nbytes for t in tensors.values()) / 1e6:.0f} MB or more, then run the same command "
            "with --resume: it goes on from the last checkpoint"
        ) from None


def keep_best(path: Path, figure: str, direction: str) -> Path:
    """Make `best.safetensors` beside `path` the same checkpoint if its `figure` is the best so far; returns the best.

    It is a second name of the file and takes no space until the first name is dropped. `direction` is "lowest" or
    "highest"; a figure that is not finite is the worst of all. Raises `TrainingError` where the validation gave no such
    figure, or the disk does not take the copy.
    """
    best = path.with_name(BEST)
    figures = read_figures(path)
    if figure not in figures:
        raise TrainingError(
            f"there is no figure {figure!r} to choose the best checkpoint by (known: {', '.join(figures) or 'none'})\n"
            f"hint: set best_by to one of these, or leave it out, and run again with --resume; {path} is written"
        )
    sign = 1.0 if direction == "lowest" else -1.0

    def badness(found: float) -> float:
        return sign * found if math.isfinite(found) else math.inf

    with suppress(TrainingError):  # a damaged one gives way to any
        if best.is_file() and badness(read_figures(best).get(figure, math.nan)) <= badness(figures[figure]):
            return best
    try:
        with replacing(best) as partial:
            partial.unlink()
            try:
                os.link(path, partial)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, partial)
    except OSError as error:
        raise TrainingError(
            f"{best} could not be written: {error}; {path} is there, and so is what was the best before\n"
            "hint: free some space, then run the same command with --resume"
        ) from None
    return best


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A checkpoint's tensors and metadata. Raises `TrainingError` where it is damaged or none."""
    try:
        with safe_open(path, "pt") as file:
            if "step" not in (file.metadata() or {}):
                raise TrainingError(f"{path} is no checkpoint of comosvc-train: it names no step")
            yield file
    except (SafetensorError, OSError) as error:
        raise TrainingError(
            f"{path} is damaged, or no checkpoint: {error}\n"
            "hint: a damaged checkpoint may be deleted: --resume then goes on from the one before it in its folder"
        ) from None


def read_metadata(path: Path) -> tuple[int, dict[str, Any]]:
    """The step and the configuration that a checkpoint was made with. Raises `TrainingError` if it is damaged."""
    with _opened(path) as file:
        metadata = file.metadata()
    return int(metadata["step"]), json.loads(metadata["config"])


def read_figures(path: Path) -> dict[str, float]:
    """What the validation gave at a checkpoint; empty where there was none. Raises `TrainingError` if it is damaged."""
    with _opened(path) as file:
        return json.loads(file.metadata().get("figures", "{}"))


def load_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors stored under `name`, by the rest of their names. Raises `TrainingError` if the file is damaged."""
    prefix = f"{name}."
    with _opened(path) as file:
        keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
        return {key.removeprefix(prefix): file.get_tensor(key) for key in keys}


def sha256_of(path: Path, module: str) -> str:
    """Hexadecimal SHA-256 of the tensors of one module of a checkpoint."""
    digest = hashlib.sha256()
    with safe_open(path, "np") as file:
        for key in sorted(key for key in file.keys() if key.startswith(f"{module}.")):  # noqa: SIM118
            digest.update(file.get_tensor(key).tobytes())
    return digest.hexdigest()


def load_module(path: Path, name: str, module: nn.Module) -> None:
    """Load the module stored as `name`, strictly: a missing, foreign or misshapen tensor is an error."""
    try:
        module.load_state_dict(load_tensors(path, name))
    except RuntimeError as error:
        raise TrainingError(
            f"{path} does not fit the {name} network of this configuration: {error}\n"
            "hint: give the configuration that the run was made with, or another run folder"
        ) from None


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimiser's moments."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_tensors(path, "optimizer").items():
        index, slot = key.split(".")
        state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def require_space(folder: Path, n_bytes: int) -> None:
    """Raise `TrainingError` unless the disk of `folder` can take `n_bytes` more."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise TrainingError(
            f"{folder} needs {n_bytes / 1e6:.0f} MB, its disk has {free / 1e6:.0f} MB free; nothing was overwritten\n"
            "hint: free some space, then run the same command again: it goes on from the last checkpoint"
        )


logger = logging.getLogger(__name__)

_PLACEMENT = ("batch_size", "accumulate", "devices", "nodes", "strategy")
_HOUSEKEEPING = ("keep", "best_by", "best_is", "checkpoint_every", "log_every")


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
