"""`comosvc-bench systems-train` and `systems-quality`: the systems trained and judged side by side."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ...runtime.cli.exit import errors_in_words, log_to

RunOption = Annotated[
    Path, typer.Option("-o", "--run", help="A run folder with the demo corpus' features: comosvc-train prepare.")
]
ConfigOption = Annotated[str, typer.Option("-c", "--config", help="Our recipe; the rivals are trained like it.")]

_TABLE_WIDTH = 170
"""A narrower terminal wraps lines, which is easier to read than columns of two letters."""


def register(app: typer.Typer) -> None:
    """Add the commands to `comosvc-bench`."""
    app.command()(systems_train)
    app.command()(systems_quality)


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

    from ...training.config import load_config
    from ...training.recipe import Recipe
    from .equal_compute import make_plan, train_stage
    from .objectives import load_material, require_stages

    with _clear_errors():
        torch.set_num_threads(1)
        names = require_stages(only)
        recipe, console = load_config(Recipe, config), Console(stderr=True)
        material = load_material(run, console)
        plan = make_plan(run, recipe, material, 60.0 * cpu_minutes, console)
        for name in names:
            train_stage(name, run, recipe, material, plan, console)


def systems_quality(
    run: RunOption,
    config: ConfigOption = "demo",
    model: Annotated[str, typer.Option("-m", "--model", help="The voice whose vocoder sings for all.")] = "demo",
    all_pairs: Annotated[
        bool, typer.Option("--all", help="All conversions of the held-out set; else every source to every target once.")
    ] = False,
    few: Annotated[int, typer.Option("--few", help="Conversions with a thousand evaluations.", min=0)] = 2,
    json: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
) -> None:
    """Quality against speed of what `systems-train` trained, on unseen singers and songs with true targets.

    Takes about ten minutes on one core, and five times that with --all.
    """
    import torch

    from ...runtime.voice.bundle import comosvc_home
    from ...training.config import load_config
    from ...training.recipe import Recipe
    from ..report import typed_command
    from .evaluation import Judge, as_grid, evaluate, save_json

    command = typed_command()
    with _clear_errors(), Console(stderr=True).status("…") as status:
        torch.set_num_threads(1)
        corpus = load_config(Recipe, config).corpus
        judge = Judge(run, model, corpus, comosvc_home() / "benchmarks", lambda what: status.update(what))
        table = evaluate(judge, command, all_pairs=all_pairs, few=few)
        if json is not None:
            save_json(table, json)
    Console(width=max(Console().width, _TABLE_WIDTH)).print(as_grid(table).for_terminal())


def _clear_errors() -> AbstractContextManager[None]:
    stderr = Console(stderr=True)
    log_to(stderr)
    return errors_in_words(stderr)
