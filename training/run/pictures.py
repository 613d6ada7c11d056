"""Pictures of mel spectrograms with their F0, and pictures and sound of a stage's progress in TensorBoard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from ...runtime.audio.spec import AudioSpec
from ...runtime.cli.plot import draw_panel, require_matplotlib
from ..acoustic.model import AcousticModel
from ..data.prepared import FeatureIndex, PreparedClip
from .rendering import AnalysedSong, LoadedStage, Renderer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGINS = {"left": 0.05, "right": 0.98, "bottom": 0.15, "top": 0.96}
"""Edges of the spectrograms as shares of a picture's width and height."""
_WIDTH_INCHES, _HEIGHT_INCHES = 11.0, 2.0

Illustrate = Callable[[AcousticModel, int, SummaryWriter], None]
"""(averaged network, steps done, where to write)."""
TEACHER_STEPS = 20
_SECONDS = 4.0


def mel_picture(
    mels: Sequence[NDArray[np.float32]], f0_hz: NDArray[np.float32], spec: AudioSpec, top: float
) -> "Figure":
    """Log-mels (T, M) side by side, `top` the brightest value, each with the F0 (T,) where it is voiced."""
    figure = require_matplotlib().Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES))
    for axes, mel in zip(figure.subplots(1, len(mels), squeeze=False, gridspec_kw=MARGINS)[0], mels, strict=True):
        draw_panel(axes, mel, top, f0_hz, spec)
        axes.set_xlim(0.0, len(mel) / spec.frame_rate_hz)
        axes.xaxis.set_major_formatter("{x:g} s")
    return figure


@dataclass(frozen=True)
class Illustration:
    """Target | teacher | student of one clip, sung by its own singer."""

    renderer: Renderer
    song: AnalysedSong
    singer: str
    stage: LoadedStage
    """The stage in training; its network is given at each checkpoint."""
    teacher: LoadedStage | None = None
    """The teacher of a student."""

    def __call__(self, model: AcousticModel, step: int, writer: SummaryWriter) -> None:
        """Write the picture `mel` (from left to right: target, teacher, student) and the audio of each, as far as there
        is a vocoder.
        """
        stages = [replace(self.stage, model=model, step=step)]
        if self.teacher is not None:
            stages.insert(0, replace(self.teacher, model=self.teacher.model.to(model.mel_mean.device)))
        painted = {"target": self.song.mel}
        for stage in stages:
            steps = TEACHER_STEPS if stage.student is None else 1
            painted["teacher" if stage.student is None else "student"], _ = self.renderer.paint(
                stage, self.song, self.singer, steps=steps
            )
        spec = self.renderer.spec
        picture = mel_picture(list(painted.values()), self.song.f0_hz, spec, float(self.song.mel.max()))
        writer.add_figure(f"mel: {' | '.join(painted)}", picture, step)
        if self.renderer.has_vocoder:
            for name, mel in painted.items():
                audio = self.song.audio if name == "target" else self.renderer.sing(mel, self.song.f0_hz)
                writer.add_audio(f"audio/{name}", audio[None].clip(-1.0, 1.0), step, sample_rate=spec.sample_rate)


def illustrate(run: Path, stage: LoadedStage, teacher: LoadedStage | None = None) -> Illustrate:
    """For the training of `stage` in `run`. Nothing is loaded before the first call: only one process makes one."""

    @cache
    def made() -> Illustration:
        return _illustration(run, stage, teacher)

    return lambda model, step, writer: made()(model, step, writer)


def _illustration(run: Path, stage: LoadedStage, teacher: LoadedStage | None) -> Illustration:
    renderer = Renderer(run)
    clip, spec = _typical_clip(renderer.features), renderer.spec
    audio = renderer.features.load(clip)["audio"].astype(np.float32) / np.float32(32768)
    song = renderer.listen(audio[: round(_SECONDS * spec.sample_rate)], spec.sample_rate)
    return Illustration(renderer, song, clip.singer, stage, teacher)


def _typical_clip(features: FeatureIndex) -> PreparedClip:
    """One of the held-out clips, or of the others where none is; of middle length."""
    clips = features.select("valid", trained=True) or features.select("train", trained=True)
    return sorted(clips, key=lambda clip: (clip.frames, clip.id))[len(clips) // 2]
