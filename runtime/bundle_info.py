"""`comosvc-convert --info`: what is in a voice, for people."""

from math import log2

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .converter import Converter
from .low_latency import latency_samples
from .manifest import Manifest
from .text import printable

_LOOKAHEADS = {"content_low": "content_low_latency"}
_NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def print_info(converter: Converter, console: Console) -> None:
    """Singers, licences, graphs with their contexts, and look-ahead."""
    manifest = converter.manifest
    spec = manifest.audio
    model = manifest.model
    steps = f"{', '.join(map(str, model.step_counts))} ({model.usual_steps} by default)"
    heading = f"{manifest.name}: bundle format {manifest.format_version}, runs on {converter.provider}"
    console.print(shown(heading), style="bold")
    console.print(f"{spec.sample_rate} Hz, {spec.n_mels} mel bands, hop {spec.hop_length}; steps: {steps}")
    console.print(shown(f"{manifest.model.objective}\nconsent: {manifest.consent}"), highlight=False)
    for table in (_singers(converter), _licences(manifest), _graphs(manifest)):
        console.print(folding(table))
    total_ms = manifest.lookahead_ms.total
    stream_ms = 1e3 * latency_samples(manifest, spec.sample_rate) / spec.sample_rate
    console.print(f"look-ahead of a live conversion: {total_ms:.1f} ms in all, F0 with its low-latency rule")
    console.print(f"a stream's output lags {stream_ms:.1f} ms behind its input")


def _singers(converter: Converter) -> Table:
    table = Table("singer", "median F0", "range (5-95 %)", "licence", "credit", title="Singers", title_justify="left")
    for singer in converter.singers.values():
        median, spread = "not known", "not known"
        if singer.f0_median_hz is not None:
            median = f"{singer.f0_median_hz:.0f} Hz ({note(singer.f0_median_hz)})"
        if singer.f0_range_hz is not None:
            low, high = singer.f0_range_hz
            spread = f"{low:.0f}-{high:.0f} Hz ({note(low)}-{note(high)})"
        table.add_row(*map(shown, (singer.name, median, spread, singer.licence, singer.credit)))
    return table


def _licences(manifest: Manifest) -> Table:
    table = Table("part", "licence", "credit", title="Licences", title_justify="left")
    for entry in manifest.licences:
        table.add_row(*map(shown, (entry.part, entry.licence, entry.credit)))
    return table


def _graphs(manifest: Manifest) -> Table:
    columns = "graph", "precision", "frames before", "after", "looks ahead", "SHA-256"
    table = Table(*columns, title="Graphs", title_justify="left")
    for name, graph in manifest.graphs.items():
        part = name.removesuffix("_n")
        context, ahead_ms = getattr(manifest.context, part), getattr(manifest.lookahead_ms, _LOOKAHEADS.get(part, part))
        frames = str(context.past), str(context.future)
        table.add_row(name, graph.precision, *frames, f"{ahead_ms:.1f} ms", graph.sha256[:12])
    return table


def shown(text: str) -> str:
    """A text of a bundle for `Console.print` and for tables: neither the terminal nor rich takes it for a command."""
    return escape(printable(text))


def folding(table: Table) -> Table:
    """`table` with words that are too long for the screen going on in the next line; by itself it cuts them."""
    for column in table.columns:
        column.overflow = "fold"
    return table


def note(f0_hz: float) -> str:
    """The nearest note of the tempered scale, A4 = 440 Hz: "A4"."""
    midi = round(69 + 12 * log2(f0_hz / 440.0))
    return f"{_NOTES[midi % 12]}{midi // 12 - 1}"
