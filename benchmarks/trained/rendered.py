"""The trained systems, ready to generate mels: one line of the table each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...runtime.audio.spec import AudioSpec
from ...runtime.conversion.source import noise_frames
from ...training.acoustic.dataset import batch_condition
from ...training.acoustic.diffusion import Denoise, consistency_sample, teacher_sample
from ...training.acoustic.model import AcousticModel
from ...training.acoustic.teaching import StudentConfig, denoise_with
from ...training.config import from_mapping
from ...training.data.prepared import FeatureIndex
from ...training.loop.batches import Batch
from ...training.loop.checkpoint import load_module, read_metadata, require_checkpoint
from ...training.run.fine_tune import load_acoustic
from ...training.run.rendering import AnalysedSong
from ..baselines.sampler import Sampler, ddpm, pndm, sample
from .objectives import DIFFSVC, FLOW, STUDENT, STUDENTS_TEACHER, TEACHER
from .rivals import FlowConfig, FlowModel, NoisePredictionConfig

TEACHER_STEPS, STUDENT_STEPS = (5, 10, 20, 50), (1, 2, 4)
PNDM_INTERVAL = 10
"""diff-svc's `pndm_speedup`."""

Draw = Callable[[int, int], Tensor]
"""(channels, number of the draw) -> standard normal noise (1, T, channels)."""


@dataclass(frozen=True)
class TrainedSystem:
    """A trained acoustic model with a way to sample it."""

    title: str
    stage: str
    """The stage that trained it."""
    evaluations: int
    """Of the network for one clip."""
    parameters: int
    """That conversion uses."""
    paint: Callable[[Batch, Draw], Tensor]
    """A batch of one song without its mel, and noise, to the mel (1, T, M)."""


def song_batch(song: AnalysedSong, features: FeatureIndex, singer: str) -> Batch:
    """The conditions of `song` for `singer`, at the mel's frames: content (1, T, C), f0_hz and loudness (1, T), singer
    (1,).
    """
    content = song.content[song.content_index]
    arrays = {"content": content, "f0_hz": song.f0_hz, "loudness": song.loudness}
    batch = {name: torch.from_numpy(array)[None] for name, array in arrays.items()}
    return {**batch, "singer": torch.tensor([features.trained_singers.index(singer)])}


def draw_with(seed: int, n_frames: int) -> Draw:
    """The noise of conversion number `seed`."""
    return lambda channels, number: torch.from_numpy(noise_frames(seed, 0, n_frames, channels, number))[None]


def load_systems(run: Path) -> list[TrainedSystem]:
    """The systems in `run` that `comosvc-bench systems-train` trained. Raises `TrainingError` where one is missing."""
    return [_flow(run), *_diffsvc(run), *_teachers(run), *_students(run)]


def _flow(run: Path) -> TrainedSystem:
    path = require_checkpoint(run / FLOW)
    _, stored = read_metadata(path)
    where = str(path)
    model = FlowModel(
        from_mapping(FlowConfig, stored["flow"], where),
        from_mapping(AudioSpec, stored["audio"], where),
        stored["n_content"],
        len(stored["singers"]),
    ).eval()
    load_module(path, "ema", model)

    def paint(batch: Batch, draw: Draw) -> Tensor:
        return model.convert(batch, draw(model.config.latent, 0))

    return TrainedSystem("flow-shaped", FLOW, 1, _size(model) - _size(model.posterior), paint)


def _diffsvc(run: Path) -> list[TrainedSystem]:
    path = require_checkpoint(run / DIFFSVC)
    config = from_mapping(NoisePredictionConfig, read_metadata(path)[1]["diffsvc"], str(path))
    model = load_acoustic(path, "ema")

    def system(name: str, sampler: Sampler) -> TrainedSystem:
        def paint(batch: Batch, draw: Draw) -> Tensor:
            embedded = model.embed(batch_condition(model, batch))
            x = sample(sampler, model.denoiser, embedded, lambda number: draw(model.spec.n_mels, number))
            return model.denormalise(x)

        return TrainedSystem(f"DiffSVC-shaped, {name}", DIFFSVC, sampler.evaluations, _size(model), paint)

    return [system("PNDM", pndm(config.betas, PNDM_INTERVAL)), system("ancestral", ddpm(config.betas))]


def _teachers(run: Path) -> list[TrainedSystem]:
    full, short = (load_acoustic(require_checkpoint(run / name), "ema") for name in (TEACHER, STUDENTS_TEACHER))

    def euler(model: AcousticModel, n_steps: int) -> Callable[[Batch, Draw], Tensor]:
        return lambda batch, draw: model.denormalise(
            teacher_sample(_denoise(model, batch), draw(model.spec.n_mels, 0), n_steps, model.config.sigma)
        )

    systems = [TrainedSystem("our teacher, Euler", TEACHER, n, _size(full), euler(full, n)) for n in TEACHER_STEPS]
    return [
        *systems,
        TrainedSystem("our student's own teacher, Euler", STUDENTS_TEACHER, 10, _size(short), euler(short, 10)),
    ]


def _students(run: Path) -> list[TrainedSystem]:
    path = require_checkpoint(run / STUDENT)
    scale = from_mapping(StudentConfig, read_metadata(path)[1]["student"], str(path)).noise_scale
    model = load_acoustic(path, "ema")

    def consistency(n_steps: int) -> Callable[[Batch, Draw], Tensor]:
        def paint(batch: Batch, draw: Draw) -> Tensor:
            first, *others = (draw(model.spec.n_mels, k) for k in range(n_steps))
            return model.denormalise(
                consistency_sample(_denoise(model, batch), [scale * first, *others], model.config.sigma)
            )

        return paint

    return [TrainedSystem("our student", STUDENT, n, _size(model), consistency(n)) for n in STUDENT_STEPS]


def _denoise(model: AcousticModel, batch: Batch) -> Denoise:
    return denoise_with(model, model.embed(batch_condition(model, batch)))


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
