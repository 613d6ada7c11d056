"""Teacher and students of a run folder, side by side on held-out conversions. Needs torch.

What is called a student is one if from a noise z it lands where the teacher's ODE lands from the same z: nearer than
the undistilled network does, and nearer than from another z.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...runtime.audio.frames import content_index
from ...training.acoustic.diffusion import consistency_sample, euler_sample, karras_sigmas, teacher_sample
from ...training.acoustic.model import AcousticModel, Condition
from ...training.acoustic.teaching import StudentConfig, denoise_with
from ...training.config import from_mapping
from ...training.content.stage import CONTENT
from ...training.data.prepare import analyse
from ...training.data.prepared import FeatureIndex
from ...training.loop.checkpoint import latest_checkpoint, read_metadata, require_checkpoint
from ...training.run.acoustic_stages import STUDENT, TEACHER, load_acoustic, load_content_encoders
from ..held_out import SAMPLE_RATE, HeldOutPair
from ..metrics import MelScore, mean_of, score_mel

PUBLISHED = "student-published"
TEACHER_STEPS = (5, 10, 20, 50)
FEW_STEPS = (2, 4)
"""For information: with so few the teacher tends to the conditional mean, which is near in L1 and sounds dull."""
PUBLISHED_LADDER_SIZE = StudentConfig.ladder_size


@dataclass(frozen=True)
class OdeDistance:
    """Mean |x - end of the teacher's ODE| in any one unit, the ODE solved on the student's own ladder unless said."""

    student: float
    undistilled: float
    """The teacher's own network used as if it were a student."""
    student_other_noise: float
    """Between the student's output and the ODE's end from another noise."""
    student_published_ladder: float
    """Between the student's output and the end of the ODE as the published distillation solves it."""
    undistilled_published_ladder: float


@dataclass(frozen=True)
class Distillation:
    """Means over the conversions that were tried."""

    n: int
    unconverted: MelScore
    samplers: Mapping[str, MelScore]
    """By sampler: "teacher 10", "student", "student-published", "teacher 1" (its first guess, a conditional mean)."""
    ode: Mapping[str, OdeDistance]
    """By student."""


@torch.inference_mode()
def measure_distillation(
    run: Path, pairs: Sequence[HeldOutPair], progress: Callable[[str], None] | None = None
) -> Distillation:
    """Sample every pair with the teacher and with each student of `run`."""
    features = FeatureIndex.open(run / "features")
    encoder, _ = load_content_encoders(run)[CONTENT]
    teacher = load_acoustic(require_checkpoint(run / TEACHER), "ema")
    students = {name: _load_student(run / name) for name in (STUDENT, PUBLISHED) if latest_checkpoint(run / name)}
    unconverted: list[MelScore] = []
    scores: dict[str, list[MelScore]] = {}
    distances: dict[str, list[OdeDistance]] = {}
    for number, pair in enumerate(pairs):
        source, target = (_analysed(audio, teacher) for audio in (pair.source_audio, pair.target_audio))
        condition = _condition(
            source,
            _content(encoder, pair.source_audio, teacher.spec.content_sample_rate),
            teacher,
            features,
            pair.target,
        )
        noise, other = torch.randn(2, 1, *source["mel"].shape, generator=torch.Generator().manual_seed(number))
        D_teacher = denoise_with(teacher, teacher.embed(condition))
        sigma = teacher.config.sigma
        outputs = {f"teacher {n}": teacher_sample(D_teacher, noise, n, sigma) for n in (*FEW_STEPS, *TEACHER_STEPS)}
        outputs["teacher 1"] = consistency_sample(D_teacher, [noise], sigma)
        for name, (student, config) in students.items():
            # All from where this student's sampler begins: its own scale of the initial noise.
            same, elsewhere = config.noise_scale * noise, config.noise_scale * other
            outputs[name] = consistency_sample(denoise_with(student, student.embed(condition)), [same], sigma)
            undistilled = consistency_sample(D_teacher, [same], sigma)
            own, published = (karras_sigmas(n, sigma) for n in (config.ladder_size, PUBLISHED_LADDER_SIZE))
            ends = [
                euler_sample(D_teacher, z, ladder) for z, ladder in ((same, own), (elsewhere, own), (same, published))
            ]
            distances.setdefault(name, []).append(ode_distance(outputs[name], undistilled, ends))
        for name, x in outputs.items():
            mel = teacher.denormalise(x)[0].numpy()
            scores.setdefault(name, []).append(score_mel(mel, target["mel"], teacher.spec.mel_log_base))
        unconverted.append(score_mel(source["mel"], target["mel"], teacher.spec.mel_log_base))
        if progress:
            progress(pair.name)
    return Distillation(
        n=len(pairs),
        unconverted=mean_of(unconverted),
        samplers={name: mean_of(found) for name, found in scores.items()},
        ode={name: mean_of(found) for name, found in distances.items()},
    )


def ode_distance(student: Tensor, undistilled: Tensor, ends: Sequence[Tensor]) -> OdeDistance:
    """`ends`: of the ODE from the noise that the others started from, from another one, and on the published ladder."""
    same, other, published = ends
    pairs = ((student, same), (undistilled, same), (student, other), (student, published), (undistilled, published))
    return OdeDistance(*(float((a - b).abs().mean()) for a, b in pairs))


def _load_student(folder: Path) -> tuple[AcousticModel, StudentConfig]:
    path = require_checkpoint(folder)
    return load_acoustic(path, "ema"), from_mapping(StudentConfig, read_metadata(path)[1]["student"], str(path))


def _analysed(audio: NDArray[np.float32], model: AcousticModel) -> dict[str, NDArray]:
    return analyse(soxr.resample(audio, SAMPLE_RATE, model.spec.sample_rate), model.spec)


def _content(encoder: nn.Module, audio: NDArray[np.float32], sample_rate: int) -> Tensor:
    return encoder(torch.from_numpy(soxr.resample(audio, SAMPLE_RATE, sample_rate))[None])


def _condition(
    source: Mapping[str, NDArray], content: Tensor, model: AcousticModel, features: FeatureIndex, target: str
) -> Condition:
    index = content_index(0, len(source["mel"]), model.spec).clip(max=content.shape[1] - 1).astype(np.int32)
    singer = torch.tensor([features.trained_singers.index(target)])
    return Condition(
        content,
        torch.from_numpy(index)[None],
        torch.from_numpy(source["f0_hz"])[None],
        torch.from_numpy(source["loudness"])[None],
        model.singer_embed(singer),
    )
