"""`comosvc-export engines`: TensorRT engines of a voice."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ..runtime.engine import BuildReport


class Flavour(StrEnum):
    """Choices of --flavour."""

    TENSORRT, RTX = "tensorrt", "rtx"


def register(
    app: typer.Typer, console: Console, output: Console, clear_errors: Callable[[], AbstractContextManager[None]]
) -> None:
    """Add the command to `app`."""

    @app.command()
    def engines(
        bundle: Annotated[
            str, typer.Argument(help="A shipped voice, a .comosvc file or its folder.", show_default=False)
        ],
        flavour: Annotated[
            Flavour,
            typer.Option("--flavour", help="rtx builds without a GPU too, but not for Hopper."),
        ] = Flavour.TENSORRT,
        precision: Annotated[
            str, typer.Option("--precision", help="fp32, or fp16 if the voice has such graphs; several with commas.")
        ] = "fp32",
        profile: Annotated[
            str, typer.Option("--profile", help="What they are for, with commas: stream, clip, batch.")
        ] = "stream,clip,batch",
        into_bundle: Annotated[
            bool, typer.Option("--into-bundle", help="Into the unpacked folder instead of the cache.")
        ] = False,
        rebuild: Annotated[bool, typer.Option("--rebuild", help="Also where they are there already.")] = False,
    ) -> None:
        """Build TensorRT engines of a voice's graphs, for the GPU of this machine.

        Engines are stored under a hash of the graphs, the TensorRT, the GPU, the precision and the profiles. An engine
        is code: use only engines of people whose programs you would run.
        """
        from ..runtime.bundle import open_bundle
        from ..runtime.engine import build_engines
        from ..runtime.engine_target import build_target, engine_spec
        from ..runtime.profiles import parse_uses
        from .errors import ExportError

        with clear_errors():
            voice, uses = open_bundle(bundle), parse_uses(profile.split(","))
            if into_bundle and not Path(bundle).is_dir():
                raise ExportError(
                    f"--into-bundle: {bundle} is no unpacked folder\nhint: unzip it, or leave the option out"
                )
            target = build_target(flavour.value)
            for name in precision.split(","):
                if not voice.manifest.has(name) or name == "bf16":
                    raise ExportError(f"{bundle} has no graphs in {name}; engines are built from fp32 and fp16 graphs")
                spec = engine_spec(voice, target, name, uses)
                with console.status(f"{target}, {name}") as status:
                    report = build_engines(
                        voice,
                        spec,
                        into_bundle=into_bundle,
                        rebuild=rebuild,
                        progress=lambda graph, share: status.update(f"{graph}: {share:.0%}"),
                    )
                _show(report, str(target), console, output)


def _show(report: "BuildReport", target: str, console: Console, output: Console) -> None:
    record = report.record
    table = Table("graph", "MB", "seconds", "layers", "of which give")
    for graph, plan in record.plans.items():
        types = ", ".join(f"{count} {kind}" for kind, count in plan.layer_types.items())
        table.add_row(graph, f"{plan.size_bytes / 1e6:.1f}", f"{plan.seconds:.1f}", str(plan.layers), types)
    output.print(table)
    for graph, why in record.not_built.items():
        console.print(f"{graph} has no engine, ONNX Runtime computes it: {why}", markup=False, highlight=False)
    for note in report.notes:
        console.print(note, markup=False, highlight=False)
    what = f"{target}, {record.precision}, profiles {', '.join(record.profiles)}"
    done = "they were there already" if report.was_there else f"{record.seconds:.0f} s"
    console.print(f"done: {report.folder}: {what}; {done}", markup=False, highlight=False, soft_wrap=True)
