"""What a teacher or a student makes of a clip it was not trained on, for TensorBoard: pictures and sound."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from .acoustic import AcousticModel
from .features import ClipEntry, FeatureIndex
from .pictures import beside, mel_picture
from .rendering import Renderer, Song, Stage

Illustrate = Callable[[AcousticModel, int, SummaryWriter], None]
"""(averaged network, steps done, where to write)."""
TEACHER_STEPS = 20
_SECONDS = 4.0


@dataclass(frozen=True)
class Illustration:
    """Target | teacher | student of one clip, sung by its own singer."""

    renderer: Renderer
    song: Song
    singer: str
    stage: Stage
    """The one that is being trained; its network is given at each checkpoint."""
    teacher: Stage | None = None
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
        spec, top = self.renderer.spec, float(self.song.mel.max())
        pictures = [mel_picture(mel, self.song.f0_hz, spec, top) for mel in painted.values()]
        writer.add_image(f"mel: {' | '.join(painted)}", beside(pictures), step, dataformats="HWC")
        if self.renderer.has_vocoder:
            for name, mel in painted.items():
                audio = self.song.audio if name == "target" else self.renderer.sing(mel, self.song.f0_hz)
                writer.add_audio(f"audio/{name}", audio[None].clip(-1.0, 1.0), step, sample_rate=spec.sample_rate)


def illustrate(run: Path, stage: Stage, teacher: Stage | None = None) -> Illustrate:
    """For the training of `stage` in `run`. Nothing is loaded before the first call: only one process makes one."""

    @cache
    def made() -> Illustration:
        return _illustration(run, stage, teacher)

    return lambda model, step, writer: made()(model, step, writer)


def _illustration(run: Path, stage: Stage, teacher: Stage | None) -> Illustration:
    renderer = Renderer(run)
    clip, spec = _typical_clip(renderer.features), renderer.spec
    audio = renderer.features.load(clip)["audio"].astype(np.float32) / np.float32(32768)
    song = renderer.listen(audio[: round(_SECONDS * spec.sample_rate)], spec.sample_rate)
    return Illustration(renderer, song, clip.singer, stage, teacher)


def _typical_clip(features: FeatureIndex) -> ClipEntry:
    """One of the held-out clips, or of the others where none is; of middle length."""
    clips = features.select("valid", trained=True) or features.select("train", trained=True)
    return sorted(clips, key=lambda clip: (clip.frames, clip.id))[len(clips) // 2]
