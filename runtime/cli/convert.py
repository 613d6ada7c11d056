"""comosvc-convert: files in, converted files out."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from typer.core import TyperCommand, TyperOption

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
from .exit import errors_in_words, new_app, run
from .info import print_info
from .live import LiveOptions, run_live, sound_devices
from .live import list_devices as sound_device_list
from .plot import PICTURES, Panel, draw, require_matplotlib

_PLOTTED_S = 60.0

_HELP = """Convert singing into another voice.

The sources must be isolated vocals: separate the vocals of a song first (with Demucs, for instance), convert them, \
and mix the result with the rest. Give files, folders (without their sub-folders) or patterns. A result is as long as \
its source, to the sample, and is written as 24-bit mono.

\bExamples:
  comosvc-convert --info                             list the singers
  comosvc-convert song.wav                           -> ./song_SINGER_0key.wav
  comosvc-convert song.wav -o out.wav -s alto -k -3  three semitones down
  comosvc-convert album/ more/*.flac -o out/ -k auto  a key for the singer
  comosvc-convert vocals.wav -k octave               in tune with the band
  comosvc-convert "album/**/*.flac" -o out/          sub-folders too
  comosvc-convert song.mp3 -s alto=0.7,bass=0.3 -o out.flac --plot out.png
  ffmpeg -i song.mkv -f wav - | comosvc-convert - -o - > out.wav
  comosvc-convert --live -s alto -k 5                microphone to headphones
"""


class _Command(TyperCommand):
    """Shows the options that typer adds in the last panel, which would stand in a panel before all others."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if isinstance(parameter, TyperOption):
                parameter.rich_help_panel = parameter.rich_help_panel or "Information"
        return parameters


_files = partial(typer.Option, rich_help_panel="Input and output")
_voice = partial(typer.Option, rich_help_panel="Voice and pitch")
_engine = partial(typer.Option, rich_help_panel="Engine")
_live = partial(typer.Option, rich_help_panel="Live")
_information = partial(typer.Option, rich_help_panel="Information")
_app = new_app()


def main() -> None:
    """Entry point of `comosvc-convert`."""
    end_on_signals()
    run(_app, "comosvc-convert", "cpu")


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
    as_json: bool

    @property
    def to_stdout(self) -> bool:
        return str(self.output) == STDIN

    @property
    def into_file(self) -> bool:
        return self.to_stdout or (self.output.suffix.lower() in FORMATS and not is_folder(self.output))


@_app.command(help=_HELP, cls=_Command)
def _convert(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="IN", help="Files, folders or patterns; - is standard input.", show_default=False),
    ] = None,
    output: Annotated[
        Path,
        _files("--output", "-o", help="A .wav or .flac file, a folder, or - for standard output.", show_default=False),
    ] = Path(),
    file_format: Annotated[str, _files("--format", help="wav or flac, in a folder or on standard output.")] = "wav",
    channel: Annotated[str, _files("--channel", help="mid (the mean of all channels), left or right.")] = "mid",
    force: Annotated[bool, _files("--force", "-f", help="Replace files that exist.")] = False,
    skip_existing: Annotated[
        bool, _files("--skip-existing", help="Leave out files whose result is in the folder already.")
    ] = False,
    plot: Annotated[Path | None, _files("--plot", help="Draw one conversion: mels, F0 (.png, .pdf, .svg).")] = None,
    as_json: Annotated[bool, _files("--json", help="Print a summary as JSON on standard output.")] = False,
    model: Annotated[str, _voice("--model", "-m", help="A .comosvc file, its folder, a shipped voice.")] = "demo",
    singer: Annotated[
        str | None, _voice("--singer", "-s", help="A singer, or a blend with relative weights: alto=0.7,bass=0.9.")
    ] = None,
    key: Annotated[
        str,
        _voice("--key", "-k", help="Semitones up; auto: found for the singer; octave: the same in octaves."),
    ] = "0",
    seed: Annotated[int, _voice("--seed", help="Same seed, same result.")] = 0,
    steps: Annotated[
        int | None, _voice("--steps", help="Sampling steps. Default: the voice's own number; --info names it.")
    ] = None,
    live: Annotated[bool, _live("--live", help="Convert the input of a microphone, until Ctrl-C.")] = False,
    list_devices: Annotated[bool, _live("--list-devices", help="List the audio devices and stop.")] = False,
    input_device: Annotated[str | None, _live("--input-device", help="Number or part of its name.")] = None,
    output_device: Annotated[str | None, _live("--output-device", help="Number or part of its name.")] = None,
    rate: Annotated[int | None, _live("--rate", help="Hz. Default: the device's own.")] = None,
    block_ms: Annotated[float, _live("--block-ms", help="Length of a block of audio.")] = 20.0,
    late: Annotated[str, _live("--late", help="Output of late blocks: hold, dry or silence.")] = "hold",
    gate_db: Annotated[
        float | None, _live("--gate-db", help="Softer input is silence, for instance below -50.")
    ] = None,
    monitor: Annotated[float, _live("--monitor", help="Share of the dry input in the output.")] = 0.0,
    provider: Annotated[str, _engine("--provider", help=f"One of {', '.join(PROVIDERS)}.")] = "auto",
    precision: Annotated[str, _engine("--precision", help=f"One of {', '.join(PRECISIONS)}.")] = "auto",
    threads: Annotated[int | None, _engine("--threads", help="Threads to compute with.", min=1)] = None,
    latency: Annotated[str, _engine("--latency", help="default, or low: as --live converts.")] = "default",
    info: Annotated[bool, _information("--info", help="Describe the voice and stop.")] = False,
    verbose: Annotated[bool, _information("--verbose", help="With --info: tensors, hashes, origin.")] = False,
    version: Annotated[bool, _information("--version", help="Print the version and stop.")] = False,
) -> None:
    console = Console(stderr=True)
    if version:
        typer.echo(__version__)
        return
    with errors_in_words(console, unnamed="standard output cannot be written"):
        if list_devices:
            typer.echo(sound_device_list())
            return
        engine: dict[str, Any] = {"provider": provider, "precision": precision, "threads": threads}
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
        if info:
            if inputs:
                raise OptionError(
                    f"--info describes a voice, and {inputs[0]} is given to be converted\n"
                    f"hint: comosvc-convert --info -m {shlex.quote(os.fspath(inputs[0]))}"
                )
            with Converter(model, **engine) as converter:
                runs_on = f"{converter.provider} in {converter.precision}"
                print_info(open_bundle(model), Console(), verbose=verbose, runs_on=runs_on)
            return
        for_files = {**conversion, "latency": latency, "overwrite": force, "channel": check_channel(channel)}
        job = _Job(output, for_files, f".{file_format.lower().lstrip('.')}", plot, skip_existing, as_json)
        sources = find_sources(inputs or [])
        for path, why in sources.skipped.items():
            _say(console, f"skipped: {path}: {why}", style="yellow")
        _check(job, sources.paths)
        with Converter(model, **engine) as converter:
            results = _convert_files(converter, job, sources, console)
    if any(result.error for result in results):
        raise typer.Exit(1)


def _sing_live(converter: Converter, options: LiveOptions, console: Console) -> None:
    chosen = options.singer or next(iter(converter.singers))
    who = chosen if isinstance(chosen, str) else _blend(chosen)
    last = ""
    with console.status("…") as status:

        def say(text: str) -> None:
            nonlocal last
            if not last:
                _say(console, f"live as {who}; Ctrl-C ends it")
            last = text
            status.update(text)

        run_live(converter, options, say, lambda warning: _say(console, f"note: {warning}", style="yellow"))
    _say(console, last)


def _check(job: _Job, sources: list[Path]) -> None:
    """Raise `ComosvcError` for options that can be refused before the voice is loaded."""
    if job.ending not in FORMATS:
        raise OptionError(f"--format {job.ending[1:]!r}; known: {', '.join(ending[1:] for ending in FORMATS)}")
    # A standard stream is None if it was closed before the start.
    if STDIN in map(str, sources) and (sys.stdin is None or sys.stdin.isatty()):
        what = "closed" if sys.stdin is None else "a terminal"
        raise AudioError(f"standard input is {what}, not audio\nhint: ffmpeg -i song.m4a -f wav - | comosvc-convert -")
    if sys.stdout is None and (job.to_stdout or job.as_json):
        raise OutputError("standard output is closed")
    if job.into_file and len(sources) > 1:
        raise OutputError(f"{len(sources)} files cannot all become {job.output}\nhint: -o FOLDER")
    if job.to_stdout and job.as_json:
        raise OptionError("--json writes to standard output, as -o - does\nhint: leave out one of the two")
    if not job.into_file and job.output.suffix and not is_folder(job.output):
        raise OutputError(f"-o {job.output}: results are written as {' or '.join(FORMATS)}, or into a folder")
    if job.plot is None:
        return
    if job.plot.suffix.lower() not in PICTURES:
        raise OptionError(f"--plot {job.plot}: pictures are written as {', '.join(PICTURES)}")
    require_matplotlib()
    if len(sources) > 1:
        raise OptionError(f"--plot draws one conversion, there are {len(sources)} files")
    if job.to_stdout or STDIN in map(str, sources):
        raise OptionError("--plot reads source and result again, which standard input and output do not allow")
    if os.path.lexists(job.plot) and not job.conversion["overwrite"]:
        raise OutputError(f"{job.plot} exists\nhint: --force replaces it")


def _convert_files(converter: Converter, job: _Job, sources: Sources, console: Console) -> list[FileConversion]:
    """Convert, announce each result, and write the summary and the picture."""
    results = []
    for failure in sources.failed:
        _announce(console, failure)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=float(len(sources.paths)))
        shares: dict[Path, float] = {}

        def report(source: Path, share: float) -> None:
            shares[source] = share
            bar.update(task, completed=sum(shares.values()), description=printable(source.name))

        for result in _results(converter, job, sources.paths, report):
            report(result.source, 1.0)
            _announce(console, result)
            results.append(result)
    results += sources.failed
    if job.as_json:
        unread = [{"source": str(path), "reason": why} for path, why in sources.skipped.items()]
        summary = {"version": __version__, "results": [result.as_dict() for result in results], "skipped": unread}
        typer.echo(json.dumps(summary, indent=1))
    if job.plot is not None and results[0].error is None and not results[0].skipped:
        _plot(converter, results[0], job.plot)
    return results


def _results(
    converter: Converter, job: _Job, sources: list[Path], report: Callable[[Path, float], None]
) -> Iterator[FileConversion]:
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
    elif result.skipped:
        _say(console, f"skipped: {result.source}: {result.output} exists")
    else:
        options = result.options
        assert options is not None
        facts = f"as {_blend(options.singer)}, {result.seconds:.1f} s, key {options.key:+g}, RTF {result.rtf:.3f}"
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
