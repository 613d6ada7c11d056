"""`comosvc`: all commands of the package under one name. Each is imported when it runs."""

import importlib
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True)
class _Command:
    """Module and Typer application of a command, its help, and the extra with its requirements."""

    module: str
    app: str
    extra: str
    help: str


_COMMANDS = {
    "convert": _Command("comosvc.runtime.cli.convert", "_app", "cpu", "Convert audio files into another voice."),
    "live": _Command("comosvc.runtime.cli.convert", "_app", "live", "Convert a microphone, until Ctrl-C."),
    "train": _Command("comosvc.training.cli", "app", "train", "Train a voice from recordings."),
    "export": _Command("comosvc.export.cli", "app", "export", "Make a .comosvc file of a trained voice."),
    "bench": _Command("comosvc.benchmarks.cli", "app", "bench", "Measure speed, latency and quality."),
    "doctor": _Command("comosvc.runtime.cli.doctor", "_app", "cpu", "Check what works on this machine."),
}
_COMPLETION = {"install_completion", "show_completion"}
"""Options of `comosvc` itself."""
_FOR_FILES = {
    *("inputs", "output", "file_format", "channel", "plot", "as_json", "force", "skip_existing", "latency"),
    *("info", "verbose", "version"),
}
_LIVE_HELP = """Convert the input of a microphone, until Ctrl-C.

\bExamples:
  comosvc live -s alto -k 5
  comosvc live --list-devices
"""


class _Group(TyperGroup):
    """Lists the commands without importing them. Imports a command that runs or is completed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, unloaded, rest = super().resolve_command(ctx, args)
        assert name is not None
        try:
            return name, _load(name), rest
        except ModuleNotFoundError as error:
            if ctx.resilient_parsing:  # shell completion, which would show the message
                return name, unloaded, rest
            raise _without_package(error, name) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if ctx.invoked_subcommand is None:  # not even that could be imported
                raise
            raise _without_package(error, ctx.invoked_subcommand) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Singing voice conversion: convert files or a microphone, train voices, export and measure them.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _comosvc(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        import comosvc

        typer.echo(comosvc.__version__)
        raise typer.Exit


for _name, _command in _COMMANDS.items():
    app.command(_name, help=_command.help)(lambda: None)


def _load(name: str) -> Any:
    command = _COMMANDS[name]
    module = importlib.import_module(command.module)
    loaded: Any = typer.main.get_command(getattr(module, command.app))
    if name in ("convert", "live"):
        module.end_on_signals()
    left_out = _COMPLETION | _FOR_FILES if name == "live" else _COMPLETION
    loaded.params = [parameter for parameter in loaded.params if parameter.name not in left_out]
    if name == "live":
        [switch] = [parameter for parameter in loaded.params if parameter.name == "live"]
        switch.default, switch.hidden, loaded.help = True, True, _LIVE_HELP
    return loaded


def _without_package(error: ModuleNotFoundError, name: str) -> BaseException:
    extras = importlib.import_module("comosvc.runtime.errors")
    return extras.without_package(error, f"comosvc {name}", _COMMANDS[name].extra)


def main() -> None:
    """Entry point of `comosvc`."""
    try:
        app(prog_name="comosvc")
    except (OSError, RuntimeError) as error:
        raise importlib.import_module("comosvc.runtime.errors").without_home(error) from None


if __name__ == "__main__":
    main()
