"""CoMoSVC as its authors run it, at 24 kHz, with the vocoder read again on every call. Source: Grace9994/CoMoSVC."""

import tempfile
import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm, weight_norm

from ...runtime.audio.spec import COMOSVC_24K, AudioSpec
from ...runtime.voice.graphs import GraphSpec, TensorSpec
from ...training.acoustic.diffusion import SigmaConfig
from ...training.vocoder.hifigan import M4SINGER_24K, HifiGanConfig, NsfHifiGan, ResBlock
from .authors import AuthorsModel
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
from .sampler import Sampler, edm_euler
from .steps import Inputs, SpeedSystem, TimedStep

_PERIODS, _SCALES = 5, 3
_PERIOD_CONVOLUTIONS = (
    (32, 1, 5, 1),
    (128, 32, 5, 1),
    (512, 128, 5, 1),
    (1024, 512, 5, 1),
    (1024, 1024, 5, 1),
    (1, 1024, 3, 1),
)
_SCALE_CONVOLUTIONS = (
    (128, 1, 15),
    (128, 32, 41),
    (256, 8, 41),
    (512, 16, 41),
    (1024, 32, 41),
    (1024, 64, 41),
    (1024, 1024, 5),
    (1, 1024, 3),
)
"""Weights of HiFi-GAN's discriminators (Kong et al. 2020), which the vocoder's file holds beside the generator."""


class RereadVocoder:
    """Counted: `torch.load` of the whole file, the generator built with weight norm, its weights set, the norm folded.

    The file has the published one's size, 1.02 GB: generator, both discriminators and Adam's two moments of all of
    them, of random numbers. It was just written, so it is read from memory, not from a disk; that is the lenient case.
    The first call writes it, to a temporary folder that goes with this object.
    """

    def __init__(self, config: HifiGanConfig = M4SINGER_24K) -> None:
        self.config = config
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self) -> NsfHifiGan:
        path = self.path()
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        vocoder = normalised(NsfHifiGan(self.config))
        vocoder.load_state_dict(checkpoint["state_dict"]["model_gen"], strict=True)
        for convolution in normalised_convolutions(vocoder):
            remove_weight_norm(convolution)
        return vocoder.eval()

    def path(self) -> Path:
        """The file, written when it is first asked for."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="comosvc-")
            torch.save(checkpoint_of(self.config), Path(self._folder.name) / "model.ckpt")
        return Path(self._folder.name) / "model.ckpt"


def checkpoint_of(config: HifiGanConfig) -> dict[str, object]:
    """A checkpoint of a training of the vocoder."""
    generator = normalised(NsfHifiGan(config)).state_dict()
    discriminators = {
        **_normalised_shapes("mpd", _PERIODS, _PERIOD_CONVOLUTIONS),
        **_normalised_shapes("msd", _SCALES, _SCALE_CONVOLUTIONS),
    }
    optimisers = [
        {"state": [{name: torch.rand(tensor.shape) for name in ("exp_avg", "exp_avg_sq")} for tensor in part.values()]}
        for part in (generator, discriminators)
    ]
    return {
        "state_dict": {"model_gen": generator, "model_disc": discriminators},
        "optimizer_states": optimisers,
    }


def normalised(vocoder: NsfHifiGan) -> NsfHifiGan:
    """With weight norm where the published vocoder has it, in the form that the public checkpoints have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch names the newer form, whose weights have other names
        for convolution in normalised_convolutions(vocoder):
            weight_norm(convolution)
    return vocoder


def normalised_convolutions(vocoder: NsfHifiGan) -> list[nn.Module]:
    """All but the source's own."""
    blocks = [cast(ResBlock, block) for block in vocoder.resblocks]
    inner = [convolution for block in blocks for convolution in (*block.convs1, *block.convs2)]
    return [vocoder.conv_pre, *vocoder.ups, *inner, vocoder.conv_post]


def _normalised_shapes(name: str, copies: int, shapes: tuple[tuple[int, ...], ...]) -> dict[str, Tensor]:
    """Weights of `copies` discriminators: direction, length and bias of every convolution."""
    made: dict[str, Tensor] = {}
    for copy in range(copies):
        for layer, shape in enumerate(shapes):
            prefix, ones = f"{name}.discriminators.{copy}.convs.{layer}", (1,) * (len(shape) - 1)
            made[f"{prefix}.weight_v"] = torch.rand(shape)
            made[f"{prefix}.weight_g"] = torch.rand(shape[0], *ones)
            made[f"{prefix}.bias"] = torch.rand(shape[0])
    return made


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


def student_stage(
    size: NetworkSize, spec: AudioSpec, n_content: int = N_CONTENT, n_singers: int = N_SINGERS
) -> TimedStep:
    """The embeddings and the one evaluation."""
    noise = TensorSpec("noise", "float32", ("B", "T", "M"))
    mel = TensorSpec("mel", "float32", ("B", "T", "M"))

    def inputs(seconds: float, batch: int) -> Inputs:
        made = condition_inputs(spec, n_content, seconds, batch)
        return {**made, "noise": normal((batch, frames_of(spec, seconds), size.n_mels))}

    return TimedStep(
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
