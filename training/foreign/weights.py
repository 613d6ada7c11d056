"""Kinds, settings and weights of others' files, read strictly."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor, nn

from ...runtime.errors import abridged
from ...runtime.storage import without_repeats
from ...runtime.voice.file_kinds import FileKind, file_kind
from ..errors import ForeignFileError

_SHOWN = 8
_TABLES = ("model", "state_dict", "weight", "generator")


class Part(StrEnum):
    """Parts; the values are the words for messages."""

    MODEL = "CoMoSVC checkpoint"
    VOCODER = "vocoder checkpoint"
    CONTENT = "content encoder"
    TRAINED = "checkpoint of comosvc-train"
    OTHER = "model of so-vits-svc or RVC"


_KEYS = {  # beginnings of keys, in the checkpoint or in one of `_TABLES`; the first match counts
    Part.TRAINED: ("ema.", "optimizer."),
    Part.VOCODER: ("model_gen", "generator", "m_source."),
    Part.MODEL: ("decoder.denoise_fn.",),
    Part.CONTENT: ("feature_extractor.conv_layers.", "hubert.feature_extractor.conv_layers."),
    Part.OTHER: ("enc_p.", "emb_g."),
}
_HINTS = {
    Part.MODEL: "a CoMoSVC model is --como of comosvc-export import",
    Part.VOCODER: "a vocoder is --vocoder of comosvc-export import, and --from of comosvc-train vocoder",
    Part.CONTENT: "a content encoder is --content of comosvc-export import, and --from of comosvc-train content",
    Part.TRAINED: "comosvc-export bundle RUN -o voice.comosvc makes a voice of a run folder",
    Part.OTHER: "CoMoSVC's own models can be imported: logs/como/model_<step>.pt",
}


def require_part(content: Any, wanted: Part, path: object) -> None:
    """Raise `ForeignFileError`, with the right option, if `content` of the file `path` is another part than `wanted`.

    Unknown contents pass.
    """
    keys = [str(key) for table in _tables(content) for key in table]
    found = next((part for part, starts in _KEYS.items() if any(key.startswith(starts) for key in keys)), None)
    if found in (None, wanted):
        return
    shown = ", ".join(keys[:_SHOWN])
    raise ForeignFileError(f"{path} is no {wanted}: it has {shown}; it is a {found}\nhint: {_HINTS[found]}")


def _tables(content: Any) -> Iterator[dict[Any, Any]]:
    if isinstance(content, dict):
        yield content
        yield from (content[key] for key in _TABLES if isinstance(content.get(key), dict))


_LIMIT = 128 << 10  # bytes; configurations have some kilobytes, and PyYAML takes a second for this many
_LARGEST = 2**31 - 1  # of sizes, rates and counts
_SHOWN_CHARACTERS = 60
_HINT = "give the configuration that the file came with"
_OWNERS = {"a CoMoSVC model (--config)": "spk", "a vocoder (--vocoder-config)": "upsample_rates"}
_MERGE = "tag:yaml.org,2002:merge"
_NO_CONSTRUCTOR = "could not determine a constructor"  # PyYAML's words for a tag that it does not know


@dataclass(frozen=True)
class Settings:
    """A table of a configuration. `where` names file and table in messages."""

    where: str
    values: Mapping[Any, Any]

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def table(self, key: str) -> "Settings":
        value = self._get(key, None)
        if not isinstance(value, dict):
            raise self._wrong(key, "a table", value)
        return Settings(f"{self.where}: {key}", value)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "a whole number", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(key, "a number", value)
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str | int):  # resblock: "1" is written with and without quotes
            raise self._wrong(key, "text", value)
        return str(value)

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        value = self._get(key, default)
        if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
            raise self._wrong(key, "a list of whole numbers", value)
        return tuple(value)

    def lists(self, key: str) -> tuple[tuple[int, ...], ...]:
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
            raise self._wrong(key, "a list of lists", value)
        return tuple(Settings(f"{self.where}: {key}", {"item": item}).integers("item") for item in value)

    def first(self, *keys: str) -> str:
        """The first of `keys` that is there: names of one setting in different systems."""
        return next((key for key in keys if key in self), keys[0])

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, int) and abs(number) > _LARGEST:
                raise ForeignFileError(f"{self.where}: {key} is {abridged(number)}; {_LARGEST} is the most")
        if value is not None:
            return value
        if default is None:
            owner = next((f"; this one is of {owner}" for owner, its in _OWNERS.items() if its in self.values), "")
            raise ForeignFileError(f"{self.where} has no {key}\nhint: {_HINT}{owner}")
        return default

    def _wrong(self, key: str, wanted: str, value: Any) -> ForeignFileError:
        # A container is named only: it may refer to itself.
        shown = repr(value)[:_SHOWN_CHARACTERS] if isinstance(value, str | int | float) else type(value).__name__
        return ForeignFileError(f"{self.where}: {key} must be {wanted}, is {shown}")


def read_settings(path: Path) -> Settings:
    """A configuration file. Raises `ForeignFileError`; a YAML tag that asks for a Python object is one."""
    if (kind := file_kind(path)) not in (FileKind.SETTINGS, FileKind.EMPTY, FileKind.UNKNOWN):
        raise ForeignFileError(f"{path} is {kind}, no configuration\nhint: give the .yaml or .json file beside it")
    try:
        if path.stat().st_size > _LIMIT:
            raise ForeignFileError(f"{path} has {path.stat().st_size} bytes; that is no configuration")
        text = path.read_text("utf-8")
        is_json = path.suffix == ".json"
        values = json.loads(text, object_pairs_hook=without_repeats) if is_json else yaml.load(text, _PlainLoader)
    except yaml.constructor.ConstructorError as error:
        if _NO_CONSTRUCTOR not in str(error.problem):
            raise ForeignFileError(
                f"{path} has something in the wrong place: {error.problem}, line {_line(error)}\n"
                "hint: a configuration is a table of names, such as `hop_size: 128`; a name is never a list or a table"
            ) from error
        raise ForeignFileError(
            f"{path} asks for an object: {error.problem}, line {_line(error)}\n"
            "hint: a configuration holds plain values; take the tag (!!python/...) out"
        ) from error
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", error))[:200]
        raise ForeignFileError(f"{path} is not valid YAML, line {_line(error)}: {problem}") from error
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise ForeignFileError(f"{path} cannot be read: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise ForeignFileError(f"{path} is no configuration: it holds a {type(values).__name__}, not a table")
    return Settings(str(path), values)


class _PlainLoader(yaml.SafeLoader):
    """Refuses keys that stand twice, and merges, which may take exponential time."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen = set[str]()
        for key, _ in node.value:
            if key.tag == _MERGE:
                raise yaml.constructor.ConstructorError(None, None, "a merge (<<)", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} a second time", key.start_mark)
                seen.add(key.value)


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "?" if mark is None else str(mark.line + 1)


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

    All values are found before any memory is taken for the module: sizes come from unchecked files.
    """
    try:
        with torch.device("meta"):
            shell = make()
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise ForeignFileError(f"{origin}: no network has the sizes of its configuration: {error}") from error
    values = {key: value_of(key, tuple(tensor.shape)) for key, tensor in shell.state_dict().items()}
    module = make()
    module.load_state_dict({key: module.state_dict()[key] if v is None else v for key, v in values.items()})
    return module.eval()
