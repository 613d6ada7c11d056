"""JSON-like data into frozen dataclasses, refusing what is unknown, missing or of another type."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .text import abridged

T = TypeVar("T")


class MismatchError(ValueError):
    """The data does not fit the dataclass; the message names the place."""


def decode(kind: type[T], data: Any, where: str) -> T:
    """`data` (what `json.loads` gives) as an instance of `kind`.

    `kind` may be a dataclass, str, int, float, bool, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`, `X | None`, a
    Literal or Any. `where` is the place named in a `MismatchError`, for instance "graphs.acoustic".
    """
    return typing.cast(T, _decode(kind, data, where))


def encode(value: Any) -> Any:
    """The inverse of `decode`: dataclasses to dicts, tuples to lists, so that `json.dumps` takes it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def _decode(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, data, where)
    if origin is typing.Literal:
        _require(data in arguments, where, f"one of {', '.join(map(repr, arguments))}", data)
        return data
    if origin is tuple:
        return _tuple(arguments, data, where)
    if origin is dict:
        _require(isinstance(data, dict), where, "an object", data)
        return {key: _decode(arguments[1], value, f"{where}.{key}") for key, value in data.items()}
    if kind is float:
        _require(isinstance(data, int | float) and not isinstance(data, bool), where, "a number", data)
        try:
            return float(data)
        except OverflowError:
            raise MismatchError(f"{where} is {abridged(data)}, which no float holds") from None
    _require(isinstance(data, kind) and not (kind is int and isinstance(data, bool)), where, kind.__name__, data)
    return data


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    _require(isinstance(data, dict), where, "an object", data)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - set(fields)):
        raise MismatchError(f"{where} has unknown keys: {', '.join(unknown)} (known: {', '.join(fields)})")
    required = {name for name, field in fields.items() if _required(field)}
    if missing := sorted(required - set(data)):
        raise MismatchError(f"{where} lacks {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _decode(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and types.NoneType in kinds:
        return None
    for kind in kinds:
        if kind is types.NoneType:
            continue
        try:
            return _decode(kind, data, where)
        except MismatchError:
            if dataclasses.is_dataclass(kind):
                raise
    names = " or ".join("null" if kind is types.NoneType else getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise MismatchError(f"{where} must be {names}, got {abridged(data)}")


def _tuple(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    _require(isinstance(data, list | tuple), where, "a list", data)
    if kinds[-1] is Ellipsis:
        return tuple(_decode(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    _require(len(data) == len(kinds), where, f"a list of {len(kinds)}", data)
    return tuple(_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data, strict=True)))


def _require(holds: bool, where: str, wanted: str, data: Any) -> None:
    if not holds:
        raise MismatchError(f"{where} must be {wanted}, got {abridged(data)}")
