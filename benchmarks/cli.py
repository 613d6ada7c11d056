"""`comosvc-bench`: measure voices and systems. A command imports its measuring code when it runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from ..runtime.cli.exit import errors_in_words, log_to, run
from ..runtime.conversion.cores import check_threads
from .report import QUALITY, Result, Table, check_readme, check_writable, into_readme, save, show, typed_command

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure voices. Results are tables on the terminal, and JSON with hardware, versions and commit.",
)
console, stderr = Console(), Console(stderr=True)

_what, _sizes, _results = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("What is measured", "Sizes and repetitions", "Results")
)
_VOICE = "A shipped voice, a .comosvc file or its folder"
Json = Annotated[Path | None, _results("--json", help="Write the results there.")]
_README_HELP = "Renew the tables between the markers of this Markdown file."
RunOption = Annotated[
    Path, typer.Option("-o", "--run", help="A run folder with the demo corpus' features: comosvc-train prepare.")
]
ConfigOption = Annotated[str, typer.Option("-c", "--config", help="Our recipe; the rivals are trained like it.")]


@contextmanager
def _measuring(json: Path | None = None) -> Iterator[Callable[[str], None]]:
    """A line of progress; errors become messages. Fails at once where results cannot be written."""
    with errors_in_words(stderr):
        check_writable(json)
        with stderr.status("…") as status:
            yield lambda what: status.update(what.replace("[", "\\["))


def _finish(result: Result, tables: Sequence[Table], json: Path | None) -> None:
    if json is not None:
        with errors_in_words(stderr):
            save(result, json)
    for table in tables:
        show(table)
    console.print(result.note, markup=False, highlight=False)


@app.command()
def quality(
    model: Annotated[str, _what("-m", "--model", help=f"{_VOICE}.")] = "demo",
    provider: Annotated[str, _what("--provider", help="Convert with it; auto: the best that works here.")] = "cpu",
    precision: Annotated[
        str, _what("--precision", help="Convert in it; auto: the provider's first that the voice has.")
    ] = "auto",
    run: Annotated[
        Path | None, _what("--run", help="The run folder of the voice: also measure its teacher and students.")
    ] = None,
    install: Annotated[
        str | None,
        _what("--install", help="Also measure the slim install: what pip shall install, '.[cpu]' or 'x.whl[cpu]'."),
    ] = None,
    constraint: Annotated[Path | None, _what("--constraint", help="A pip constraints file for that.")] = None,
    json: Json = None,
    readme: Annotated[Path | None, _results("--readme", help=_README_HELP)] = None,
) -> None:
    """The quality table of a demo voice on the held-out set: unseen singers, unseen songs, true targets.

    Takes about ten minutes on one core, and as long again with --run. The held-out set is rendered once, into
    $COMOSVC_HOME or ~/.cache/comosvc. One provider and precision a run; comosvc-bench report lays the JSON of several
    side by side.
    """
    command = typed_command()
    with _measuring(json) as say:
        if readme is not None:
            check_readme(readme, QUALITY)
        from .quality.table import QualityOptions, measure_quality

        options = QualityOptions(
            model=model, provider=provider, precision=precision, run=run, install=install, constraint=constraint
        )
        result = measure_quality(options, command, say)
    _finish(result, [result.table()], json)
    if readme is not None:
        with errors_in_words(stderr):
            into_readme(readme, QUALITY, f"{result.table().as_markdown()}\n\n{result.note}")


@app.command()
def train(
    batch: Annotated[int, _sizes("--batch", help="Samples a step.", min=1)] = 4,
    frames: Annotated[int, _sizes("--frames", help="Mel frames of a sample; published: 375.", min=8)] = 375,
    rounds: Annotated[int, _sizes("--rounds", min=1)] = 5,
    steps: Annotated[int, _sizes("--steps", help="Of each system in each round.", min=1)] = 2,
    threads: Annotated[int, _what("--threads", min=1)] = 1,
    precision: Annotated[
        str, _what("--precision", help="Of ours: bf16, fp16, fp32, or several with commas.")
    ] = "bf16,fp32",
    layers: Annotated[int, _sizes("--layers", help="Of both networks; published: 20.", min=1)] = 20,
    channels: Annotated[int, _sizes("--channels", help="Of both networks; published: 512.", min=8)] = 512,
    json: Json = None,
) -> None:
    """Steps of training a second, ours against the authors' arithmetic at equal size, in turns on this CPU.

    Needs torch. At the published size it takes about ten minutes on one core.
    """
    from ..training.loop.devices import Precision
    from .speed.training import TrainOptions, measure_training, of_size

    command = typed_command()
    precisions = tuple(precision.split(","))
    if unknown := [name for name in precisions if name not in get_args(Precision)]:
        raise typer.BadParameter(f"{unknown[0]} is not bf16, fp16 or fp32", param_hint="--precision")
    chosen = cast(tuple[Precision, ...], precisions)
    options = TrainOptions(batch, frames, rounds, steps, threads, chosen, of_size(layers, channels))
    with _measuring(json) as say:
        check_threads(threads)
        result = measure_training(options, command, say)
    _finish(result, [result.table()], json)


@app.command()
def vocoders(
    run: RunOption,
    cpu_minutes: Annotated[
        float, typer.Option("--cpu-minutes", help="Processor time that each vocoder is trained for.", min=0.01)
    ] = 7.0,
    json: Json = None,
) -> None:
    """The light vocoder and the HiFi-GAN shape trained for the same time on the same clips, and the shipped one beside.

    Trains into RUN/vocoders; stopped and run again, it goes on where it stopped. Takes about two and a half times
    --cpu-minutes on a core of its own, and two minutes to measure.
    """
    import torch

    from .trained.vocoders import default_options, measure_vocoders

    command = typed_command()
    with errors_in_words(stderr):
        check_writable(json)
        torch.set_num_threads(1)
        result = measure_vocoders(default_options(run, cpu_minutes), command, stderr.print, stderr)
    _finish(result, [result.table()], json)


@app.command()
def rtf(
    systems: Annotated[
        str | None, _what("--systems", help="Ids with commas between them, or all. comosvc:VOICE is a voice.")
    ] = None,
    model: Annotated[
        list[str] | None, _what("-m", "--model", help="Also measure this voice: the same as comosvc:VOICE.")
    ] = None,
    preset: Annotated[str | None, _what("--preset", help="cpu or gpu; other options override it.")] = None,
    lengths: Annotated[str | None, _sizes("--lengths", help="Seconds: 1,5,10,30,180.")] = None,
    batch: Annotated[str | None, _sizes("--batch", help="Clips at once: 1,4.")] = None,
    threads: Annotated[str | None, _sizes("--threads", help="Of the engines.")] = None,
    device: Annotated[str | None, _what("--device", help="cpu or cuda.")] = None,
    engines: Annotated[str | None, _what("--engines", help="torch,onnx,openvino,tensorrt.")] = None,
    precision: Annotated[str | None, _what("--precision", help="fp32,bf16,fp16,int8.")] = None,
    singers: Annotated[str | None, _sizes("--singers", help="Casts to try our voices with: 1,20,200.")] = None,
    rounds: Annotated[int | None, _sizes("--rounds", help="Repetitions, in turns.", min=1)] = None,
    full: Annotated[
        bool, _sizes("--full", help="All lengths with all systems, and samplers once to their end at 10 s.")
    ] = False,
    json: Json = None,
) -> None:
    """Seconds of work per second of audio: whole chains and their stages, all systems in turns.

    Every baseline runs in torch and, exported like a voice, in ONNX Runtime; ours as a user runs it. The first run
    exports what it needs into $COMOSVC_HOME or ~/.cache/comosvc, which takes minutes.
    """
    from .speed import options as choices

    command = typed_command()
    with _measuring(json) as say:
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

        from .speed.rtf import measure_rtf
        from .speed.systems import find_subjects, plan
        from .speed.tables import all_tables

        variants, skipped = plan(find_subjects(grid.systems), grid)
        keep = (lambda found: save(found, json)) if json is not None else lambda found: None
        result = measure_rtf(variants, skipped, grid, command, say, keep=keep)
    _finish(result, all_tables(result), json)


@app.command()
def latency(
    model: Annotated[str, _what("-m", "--model", help=f"{_VOICE}, full-size or full-size-light.")] = "demo",
    blocks: Annotated[str, _sizes("--blocks", help="Sizes of a stream's blocks, ms; none: none.")] = "10,20,40,80",
    seconds: Annotated[float, _sizes("--seconds", help="Of audio for each of them.", min=0.1)] = 20.0,
    clips: Annotated[str, _sizes("--clips", help="Lengths of whole clips, ms; none: none.")] = "250,500,1000,2000",
    calls: Annotated[int, _sizes("--calls", help="Of each length; at least 20.")] = 50,
    start_up: Annotated[bool, _what("--start-up", help="Also: import, load, first second.")] = False,
    distance: Annotated[
        bool,
        _what("--distance", help="Also: low latency against the default, and streams against it, on the held-out set."),
    ] = False,
    soak: Annotated[float, _what("--soak", help="Also: minutes of audio in one stream.", min=0.0)] = 0.0,
    long_files: Annotated[str, _what("--long-files", help="Also: minutes, such as 0.5,180.")] = "none",
    threads: Annotated[int, _what("--threads", help="Of the engine.", min=1)] = 1,
    provider: Annotated[str, _what("--provider")] = "auto",
    precision: Annotated[str, _what("--precision")] = "auto",
    json: Json = None,
) -> None:
    """How long a caller waits: for each block of a stream, and for a short clip.

    full-size and full-size-light are voices of the published sizes with random weights, exported at the first time.
    """
    from .speed.latency import LatencyOptions, measure_latency
    from .speed.latency_results import latency_tables
    from .speed.options import parse_lengths

    command = typed_command()
    with _measuring(json) as say:
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
        result = measure_latency(options, command, say)
    _finish(result, latency_tables(result), json)


@app.command()
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
    from .report import load
    from .speed.compare import compare_reports, parse_share
    from .speed.results import SpeedReport
    from .speed.tables import compare_table

    with errors_in_words(stderr):
        share = parse_share(fail_over)
        old, new = load(before, [SpeedReport]), load(after, [SpeedReport])
        found = compare_reports(old, new, share, stages=stages, reference=relative_to, force=force)
    show(compare_table(found, relative_to))
    for which, names in (("first", found.only_before), ("second", found.only_after)):
        for name in names:
            console.print(f"only in the {which} file: {name}", markup=False, highlight=False)
    if found.slower:
        console.print(f"{len(found.slower)} of {len(found.rows)} slower by more than {share:.1%}, beyond noise")
        raise typer.Exit(1)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="JSON of any other command here.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for speed.md, speed.html and the pictures.")
    ] = None,
    readme: Annotated[Path | None, typer.Option("--readme", help=_README_HELP)] = None,
) -> None:
    """Results as tables here, and with -o as Markdown, an HTML page and PNG charts.

    Several results of quality, of other providers or precisions, are laid side by side as well.
    """
    from .speed.documents import check_report_readme, read_documents, report_into_readme, write_documents

    with errors_in_words(stderr):
        documents, skipped = read_documents(results)
        if readme is not None:
            check_report_readme(documents, readme)
        for document in documents:
            for table in document.tables:
                show(table)
            console.print(document.note, markup=False, highlight=False)
        written = [] if output is None else write_documents(documents, output)
        if readme is not None:
            report_into_readme(documents, readme)
    for line in skipped:
        stderr.print(f"not shown: {line}", markup=False, highlight=False, soft_wrap=True)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False)


@app.command()
def systems_train(
    run: RunOption,
    config: ConfigOption = "demo",
    cpu_minutes: Annotated[
        float, typer.Option("--cpu-minutes", help="Processor time that each system is trained for.", min=0.01)
    ] = 5.0,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="These stages; several processes may share the work.")
    ] = None,
) -> None:
    """Train a flow-shaped, a DiffSVC-shaped model, our teacher and student on the same data for the same compute.

    Stopped and run again, it goes on where it stopped. Takes about four times --cpu-minutes on a core of its own.
    """
    import torch

    from ..training.config import load_config
    from ..training.recipe import Recipe
    from .trained.equal_compute import make_plan, train_stage
    from .trained.objectives import load_material, require_stages

    log_to(stderr)
    with errors_in_words(stderr):
        torch.set_num_threads(1)
        names, recipe = require_stages(only), load_config(Recipe, config)
        material = load_material(run, stderr)
        plan = make_plan(run, recipe, material, 60.0 * cpu_minutes, stderr)
        for name in names:
            train_stage(name, run, recipe, material, plan, stderr)


@app.command()
def systems_quality(
    run: RunOption,
    config: ConfigOption = "demo",
    model: Annotated[str, typer.Option("-m", "--model", help="The voice whose vocoder sings for all.")] = "demo",
    all_pairs: Annotated[
        bool, typer.Option("--all", help="All conversions of the held-out set; else every source to every target once.")
    ] = False,
    few: Annotated[int, typer.Option("--few", help="Conversions with a thousand evaluations.", min=0)] = 2,
    json: Json = None,
) -> None:
    """Quality against speed of what `systems-train` trained, on unseen singers and songs with true targets.

    Takes about ten minutes on one core, and five times that with --all.
    """
    import torch

    from ..runtime.voice.bundle import comosvc_home
    from ..training.config import load_config
    from ..training.recipe import Recipe
    from .trained.evaluation import Judge, evaluate

    command = typed_command()
    log_to(stderr)
    with _measuring(json) as say:
        torch.set_num_threads(1)
        corpus = load_config(Recipe, config).corpus
        judge = Judge(run, model, corpus, comosvc_home() / "benchmarks", say)
        result = evaluate(judge, command, all_pairs=all_pairs, few=few)
    _finish(result, [result.table()], json)


def main() -> None:
    """Entry point of `comosvc-bench`."""
    run(app, "comosvc-bench", "bench")
