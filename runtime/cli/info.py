"""Description of a voice for the terminal: `comosvc-convert --info` and `comosvc-export inspect`."""

from collections.abc import Iterator
from math import log2

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..conversion.low_latency import latency_samples
from ..errors import printable
from ..voice.bundle import Bundle, kept_fp32
from ..voice.manifest import Manifest
from ..voice.singers import singers_of

_NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def print_info(bundle: Bundle, console: Console, *, verbose: bool = False, runs_on: str | None = None) -> None:
    """Print singers, licences and graphs in tables that fit 80 columns.

    `verbose` adds tensors, contexts, hashes and provenance. `runs_on`: the chosen provider and precision. Raises
    `BundleError`.
    """
    for item in _parts(bundle, verbose, runs_on):
        console.print(item, highlight=False)


def _parts(bundle: Bundle, verbose: bool, runs_on: str | None) -> Iterator[RenderableType]:
    manifest = bundle.manifest
    files = [item for entries in (manifest.graphs, *manifest.variants.values()) for item in entries.items()]
    yield Text(printable(manifest.name), style="bold")
    yield from (shown(f"{what}: {text}") for what, text in _facts(manifest, runs_on))
    if manifest.digest is None:
        yield Text("manifest: of an older version, without a digest: a change of it cannot be found")
    if verbose:
        yield from (shown(f"{what}: {text}") for what, text in _origin(manifest))
    yield _singers(bundle)
    rows = []
    for name, entry in files:
        size = bundle.entry_size(entry)
        megabytes = "not in the cache" if size is None else f"{size / 1e6:.2f}"
        rows.append((name, entry.precision, megabytes, _look_ahead(manifest, name)))
    yield _table("Graphs", ("graph", "precision", "MB", "look-ahead"), rows)
    if verbose:
        for name, entry in files:
            inputs, outputs = (", ".join(tensor[0] for tensor in side) for side in (entry.inputs, entry.outputs))
            context = getattr(manifest.context, name.removesuffix("_n"))
            frames = f"{context.past} frames before, {context.future} after"
            yield shown(f"- {name} {entry.precision}: {inputs} -> {outputs}; {frames}; SHA-256 {entry.sha256}")
    if rows := kept_fp32(bundle):
        yield _table("Kept in fp32", ("precision", "graph", "reason"), rows)
    yield Text("Licences and credits", style="italic")
    yield from _rights(manifest)


def _facts(manifest: Manifest, runs_on: str | None) -> Iterator[tuple[str, str]]:
    spec = manifest.audio
    lag_ms = 1e3 * latency_samples(manifest, spec.sample_rate) / spec.sample_rate
    yield "audio", f"{spec.sample_rate} Hz, hop {spec.hop_length}, {spec.n_mels} mel bands"
    if runs_on is not None:
        yield "runs on", runs_on
    yield "precisions", ", ".join(["fp32", *manifest.variants])
    yield "steps", f"{', '.join(map(str, manifest.model.step_counts))} ({manifest.model.usual_steps} by default)"
    yield "F0", f"trained with {manifest.model.f0_extractor}"
    yield "live", f"the output lags {lag_ms:.1f} ms behind the input"
    yield "training", manifest.model.objective
    yield "consent", manifest.consent


def _origin(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Provenance: departures from the recipe, versions, commit, format."""
    provenance = manifest.provenance
    yield "departures from the published recipe", "; ".join(manifest.model.departures) or "none"
    yield "made with", ", ".join(f"{key} {value}" for key, value in provenance.get("versions", {}).items()) or "unknown"
    yield "commit", str(provenance.get("commit", "unknown"))
    yield "bundle format", str(manifest.format_version)


def _singers(bundle: Bundle) -> Table:
    rows = []
    for singer in singers_of(bundle).values():
        median, spread = "not known", "not known"
        if singer.f0_median_hz is not None:
            median = f"{singer.f0_median_hz:.0f} Hz ({note(singer.f0_median_hz)})"
        if singer.f0_range_hz is not None:
            low, high = singer.f0_range_hz
            spread = f"{low:.0f}-{high:.0f} Hz ({note(low)}-{note(high)})"
        rows.append((singer.name, median, spread))
    return _table("Singers", ("singer", "F0 median", "F0 range (5-95 %)"), rows)


def _look_ahead(manifest: Manifest, name: str) -> str:
    window_s = manifest.front_end.content_window_s
    if name == "content" and window_s:
        return f"windows of {window_s:g} s"
    part = "content_low_latency" if name == "content_low" else name.removesuffix("_n")
    return f"{getattr(manifest.lookahead_ms, part):.1f} ms"


def _rights(manifest: Manifest) -> Iterator[Text]:
    """A line for each pair of licence and credit, with its singers and parts."""
    singers: dict[tuple[str, str], list[str]] = {}
    for name, singer in manifest.singers.items():
        singers.setdefault((singer.licence, singer.credit), []).append(name)
    whose = {rights: [f"singer{'s' * (len(names) > 1)} {', '.join(names)}"] for rights, names in singers.items()}
    for entry in manifest.licences:
        whose.setdefault((entry.licence, entry.credit), []).append(entry.part)
    for (licence, credit), parts in whose.items():
        yield shown(f"- {'; '.join(parts)}: {licence}; {credit}")


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*heads, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(shown, row))
    return folding(table)


def shown(text: str) -> Text:
    """`text` of a bundle for `Console.print` and tables, without escape sequences and rich markup."""
    return Text(printable(text))


def folding(table: Table) -> Table:
    """`table` with long words folded into the next line instead of cut."""
    for column in table.columns:
        column.overflow = "fold"
    return table


def note(f0_hz: float) -> str:
    """Name of the nearest note of the equal-tempered scale with A4 = 440 Hz, such as "A4"."""
    midi = round(69 + 12 * log2(f0_hz / 440.0))
    return f"{_NOTES[midi % 12]}{midi // 12 - 1}"
