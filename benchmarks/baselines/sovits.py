"""so-vits-svc 4.1 at 44.1 kHz: its flow, and its diffusion from noise or from the flow's output (shallow).

Source: svc-develop-team/so-vits-svc, branch 4.1-Stable, templates of both configurations.
"""

from dataclasses import replace

import numpy as np

from ...runtime.audio.spec import OPENVPI_44K, AudioSpec
from ...runtime.voice.graphs import GRAPHS, GraphSpec, TensorSpec
from ...training.vocoder.hifigan import OPENVPI_NSF_44K, HifiGanConfig
from .comosvc import sampled
from .parts import (
    CONDITION,
    NetworkSize,
    condition_inputs,
    condition_stage,
    content_stage,
    f0_stage,
    frames_of,
    normal,
    only,
    sampler_stage,
    seeded,
    source_input,
    system_of,
    vocoder_stage,
)
from .sampler import Sampler, ddpm, dpm_solver_pp, linear_betas
from .sovits_networks import Decoder, Latent, SovitsConfig
from .steps import HostStage, Inputs, SpeedSystem, TimedStep

DIFFUSION = NetworkSize(n_mels=OPENVPI_44K.n_mels)
SAMPLERS = {
    "": lambda: dpm_solver_pp(linear_betas(), 100),
    "1000": lambda: ddpm(linear_betas()),
    "shallow": lambda: dpm_solver_pp(linear_betas()[:100], 10),
}
"""By what the ids say. The configuration's default is DPM-Solver++ at a speed-up of 10; without a speed-up there are
1000 steps; shallow diffusion puts 100 steps of noise on the flow's mel.
"""
_N_CONTENT, _N_SINGERS = 768, 1

LATENT = GraphSpec(
    name="acoustic",
    inputs=(
        *(tensor for tensor in CONDITION.inputs if tensor.name != "loudness"),
        TensorSpec("voiced", "int32", ("B", "T")),
        TensorSpec("noise", "float32", ("B", "T", "Z")),
    ),
    outputs=(TensorSpec("latent", "float32", ("B", "T", "Z")),),
)
DECODER = GraphSpec(
    name="vocoder",
    inputs=(
        TensorSpec("latent", "float32", ("B", "T", "Z")),
        TensorSpec("source", "float32", ("B", "L", "H")),
        TensorSpec("singer", "float32", ("B", "D")),
    ),
    outputs=GRAPHS["vocoder"].outputs,
)


def latent_stage(config: SovitsConfig, spec: AudioSpec) -> TimedStep:
    """Text encoder and flow."""

    def inputs(seconds: float, batch: int) -> Inputs:
        made = condition_inputs(spec, config.ssl_dim, seconds, batch)
        made["voiced"] = np.ones_like(made["content_index"])
        made["noise"] = normal((batch, frames_of(spec, seconds), config.inter_channels))
        return only(LATENT, made)

    return TimedStep(name="acoustic", graph=LATENT, build=seeded(lambda: Latent(config)), inputs=inputs)


def decoder_stage(config: SovitsConfig, decoder: HifiGanConfig, spec: AudioSpec) -> TimedStep:
    """The decoder. Its `singer` is the embedding, as `Latent` has it."""
    return TimedStep(
        name="vocoder",
        graph=DECODER,
        build=seeded(lambda: Decoder(decoder, config.gin_channels)),
        inputs=lambda seconds, batch: {
            "latent": normal((batch, frames_of(spec, seconds), config.inter_channels)),
            "source": source_input(spec, seconds, batch),
            "singer": normal((batch, config.gin_channels)),
        },
    )


def flow_stages() -> tuple[TimedStep, TimedStep]:
    """Both, in full size. The decoder is the openvpi vocoder, but for its input."""
    config = SovitsConfig()
    decoder = replace(OPENVPI_NSF_44K, n_mels=config.inter_channels)
    return latent_stage(config, OPENVPI_44K), decoder_stage(config, decoder, OPENVPI_44K)


def flow() -> SpeedSystem:
    return system_of("sovits-flow", "so-vits-svc 4.1, flow (44.1 kHz)", OPENVPI_44K, (*_front(), *flow_stages()))


def diffusion(kind: str) -> SpeedSystem:
    """`kind`: one of `SAMPLERS`. Shallow diffusion has the flow before it, and the flow's decoder; the mel of what that
    gives is taken on the host and not counted.
    """
    sampler = SAMPLERS[kind]()
    before = [replace(stage, name=f"first_{stage.name}") for stage in flow_stages()] if kind == "shallow" else []
    return system_of(
        "-".join(filter(None, ("sovits-diff", kind))),
        f"so-vits-svc 4.1, {_names(kind, sampler)} (20 × 512, 44.1 kHz)",
        OPENVPI_44K,
        (
            *_front(),
            *before,
            condition_stage(_N_CONTENT, DIFFUSION.hidden, _N_SINGERS, OPENVPI_44K),
            sampler_stage(sampler, DIFFUSION, OPENVPI_44K),
            vocoder_stage(OPENVPI_NSF_44K, OPENVPI_44K),
        ),
    )


def on_the_papers_network(kind: str) -> SpeedSystem:
    """The sampler alone is so-vits-svc's: network, conditions and vocoder are CoMoSVC's, as in the paper."""
    sampler = SAMPLERS[kind]()
    return sampled(
        "-".join(filter(None, ("sovits-diff", kind, "20x512"))),
        f"so-vits-svc's {_names(kind, sampler)} on CoMoSVC's network (20 × 512, 24 kHz)",
        sampler,
    )


def _front() -> tuple[TimedStep, HostStage]:
    return content_stage(), f0_stage(OPENVPI_44K)


def _names(kind: str, sampler: Sampler) -> str:
    return f"{'shallow ' if kind == 'shallow' else ''}diffusion, {sampler.evaluations} evaluations"
