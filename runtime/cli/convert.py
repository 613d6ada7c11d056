"""comosvc-convert: files in, converted files out."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .. import __version__
from ..audio.files import FORMATS, read_audio
from ..audio.resampling import check_channel
from ..audio.sources import STDIN, name_of
from ..conversion.live_stream import DeadlinePolicy
from ..conversion.request import FileConversion
from ..converter import Converter
from ..errors import AudioError, ComosvcError, OptionError, OutputError, printable
from ..providers import PRECISIONS, PROVIDERS
from ..voice.bundle import open_bundle
from .arguments import Sources, find_sources, is_folder, parse_device, parse_key, parse_singer
from .exit import errors_in_words
from .info import print_info
from .live import LiveOptions, run_live, sound_devices
from .live import list_devices as sound_device_list
from .plot import PICTURES, Panel, draw, require_matplotlib

_PLOTTED_S = 60.0

_HELP = """Convert singing into another voice.

The sources must be isolated vocals: of a song with instruments, separate the vocals first
(a source separator such as Demucs does), convert them, and mix the result with the rest.

Give files, folders (without their sub-folders) or patterns. A result is as long as its
source, to the sample, and is written as 24-bit mono.

\b
Examples:
  comosvc-convert --info                                which singers there are
  comosvc-convert song.wav                              demo voice -> ./song_SINGER_0key.wav
  comosvc-convert song.wav -o out.wav -s alto -k -3     three semitones down
  comosvc-convert album/ more/*.flac -o out/ -k auto    many files, the key that suits the singer
  comosvc-convert vocals.wav -k octave                  the octave that suits the singer and the band
  comosvc-convert "album/**/*.flac" -o out/            sub-folders too
  ffmpeg -i song.mkv -f wav - | comosvc-convert - -o - > out.wav
  comosvc-convert song.mp3 -s alto=0.7,bass=0.3 -o out.flac --plot out.png
  comosvc-convert --live -s alto -k 5                   microphone to headphones; --list-devices
"""

_app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of `comosvc-convert`."""
    end_on_signals()
    _app()


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the process by an exception, with exit code 128 + n as in shells."""
    # By default these signals end Python without unwinding, and half-written files would stay.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP; nohup ignores it
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(128 + received))


@dataclass(frozen=True)
class _Job:
    """The parsed command line. `conversion`: arguments of `Converter.convert_file` that all files share."""

    output: Path
    conversion: dict[str, Any]
    ending: str
    plot: Path | None
    skip_existing: bool

    @property
    def to_stdout(self) -> bool:
        return str(self.output) == STDIN

    @property
    def into_file(self) -> bool:
        return self.to_stdout or (self.output.suffix.lower() in FORMATS and not is_folder(self.output))


@_app.command(help=_HELP)
def _convert(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="IN...", help="Files, folders or patterns; - is standard input."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A .wav or .flac file for one input; else a folder, made if need be; - is standard output.",
        ),
    ] = Path(),
    model: Annotated[str, typer.Option("--model", "-m", help="A .comosvc file, its folder, a shipped voice.")] = "demo",
    singer: Annotated[
        str | None,
        typer.Option(
            "--singer",
            "-s",
            help="A singer of the voice, or a blend: alto=0.7,bass=0.9. Weights are divided by their sum.",
        ),
    ] = None,
    key: Annotated[
        str,
        typer.Option(
            "--key",
            "-k",
            help="Semitones up; auto: what suits the singer; octave: the same in steps of 12, for a backing track.",
        ),
    ] = "0",
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same result.")] = 0,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Sampling steps. Default: the voice's own number; --info names it.")
    ] = None,
    provider: Annotated[str, typer.Option("--provider", help=f"One of {', '.join(PROVIDERS)}.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help=f"One of {', '.join(PRECISIONS)}.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="Threads to compute with.", min=1)] = None,
    channel: Annotated[
        str, typer.Option("--channel", help="Of a source with several: mid (their mean), left or right.")
    ] = "mid",
    file_format: Annotated[
        str, typer.Option("--format", help="wav or flac, for results in a folder or on standard output.")
    ] = "wav",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw one conversion: mels, F0 (.png, .pdf, .svg).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A summary as JSON on standard output.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out files whose result is in the folder already.")
    ] = False,
    latency: Annotated[
        str, typer.Option("--latency", help="default, or low: as --live would convert the files.")
    ] = "default",
    live: Annotated[bool, typer.Option("--live", help="Convert what is sung into a microphone, until Ctrl-C.")] = False,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="Audio devices for --live, and stop.")] = False,
    input_device: Annotated[
        str | None, typer.Option("--input-device", help="Number or part of its name, with --live.")
    ] = None,
    output_device: Annotated[str | None, typer.Option("--output-device", help="The same.")] = None,
    rate: Annotated[int | None, typer.Option("--rate", help="Hz, with --live; else the device's own.")] = None,
    block_ms: Annotated[float, typer.Option("--block-ms", help="Of audio at a time, with --live.")] = 20.0,
    late: Annotated[
        str, typer.Option("--late", help="What fills in when the voice is late, with --live: hold, dry or silence.")
    ] = "hold",
    gate_db: Annotated[
        float | None, typer.Option("--gate-db", help="Input softer than this is silence, with --live: -50.")
    ] = None,
    monitor: Annotated[float, typer.Option("--monitor", help="Share of the dry input to hear, with --live.")] = 0.0,
    info: Annotated[bool, typer.Option("--info", help="Describe the voice and stop.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="With --info: tensors, hashes, what made it.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    console = Console(stderr=True)
    if version:
        typer.echo(__version__)
        return
    engine: dict[str, Any] = {"provider": provider, "precision": precision, "threads": threads}
    with errors_in_words(console, unnamed="standard output cannot be written"):
        if list_devices:
            typer.echo(sound_device_list())
            return
        conversion = {"singer": parse_singer(singer), "key": parse_key(key), "seed": seed, "steps": steps}
        if live:
            if inputs:
                raise OptionError(f"--live converts a microphone, not {inputs[0]}\nhint: leave out one of the two")
            options = LiveOptions(
                **conversion,
                input_device=parse_device(input_device),
                output_device=parse_device(output_device),
                rate=rate,
                block_ms=block_ms,
                policy=cast(DeadlinePolicy, late),
                gate_db=gate_db,
                monitor=monitor,
            )
            sound_devices()  # an error for missing devices before the voice is loaded
            with Converter(model, **engine) as converter:
                _sing_live(converter, options, console)
            return
        if info and inputs:
            raise OptionError(
                f"--info describes a voice, and {inputs[0]} is given to be converted\n"
                f"hint: comosvc-convert --info -m {shlex.quote(os.fspath(inputs[0]))}"
            )
        for_files = {**conversion, "latency": latency, "overwrite": force, "channel": check_channel(channel)}
        job = _Job(output, for_files, f".{file_format.lower().lstrip('.')}", plot, skip_existing)
        sources = Sources() if info else find_sources(inputs or [])
        for path, why in sources.skipped.items():
            _say(console, f"skipped: {path}: {why}", style="yellow")
        _check(job, sources.paths, force, as_json)
        with Converter(model, **engine) as converter:
            if info:
                runs_on = f"{converter.provider} in {converter.precision}"
                print_info(open_bundle(model), Console(), verbose=verbose, runs_on=runs_on)
                return
            results = _convert_files(converter, job, sources, console, as_json)
    if any(result.error for result in results):
        raise typer.Exit(1)


def _convert_files(
    converter: Converter, job: _Job, sources: Sources, console: Console, as_json: bool
) -> list[FileConversion]:
    for failure in sources.failed:
        _announce(console, failure)
    results = [*_run(converter, job, sources.paths, console), *sources.failed]
    if as_json:
        typer.echo(_summary(results, sources.skipped))
    if job.plot is not None and results[0].error is None and not results[0].skipped:
        _plot(converter, results[0], job.plot)
    return results


def _summary(results: list[FileConversion], skipped: Mapping[Path, str]) -> str:
    """The JSON of `--json`."""
    unread = [{"source": str(path), "reason": why} for path, why in skipped.items()]
    summary = {"version": __version__, "results": [result.as_dict() for result in results], "skipped": unread}
    return json.dumps(summary, indent=1)


def _sing_live(converter: Converter, options: LiveOptions, console: Console) -> None:
    chosen = options.singer or next(iter(converter.singers))
    who = chosen if isinstance(chosen, str) else _blend(chosen)

    with console.status("…") as status:
        last = ""

        def say(text: str) -> None:
            nonlocal last
            if not last:
                _say(console, f"live as {who}; Ctrl-C ends it")
            last = text
            status.update(text)

        run_live(converter, options, say, lambda warning: _say(console, f"note: {warning}", style="yellow"))
    _say(console, last)


def _check(job: _Job, sources: list[Path], force: bool, as_json: bool) -> None:
    """Raise `ComosvcError` for options that can be refused before the voice is loaded."""
    if job.ending not in FORMATS:
        raise OptionError(f"--format {job.ending[1:]!r}; known: {', '.join(ending[1:] for ending in FORMATS)}")
    # A standard stream is None if it was closed before the start.
    if STDIN in map(str, sources) and (sys.stdin is None or sys.stdin.isatty()):
        what = "closed" if sys.stdin is None else "a terminal"
        raise AudioError(f"standard input is {what}, not audio\nhint: ffmpeg -i song.m4a -f wav - | comosvc-convert -")
    if sys.stdout is None and (job.to_stdout or as_json):
        raise OutputError("standard output is closed")
    if job.into_file and len(sources) > 1:
        raise OutputError(f"{len(sources)} files cannot all become {job.output}\nhint: -o FOLDER")
    if job.to_stdout and as_json:
        raise OptionError("--json writes to standard output, as -o - does\nhint: leave out one of the two")
    if not job.into_file and job.output.suffix and not is_folder(job.output):
        raise OutputError(f"-o {job.output}: results are written as {' or '.join(FORMATS)}, or into a folder")
    if job.plot is not None:
        _check_plot(job, sources, force)


def _check_plot(job: _Job, sources: list[Path], force: bool) -> None:
    assert job.plot is not None
    if job.plot.suffix.lower() not in PICTURES:
        raise OptionError(f"--plot {job.plot}: pictures are written as {', '.join(PICTURES)}")
    require_matplotlib()
    if len(sources) > 1:
        raise OptionError(f"--plot draws one conversion, there are {len(sources)} files")
    if job.to_stdout or STDIN in map(str, sources):
        raise OptionError("--plot reads source and result again, which standard input and output do not allow")
    if os.path.lexists(job.plot) and not force:
        raise OutputError(f"{job.plot} exists\nhint: --force replaces it")


def _run(converter: Converter, job: _Job, sources: list[Path], console: Console) -> list[FileConversion]:
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    results = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=float(len(sources)))
        shares: dict[Path, float] = {}

        def report(source: Path, share: float) -> None:
            shares[source] = share
            bar.update(task, completed=sum(shares.values()), description=printable(source.name))

        for result in _results(converter, job, sources, report):
            report(result.source, 1.0)
            _announce(console, result)
            results.append(result)
    return results


def _results(converter: Converter, job: _Job, sources: list[Path], report: Any) -> Iterator[FileConversion]:
    opened = [sys.stdin.buffer if str(source) == STDIN else source for source in sources]
    if not job.into_file:
        options = {"ending": job.ending, "skip_existing": job.skip_existing, **job.conversion}
        yield from converter.convert_many(opened, job.output, progress=report, **options)
        return
    source = sources[0]
    if job.skip_existing and not job.to_stdout and os.path.lexists(job.output):
        yield FileConversion(source, job.output, skipped=True)
        return
    output, ending = (sys.stdout.buffer, job.ending) if job.to_stdout else (job.output, None)
    options = {"ending": ending, **job.conversion}
    try:
        yield converter.convert_file(opened[0], output, progress=lambda share: report(source, share), **options)
    except ComosvcError as error:
        yield FileConversion(Path(name_of(opened[0])), None, error=error)


def _announce(console: Console, result: FileConversion) -> None:
    if result.error is not None:
        text, source = str(result.error), str(result.source)
        _say(console, f"error: {text if source in text else f'{source}: {text}'}", style="red")
        return
    if result.skipped:
        _say(console, f"skipped: {result.source}: {result.output} exists")
        return
    assert result.options is not None
    facts = (
        f"as {_blend(result.options.singer)}, {result.seconds:.1f} s, key {result.options.key:+g}, RTF {result.rtf:.3f}"
    )
    _say(console, f"{result.source} -> {result.output}  ({facts})")
    for warning in result.warnings:
        _say(console, f"  note: {warning}", style="yellow")


def _blend(singer: Mapping[str, float]) -> str:
    """The words for a singer or a blend: "alto", "alto 70 %, bass 30 %"."""
    if len(singer) == 1:
        return next(iter(singer))
    return ", ".join(f"{name} {100 * share:.3g} %" for name, share in singer.items())


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def _plot(converter: Converter, result: FileConversion, path: Path) -> None:
    """Draw source and result, each with its F0 of the pitch graph."""
    assert result.output is not None
    panels = []
    for title, file in (("source", result.source), ("result", result.output)):
        audio, rate = read_audio(file)
        audio = audio[: round(_PLOTTED_S * rate)]
        panels.append(Panel(f"{title}: {printable(file.name)}", audio, rate, converter.track_f0(audio, rate)))
    draw(path, panels, converter.spec)
