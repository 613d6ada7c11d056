"""Weights by foreign names: each is consumed, or in a written list of ignored ones, or an error."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ForeignFileError

_SHOWN = 8


@dataclass(frozen=True)
class Ignored:
    """Keys that are left out, as a regular expression of the whole key, and why."""

    pattern: str
    reason: str


class ForeignWeights:
    """Tensors of a checkpoint by key. `origin` names the file in messages."""

    def __init__(self, tensors: Any, origin: str) -> None:
        if not isinstance(tensors, Mapping):
            raise ForeignFileError(f"{origin} holds a {type(tensors).__name__} where its weights should be")
        self._left, self.origin = dict(tensors), origin
        self._names = [str(key) for key in tensors]

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def shape(self, key: str, rank: int = 3) -> tuple[int, ...]:
        """The shape of a tensor that stays. Raises `ForeignFileError` if it is missing, of another rank or empty."""
        found = tuple(self._tensor(key).shape)
        if len(found) != rank or 0 in found:
            raise ForeignFileError(f"{self.origin}: {key} has shape {found}, {rank} dimensions are expected")
        return found

    def sizes(self, key: str) -> tuple[int, ...]:
        """Shape of the tensor `key`; () where there is none."""
        value = self._left.get(key)
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    def matching(self, pattern: str) -> list[str]:
        """Keys left that match."""
        return [key for key in self._left if isinstance(key, str) and re.fullmatch(pattern, key)]

    def take(self, key: str, shape: Sequence[int]) -> Tensor:
        """The tensor `key` in float32. Raises `ForeignFileError` with the key and both shapes if it is of another."""
        value = self._tensor(key)
        if tuple(value.shape) != tuple(shape):
            raise ForeignFileError(
                f"{self.origin}: {key} has shape {tuple(value.shape)}, {tuple(shape)} is expected\n"
                "hint: weights and configuration do not belong together"
            )
        value = self._left.pop(key).detach().float()
        if not torch.isfinite(value).all():
            raise ForeignFileError(f"{self.origin}: {key} has values that are NaN or infinite")
        return value

    def take_normed(self, name: str, shape: Sequence[int], dim: int = 0) -> Tensor:
        """The weight `name`, folded from weight_g and weight_v (norms over all but `dim`) where it is split."""
        norm = [size if axis == dim else 1 for axis, size in enumerate(shape)]
        parts = (f"{name}.weight_g", f"{name}.weight_v")
        parametrised = tuple(f"{name}.parametrizations.weight.original{i}" for i in (0, 1))
        for g, v in (parts, parametrised):
            if v in self:
                direction, length = self.take(v, shape), self.take(g, norm)
                axes = tuple(axis for axis in range(len(shape)) if axis != dim)
                return direction * (length / torch.linalg.vector_norm(direction, dim=axes, keepdim=True))
        return self.take(f"{name}.weight", shape)

    def finish(self, ignored: Sequence[Ignored]) -> dict[str, int]:
        """Number of ignored keys by reason. Raises `ForeignFileError` naming what is left beyond those."""
        counts: dict[str, int] = {}
        left = []
        for key in self._left:
            rule = next((rule for rule in ignored if re.fullmatch(rule.pattern, str(key))), None)
            if rule is None:
                left.append(str(key))
            else:
                counts[rule.reason] = counts.get(rule.reason, 0) + 1
        if left:
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            raise ForeignFileError(
                f"{self.origin} has weights that nothing here takes: {', '.join(left[:_SHOWN])}{more}\n"
                "hint: it was made by another version or for another network; importing the rest would change the sound"
            )
        return counts

    def _tensor(self, key: str) -> Tensor:
        value = self._left.get(key)
        if value is None:
            near = [name for name in self._names if name.rpartition(".")[0] == key.rpartition(".")[0]][:3]
            found = f"; near it: {', '.join(near)}" if near else ""
            raise ForeignFileError(
                f"{self.origin}: {key} is missing{found}\nhint: weights and configuration do not belong together"
            )
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ForeignFileError(f"{self.origin}: {key} is {kind}, not a tensor of floats")
        return value


M = TypeVar("M", bound=nn.Module)


def build(make: Callable[[], M], value_of: Callable[[str, Sequence[int]], Tensor | None], origin: str) -> M:
    """The module of `make` with `value_of(key, shape)` in every entry of its state dict; None keeps what it has.
    `origin` names the file in messages.

    All values are found before any memory is taken for the module: sizes come from files that nobody has checked.
    """
    try:
        with torch.device("meta"):
            shell = make()
    except (RuntimeError, ValueError) as error:
        raise ForeignFileError(f"{origin}: no network has the sizes of its configuration: {error}") from error
    values = {key: value_of(key, tuple(tensor.shape)) for key, tensor in shell.state_dict().items()}
    module = make()
    module.load_state_dict({key: module.state_dict()[key] if v is None else v for key, v in values.items()})
    return module.eval()
