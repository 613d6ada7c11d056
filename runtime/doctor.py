"""comosvc-doctor: what works on this machine, what does not, and why."""

import importlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .bundle import comosvc_home, shipped_voices
from .converter import Converter
from .errors import ComosvcError
from .files import READABLE
from .providers import PROVIDERS, choose_provider
from .providers.onnx import onnx_runtime
from .version import __version__

_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_HELP = """Say what works here, what does not and why.

\b
Examples:
  comosvc-doctor                    everything
  comosvc-doctor --provider cuda    exit code 1 if that provider would not run
  comosvc-doctor -m my.comosvc      test this voice instead of the shipped one
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `works` None: not needed, only said."""

    what: str
    works: bool | None
    detail: str


def main() -> None:
    """Entry point of `comosvc-doctor`."""
    _app()


@_app.command(help=_HELP)
def _doctor(
    provider: Annotated[str, typer.Option("--provider", help=f"One of {', '.join(PROVIDERS)}.")] = "auto",
    model: Annotated[str, typer.Option("--model", "-m", help="The voice to test with.")] = "demo",
) -> None:
    asked = check_provider(provider, model)
    others = [check_provider(name, model) for name in PROVIDERS if name not in ("auto", provider)]
    table = Table("", "what", "detail", show_header=False)
    marks = {True: "[green]ok[/green]", False: "[red]no[/red]", None: ""}
    for finding in [*environment(), *extras(), asked, *others]:
        table.add_row(marks[finding.works], finding.what, escape(finding.detail))
    Console().print(table)
    if not asked.works:
        Console(stderr=True).print(f"error: {asked.what} does not run here: {asked.detail}", style="red", markup=False)
        raise typer.Exit(1)


def check_provider(provider: str, model: str) -> Finding:
    """Whether `provider` runs here: a voice is loaded on it and converts a second of song."""
    what = f"provider {provider}"
    try:
        choose_provider(provider)
        if model == "demo" and model not in shipped_voices():
            return Finding(what, False, "no voice was shipped with this installation\nhint: -m VOICE.comosvc")
        with Converter(model, provider=provider) as converter:
            test = converter.self_test()
    except ComosvcError as error:
        return Finding(what, False, str(error))
    seen = f"{test.seconds:.1f} s of song at RTF {test.rtf:.3f}, pitch {test.f0_error_cents:.1f} cents off"
    if test.probe_errors:
        seen += f", graphs within {max(test.probe_errors.values()):.1e} of torch"
    return Finding(what, True, f"runs on {test.provider} in {test.precision}: {seen}")


def environment() -> list[Finding]:
    """Versions of what conversion rests on."""
    findings = [
        Finding("comosvc", None, f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        Finding("processor", None, f"{os.cpu_count()} logical cores, {platform.machine()}"),
        Finding("cache", None, f"{comosvc_home()} ({'there' if comosvc_home().is_dir() else 'not made yet'})"),
    ]
    try:
        ort = onnx_runtime()
        compiled = ", ".join(name.removesuffix("ExecutionProvider") for name in ort.get_available_providers())
        findings.append(Finding("onnxruntime", True, f"{ort.__version__}, compiled for {compiled}"))
    except ComosvcError as error:
        findings.append(Finding("onnxruntime", False, str(error)))
    return findings


def extras() -> list[Finding]:
    """Optional parts and file formats."""
    soundfile = importlib.import_module("soundfile")
    formats = {f".{name.lower()}" for name in soundfile.available_formats()}
    known = [ending for ending in READABLE if ending in formats or ending in (".aif", ".opus")]
    findings = [Finding("audio files", True, f"libsndfile {soundfile.__libsndfile_version__}: {' '.join(known)}")]
    try:
        version = importlib.metadata.version("matplotlib")
        findings.append(Finding("--plot", True, f"matplotlib {version}"))
    except importlib.metadata.PackageNotFoundError:
        findings.append(Finding("--plot", None, 'matplotlib is not installed: pip install "comosvc[plot]"'))
    return findings
