"""Changes facts of a finished voice that no graph depends on: names, F0 of singers, licences, credits, consent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ...runtime.voice.bundle import open_bundle, shipped_voices
from ...runtime.voice.manifest import MANIFEST_FILE, LicenceEntry, Manifest, SingerEntry, to_json
from ..archive import write_zip
from ..errors import ExportError
from .statements import TARGET_DATA, is_imported

F0_HZ = (20.0, 2_000.0)
"""Allowed F0 statistics of a singer."""
_IN_BLENDS = "=,"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts to change; None and empty mappings leave a fact as it is. Mappings are by the singers' present names."""

    name: str | None = None
    consent: str | None = None
    licence: str | None = None
    credit: str | None = None
    singers: Sequence[str] = ()
    """Singers that `licence` and `credit` apply to; empty: all singers, and the licence entries of the voice."""
    f0_medians_hz: Mapping[str, float] = field(default_factory=dict)
    f0_ranges_hz: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    new_names: Mapping[str, str] = field(default_factory=dict)


def set_facts(source: str | Path, path: Path, facts: Facts) -> Manifest:
    """Write the voice `source` (a file, its folder or a shipped name) with `facts` to `path`, which may be `source`.

    Compares every hash before. Graphs stay equal byte for byte. Raises `BundleError` or `ExportError`, and then writes
    nothing.
    """
    if facts == Facts(singers=facts.singers):
        raise ExportError("nothing to set\nhint: comosvc-export set --help lists what can be set")
    bundle = open_bundle(shipped_voices().get(str(source), source))
    manifest = changed(bundle.manifest, facts)
    bundle.verify()
    write_zip(path, {**bundle.all_files(), MANIFEST_FILE: to_json(manifest).encode()})
    return manifest


def changed(manifest: Manifest, facts: Facts) -> Manifest:
    """`manifest` with `facts`. Raises `ExportError` for a singer that it does not have or a name that cannot be."""
    known = manifest.singers
    _require_known("--singer", facts.singers, known)
    for option, asked in (
        ("--f0-median", facts.f0_medians_hz),
        ("--f0-range", facts.f0_ranges_hz),
        ("--rename", facts.new_names),
    ):
        _require_known(option, asked, known)
    names = [facts.new_names.get(name, name) for name in known]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ExportError(f"--rename: two singers would be called {', '.join(twice)}")
    entries = [_singer(name, entry, facts) for name, entry in known.items()]
    return replace(
        manifest,
        name=manifest.name if facts.name is None else facts.name,
        consent=manifest.consent if facts.consent is None else facts.consent,
        singers=dict(zip(names, entries, strict=True)),
        licences=manifest.licences if facts.singers else tuple(_licence(entry, facts) for entry in manifest.licences),
    )


def parse_medians(texts: Sequence[str]) -> dict[str, float]:
    """Each NAME=HZ of `--f0-median`. Raises `ExportError`."""
    return _named("--f0-median", texts, "HZ with 20 to 2000 Hz", _hz)


def parse_ranges(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Each NAME=LOW,HIGH of `--f0-range`. Raises `ExportError`."""

    def span(text: str) -> tuple[float, float]:
        low, high = map(_hz, text.split(","))
        if low > high:
            raise ValueError(text)
        return low, high

    return _named("--f0-range", texts, "LOW,HIGH with 20 to 2000 Hz, the lower one first", span)


def parse_names(texts: Sequence[str]) -> dict[str, str]:
    """Each OLD=NEW of `--rename`. Raises `ExportError`."""

    def name(text: str) -> str:
        if not text.strip() or not text.isprintable() or any(mark in text for mark in _IN_BLENDS):
            raise ValueError(text)
        return text

    return _named("--rename", texts, "NEW, a name without = and , (blends are written with them)", name)


def _named(option: str, texts: Sequence[str], wanted: str, parse: Callable[[str], T]) -> dict[str, T]:
    found = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            if not name:
                raise ValueError(text)
            found[name] = parse(value)
        except ValueError:
            raise ExportError(f"{option} {text}: must be NAME={wanted}") from None
    return found


def _hz(text: str) -> float:
    low, high = F0_HZ
    if not low <= (value := float(text)) <= high:
        raise ValueError(text)
    return value


def _require_known(option: str, names: Sequence[str] | Mapping[str, object], known: Mapping[str, SingerEntry]) -> None:
    if strangers := [name for name in names if name not in known]:
        raise ExportError(f"{option} names {', '.join(strangers)}; the voice's singers are {', '.join(known)}")


def _singer(name: str, entry: SingerEntry, facts: Facts) -> SingerEntry:
    median = facts.f0_medians_hz.get(name, entry.f0_median_hz)
    span = facts.f0_ranges_hz.get(name, entry.f0_range_hz)
    if median is not None and span is not None and not span[0] <= median <= span[1]:
        raise ExportError(
            f"{name}: the F0 range {span[0]:g} to {span[1]:g} Hz does not hold the median {median:g} Hz\n"
            "hint: set both, with --f0-range and --f0-median"
        )
    entry = replace(entry, f0_median_hz=median, f0_range_hz=span)
    if facts.singers and name not in facts.singers:
        return entry
    return replace(
        entry,
        licence=entry.licence if facts.licence is None else facts.licence,
        credit=entry.credit if facts.credit is None else facts.credit,
    )


def _licence(entry: LicenceEntry, facts: Facts) -> LicenceEntry:
    """`entry` with the new licence and credit for the singers' recordings, the new licence for an imported model."""
    if facts.licence is not None and (entry.part == TARGET_DATA or is_imported(entry, "acoustic")):
        entry = replace(entry, licence=facts.licence)
    if facts.credit is not None and entry.part == TARGET_DATA:
        entry = replace(entry, credit=facts.credit)
    return entry
