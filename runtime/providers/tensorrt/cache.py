"""Folders of engines: `engines/<fingerprint>/` with a plan for each graph and `engine.json`, the record of the build.

An engine is code that runs when it is deserialized. A plan is loaded only with the SHA-256 that the build recorded,
which finds damage, but is no defence against somebody who can write to the folder, and so to the record: keep the cache
to yourself, and use no unpacked bundle of a stranger. Engines are never read from a .comosvc file.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from ...conversion.shapes import LengthRange
from ...errors import ComosvcError, EngineError
from ...storage import decode, encode, sha256
from ...voice.bundle import ENGINES_FOLDER, Bundle, cache_folder, shipped_voices

RECORD_FILE, FORMAT_VERSION = "engine.json", 1
_ABANDONED_S = 86_400.0
"""Age at which a folder of an unfinished build is removed."""


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """One engine: its file and hash, its graph, seconds of the build, and layers by the type of their output."""

    file: str
    sha256: str
    size_bytes: int
    onnx_sha256: str
    seconds: float
    layers: int
    layer_types: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """`engine.json`. `not_built`: graphs that TensorRT refused, and why; ONNX Runtime computes those."""

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
    """The command that builds engines of every use."""


def user_cache() -> Path:
    """The folder for engines where their usual place is read-only. Raises `ComosvcError` without a home folder."""
    return cache_folder() / ENGINES_FOLDER


def engine_folders(bundle: Bundle, into_bundle: bool) -> list[Path]:
    """Places of a voice's engines, the preferred one first: its unpacked folder, the cache, the user's cache."""
    places = list[Path]()
    for place in (lambda: bundle.home / ENGINES_FOLDER, user_cache):
        with contextlib.suppress(ComosvcError):  # no home folder
            places.append(place())
    unpacked = shipped_voices().get(bundle.origin, Path(bundle.origin))
    if into_bundle and unpacked.is_dir():
        places.insert(0, unpacked / ENGINES_FOLDER)
    return list(dict.fromkeys(places))


def can_write(folder: Path) -> bool:
    """Whether a folder can be written to: tried, since permissions say little for root and on read-only disks."""
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
    """All readable records in these folders."""
    found = []
    for path in (path for folder in folders for path in sorted(folder.glob(f"*/{RECORD_FILE}"))):
        with contextlib.suppress(EngineError):
            found.append(_read_record(path))
    return found


def read_plans(folder: Path, fingerprint: str, repair: str) -> Plans:
    """Every plan of a folder, its size and hash compared. Raises `EngineError` with the command `repair` as hint."""
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


@dataclass(frozen=True)
class NewEngines:
    """A folder of engines being filled below `home`. `notes`: places before it that cannot be written to."""

    home: Path
    partial: Path
    notes: tuple[str, ...]

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file, to the disk."""
        with (self.partial / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def write_record(self, record: EngineRecord) -> None:
        """Write the record."""
        self.write(RECORD_FILE, (json.dumps(encode(record), indent=1, ensure_ascii=False) + "\n").encode())


@contextmanager
def publish(folders: list[Path], fingerprint: str, replace: bool) -> Iterator[NewEngines]:
    """A new folder in the first place that can be written to. It gets its name when the block ends without an error.

    Each of several builders at once fills its own folder. The first that ends names its folder; the others discard
    theirs, unless they `replace`. Raises `EngineError`.
    """
    new = _begin(folders, fingerprint)
    aside = new.partial.with_suffix(".old")
    try:
        yield new
        folder = new.home / fingerprint
        if replace and folder.exists():
            folder.replace(aside)
        try:
            new.partial.replace(folder)
        except OSError:
            if not (folder / RECORD_FILE).is_file():  # no other builder was first
                raise
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise EngineError(f"engines cannot be written to {new.home}: {error}\nhint: is the disk full?") from error
    finally:
        shutil.rmtree(new.partial, ignore_errors=True)


def _begin(folders: list[Path], fingerprint: str) -> NewEngines:
    refused = []
    for home in folders:
        partial = home / f".{fingerprint}.{uuid4().hex[:12]}.partial"
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            refused.append(f"{home} cannot be written to: {error.strerror}")
            continue
        _remove_abandoned(home)
        return NewEngines(home, partial, tuple(f"{why}; the engines are in {home}" for why in refused))
    reasons = "\n".join(refused)
    raise EngineError(f"no place for engines\n{reasons}\nhint: set COMOSVC_HOME to a folder that can be written to")


def _remove_abandoned(home: Path) -> None:
    oldest = time.time() - _ABANDONED_S
    for path in [*home.glob(".*.partial"), *home.glob(".*.old")]:
        with contextlib.suppress(FileNotFoundError):  # another builder has ended meanwhile
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
