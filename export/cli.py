"""`comosvc-export`: from a run folder to a voice that applications load."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from ..runtime.bundle import SUFFIX
from ..runtime.errors import ComosvcError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a trained run folder into a voice: one .comosvc file that comosvc-convert uses without torch.",
)
console = Console(stderr=True)
output = Console()

BundleArgument = Annotated[Path, typer.Argument(help="A .comosvc file or its unpacked folder.", show_default=False)]
StudentOption = Annotated[
    str, typer.Option("--student", help="The student's sub-folder of RUN, for instance student-published.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite FILE if it is there.")]


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Errors raised on purpose as one readable message and exit code 1."""
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        yield
    except ComosvcError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None


@app.command()
def bundle(
    run: Annotated[Path, typer.Argument(help="The run folder that comosvc-train filled.", show_default=False)],
    file: Annotated[Path, typer.Option("-o", "--output", help="The .comosvc file to write.", show_default=False)],
    name: Annotated[str | None, typer.Option("--name", help="Name of the voice. Default: that of FILE.")] = None,
    student: StudentOption = "student",
    licence: Annotated[str | None, typer.Option("--licence", help="Terms of recorded target singers' voices.")] = None,
    credit: Annotated[str | None, typer.Option("--credit", help="Whom to thank for recorded target singers.")] = None,
    consent: Annotated[
        str | None,
        typer.Option("--consent", help="How recorded target singers agreed to be imitated. Needed if there are any."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Trace RUN's networks to ONNX, compare them with torch, and write the voice.

    Nothing is written if a graph does not give what torch gives.
    """
    from .assemble import export_bundle
    from .statements import Statements
    from .voice import load_voice

    with _clear_errors():
        _refuse_overwriting(file, force)
        voice = load_voice(run, Statements(licence, credit, consent), student)
        manifest = export_bundle(voice, name or file.stem, file)
        size = file.stat().st_size / 1e6
        console.print(f"done: {file}, {size:.1f} MB, singers: {', '.join(manifest.singers)}", markup=False)


@app.command()
def verify(
    bundle: BundleArgument,
    run: Annotated[
        Path | None, typer.Option("--run", help="The run folder it came from: compare with its torch networks too.")
    ] = None,
    student: StudentOption = "student",
) -> None:
    """Check a voice: hashes, contracts, and that its graphs still give what torch gave when it was exported."""
    from .parity import summary
    from .statements import Statements
    from .verify import verify as verify_bundle
    from .voice import load_voice

    with _clear_errors():
        voice = None if run is None else load_voice(run, Statements(consent="not asked again"), student)
        table = Table("graph", "comparisons", "worst relative error", "allowed", "largest difference")
        for row in summary(verify_bundle(bundle, voice)):
            table.add_row(*row)
        output.print(table)
        console.print(f"{bundle} is what was exported", markup=False)


@app.command()
def inspect(bundle: BundleArgument) -> None:
    """Show what a voice is: graphs, singers, look-ahead, licences, and what made it."""
    from .inspection import tables

    with _clear_errors():
        for item in tables(bundle):
            output.print(item)


@app.command()
def pack(
    folder: Annotated[Path, typer.Argument(help="An unpacked bundle.", show_default=False)],
    file: Annotated[Path, typer.Option("-o", "--output", help="The .comosvc file to write.", show_default=False)],
    full: Annotated[bool, typer.Option("--full", help="Put graphs that lie in the shared cache inside too.")] = False,
    force: ForceOption = False,
) -> None:
    """Pack an unpacked bundle into one uncompressed zip, every hash checked."""
    from .archive import pack as pack_folder

    with _clear_errors():
        _refuse_overwriting(file, force)
        manifest = pack_folder(folder, file, full)
        console.print(f"done: {file}, {file.stat().st_size / 1e6:.1f} MB, voice {manifest.name}", markup=False)


def _refuse_overwriting(file: Path, force: bool) -> None:
    from .errors import ExportError

    if file.suffix != SUFFIX:
        raise ExportError(f"{file} does not end in {SUFFIX}\nhint: -o {file.with_suffix(SUFFIX)}")
    if file.exists() and not force:
        raise ExportError(f"{file} is there already\nhint: --force overwrites it")


def main() -> None:
    """Entry point of the console script."""
    app()
