"""Arguments of `comosvc-convert`: singers, keys, devices, and sources as files, folders and patterns."""

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..audio.sources import files_in, is_readable, readable_endings, unread_reason
from ..conversion.request import FileConversion
from ..errors import AudioError, OptionError
from ..voice.singers import FOUND_KEYS


def parse_singer(text: str | None) -> str | dict[str, float] | None:
    """The value of --singer: a name, or weights by name. Raises `OptionError`."""
    if text is None or "=" not in text:
        return text
    try:
        parts = [part.rpartition("=") for part in text.split(",")]
        return {name.strip(): float(weight) for name, _, weight in parts}
    except ValueError:
        raise OptionError(f"--singer {text!r} is no blend\nhint: for instance --singer alto=0.7,bass=0.3") from None


def parse_key(text: str) -> float | str:
    """The value of --key: semitones, or the name of a key to find. Raises `OptionError`."""
    if text in FOUND_KEYS:
        return text
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--key {text!r} is neither a number of semitones nor {' or '.join(FOUND_KEYS)}") from None


def parse_device(text: str | None) -> int | str | None:
    """The value of --input-device and --output-device: a number, or part of a name."""
    return int(text) if text is not None and text.isdecimal() else text


@dataclass(frozen=True)
class Sources:
    """Sources that the arguments of a command name."""

    paths: list[Path] = field(default_factory=list)
    """Files to convert, in order, each once. Missing files are among them, and fail when they are converted."""
    skipped: dict[Path, str] = field(default_factory=dict)
    """Sound files of folders that cannot be read, with the reason."""
    failed: list[FileConversion] = field(default_factory=list)
    """Folders that cannot be read."""


def find_sources(inputs: list[str]) -> Sources:
    """The sources that `inputs`, files, folders and patterns, name. Raises `AudioError` where there are none."""
    if not inputs:
        raise AudioError("nothing to convert\nhint: comosvc-convert song.wav; more with --help")
    found: dict[Path, None] = {}
    skipped: dict[Path, str] = {}
    failed: list[FileConversion] = []
    for text in inputs:
        path = Path(text)
        if is_folder(path):
            try:
                files = files_in(path)
            except AudioError as error:
                failed.append(FileConversion(path, None, error=error))
                continue
            inside = [file for file in files if is_readable(file)]
            skipped |= {file: why for file in files if file not in inside and (why := unread_reason(file))}
            if not inside:
                unread = [f"skipped: {file}: {why}" for file, why in skipped.items() if file.parent == path]
                looked_for = f"{path}: no audio files in this folder (looked for {', '.join(readable_endings())})"
                raise AudioError("\n".join([looked_for, *unread]))
        elif os.path.lexists(path) or not glob.has_magic(text):
            inside = [path]
        else:
            inside = _matches(text)
            if not inside:
                raise AudioError(f"{text}: no file matches")
        found.update(dict.fromkeys(inside))
    if not found and failed:
        raise AudioError("\n".join(str(failure.error) for failure in failed))
    return Sources(list(found), skipped, failed)


def _matches(pattern: str) -> list[Path]:
    """Files of a pattern, sorted, each under its shortest path, because links can lead back to a parent folder."""
    found: dict[tuple[str, Path], Path] = {}
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    for path in map(Path, sorted(matches, key=len)):
        real = Path(os.path.realpath(path))
        if not is_folder(real):
            found.setdefault((path.name, real), path)
    return sorted(found.values())


def is_folder(path: Path) -> bool:
    """True for a folder; False also for paths that the system refuses."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long a name, or a folder above that may not be searched
        return False
