"""The speed commands of `comosvc-bench`. What they need is imported when they run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ...runtime.cli.exit import errors_in_words
from ..report import show, typed_command
from .results import check_writable

if TYPE_CHECKING:
    from .options import RtfOptions
    from .results import SpeedReport

console, stderr = Console(soft_wrap=False), Console(stderr=True)
Json = Annotated[Path | None, typer.Option("--json", help="Write the results there.")]
Threads = Annotated[str | None, typer.Option("--threads", help="Of the engines.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (rtf, latency, compare, report):
        app.command()(command)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done."""
    with Console(stderr=True).status("…") as status:
        yield lambda what: status.update(what.replace("[", "\\["))


def rtf(
    systems: Annotated[
        str | None, typer.Option("--systems", help="Ids with commas between them, or all. comosvc:VOICE is a voice.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("-m", "--model", help="Also measure this voice: the same as comosvc:VOICE.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="cpu or gpu; other options override it.")] = None,
    lengths: Annotated[str | None, typer.Option("--lengths", help="Seconds: 1,5,10,30,180.")] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Clips at once: 1,4.")] = None,
    threads: Threads = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.")] = None,
    engines: Annotated[str | None, typer.Option("--engines", help="torch,onnx,openvino,tensorrt.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32,bf16,fp16,int8.")] = None,
    singers: Annotated[str | None, typer.Option("--singers", help="Casts to try our voices with: 1,20,200.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Repetitions, in turns.", min=1)] = None,
    full: Annotated[
        bool, typer.Option("--full", help="All lengths with all systems, and samplers once to their end at 10 s.")
    ] = False,
    json: Json = None,
) -> None:
    """Seconds of work per second of audio: whole chains and their stages, all systems in turns.

    Every baseline runs in torch and, exported like a voice, in ONNX Runtime; ours as a user runs it. The first run
    exports what it needs into $COMOSVC_HOME or ~/.cache/comosvc, which takes minutes.
    """
    from . import options as choices

    with errors_in_words(stderr):
        grid = choices.preset(preset)
        names = choices.parse_systems(systems) if systems is not None else () if model else grid.systems
        given = {
            "systems": (*names, *(f"comosvc:{voice}" for voice in model or ())),
            "lengths_s": lengths and choices.parse_lengths(lengths),
            "batches": batch and choices.parse_counts(batch, "--batch"),
            "threads": threads and choices.parse_threads(threads),
            "device": device,
            "engines": engines and choices.parse_engines(engines),
            "precisions": precision and choices.parse_precisions(precision),
            "singers": singers and choices.parse_counts(singers, "--singers"),
        }
        grid = replace(grid, **{name: value for name, value in given.items() if value}, full=full)
        if rounds is not None:
            grid = replace(grid, rounds=replace(grid.rounds, most=rounds, least=min(rounds, grid.rounds.least)))
        grid = choices.within_limits(grid, lengths_given=lengths is not None)
        choices.check_device(grid.device)
        check_writable(json)
        _measure(grid, json)


def _measure(grid: "RtfOptions", json: Path | None) -> None:
    from .results import save_speed
    from .rtf import measure_rtf
    from .systems import find_subjects, plan
    from .tables import all_grids, provenance

    variants, skipped = plan(find_subjects(grid.systems), grid)

    def keep(found: "SpeedReport") -> None:
        if json is not None:
            save_speed(found, json)

    with progress() as say:
        found = measure_rtf(variants, skipped, grid, typed_command(), say, keep=keep)
    keep(found)
    for table in all_grids(found):
        show(table.for_terminal())
    console.print(provenance(found), markup=False, highlight=False)


def latency(
    model: Annotated[
        str,
        typer.Option(
            "-m", "--model", help="A shipped voice, a .comosvc file, its folder, full-size or full-size-light."
        ),
    ] = "demo",
    blocks: Annotated[
        str, typer.Option("--blocks", help="Sizes of a stream's blocks, ms; none: none.")
    ] = "10,20,40,80",
    seconds: Annotated[float, typer.Option("--seconds", help="Of audio for each of them.", min=0.1)] = 20.0,
    clips: Annotated[
        str, typer.Option("--clips", help="Lengths of whole clips, ms; none: none.")
    ] = "250,500,1000,2000",
    calls: Annotated[int, typer.Option("--calls", help="Of each length; at least 20.")] = 50,
    start_up: Annotated[bool, typer.Option("--start-up", help="Also: import, load, first second.")] = False,
    distance: Annotated[
        bool,
        typer.Option(
            "--distance", help="Also: low latency against the default, and streams against it, on the held-out set."
        ),
    ] = False,
    soak: Annotated[float, typer.Option("--soak", help="Also: minutes of audio in one stream.", min=0.0)] = 0.0,
    long_files: Annotated[str, typer.Option("--long-files", help="Also: minutes, such as 0.5,180.")] = "none",
    threads: Annotated[int, typer.Option("--threads", help="Of the engine.", min=1)] = 1,
    provider: Annotated[str, typer.Option("--provider")] = "auto",
    precision: Annotated[str, typer.Option("--precision")] = "auto",
    json: Json = None,
) -> None:
    """How long a caller waits: for each block of a stream, and for a short clip.

    full-size and full-size-light are voices of the published sizes with random weights, exported at the first time.
    """
    from .latency import LatencyOptions, latency_grids, latency_provenance, measure_latency, save_latency
    from .options import parse_lengths

    with errors_in_words(stderr):
        options = LatencyOptions(
            model=model,
            blocks_ms=() if blocks == "none" else parse_lengths(blocks, "--blocks", unit="ms"),
            stream_s=seconds,
            clips_ms=() if clips == "none" else parse_lengths(clips, "--clips", unit="ms"),
            calls=calls,
            start_up=start_up,
            distance=distance,
            soak_minutes=soak,
            long_files_minutes=() if long_files == "none" else parse_lengths(long_files, "--long-files"),
            threads=threads,
            provider=provider,
            precision=precision,
        )
        check_writable(json)
        with progress() as say:
            found = measure_latency(options, typed_command(), say)
        if json is not None:
            save_latency(found, json)
    for grid in latency_grids(found):
        show(grid.for_terminal())
    console.print(latency_provenance(found), markup=False, highlight=False)


def compare(
    before: Annotated[Path, typer.Argument(help="Results of comosvc-bench rtf.")],
    after: Annotated[Path, typer.Argument(help="Later ones.")],
    fail_over: Annotated[str, typer.Option("--fail-over", help="How much slower is too slow, beyond noise.")] = "5%",
    stages: Annotated[bool, typer.Option("--stages", help="Also each stage, not only whole chains.")] = False,
    relative_to: Annotated[
        str | None, typer.Option("--relative-to", help="Compare ratios to this system; holds across machines.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare seconds of different machines.")] = False,
) -> None:
    """Exit code 1 where a median got slower by more than --fail-over, beyond what the scatter explains.

    The noise of a ratio is half of its 95 % interval, from the quartiles of the repetitions.
    """
    from .compare import compare as compare_reports
    from .compare import missing_in_words, parse_share
    from .results import load_speed
    from .tables import compare_grid

    with errors_in_words(stderr):
        share = parse_share(fail_over)
        old, new = load_speed(before), load_speed(after)
        found = compare_reports(old, new, share, stages=stages, reference=relative_to, force=force)
    show(compare_grid(found, relative_to).for_terminal())
    lines = [*missing_in_words(found.only_before, "first"), *missing_in_words(found.only_after, "second")]
    for line in lines:
        console.print(line, markup=False, highlight=False)
    if found.slower:
        console.print(f"{len(found.slower)} of {len(found.rows)} slower by more than {share:.1%}, beyond noise")
        raise typer.Exit(1)


def report(
    results: Annotated[
        list[Path], typer.Argument(help="JSON of comosvc-bench rtf, latency, quality, train or systems-quality.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for speed.md, speed.html and the pictures.")
    ] = None,
    readme: Annotated[
        Path | None, typer.Option("--readme", help="Renew tables or summary between the markers of this Markdown file.")
    ] = None,
) -> None:
    """Results as tables here, and with -o as Markdown, an HTML page and PNG charts.

    Several results of quality, of other providers or precisions, are laid side by side as well.
    """
    from .documents import check_speed_readme, into_readme, read_documents, write_documents

    with errors_in_words(stderr):
        documents, skipped = read_documents(results)
        check_speed_readme(documents, readme)
        for document in documents:
            for grid in document.grids:
                show(grid.for_terminal())
            console.print(document.note, markup=False, highlight=False)
        written = [] if output is None else write_documents(documents, output)
        if readme is not None:
            into_readme(documents, readme)
    for line in skipped:
        Console(stderr=True, soft_wrap=True).print(f"not shown: {line}", markup=False, highlight=False)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False)
