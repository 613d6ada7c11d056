"""Errors of training and data preparation, and the commands that their hints name."""

import json
from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from ..runtime.errors import ComosvcError


class ConfigError(ComosvcError):
    """A configuration that cannot be meant: an unknown key, a wrong type, a value out of range."""


class DataError(ComosvcError):
    """Recordings, a corpus or features that cannot be used; names the file."""


class ForeignFileError(DataError):
    """A checkpoint or configuration of another program that cannot be used; names the file and what is wrong."""


class TrainingError(ComosvcError):
    """Training stopped: a loss that is not finite, a full disk, a run folder that does not match its configuration."""


DEFAULT_RECIPE = "demo"
_NAMED = 4
STUDENT_PUBLISHED = "student-published"
_OPTIONS = {"content-low": ("content", ""), STUDENT_PUBLISHED: ("student", " --published"), "features": ("prepare", "")}
"""Folders whose names are not those of the commands that fill them."""


def train_command(folder: Path) -> str:
    """The command that fills `folder` of a run, with the recipe of the run's features."""
    name, options = _OPTIONS.get(folder.name, (folder.name, ""))
    recipe = prepared_recipe(folder.parent)
    config = f"-c {quote(recipe)} " if recipe != DEFAULT_RECIPE else ""
    return f"comosvc-train {name} {config}-o {quote(str(folder.parent))}{options}"


def prepared_recipe(run: Path) -> str:
    """The -c of `prepare` for the features of `run`; the default where it is unknown."""
    try:
        return str(json.loads((run / "features" / "index.json").read_text("utf-8")).get("recipe") or DEFAULT_RECIPE)
    except (OSError, ValueError, AttributeError):
        return DEFAULT_RECIPE


def some(names: Iterable[str]) -> str:
    """The first of `names` in order, with commas; dots stand for the rest."""
    ordered = sorted(names)
    return ", ".join(ordered[:_NAMED]) + (", …" if len(ordered) > _NAMED else "")
