"""A bundle's manifest as tables for people."""

import os
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import RenderableType
from rich.table import Table

from ..runtime.bundle import Bundle, open_bundle
from ..runtime.bundle_info import folding, shown
from ..runtime.manifest import Manifest
from ..runtime.parity_file import kept_fp32


def tables(path: str | os.PathLike[str]) -> Iterator[RenderableType]:
    """What `comosvc-export inspect` shows, from top to bottom. Raises `BundleError`."""
    bundle = open_bundle(path)
    manifest = bundle.manifest
    parts = _singers(manifest), _lookahead(manifest), _licences(manifest)
    yield from map(folding, (_facts(manifest), _graphs(bundle), *_left_out(bundle), *parts))


def _facts(manifest: Manifest) -> Table:
    spec, model = manifest.audio, manifest.model
    steps = f"{', '.join(map(str, model.step_counts))} ({model.usual_steps} by default)"
    provenance = manifest.provenance
    table = Table(title=shown(manifest.name), show_header=False)
    table.add_row("audio", f"{spec.sample_rate} Hz, hop {spec.hop_length}, {spec.n_mels} mel bands")
    table.add_row("objective", shown(model.objective))
    table.add_row("departures from the published recipe", shown("\n".join(model.departures)) or "none")
    table.add_row("steps", steps)
    table.add_row("consent", shown(manifest.consent))
    versions = ", ".join(f"{key} {value}" for key, value in provenance.get("versions", {}).items())
    table.add_row("made with", shown(versions))
    table.add_row("commit", shown(str(provenance.get("commit", "unknown"))))
    return table


def _graphs(bundle: Bundle) -> Table:
    manifest = bundle.manifest
    table = Table("graph", "inputs", "outputs", "precision", "MB", "past", "future", "SHA-256", title="graphs")
    contexts = asdict(manifest.context)
    files = [item for entries in (manifest.graphs, *manifest.variants.values()) for item in entries.items()]
    for name, entry in files:
        inputs, outputs = (", ".join(tensor[0] for tensor in side) for side in (entry.inputs, entry.outputs))
        context = contexts.get(name.removesuffix("_n"), {"past": "", "future": ""})
        reach = str(context["past"]), str(context["future"])
        size = f"{len(bundle.entry_bytes(name, entry)) / 1e6:.2f}"
        table.add_row(name, inputs, outputs, entry.precision, size, *reach, entry.sha256[:12])
    return table


def _left_out(bundle: Bundle) -> Iterator[Table]:
    """Graphs that stayed in fp32 where another precision was asked for, and why."""
    if rows := kept_fp32(bundle):
        table = Table("precision", "graph", "why it is computed in fp32", title="kept in fp32")
        for row in rows:
            table.add_row(*map(shown, row))
        yield table


def _singers(manifest: Manifest) -> Table:
    table = Table("singer", "F0 median, Hz", "F0 range, Hz", "licence", "credit", title="singers")
    for name, singer in manifest.singers.items():
        median = "?" if singer.f0_median_hz is None else f"{singer.f0_median_hz:.0f}"
        span = "?" if singer.f0_range_hz is None else "{:.0f}-{:.0f}".format(*singer.f0_range_hz)
        table.add_row(*map(shown, (name, median, span, singer.licence, singer.credit)))
    return table


def _lookahead(manifest: Manifest) -> Table:
    parts = asdict(manifest.lookahead_ms)
    table = Table(*parts, title="look-ahead, ms (total: live, with low-latency pitch)")
    table.add_row(*(f"{value:.1f}" for value in parts.values()))
    return table


def _licences(manifest: Manifest) -> Table:
    table = Table("part", "licence", "credit", title="licences")
    for entry in manifest.licences:
        table.add_row(*map(shown, (entry.part, entry.licence, entry.credit)))
    return table
