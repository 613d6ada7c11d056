"""Configurations: TOML files read into frozen dataclasses. An unknown key is an error, a missing one its default."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from ..runtime.storage import MismatchError, decode, encode
from .errors import ConfigError

T = TypeVar("T")
RECIPES = ("demo", "smoke", "authors", "fine-tune", "fine-tune-embedding")


def load_config(kind: type[T], name_or_path: str) -> T:
    """Read a shipped recipe (by name) or a TOML file into the dataclass `kind`."""
    path = Path(name_or_path)
    if name_or_path not in RECIPES and not path.is_file():
        raise ConfigError(f"{path} is no file\nhint: give a TOML file or a shipped recipe: {', '.join(RECIPES)}")
    try:
        text = shipped_recipe(name_or_path) if name_or_path in RECIPES else path.read_text("utf-8")
        return from_mapping(kind, tomllib.loads(text), path.name)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name_or_path} is not valid TOML: {error}") from None


def shipped_recipe(name: str) -> str:
    """The text of a shipped recipe. Raises `ConfigError` for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"there is no shipped recipe {name!r}\nhint: choose of {', '.join(RECIPES)}")
    return resources.files(__spec__.parent).joinpath(f"recipes/{name}.toml").read_text("utf-8")


def from_mapping(kind: type[T], data: dict[str, Any], where: str) -> T:
    """Build the dataclass `kind` from nested dictionaries, checking keys and types on the way."""
    try:
        return decode(kind, data, where)
    except MismatchError as error:
        raise ConfigError(str(error)) from None


to_mapping = encode
