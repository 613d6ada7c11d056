"""`comosvc-bench`: what the chain achieves, measured."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from ..runtime.cli.exit import errors_in_words
from ..runtime.conversion.cores import check_threads
from ..runtime.providers import Precision as EnginePrecision
from ..runtime.providers import Provider
from .quality.table import QualityOptions, measure_quality
from .report import as_table, check_readme, into_readme, save_json, show, typed_command
from .speed.commands import register as register_speed
from .speed.commands import stderr
from .speed.results import check_writable
from .trained.command import register as register_trained

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure voices. Results are tables on the terminal, and JSON with hardware, versions and commit.",
)


@app.command()
def quality(
    model: Annotated[
        str, typer.Option("-m", "--model", help="A shipped voice, a .comosvc file or its folder.")
    ] = "demo",
    provider: Annotated[
        str, typer.Option("--provider", help="Convert with it; auto: the best that works here.")
    ] = "cpu",
    precision: Annotated[
        str, typer.Option("--precision", help="Convert in it; auto: the provider's first that the voice has.")
    ] = "auto",
    run: Annotated[
        Path | None, typer.Option("--run", help="The run folder of the voice: also measure its teacher and students.")
    ] = None,
    install: Annotated[
        str | None,
        typer.Option(
            "--install", help="Also measure the slim install: what pip shall install, '.[cpu]' or 'x.whl[cpu]'."
        ),
    ] = None,
    constraint: Annotated[Path | None, typer.Option("--constraint", help="A pip constraints file for that.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
    readme: Annotated[
        Path | None, typer.Option("--readme", help="Renew the table between the markers of this Markdown file.")
    ] = None,
) -> None:
    """The quality table of a demo voice on the held-out set: unseen singers, unseen songs, true targets.

    Takes about ten minutes on one core, and as long again with --run. The held-out set is rendered once, into
    $COMOSVC_HOME or ~/.cache/comosvc. One provider and precision a run; comosvc-bench report lays the JSON of several
    side by side.
    """
    command = typed_command()
    options = QualityOptions(
        model=model,
        provider=cast(Provider, provider),
        precision=cast(EnginePrecision, precision),
        run=run,
        install=install,
        constraint=constraint,
    )
    with errors_in_words(stderr):
        check_writable(json)
        check_readme(readme)
        with Console(stderr=True).status("…") as status:
            report = measure_quality(options, command, lambda what: status.update(what))
    show(as_table(report))
    if json is not None:
        save_json(report, json)
    if readme is not None:
        with errors_in_words(stderr):
            into_readme(report, readme)


@app.command()
def train(
    batch: Annotated[int, typer.Option("--batch", help="Samples a step.", min=1)] = 4,
    frames: Annotated[int, typer.Option("--frames", help="Mel frames of a sample; published: 375.", min=8)] = 375,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 5,
    steps: Annotated[int, typer.Option("--steps", help="Of each system in each round.", min=1)] = 2,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    precision: Annotated[
        str, typer.Option("--precision", help="Of ours: bf16, fp16, fp32, or several with commas.")
    ] = "bf16,fp32",
    layers: Annotated[int, typer.Option("--layers", help="Of both networks; published: 20.", min=1)] = 20,
    channels: Annotated[int, typer.Option("--channels", help="Of both networks; published: 512.", min=8)] = 512,
    json: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
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
    with errors_in_words(stderr), Console(stderr=True).status("…") as status:
        check_threads(threads)
        report = measure_training(options, command, lambda what: status.update(what))
    show(as_table(report))
    if json is not None:
        save_json(report, json)


@app.command()
def vocoders(
    run: Annotated[
        Path, typer.Option("-o", "--run", help="A run folder with the demo corpus' features: comosvc-train prepare.")
    ],
    cpu_minutes: Annotated[
        float, typer.Option("--cpu-minutes", help="Processor time that each vocoder is trained for.", min=0.01)
    ] = 7.0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
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
        console = Console(stderr=True)
        report = measure_vocoders(default_options(run, cpu_minutes), command, console.print, console)
    show(as_table(report))
    if json is not None:
        save_json(report, json)


register_speed(app)
register_trained(app)


def main() -> None:
    """Entry point of `comosvc-bench`."""
    app()
