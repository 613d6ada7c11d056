"""`comosvc-export`: from a run folder to a voice that applications load. A command imports its code when it runs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..runtime.cli.exit import errors_in_words, log_to, run
from ..runtime.errors import printable
from ..runtime.voice.bundle import SUFFIX

if TYPE_CHECKING:
    from ..runtime.providers.tensorrt.build import BuildReport
    from .precision.variants import VariantRow

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn a trained run folder, or checkpoints of others, into a voice: one .comosvc file, used without torch.",
)
console = Console(stderr=True)
output = Console()


class VocoderKind(StrEnum):
    """Choices of --vocoder-kind."""

    AUTO, M4SINGER, OPENVPI, DIFFSINGER = "auto", "m4singer", "openvpi", "diffsinger"


class NetworkChoice(StrEnum):
    """Choices of --network."""

    ONLINE, EMA = "online", "ema"


class Flavour(StrEnum):
    """Choices of --flavour."""

    TENSORRT, RTX = "tensorrt", "rtx"


_files, _networks, _rights, _pitch = (
    partial(typer.Option, rich_help_panel=panel)
    for panel in ("Files", "Networks", "Singers and their rights", "Pitch of the singers")
)
Bundle = Annotated[
    str, typer.Argument(help="A shipped voice, a .comosvc file or its unpacked folder.", show_default=False)
]
Output = Annotated[Path, _files("-o", "--output", help="The .comosvc file to write.", show_default=False)]
Force = Annotated[bool, _files("--force", help="Overwrite the file of -o if it is there.")]
Name = Annotated[str | None, _rights("--name", help="Name of the voice. Default: that of -o.")]
Student = Annotated[
    str, _networks("--student", help="The student's sub-folder of RUN, for instance student-published.")
]
Precisions = Annotated[
    list[str] | None,
    _networks("--precision", help="Also in this one: fp16, int8. Several with commas. What loses too much stays fp32."),
]
Licence = Annotated[str | None, _rights("--licence", help="Terms of the singers' voices.")]
Credit = Annotated[str | None, _rights("--credit", help="Whom to thank for the singers' voices.")]
Consent = Annotated[
    str | None, _rights("--consent", help="How the singers agreed to be imitated. Needed for recorded singers.")
]
F0Median = Annotated[
    list[str] | None, _pitch("--f0-median", help="NAME=HZ: where a singer sings, for key auto. Repeatable.")
]


@contextmanager
def _messages(file: Path | None = None, force: bool = False) -> Iterator[None]:
    """Errors and the log become messages. `file`: the output, which is refused at once where it cannot be written."""
    log_to(console)
    with errors_in_words(console):
        if file is not None:
            _refuse_overwriting(file, force)
        yield


def _refuse_overwriting(file: Path, force: bool) -> None:
    from .errors import ExportError

    if file.suffix != SUFFIX:
        raise ExportError(f"{file} does not end in {SUFFIX}\nhint: -o {file.with_suffix(SUFFIX)}")
    if file.is_dir():
        raise ExportError(f"{file} is a folder\nhint: -o {file / 'voice'}{SUFFIX}")
    if file.exists() and not force:
        raise ExportError(f"{file} is there already\nhint: --force overwrites it")
    place = next(folder for folder in file.absolute().parents if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ExportError(f"{file} cannot be written: {place} {'takes no files' if place.is_dir() else 'is no folder'}")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _done(file: Path, facts: str = "") -> None:
    _say(f"done: {file}, {file.stat().st_size / 1e6:.1f} MB{facts}")


def _singers(names: Iterable[str]) -> str:
    return f", singers: {printable(', '.join(names))}"


@app.command()
def bundle(
    run: Annotated[Path, typer.Argument(help="The run folder that comosvc-train filled.", show_default=False)],
    file: Output,
    name: Name = None,
    student: Student = "student",
    weights: Annotated[
        str, _networks("--weights", help="Of the student: ema (averaged), online (the authors' choice) or target.")
    ] = "ema",
    licence: Licence = None,
    credit: Credit = None,
    consent: Consent = None,
    precision: Precisions = None,
    force: Force = False,
) -> None:
    """Trace RUN's networks to ONNX, compare them with torch, and write the voice.

    Nothing is written if a graph does not give what torch gives.
    """
    with _messages(file, force):
        from ..training.loop.log import shown
        from .bundle.assemble import export_bundle
        from .bundle.statements import Statements
        from .bundle.voice import load_voice
        from .precision.precision import find_precisions

        precisions = [found.name for found in find_precisions(precision or [])]
        voice = load_voice(run, Statements(licence, credit, consent), student, weights)
        with shown("bundle", console) as progress:
            manifest = export_bundle(voice, name or file.stem, file, precisions, progress)
        _done(file, _singers(manifest.singers))


@app.command("import")
def import_(
    como: Annotated[str, _files("--como", help="CoMoSVC's model_<step>.pt, teacher or student.", show_default=False)],
    vocoder: Annotated[str, _files("--vocoder", help="An NSF-HiFi-GAN checkpoint.", show_default=False)],
    content: Annotated[
        str, _files("--content", help="ContentVec: fairseq's .pt, or a Hugging Face folder.", show_default=False)
    ],
    file: Output,
    config: Annotated[str | None, _files("--config", help="config.yaml of --como. Default: beside it.")] = None,
    vocoder_config: Annotated[
        str | None, _files("--vocoder-config", help="Configuration of --vocoder. Default: beside it.")
    ] = None,
    vocoder_kind: Annotated[
        VocoderKind, _networks("--vocoder-kind", help="Whose generator it is; auto: by the checkpoint's layout.")
    ] = VocoderKind.AUTO,
    network: Annotated[
        NetworkChoice, _networks("--network", help="Of a student: what the authors convert with, or its average.")
    ] = NetworkChoice.ONLINE,
    steps: Annotated[
        str | None,
        _networks(
            "--steps",
            help="Numbers of steps that the voice can do: 1 leaves out the graph of further steps. "
            "Default: 1,2,4,8, of a teacher also 16,50.",
        ),
    ] = None,
    f0_median: F0Median = None,
    name: Name = None,
    licence: Licence = None,
    credit: Credit = None,
    consent: Consent = None,
    full: Annotated[bool, _files("--full", help="Put the content encoder inside, not in the shared cache.")] = False,
    precision: Precisions = None,
    force: Force = False,
) -> None:
    """Make a voice of checkpoints of the CoMoSVC authors' code, its vocoder and ContentVec.

    Paths may be hf://owner/name@commit/path/to/file. Nothing in the files is executed; every weight must fit.
    """
    with _messages(file, force):
        from ..training.loop.log import shown
        from .bundle.facts import parse_medians
        from .bundle.statements import Statements
        from .importing import ImportRequest, import_bundle, parse_steps
        from .precision.precision import find_precisions

        precisions = [found.name for found in find_precisions(precision or [])]
        request = ImportRequest(
            como=como,
            vocoder=vocoder,
            content=content,
            config=config,
            vocoder_config=vocoder_config,
            network="ema" if network is NetworkChoice.EMA else "online",
            vocoder_kind=vocoder_kind.value,
            steps=None if steps is None else parse_steps(steps),
            f0_medians_hz=parse_medians(f0_median or []),
        )
        statements = Statements(licence, credit, consent)
        with shown("import", console) as progress:
            report = import_bundle(request, statements, name or file.stem, file, full, precisions, progress)
        for graph, size in report.graph_bytes.items():
            place = "in the bundle" if report.manifest.graphs[graph].file else "in the shared cache"
            _say(f"{graph}: {size / 1e6:.1f} MB, {place}")
        if report.peak_memory_bytes is not None:
            _say(f"peak memory {report.peak_memory_bytes / 1e9:.2f} GB, {report.seconds:.0f} s")
        _done(file, _singers(report.manifest.singers))


@app.command()
def verify(
    bundle: Bundle,
    run: Annotated[
        Path | None, typer.Option("--run", help="The run folder it came from: compare with its torch networks too.")
    ] = None,
    student: Student = "student",
) -> None:
    """Check a voice: hashes, contracts, and that its graphs still give what torch gave when it was exported."""
    with _messages():
        from ..runtime.voice.bundle import open_bundle
        from .bundle.statements import Statements
        from .bundle.verify import verify as verify_bundle
        from .bundle.voice import load_voice
        from .graphs.parity import ParityRow, summary
        from .precision.variants import VariantRow

        voice = None if run is None else load_voice(run, Statements(consent="not asked again"), student)
        rows = verify_bundle(bundle, voice)
        _print_rows(
            ("graph", "comparisons", "worst relative error", "allowed", "largest difference"),
            summary([row for row in rows if isinstance(row, ParityRow)]),
        )
        _print_figures([row for row in rows if isinstance(row, VariantRow)])
        _say(f"{bundle} is what was exported")
        if open_bundle(bundle).manifest.digest is None:
            _say("note: an older version wrote its manifest: a change of licences or consent is not noticed")


@app.command()
def precision(
    bundle: Annotated[
        Path,
        typer.Argument(help="A .comosvc file, its unpacked folder, or a shipped voice's name.", show_default=False),
    ],
    add: Annotated[list[str], typer.Option("--add", help="fp16, int8. Repeatable, or a list with commas.")],
    file: Output,
    force: Force = False,
) -> None:
    """Add graphs in another precision to a voice; only the .comosvc file is needed.

    Each graph is compared with fp32 at several lengths and with extreme inputs. One that loses too much stays in fp32,
    and the voice says so.
    """
    with _messages(file, force):
        from ..runtime.voice.bundle import open_bundle
        from .precision.precision import add_to_bundle, recorded

        add_to_bundle(bundle, file, add)
        _print_figures(recorded(open_bundle(file)))
        _done(file)


@app.command()
def inspect(
    bundle: Bundle,
    verbose: Annotated[bool, typer.Option("--verbose", help="Tensors, hashes, and what made it too.")] = False,
) -> None:
    """Describe a voice: singers, graphs, look-ahead, licences and credits."""
    with _messages():
        from ..runtime.cli.info import print_info
        from ..runtime.voice.bundle import open_bundle

        print_info(open_bundle(bundle), output, verbose=verbose)


@app.command()
def pack(
    folder: Annotated[
        Path, typer.Argument(help="A shipped voice, a .comosvc file or its unpacked folder.", show_default=False)
    ],
    file: Output,
    full: Annotated[bool, typer.Option("--full", help="Put graphs that lie in the shared cache inside too.")] = False,
    force: Force = False,
) -> None:
    """Pack a bundle into one uncompressed zip, every hash checked; with --full one that needs nothing else."""
    with _messages(file, force):
        from .archive import pack as pack_folder

        manifest = pack_folder(folder, file, full)
        _done(file, f", voice {printable(manifest.name)}")


@app.command("set")
def set_(
    bundle: Bundle,
    file: Output,
    f0_median: F0Median = None,
    f0_range: Annotated[
        list[str] | None, _pitch("--f0-range", help="NAME=LOW,HIGH in Hz, 5 to 95 % of it. Repeatable.")
    ] = None,
    rename: Annotated[list[str] | None, _rights("--rename", help="NAME=NEW, of a singer. Repeatable.")] = None,
    singer: Annotated[
        list[str] | None, _rights("--singer", help="Whose --licence and --credit. Repeatable. Default: all.")
    ] = None,
    licence: Licence = None,
    credit: Credit = None,
    consent: Consent = None,
    name: Annotated[str | None, _rights("--name", help="Name of the voice.")] = None,
    force: Force = False,
) -> None:
    """Change facts of a finished voice: F0 and names of singers, licence, credit, consent. Its graphs stay unchanged.

    With --force the file of -o may be the voice itself.
    """
    with _messages(file, force):
        from .bundle.facts import Facts, parse_medians, parse_names, parse_ranges, set_facts

        facts = Facts(
            name=name,
            consent=consent,
            licence=licence,
            credit=credit,
            singers=tuple(singer or ()),
            f0_medians_hz=parse_medians(f0_median or []),
            f0_ranges_hz=parse_ranges(f0_range or []),
            new_names=parse_names(rename or []),
        )
        _done(file, _singers(set_facts(bundle, file, facts).singers))


@app.command()
def engines(
    bundle: Bundle,
    flavour: Annotated[
        Flavour, typer.Option("--flavour", help="rtx builds without a GPU too, but not for Hopper.")
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
    with _messages():
        from ..runtime.conversion.shapes import parse_uses
        from ..runtime.providers.tensorrt.build import build_engines
        from ..runtime.providers.tensorrt.target import build_target, engine_spec
        from ..runtime.voice.bundle import open_bundle
        from .errors import ExportError

        voice, uses = open_bundle(bundle), parse_uses(profile.split(","))
        if into_bundle and not Path(bundle).is_dir():
            raise ExportError(f"--into-bundle: {bundle} is no unpacked folder\nhint: unzip it, or leave the option out")
        target = build_target(flavour.value)
        for name in precision.split(","):
            if not voice.manifest.has(name) or name == "bf16":
                raise ExportError(f"{bundle} has no graphs in {name}; engines are built from fp32 and fp16 graphs")
            with console.status(f"{target}, {name}") as status:
                report = build_engines(
                    voice,
                    engine_spec(voice, target, name, uses),
                    into_bundle=into_bundle,
                    rebuild=rebuild,
                    progress=lambda graph, share: status.update(f"{graph}: {share:.0%}"),
                )
            _show_engines(report, str(target))


def _show_engines(report: "BuildReport", target: str) -> None:
    record, rows = report.record, []
    for graph, plan in record.plans.items():
        types = ", ".join(f"{count} {kind}" for kind, count in plan.layer_types.items())
        rows.append((graph, f"{plan.size_bytes / 1e6:.1f}", f"{plan.seconds:.1f}", str(plan.layers), types))
    _print_rows(("graph", "MB", "seconds", "layers", "of which give"), rows)
    for graph, why in record.not_built.items():
        _say(f"{graph} has no engine, ONNX Runtime computes it: {why}")
    for note in report.notes:
        _say(note)
    what = f"{target}, {record.precision}, profiles {', '.join(record.profiles)}"
    done = "they were there already" if report.was_there else f"{record.seconds:.0f} s"
    _say(f"done: {report.folder}: {what}; {done}")


def _print_figures(rows: "list[VariantRow]") -> None:
    if rows:
        from .precision.variants import variant_summary

        _print_rows(("graph", "precision", "measure", "comparisons", "worst", "budget"), variant_summary(rows))


def _print_rows(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    output.print(table)


def main() -> None:
    """Entry point of `comosvc-export`."""
    run(app, "comosvc-export", "export")
