"""The demo: the shipped voice on clips that no training saw, with the truth beside it. Needs no torch.

python -m comosvc.benchmarks.demo [-o FOLDER]
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ..runtime import ComosvcError, Conversion, Converter
from ..runtime.audio.features import mel_spectrogram
from ..runtime.cli.plot import Panel, draw
from ..runtime.conversion.request import Key
from .demo_clips import SAMPLE_RATE, ClipEntry, DemoClips, read_audio, read_clips, shipped_folder
from .metrics import F0Errors, PitchMeter, SingerMeter, f0_errors, score_mel

PICTURE = "demo.png"


@dataclass(frozen=True)
class Line:
    """One conversion of the table."""

    clip: str
    target: str
    key: float
    seconds: float
    rtf: float
    """Processor seconds per second of audio, on one thread."""
    f0: F0Errors
    identified: str
    distance: float | None = None
    """log-mel L1 of the output to the true target, in nepers; None without a truth."""
    unconverted: float | None = None
    """The same of the source."""


@dataclass
class Demo:
    """A loaded voice, the meters, and the results so far."""

    converter: Converter
    clips: DemoClips
    out: Path
    meter: PitchMeter = field(default_factory=PitchMeter)
    identify: SingerMeter = field(default_factory=SingerMeter)
    panels: list[Panel] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def sing(self, truth: ClipEntry) -> Line:
        """The sung source to the singer of `truth`, who sings the same there: compare the two."""
        source, true_audio = self._read(self.clips.source), self._read(truth)
        result, rtf = self._convert(self.clips.source, truth.singer, key=0.0)
        spec = self.converter.spec
        true_f0_hz = self.true_f0_hz(len(source))
        f0_hz = self.meter(result.audio, SAMPLE_RATE, spec)
        self._write(f"{Path(truth.file).stem}_truth", true_audio)
        self.panels.append(Panel(f"converted to {truth.singer}", result.audio, SAMPLE_RATE, f0_hz))
        self.panels.append(Panel(f"the truth: {truth.singer} sings it", true_audio, SAMPLE_RATE, true_f0_hz))
        true_mel, *mels = (mel_spectrogram(audio, spec) for audio in (true_audio, result.audio, source))
        distance, unconverted = (score_mel(mel, true_mel, spec.mel_log_base).l1 for mel in mels)
        return Line(
            clip=self.clips.source.singer,
            target=truth.singer,
            key=result.options.key,
            seconds=len(source) / SAMPLE_RATE,
            rtf=rtf,
            f0=f0_errors([(f0_hz, true_f0_hz)], spec.frame_rate_hz),
            identified=self.identify(result.audio, SAMPLE_RATE),
            distance=distance,
            unconverted=unconverted,
        )

    def speak(self, target: str) -> Line:
        """The recorded voice to `target`, moved to where that singer sings; F0 is judged against the source's own."""
        source = self._read(self.clips.recorded)
        result, rtf = self._convert(self.clips.recorded, target, key="auto")
        spec = self.converter.spec
        wanted_hz = self.meter(source, SAMPLE_RATE, spec) * np.float32(2.0 ** (result.options.key / 12.0))
        f0_hz = self.meter(result.audio, SAMPLE_RATE, spec)
        return Line(
            clip=self.clips.recorded.singer,
            target=target,
            key=result.options.key,
            seconds=len(source) / SAMPLE_RATE,
            rtf=rtf,
            f0=f0_errors([(f0_hz, wanted_hz)], spec.frame_rate_hz),
            identified=self.identify(result.audio, SAMPLE_RATE),
        )

    def true_f0_hz(self, n_samples: int) -> NDArray[np.float32]:
        """Of the sung source at its mel frames, (T,)."""
        spec = self.converter.spec
        return self.clips.f0_at((np.arange(spec.frames(n_samples)) + 0.5) * spec.hop_length / spec.sample_rate)

    def draw(self) -> None:
        """Source, results and truths with their F0 curves into one picture."""
        source = self._read(self.clips.source)
        first = Panel(f"source: {self.clips.source.singer}", source, SAMPLE_RATE, self.true_f0_hz(len(source)))
        draw(self.out / PICTURE, [first, *self.panels], self.converter.spec)

    def _convert(self, entry: ClipEntry, target: str, key: Key) -> tuple[Conversion, float]:
        source = self._read(entry)
        start = time.process_time()
        result = self.converter.convert(source, SAMPLE_RATE, singer=target, key=key)
        rtf = (time.process_time() - start) / (len(source) / SAMPLE_RATE)
        self._write(Path(entry.file).stem, source)
        self._write(f"{Path(entry.file).stem}_to_{target}", result.audio)
        self.warnings += [f"{entry.singer} to {target}: {warning}" for warning in result.warnings]
        return result, rtf

    def _read(self, entry: ClipEntry) -> NDArray[np.float32]:
        return read_audio(shipped_folder(), entry)

    def _write(self, stem: str, audio: NDArray[np.float32]) -> None:
        soundfile.write(self.out / f"{stem}.wav", audio, SAMPLE_RATE)


def run_demo(out: Path) -> tuple[list[Line], list[str]]:
    """Convert the shipped clips into `out`, draw the picture there, and measure; the second list holds warnings."""
    out.mkdir(parents=True, exist_ok=True)
    clips = read_clips(shipped_folder())
    with Converter("demo", threads=1) as converter:
        demo = Demo(converter, clips, out)
        converter.self_test()  # also warms up, so that no line of the table pays for it
        lines = [*(demo.sing(truth) for truth in clips.targets), demo.speak(clips.targets[0].singer)]
        demo.draw()
    return lines, demo.warnings


def as_table(lines: list[Line]) -> Table:
    """The lines for a terminal of 80 columns."""
    table = Table(title="the shipped voice on clips that no training saw", title_justify="left", padding=(0, 1))
    table.add_column("conversion")
    for name in ("RTF", "F0 errors", "L1 to truth"):
        table.add_column(name, justify="right")
    table.add_column("singer")
    for line in lines:
        table.add_row(
            f"{line.clip} → {line.target} {line.key:+.0f}",
            f"{line.rtf:.3f}",
            f"{100 * line.f0.gross:.1f} % {line.f0.rmse_cents:.0f} ct {100 * line.f0.voicing:.1f} %",
            "–" if line.distance is None else f"{line.distance:.2f} ({line.unconverted:.2f})",
            line.identified,
        )
    return table


_LEGEND = """\
RTF: processor seconds per second of audio, one thread. F0 errors of the output against the truth (flite-rms: against \
the source's own, moved by the key): share more than 50 cents off, RMSE of the rest, share of wrong voicing. L1 to \
truth: distance in nepers of the log-mel to that of the target singer singing the same, in brackets the source's. \
Singer: by a classifier that was trained on no conversion."""


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option("-o", "--output", help="folder for the WAVs and the picture")] = Path("demo-out"),
) -> None:
    """Convert the shipped clips with the shipped voice and compare with the truth."""
    console = Console()
    try:
        lines, warnings = run_demo(out)
    except ComosvcError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    console.print(as_table(lines))
    console.print(_LEGEND, style="dim", highlight=False)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    files = sorted(path.name for path in out.iterdir())
    console.print(f"in {out}: {', '.join(files)}", markup=False, highlight=False)


if __name__ == "__main__":
    app()
