"""CoMoSVC as its authors run it: the one-step student and the teacher, at 24 kHz. Source: Grace9994/CoMoSVC."""

import torch
from torch import Tensor

from ...runtime.graph import GraphSpec, TensorSpec
from ...runtime.spec import COMOSVC_24K, AudioSpec
from ...training.diffusion import SigmaConfig
from ...training.hifigan import M4SINGER_24K
from ..authors_training import AuthorsModel
from ..speed.stage import Inputs, SpeedSystem, Stage
from .parts import (
    CONDITION,
    NetworkSize,
    condition_inputs,
    condition_stage,
    content_stage,
    f0_stage,
    frames_of,
    normal,
    sampler_stage,
    seeded,
    stretched,
    system_of,
    vocoder_stage,
)
from .reread import RereadVocoder
from .sampler import Sampler, edm_euler

N_CONTENT, N_SINGERS = 768, 20
TEACHER_STEPS = 50
SPEC_MIN, SPEC_MAX = -6.0, 1.5
"""Range of the mel's log10, which the network has between -1 and 1."""


class Student(AuthorsModel):
    """The condition's inputs and noise (B, T, M) -> mel (B, T, M), in one evaluation at sigma_max."""

    def forward(
        self,
        content: Tensor,
        content_index: Tensor,
        f0_hz: Tensor,
        loudness: Tensor,
        singer: Tensor,
        noise: Tensor,
    ) -> Tensor:
        frames = stretched(content, content_index)
        condition = self.condition({"content": frames, "f0_hz": f0_hz, "loudness": loudness, "singer": singer})
        sigma = torch.full((len(noise),), self.sigma.sigma_max, device=noise.device)
        x = self.denoise(self.sigma.sigma_max * noise, sigma, condition, self.network)
        return (x + 1) / 2 * (SPEC_MAX - SPEC_MIN) + SPEC_MIN


def student_stage(size: NetworkSize, spec: AudioSpec, n_content: int = N_CONTENT, n_singers: int = N_SINGERS) -> Stage:
    """The embeddings and the one evaluation."""
    noise = TensorSpec("noise", "float32", ("B", "T", "M"))
    mel = TensorSpec("mel", "float32", ("B", "T", "M"))

    def inputs(seconds: float, batch: int) -> Inputs:
        made = condition_inputs(spec, n_content, seconds, batch)
        return {**made, "noise": normal((batch, frames_of(spec, seconds), size.n_mels))}

    return Stage(
        name="acoustic",
        graph=GraphSpec("acoustic", (*CONDITION.inputs, noise), (mel,)),
        build=seeded(lambda: Student(size.build(), n_content, size.hidden, n_singers)),
        inputs=inputs,
    )


def student() -> SpeedSystem:
    """`overhead` is the vocoder's checkpoint, read on every call."""
    return system_of(
        "comosvc-authors",
        "CoMoSVC, one step (20 × 512, 24 kHz)",
        COMOSVC_24K,
        (
            content_stage(),
            f0_stage(COMOSVC_24K),
            student_stage(NetworkSize(), COMOSVC_24K),
            vocoder_stage(M4SINGER_24K, COMOSVC_24K),
        ),
        overhead=RereadVocoder(),
    )


def teacher() -> SpeedSystem:
    """`overhead` is the student's."""
    return sampled(
        "comosvc-teacher",
        f"CoMoSVC's teacher, {TEACHER_STEPS} Euler steps (20 × 512, 24 kHz)",
        edm_euler(TEACHER_STEPS, SigmaConfig()),
        overhead=RereadVocoder(),
    )


def sampled(id: str, title: str, sampler: Sampler, overhead: RereadVocoder | None = None) -> SpeedSystem:
    """Another sampler on CoMoSVC's network, with everything else as CoMoSVC has it."""
    return system_of(
        id,
        title,
        COMOSVC_24K,
        (
            content_stage(),
            f0_stage(COMOSVC_24K),
            condition_stage(N_CONTENT, NetworkSize.hidden, N_SINGERS, COMOSVC_24K),
            sampler_stage(sampler, NetworkSize(), COMOSVC_24K),
            vocoder_stage(M4SINGER_24K, COMOSVC_24K),
        ),
        overhead=overhead,
    )
