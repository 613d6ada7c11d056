"""Mel spectrograms with their F0 as pictures, and pictures of a stage's progress."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from ...runtime.audio.features import hz_to_mel
from ...runtime.audio.spec import AudioSpec
from ...runtime.cli.plot import LABELLED_HZ
from ..acoustic.model import AcousticModel
from ..data.prepared import FeatureIndex, PreparedClip
from .rendering import AnalysedSong, LoadedStage, Renderer

Picture = NDArray[np.uint8]
"""(height, width, 3)."""

_MAGMA = ("000004", "1c1044", "4f127b", "812581", "b5367a", "e55964", "fb8761", "fec287", "fcfdbf")
_CURVE = (0, 255, 255)
_RANGE_NEPERS = 4.0 * np.log(10.0)  # 80 dB below the loudest
_ROWS_PER_BAND = 2


def mel_picture(mel: NDArray[np.float32], f0_hz: NDArray[np.float32], spec: AudioSpec, top: float) -> Picture:
    """A log-mel (T, M), low bands at the bottom, a pixel for each frame, `top` the brightest value; F0 (T,) drawn in
    where it is voiced.
    """
    low = top - _RANGE_NEPERS / np.log(spec.mel_log_base)
    shade = np.clip((mel - low) / (top - low), 0.0, 1.0)
    picture = _colours(np.repeat(shade.T[::-1], _ROWS_PER_BAND, axis=0))
    edges = hz_to_mel(np.array([spec.f_min_hz, spec.f_max_hz]))
    place = (hz_to_mel(np.maximum(f0_hz, 1.0)) - edges[0]) / np.diff(edges)
    height = len(picture)
    rows = np.clip(np.round((1.0 - place) * height), 0, height - 2).astype(int)
    voiced = np.flatnonzero((f0_hz[: len(mel)] > 0) & (place[: len(mel)] >= 0))
    for row in (rows[voiced], rows[voiced] + 1):
        picture[row, voiced] = _CURVE
    return picture


def hz_ticks(spec: AudioSpec) -> list[tuple[str, float]]:
    """Labels of the frequency axis of `mel_picture` with their height, 0 at its bottom to 1 at its top."""
    low, high = hz_to_mel(np.array([spec.f_min_hz, spec.f_max_hz]))
    labelled = [hz for hz in LABELLED_HZ if spec.f_min_hz <= hz <= spec.f_max_hz]
    return [(f"{hz} Hz", float((hz_to_mel(hz) - low) / (high - low))) for hz in labelled]


def beside(pictures: list[Picture], gap: int = 6) -> Picture:
    """Pictures of one height from left to right, white between them."""
    white = np.full((len(pictures[0]), gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, white)]
    return np.concatenate(parts[:-1], axis=1)


def png(picture: Picture) -> bytes:
    """The picture as a PNG file (RGB, 8 bit)."""
    height, width, _ = picture.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)  # filter 0: as it is
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _colours(shade: NDArray[np.float32]) -> Picture:
    """0 to 1 as colours (…, 3), along matplotlib's magma."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in _MAGMA])
    at = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.interp(shade, at, stops[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


Illustrate = Callable[[AcousticModel, int, SummaryWriter], None]
"""(averaged network, steps done, where to write)."""
TEACHER_STEPS = 20
_SECONDS = 4.0


@dataclass(frozen=True)
class Illustration:
    """Target | teacher | student of one clip, sung by its own singer."""

    renderer: Renderer
    song: AnalysedSong
    singer: str
    stage: LoadedStage
    """The one that is being trained; its network is given at each checkpoint."""
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
        spec, top = self.renderer.spec, float(self.song.mel.max())
        pictures = [mel_picture(mel, self.song.f0_hz, spec, top) for mel in painted.values()]
        writer.add_image(f"mel: {' | '.join(painted)}", beside(pictures), step, dataformats="HWC")
        if self.renderer.has_vocoder:
            for name, mel in painted.items():
                audio = self.song.audio if name == "target" else self.renderer.sing(mel, self.song.f0_hz)
                writer.add_audio(f"audio/{name}", audio[None].clip(-1.0, 1.0), step, sample_rate=spec.sample_rate)


def illustrate(run: Path, stage: LoadedStage, teacher: LoadedStage | None = None) -> Illustrate:
    """For the training of `stage` in `run`. Nothing is loaded before the first call: only one process makes one."""

    @cache
    def made() -> Illustration:
        renderer = Renderer(run)
        clip, spec = _typical_clip(renderer.features), renderer.spec
        audio = renderer.features.load(clip)["audio"].astype(np.float32) / np.float32(32768)
        song = renderer.listen(audio[: round(_SECONDS * spec.sample_rate)], spec.sample_rate)
        return Illustration(renderer, song, clip.singer, stage, teacher)

    return lambda model, step, writer: made()(model, step, writer)


def _typical_clip(features: FeatureIndex) -> PreparedClip:
    """One of the held-out clips, or of the others where none is; of middle length."""
    clips = features.select("valid", trained=True) or features.select("train", trained=True)
    return sorted(clips, key=lambda clip: (clip.frames, clip.id))[len(clips) // 2]
