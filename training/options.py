"""Options, console and error messages that the commands of `comosvc-train` share. No torch is imported before a
command runs.
"""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from ..runtime.cli.exit import errors_in_words, log_to
from .config import RECIPES, from_mapping, to_mapping
from .errors import DEFAULT_RECIPE, ConfigError
from .loop.log import is_first_process

console = Console(stderr=True)
_COMMAND = re.compile(r"(?<=comosvc-train )(\w+) (?:-c (?:'[^']*'|\S+) )?(?=-o )")
"""A command in a hint, up to its -o."""


def clear_errors(config: str = DEFAULT_RECIPE) -> AbstractContextManager[None]:
    """`errors_in_words`, of the first process only, with the -c `config` in the commands of hints."""
    log_to(console)

    def edit(text: str) -> str:
        if not is_first_process():
            return ""
        return text if config == DEFAULT_RECIPE else _COMMAND.sub(lambda stage: f"{stage[1]} -c {quote(config)} ", text)

    return errors_in_words(console, edit=edit)


HARDWARE, START, FOREIGN = "Devices and processes", "Start from trained weights", "Take from a file"
"""Panels of the help."""
Part = Literal["embedding", "all"]
"""Values of --train."""

ConfigOption = Annotated[
    str, typer.Option("-c", "--config", help=f"A TOML file, or a shipped recipe: {', '.join(RECIPES)}.")
]
RunOption = Annotated[Path, typer.Option("-o", "--output", help="The run folder.")]
DatasetOption = Annotated[
    str,
    typer.Option("--dataset", help="How DATA is laid out: folder (a sub-folder per singer), m4singer or opensinger."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=HARDWARE)]
DevicesOption = Annotated[
    int | None,
    typer.Option(
        "--devices",
        help="Processes on this machine, a device for each; 0: all. Else the recipe's.",
        min=0,
        rich_help_panel=HARDWARE,
    ),
]
NodesOption = Annotated[
    int | None, typer.Option("--nodes", help="Machines, started by torchrun on each.", min=1, rich_help_panel=HARDWARE)
]
StrategyOption = Annotated[str | None, typer.Option("--strategy", help="auto or ddp.", rich_help_panel=HARDWARE)]
InitOption = Annotated[
    Path | None,
    typer.Option(
        "--init-from",
        help="Start from the weights of another run folder, of a checkpoint in one, or of the CoMoSVC authors' "
        "model_<step>.pt with its config.yaml beside it; with --train embedding also of a voice: a .comosvc file or a "
        "shipped name.",
        rich_help_panel=START,
    ),
]
TrainOption = Annotated[
    str,
    typer.Option(
        "--train", help="With --init-from: embedding (the new singers' vectors only) or all.", rich_help_panel=START
    ),
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", help="Steps of training in place of the recipe's, for this stage.", min=1)
]
JobsOption = Annotated[
    int, typer.Option("-n", "--jobs", help="Processes; 0: one for each core.", min=0, rich_help_panel=HARDWARE)
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", help="Threads of torch; 0: its own choice.", min=0, rich_help_panel=HARDWARE)
]


@dataclass(frozen=True)
class Hardware:
    """Options for the devices of a training stage. None: the recipe's value."""

    device: str
    threads: int
    devices: int | None
    nodes: int | None
    strategy: str | None
    steps: int | None

    def placed(self, config: Any) -> Any:
        """The table of a stage with these options in its loop. Raises `ConfigError` for a recipe without the table."""
        if config is None:
            raise ConfigError(
                "this recipe trains no such network\nhint: take one from a file with --from FILE, or add its table"
            )
        given = {"devices": self.devices, "nodes": self.nodes, "strategy": self.strategy, "steps": self.steps}
        loop = {**to_mapping(config.loop), **{name: value for name, value in given.items() if value is not None}}
        return replace(config, loop=from_mapping(type(config.loop), loop, "the command line"))
