"""Stages that several systems share, F0 as in the originals, and systems assembled from stages."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...export.graphs.trace import narrowed
from ...runtime.audio.frames import stretched_index
from ...runtime.audio.spec import AudioSpec
from ...runtime.audio.world_f0 import dio, squeezed
from ...runtime.conversion.source import sine_source
from ...runtime.voice.graphs import GRAPHS, GraphSpec, TensorSpec
from ...training.content.encoders import ContentVec, ContentVecConfig
from ...training.vocoder.hifigan import HifiGanConfig, NsfHifiGan
from .authors import Embeddings, Network
from .sampler import Sampler, SamplerStep, sampler_graph
from .steps import HostStage, Inputs, SpeedSystem, TimedStep


def world_f0(audio: NDArray[np.float64], spec: AudioSpec) -> NDArray[np.float32]:
    """DIO of audio (L,), (T,) in Hz, with straight lines through unvoiced stretches; 0 if all is. Needs `pyworld`."""
    return through_unvoiced(squeezed(dio(audio.astype(np.float32), spec), len(audio) // spec.hop_length))


def through_unvoiced(f0_hz: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unvoiced stretches replaced by straight lines, and by the nearest voiced value at the ends."""
    voiced = np.flatnonzero(f0_hz)
    if not len(voiced):
        return f0_hz
    return np.interp(np.arange(len(f0_hz)), voiced, f0_hz[voiced]).astype(np.float32)


COST_SECONDS = 10.0
"""Length of the clip that GFLOP are counted on: those of attention grow with it."""

CONDITION = GraphSpec(
    name="condition",
    inputs=(
        TensorSpec("content", "float32", ("B", "S", "C")),
        TensorSpec("content_index", "int32", ("B", "T")),
        TensorSpec("f0_hz", "float32", ("B", "T")),
        TensorSpec("loudness", "float32", ("B", "T")),
        TensorSpec("singer", "int32", ("B",)),
    ),
    outputs=(TensorSpec("condition", "float32", ("B", "T", "E")),),
)


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Of a denoiser, with the size of its condition. The default is CoMoSVC's."""

    layers: int = 20
    channels: int = 512
    hidden: int = 256
    n_mels: int = 80
    dilation_cycle: int = 1

    def build(self) -> Network:
        """With an output that is not zero, which is how its training begins."""
        network = Network(self.layers, self.channels, self.hidden, self.n_mels, self.dilation_cycle)
        nn.init.normal_(network.output_projection.weight, std=self.channels**-0.5)
        return network


class BaselineCondition(Embeddings):
    """The inputs of the graph `CONDITION` -> (B, T, E). One singer: `singer` is not used, and not an input."""

    def forward(
        self, content: Tensor, content_index: Tensor, f0_hz: Tensor, loudness: Tensor, singer: Tensor | None = None
    ) -> Tensor:
        batch = {"content": stretched(content, content_index), "f0_hz": f0_hz, "loudness": loudness}
        return self.condition(batch if singer is None else {**batch, "singer": singer})


def stretched(content: Tensor, content_index: Tensor) -> Tensor:
    """The content of every mel frame: (B, S, C), (B, T) -> (B, T, C)."""
    return content.gather(1, content_index.long()[..., None].expand(-1, -1, content.shape[2]))


@cache
def content_stage(config: ContentVecConfig | None = None) -> TimedStep:
    """ContentVec, of which CoMoSVC and so-vits-svc take layer 12 of 12."""
    return TimedStep(
        name="content", graph=GRAPHS["content"], build=seeded(lambda: ContentVec(config).fold()), inputs=audio_inputs
    )


def f0_stage(spec: AudioSpec) -> HostStage:
    """DIO and StoneMask at the system's rate and hop: CoMoSVC's own, an option of so-vits-svc's.

    so-vits-svc's default is Praat's autocorrelation, which costs as much; diff-svc's is CREPE on a GPU, which costs far
    more. All systems get the same, so that they differ only in the parts that are compared.
    """
    return HostStage(name="f0", sample_rate=spec.sample_rate, run=lambda audio: world_f0(audio, spec))


def condition_stage(n_content: int, hidden: int, n_singers: int, spec: AudioSpec) -> TimedStep:
    """The embeddings' sum, once for all evaluations of a sampler."""
    graph = CONDITION if n_singers > 1 else GraphSpec(CONDITION.name, CONDITION.inputs[:-1], CONDITION.outputs)
    return TimedStep(
        name="condition",
        graph=graph,
        build=seeded(lambda: BaselineCondition(n_content, hidden, n_singers)),
        inputs=lambda seconds, batch: only(graph, condition_inputs(spec, n_content, seconds, batch)),
    )


def sampler_stage(sampler: Sampler, size: NetworkSize, spec: AudioSpec) -> TimedStep:
    """A denoiser, evaluated over and over. Each evaluation gets the same noise, which costs as much as fresh noise."""
    graph = sampler_graph(sampler)

    def inputs(seconds: float, batch: int) -> Inputs:
        rng, frames = np.random.default_rng(0), frames_of(spec, seconds)
        state = np.zeros((batch, 1 + sampler.remembered, frames, size.n_mels), np.float32)
        state[:, 0] = rng.standard_normal(state[:, 0].shape, np.float32)
        made: Inputs = {
            "state": state,
            "condition": rng.standard_normal((batch, frames, size.hidden), np.float32),
            "step_index": np.array(0, np.int32),
            "noise": rng.standard_normal((batch, frames, size.n_mels), np.float32),
        }
        return only(graph, made)

    return TimedStep(
        name="acoustic",
        graph=graph,
        build=seeded(lambda: SamplerStep(size.build(), sampler)),
        inputs=inputs,
        evaluations=sampler.evaluations,
        carry="state",
    )


@cache
def vocoder_stage(config: HifiGanConfig, spec: AudioSpec) -> TimedStep:
    """NSF-HiFi-GAN on a mel. The sines are made outside, where all of the originals make them without a network."""
    return TimedStep(
        name="vocoder",
        graph=narrowed(GRAPHS["vocoder"], ("mel", "source")),
        build=seeded(lambda: NsfHifiGan(config)),
        inputs=lambda seconds, batch: {
            "mel": normal((batch, frames_of(spec, seconds), config.n_mels)),
            "source": source_input(spec, seconds, batch),
        },
    )


def audio_inputs(seconds: float, batch: int) -> Inputs:
    """Noise at 16 kHz, (B, N)."""
    return {"audio": 0.1 * normal((batch, round(seconds * 16_000)))}


def condition_inputs(spec: AudioSpec, n_content: int, seconds: float, batch: int) -> Inputs:
    """Those of `CONDITION`."""
    frames, n_content_frames = frames_of(spec, seconds), ContentVecConfig().frames(round(seconds * 16_000))
    index = stretched_index(n_content_frames, frames).astype(np.int32)
    return {
        "content": normal((batch, n_content_frames, n_content)),
        "content_index": np.tile(index, (batch, 1)),
        "f0_hz": np.tile(f0_hz(spec, seconds), (batch, 1)),
        "loudness": np.full((batch, frames), 0.1, np.float32),
        "singer": np.zeros(batch, np.int32),
    }


def f0_hz(spec: AudioSpec, seconds: float) -> NDArray[np.float32]:
    """A voice that rises and falls by a fifth around 220 Hz, (T,)."""
    time_s = np.arange(frames_of(spec, seconds)) / spec.frame_rate_hz
    return (220.0 * 1.5 ** np.sin(time_s)).astype(np.float32)


def source_input(spec: AudioSpec, seconds: float, batch: int) -> NDArray[np.float32]:
    """Sines of `f0_hz`, (B, L, 9)."""
    return np.tile(sine_source(f0_hz(spec, seconds), spec, seed=0)[0], (batch, 1, 1))


def frames_of(spec: AudioSpec, seconds: float) -> int:
    """T."""
    return spec.frames(round(seconds * spec.sample_rate))


def normal(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def only(graph: GraphSpec, inputs: Inputs) -> Inputs:
    """Those inputs that `graph` has."""
    return {tensor.name: inputs[tensor.name] for tensor in graph.inputs}


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A `TimedStep.build` that gives the same weights at each call and leaves torch's own random numbers alone."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make().eval()

    return build


@cache
def count_parameters(stage: TimedStep) -> int:
    """Weights of a stage's network."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in stage.build().parameters())


@cache
def count_gflop_per_s(stage: TimedStep, seconds: float = COST_SECONDS) -> float:
    """GFLOP per second of audio, all evaluations, on a clip of `seconds`. Nothing is computed: sizes are enough."""
    with torch.device("meta"):
        module = stage.build()
        inputs = {name: torch.tensor(array) for name, array in stage.inputs(seconds, 1).items()}
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            module(**inputs)
    return counter.get_total_flops() * stage.evaluations / seconds / 1e9


def system_of(
    id: str,
    title: str,
    spec: AudioSpec,
    stages: tuple[TimedStep | HostStage, ...],
    overhead: Callable[[], object] | None = None,
) -> SpeedSystem:
    """A system with its costs counted."""
    networks = [stage for stage in stages if isinstance(stage, TimedStep)]
    return SpeedSystem(
        id=id,
        title=title,
        sample_rate=spec.sample_rate,
        stages=stages,
        parameters={stage.name: count_parameters(stage) for stage in networks},
        gflop_per_s={stage.name: count_gflop_per_s(stage) for stage in networks},
        overhead=overhead,
    )
