"""Configurations: TOML files read into frozen dataclasses. An unknown key is an error, a missing one its default."""

import dataclasses
import tomllib
import types
from importlib import resources
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError

RECIPES = ("demo", "smoke")


def load_config[T](kind: type[T], name_or_path: str) -> T:
    """Read a shipped recipe (by name) or a TOML file into the dataclass `kind`."""
    if name_or_path in RECIPES:
        text = resources.files(__package__).joinpath(f"recipes/{name_or_path}.toml").read_text("utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(f"{path} is no file\nhint: give a TOML file or a shipped recipe: {', '.join(RECIPES)}")
        text = path.read_text("utf-8")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name_or_path} is not valid TOML: {error}") from None
    return from_mapping(kind, data, name_or_path)


def from_mapping[T](kind: type[T], data: dict[str, Any], where: str) -> T:
    """Build the dataclass `kind` from nested dictionaries, checking keys and types on the way."""
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    unknown = sorted(data.keys() - fields.keys())
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}\nhint: the keys here are: {', '.join(fields)}")
    values = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    required = (f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING for f in fields.values())
    missing = [name for name, needed in zip(fields, required, strict=True) if needed and name not in values]
    if missing:
        raise ConfigError(f"{where}: missing key {', '.join(missing)}")
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a table, got {value!r}")
        return from_mapping(hint, value, where)  # pyright: ignore[reportArgumentType]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (a for a in arguments if a is not type(None))
        return None if value is None else _convert(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        inner = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(inner) != len(value):
            raise ConfigError(f"{where} must have {len(inner)} values, got {value!r}")
        return tuple(_convert(kind, item, where) for kind, item in zip(inner, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain values, as JSON would give them back."""
    return {name: _plain(value) for name, value in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
