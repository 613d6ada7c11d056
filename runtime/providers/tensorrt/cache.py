"""Where engines lie: `engines/<fingerprint>/` with a plan for each graph and `engine.json`, the record of the build.

An engine is code: whoever writes a plan decides what runs on the processor when it is deserialized. So a plan is read
only if its SHA-256 is the one that the build recorded, before the library sees it. That finds plans that are damaged,
cut short, or mixed up. It does not protect from somebody who may write to the folder, for they can write the record as
well: the cache must belong to you alone, and a bundle's folder that somebody else made may hold code of theirs. A
.comosvc file never does: engines are looked for beside it, in the cache, and in unpacked folders, never inside a zip.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from ...conversion.shapes import LengthRange
from ...errors import ComosvcError, EngineError
from ...storage import decode, encode, sha256
from ...voice.bundle import ENGINES_FOLDER, Bundle, cache_folder, shipped_voices

RECORD_FILE, FORMAT_VERSION = "engine.json", 1
_ABANDONED_S = 86_400.0
"""A build that has not ended in a day never will."""


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """One engine: its file and hash, what it was built from, seconds that took, layers by the type of their output."""

    file: str
    sha256: str
    size_bytes: int
    onnx_sha256: str
    seconds: float
    layers: int
    layer_types: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """`engine.json`. `not_built`: graphs that this library cannot do, and why; ONNX Runtime computes those."""

    fingerprint: str
    voice: str
    flavour: str
    version: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    precision: str
    profiles: dict[str, dict[str, dict[str, LengthRange]]]
    plans: dict[str, PlanEntry]
    not_built: dict[str, str]
    seconds: float
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Plans:
    """Engines whose hashes were compared, by graph."""

    folder: Path
    record: EngineRecord
    plans: dict[str, bytes]
    build_all: str = ""
    """The command that builds those of every use."""


def user_cache() -> Path:
    """Where engines go if the place they belong to is read-only. Raises `ComosvcError` without a home folder."""
    return cache_folder() / ENGINES_FOLDER


def engine_folders(bundle: Bundle, into_bundle: bool) -> list[Path]:
    """Where engines of a voice may lie, the preferred place first: its unpacked folder, the cache, the user's cache."""
    places = list[Path]()
    for place in (lambda: bundle.home / ENGINES_FOLDER, user_cache):
        with contextlib.suppress(ComosvcError):  # no home folder
            places.append(place())
    unpacked = shipped_voices().get(bundle.origin, Path(bundle.origin))
    if into_bundle and unpacked.is_dir():
        places.insert(0, unpacked / ENGINES_FOLDER)
    return list(dict.fromkeys(places))


def can_write(folder: Path) -> bool:
    """Whether engines can be put there. Permissions do not tell: not for root, nor of a disk mounted read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".", suffix=".partial"):
            return True
    except OSError:
        return False


def find_engines(folders: list[Path], fingerprint: str) -> Path | None:
    """The first folder of this fingerprint, whole or not."""
    return next((f / fingerprint for f in folders if (f / fingerprint / RECORD_FILE).is_file()), None)


def other_engines(folders: list[Path]) -> list[EngineRecord]:
    """The records of all engines that lie there and can be read."""
    found = []
    for path in (path for folder in folders for path in sorted(folder.glob(f"*/{RECORD_FILE}"))):
        try:
            found.append(_read_record(path))
        except EngineError:
            continue
    return found


def read_plans(folder: Path, fingerprint: str, repair: str) -> Plans:
    """Every plan of a folder, its size and hash as recorded. Raises `EngineError`, with how to `repair` them."""
    try:
        return _read_plans(folder, fingerprint)
    except EngineError as error:
        raise EngineError(f"{error}\nhint: {repair}") from error


def _read_plans(folder: Path, fingerprint: str) -> Plans:
    record = _read_record(folder / RECORD_FILE)
    if record.fingerprint != fingerprint:
        raise _unusable(folder, f"its record is that of {record.fingerprint}")
    plans = {}
    for name, entry in record.plans.items():
        if entry.file != f"{name}.plan":
            raise _unusable(folder, f"it names {entry.file!r} for {name}")
        path = folder / entry.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unusable(folder, f"{entry.file} cannot be read: {error}") from error
        if len(data) != entry.size_bytes:
            raise _unusable(folder, f"{entry.file} has {len(data)} bytes, the build wrote {entry.size_bytes}")
        if (found := sha256(data)) != entry.sha256:
            raise _unusable(folder, f"{entry.file} has SHA-256 {found}, the build wrote {entry.sha256}")
        plans[name] = data
    return Plans(folder, record, plans)


def _read_record(path: Path) -> EngineRecord:
    try:
        data = json.loads(path.read_bytes())
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise _unusable(path.parent, f"{path.name} is of format {version!r}, this reads {FORMAT_VERSION}")
        return decode(EngineRecord, data, path.name)
    except (OSError, ValueError) as error:  # MismatchError is a ValueError
        raise _unusable(path.parent, f"{path.name} cannot be read: {error}") from error


def _unusable(folder: Path, why: str) -> EngineError:
    return EngineError(f"the engines in {folder} are not used: {why}")


@dataclass
class Making:
    """A folder of engines being filled; it gets its name when the record is written."""

    home: Path
    """The folder of all engines."""
    folder: Path
    """What it will be called."""
    partial: Path
    notes: list[str] = field(default_factory=list)

    def write(self, name: str, data: Any, entry: PlanEntry) -> PlanEntry:
        """Put a plan there."""
        with (self.partial / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return entry

    def finish(self, record: EngineRecord) -> None:
        """Write the record."""
        text = json.dumps(encode(record), indent=1, ensure_ascii=False)
        (self.partial / RECORD_FILE).write_text(text + "\n", "utf-8")


@contextmanager
def publish(folders: list[Path], fingerprint: str, replace: bool) -> Iterator[Making]:
    """A new folder in the first place that can be written to: there as a whole when the block ends, or not at all.

    Builders that run at once each fill a folder of their own. The first to end gives it its name; what the others made
    is the same engine again, and is thrown away unless they were asked to `replace`. Raises `EngineError`.
    """
    made = _begin(folders, fingerprint)
    try:
        yield made
        _move_into_place(made, replace)
    except OSError as error:
        raise EngineError(f"engines cannot be written to {made.home}: {error}\nhint: is the disk full?") from error
    finally:
        shutil.rmtree(made.partial, ignore_errors=True)


def _begin(folders: list[Path], fingerprint: str) -> Making:
    refused = []
    for home in folders:
        partial = home / f".{fingerprint}.{uuid4().hex[:12]}.partial"
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            refused.append(f"{home} cannot be written to: {error.strerror}")
            continue
        _remove_abandoned(home)
        notes = [f"{why}; the engines are in {home}" for why in refused]
        return Making(home, home / fingerprint, partial, notes)
    reasons = "\n".join(refused)
    raise EngineError(f"no place for engines\n{reasons}\nhint: set COMOSVC_HOME to a folder that can be written to")


def _move_into_place(made: Making, replace: bool) -> None:
    aside = made.partial.with_suffix(".old")
    if replace and made.folder.exists():
        made.folder.replace(aside)
    try:
        made.partial.replace(made.folder)
    except OSError:
        if not (made.folder / RECORD_FILE).is_file():  # anything but another builder that ended first
            raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(home: Path) -> None:
    oldest = time.time() - _ABANDONED_S
    for path in [*home.glob(".*.partial"), *home.glob(".*.old")]:
        with contextlib.suppress(FileNotFoundError):  # another builder has ended meanwhile
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def timing_cache(home: Path, version: str, gpu: str | None) -> Path | None:
    """What builds for one GPU and one full TensorRT have timed so far; RTX, which times nothing, has none."""
    if gpu is None:
        return None
    words = "".join(letter if letter.isalnum() else "-" for letter in f"{version}-{gpu}")
    return home / f"timing-{words}.cache"
