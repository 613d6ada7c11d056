"""Configurations are strict."""

from dataclasses import dataclass, field

import pytest

from comosvc.training.config import from_mapping, load_config, to_mapping
from comosvc.training.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0
    dims: tuple[int, ...] = (1,)
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)


def test_round_trip():
    config = Outer(name="x", inner=Inner(rate=2.0, dims=(1, 2), limit=3))
    assert from_mapping(Outer, to_mapping(config), "here") == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "inner": {"rat": 1.0}}, r"here\.inner has unknown keys: rat \(known: rate, dims, limit\)"),
        ({}, "lacks name"),
        ({"name": 3}, "name must be str, got 3"),
        ({"name": "x", "inner": {"rate": True}}, "rate must be a number, got True"),
        ({"name": "x", "inner": {"dims": 4}}, "dims must be a list"),
        ({"name": "x", "inner": 4}, "inner must be an object, got 4"),
    ],
)
def test_what_cannot_be_meant_is_named(data, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(Outer, data, "here")


def test_missing_file_names_the_recipes(tmp_path):
    with pytest.raises(ConfigError, match="demo, smoke"):
        load_config(Outer, str(tmp_path / "none.toml"))


@pytest.mark.parametrize("content", [b"name = ", b"\x8f\xfe\x00\x93", b"\xff\xfen\x00"])
def test_broken_toml_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(Outer, str(path))
