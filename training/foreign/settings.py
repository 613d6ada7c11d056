"""YAML and JSON configurations of other people: plain values only, each asked for by name and type."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...runtime.file_kinds import FileKind, file_kind
from ..errors import ForeignFileError

_LIMIT = 4 << 20  # bytes; configurations have some kilobytes
_SHOWN = 60
_HINT = "give the configuration that the file came with"
_OWNERS = {"a CoMoSVC model (--config)": "spk", "a vocoder (--vocoder-config)": "upsample_rates"}
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
        if isinstance(value, bool) or not isinstance(value, int | float):
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
        if value is not None:
            return value
        if default is None:
            raise ForeignFileError(f"{self.where} has no {key}\nhint: {_HINT}{_belongs_to(self.values)}")
        return default

    def _wrong(self, key: str, wanted: str, value: Any) -> ForeignFileError:
        # A container is named only: it may refer to itself.
        shown = repr(value)[:_SHOWN] if isinstance(value, str | int | float) else type(value).__name__
        return ForeignFileError(f"{self.where}: {key} must be {wanted}, is {shown}")


def read_settings(path: Path) -> Settings:
    """A configuration file. Raises `ForeignFileError`; a YAML tag that asks for a Python object is one."""
    if (kind := file_kind(path)) not in (FileKind.SETTINGS, FileKind.EMPTY, FileKind.UNKNOWN):
        raise ForeignFileError(f"{path} is {kind}, no configuration\nhint: give the .yaml or .json file beside it")
    try:
        if path.stat().st_size > _LIMIT:
            raise ForeignFileError(f"{path} has {path.stat().st_size} bytes; that is no configuration")
        text = path.read_text("utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
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
        raise ForeignFileError(f"{path} is not valid YAML, line {_line(error)}: {_problem(error)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ForeignFileError(f"{path} cannot be read: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise ForeignFileError(f"{path} is no configuration: it holds a {type(values).__name__}, not a table")
    return Settings(str(path), values)


def _belongs_to(values: Mapping[Any, Any]) -> str:
    owner = next((owner for owner, key in _OWNERS.items() if key in values), None)
    return "" if owner is None else f"; this one is of {owner}"


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "?" if mark is None else str(mark.line + 1)


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", error))[:200]
