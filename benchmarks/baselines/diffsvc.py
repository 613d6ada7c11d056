"""diff-svc at 24 kHz. Source: prophesier/diff-svc, `training/config.yaml`."""

from dataclasses import replace
from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.audio.spec import COMOSVC_24K, AudioSpec
from ...runtime.voice.graphs import GRAPHS, GraphSpec
from ...training.content.encoders import ContentVec, ContentVecConfig
from ...training.vocoder.hifigan import M4SINGER_24K
from .comosvc import sampled
from .parts import (
    CONDITION,
    NetworkSize,
    audio_inputs,
    condition_inputs,
    f0_stage,
    only,
    sampler_stage,
    seeded,
    stretched,
    system_of,
    vocoder_stage,
)
from .sampler import Sampler, ddpm, linear_betas, pndm
from .sovits_networks import coarse_f0
from .steps import SpeedSystem, TimedStep

NETWORK = NetworkSize(channels=256, dilation_cycle=4)
VOCODER_CONFIG = replace(M4SINGER_24K, normalised_source=False)
"""The same lab's hop-128 vocoder, as diff-svc has it: its source is added as it is."""
SAMPLERS = {"": lambda: pndm(linear_betas(), 10), "1000": lambda: ddpm(linear_betas())}
"""By what the ids say. The configuration's default is PNDM at a speed-up of 10."""
_PITCHES, _UNITS = 300, 256

UNITS_AND_PITCH = GraphSpec("condition", CONDITION.inputs[:3], CONDITION.outputs)


class HubertSoft(nn.Module):
    """HuBERT base with a projection to soft units: audio (B, N) at 16 kHz -> content (B, S, 256). van Niekerk 2022.

    The audio gets zeros at both ends, so that there is a frame for every 320 samples.
    """

    def __init__(self, config: ContentVecConfig | None = None, units: int = _UNITS) -> None:
        super().__init__()
        self.encoder = ContentVec(config).fold()
        self.proj = nn.Linear(self.encoder.n_content, units)

    def forward(self, audio: Tensor) -> Tensor:
        config = self.encoder.config
        margin = (config.min_samples - config.hop_length) // 2
        return self.proj(self.encoder(F.pad(audio, (margin, margin))))


class UnitsAndPitch(nn.Module):
    """Units of every mel frame, with an embedding of its F0's bin added: (B, S, C), (B, T), (B, T) -> (B, T, C)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.pitch_embed = nn.Embedding(_PITCHES, hidden)

    def forward(self, content: Tensor, content_index: Tensor, f0_hz: Tensor) -> Tensor:
        return stretched(content, content_index) + self.pitch_embed(coarse_f0(f0_hz))


@cache
def content_stage(config: ContentVecConfig | None = None, units: int = _UNITS) -> TimedStep:
    return TimedStep(
        name="content", graph=GRAPHS["content"], build=seeded(lambda: HubertSoft(config, units)), inputs=audio_inputs
    )


def condition_stage(hidden: int, spec: AudioSpec) -> TimedStep:
    """There is no network in it but a table."""
    return TimedStep(
        name="condition",
        graph=UNITS_AND_PITCH,
        build=seeded(lambda: UnitsAndPitch(hidden)),
        inputs=lambda seconds, batch: only(UNITS_AND_PITCH, condition_inputs(spec, hidden, seconds, batch)),
    )


def diffsvc(kind: str) -> SpeedSystem:
    """`kind`: one of `SAMPLERS`."""
    sampler = SAMPLERS[kind]()
    return system_of(
        "-".join(filter(None, ("diffsvc", kind))),
        f"diff-svc, {sampler.evaluations} evaluations (20 × {NETWORK.channels}, 24 kHz)",
        COMOSVC_24K,
        (
            content_stage(),
            f0_stage(COMOSVC_24K),
            condition_stage(NETWORK.hidden, COMOSVC_24K),
            sampler_stage(sampler, NETWORK, COMOSVC_24K),
            vocoder_stage(VOCODER_CONFIG, COMOSVC_24K),
        ),
    )


def on_the_papers_network(kind: str) -> SpeedSystem:
    """The sampler alone is diff-svc's: network, conditions and vocoder are CoMoSVC's, as in the paper."""
    sampler: Sampler = SAMPLERS[kind]()
    return sampled(
        "-".join(filter(None, ("diffsvc", kind, "20x512"))),
        f"diff-svc's {sampler.evaluations} evaluations on CoMoSVC's network (20 × 512, 24 kHz)",
        sampler,
    )
