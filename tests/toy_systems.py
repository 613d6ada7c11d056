"""Systems of a few weights in the shape of real ones, importable by other processes."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from comosvc.benchmarks.baselines.steps import HostStage, SpeedSystem, TimedStep
from comosvc.runtime.voice.graphs import GraphSpec, TensorSpec

RATE, HOP, BINS = 8_000, 80, 8


class Encoder(nn.Module):
    """audio (B, N) -> content (B, S, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, HOP, HOP)

    def forward(self, audio: Tensor) -> Tensor:
        return self.conv(audio[:, None]).transpose(1, 2)


class Denoiser(nn.Module):
    """mel (B, T, M), step_index () -> mel_out (B, T, M)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(BINS, BINS)

    def forward(self, mel: Tensor, step_index: Tensor) -> Tensor:
        return self.net(mel) + 0.01 * step_index.to(mel.dtype)


class Breaking(Denoiser):
    """Cannot be exported or run."""

    def forward(self, mel: Tensor, step_index: Tensor) -> Tensor:
        raise RuntimeError("out of cheese")


CONTENT = GraphSpec(
    "content", (TensorSpec("audio", "float32", ("B", "N")),), (TensorSpec("content", "float32", ("B", "S", "C")),)
)
STEP = GraphSpec(
    "step",
    (TensorSpec("mel", "float32", ("B", "T", "M")), TensorSpec("step_index", "int64", ())),
    (TensorSpec("mel_out", "float32", ("B", "T", "M")),),
)


def seeded(module: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return module()


def audio(seconds: float, batch: int):
    return {"audio": np.random.default_rng(0).standard_normal((batch, round(seconds * RATE)), np.float32)}


def mel(seconds: float, batch: int):
    frames = round(seconds * RATE / HOP)
    return {"mel": np.zeros((batch, frames, BINS), np.float32), "step_index": np.array(0, np.int64)}


def toy(evaluations: int = 1, denoiser: type[nn.Module] = Denoiser) -> SpeedSystem:
    return SpeedSystem(
        id="toy",
        title=f"a toy, {evaluations} evaluation(s)",
        sample_rate=RATE,
        stages=(
            TimedStep(name="content", graph=CONTENT, build=Content, inputs=audio),
            HostStage(name="f0", sample_rate=RATE, run=np.sum),
            TimedStep(
                name="acoustic",
                graph=STEP,
                build=lambda: seeded(denoiser),
                inputs=mel,
                evaluations=evaluations,
                carry="mel",
            ),
        ),
        parameters={"content": 324, "acoustic": 72},
        gflop_per_s={"content": 2 * 324 * RATE / HOP / 1e9, "acoustic": evaluations * 2 * 64 * RATE / HOP / 1e9},
    )


def Content() -> nn.Module:
    return seeded(Encoder)


def toy_one() -> SpeedSystem:
    return toy()


def toy_many() -> SpeedSystem:
    return replace(toy(evaluations=200), id="toy-many")


def toy_breaking() -> SpeedSystem:
    return replace(toy(denoiser=Breaking), id="toy-breaking")


TOYS = {"toy": toy_one, "toy-many": toy_many}
