"""Samplers of a diffusion model as tables of numbers, and the graph of one evaluation that reads them.

Every sampler here is a linear multistep: it turns the network's output into a prediction p (of the noise, or of the
clean mel) and the new x is a sum of the old one, of this and former predictions, and of fresh noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...runtime.voice.graphs import GraphSpec, TensorSpec
from ...training.acoustic.diffusion import SigmaConfig, edm_scalings, teacher_sigmas

Array = NDArray[np.float64]
Evaluate = Callable[[Tensor, Tensor, Tensor], Tensor]
"""F(x (B, T, M), time (B,), condition (B, T, C)) -> (B, T, M)."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """At evaluation i, with row i of every table,

    p_i = u x + v F(c_in x, time, condition), clipped to [-1, 1] if `clips`; x <- a x + sum_k b_k p_(i-k) + s z.
    """

    time: Array
    c_in: Array
    u: Array
    v: Array
    a: Array
    b: Array
    """(evaluations, 1 + former predictions)."""
    s: Array
    clips: bool = False

    @property
    def evaluations(self) -> int:
        return len(self.time)

    @property
    def remembered(self) -> int:
        """Former predictions that the state keeps."""
        return self.b.shape[1] - 1

    @property
    def draws(self) -> bool:
        """True if z is needed."""
        return bool(self.s.any())


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Array:
    """The noise schedule of so-vits-svc's and diff-svc's diffusion."""
    return np.linspace(first, last, steps)


def dpm_solver_pp(betas: Array, evaluations: int) -> Sampler:
    """DPM-Solver++(2M) on evenly spaced times, the first step of first order. Lu et al. 2022, algorithm 2."""
    n = len(betas)
    times = np.linspace(1.0, 1.0 / n, evaluations + 1)
    log_alpha = np.interp(times, np.arange(1, n + 1) / n, 0.5 * np.cumsum(np.log1p(-betas)))
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2.0 * log_alpha))
    h = np.diff(log_alpha - np.log(sigma))
    gain = -alpha[1:] * np.expm1(-h)
    slope = np.concatenate(([0.0], 0.5 * h[1:] / h[:-1]))  # 1 / (2 r)
    return Sampler(
        time=times[:-1] * n - 1.0,
        c_in=np.ones(evaluations),
        u=1.0 / alpha[:-1],
        v=-sigma[:-1] / alpha[:-1],
        a=sigma[1:] / sigma[:-1],
        b=np.stack((gain * (1.0 + slope), -gain * slope), axis=1),
        s=np.zeros(evaluations),
    )


def pndm(betas: Array, speed_up: int) -> Sampler:
    """Pseudo linear multistep of fourth order, begun by one Heun-like step. Liu et al. 2022, eq. 11 to 13.

    The first step takes two evaluations, so there is one more of them than steps. What its second one predicts is used
    once and kept out of the later sums: hence the zeros in rows 2 to 4.
    """
    alphas_bar = np.cumprod(1.0 - betas)
    steps = np.arange(0, len(betas), speed_up)[::-1]
    now, after = alphas_bar[steps], alphas_bar[np.maximum(steps - speed_up, 0)]
    keep = np.sqrt(after / now)
    move = -(after - now) / np.sqrt(now) / (np.sqrt((1.0 - after) * now) + np.sqrt((1.0 - now) * after))
    b = np.empty((len(steps) + 1, 5))
    b[0] = move[0], 0, 0, 0, 0
    b[1] = move[0] / 2, -move[0] / 2, 0, 0, 0
    b[2:] = move[1:, None] * np.array((55, -59, 37, -9, 0)) / 24
    begin = np.array(((36, 0, -12, 0, 0), (46, -32, 0, 10, 0), (55, -59, 37, 0, -9))) / 24
    b[2:5] = move[1:4, None] * begin[: len(b[2:5])]
    evaluations = len(b)
    return Sampler(
        time=np.concatenate((steps[:1], steps[1:2], steps[1:])).astype(np.float64),
        c_in=np.ones(evaluations),
        u=np.zeros(evaluations),
        v=np.ones(evaluations),
        a=np.concatenate((keep[:1], [1.0], keep[1:])),
        b=b,
        s=np.zeros(evaluations),
    )


def ddpm(betas: Array) -> Sampler:
    """Ancestral sampling over every time, the clean mel clipped. Ho et al. 2020, eq. 6 and 7."""
    betas = betas[::-1]
    alphas_bar = np.cumprod(1.0 - betas[::-1])[::-1]
    after = np.append(alphas_bar[1:], 1.0)
    variance = betas * (1.0 - after) / (1.0 - alphas_bar)
    return Sampler(
        time=np.arange(len(betas))[::-1].astype(np.float64),
        c_in=np.ones(len(betas)),
        u=np.sqrt(1.0 / alphas_bar),
        v=-np.sqrt(1.0 / alphas_bar - 1.0),
        a=(1.0 - after) * np.sqrt(1.0 - betas) / (1.0 - alphas_bar),
        b=(betas * np.sqrt(after) / (1.0 - alphas_bar))[:, None],
        s=np.sqrt(variance),
        clips=True,
    )


def edm_euler(steps: int, config: SigmaConfig) -> Sampler:
    """CoMoSVC's teacher as shipped: Euler on EDM's ODE, over the ladder that stops one short of sigma_min."""
    sigmas = teacher_sigmas(steps, config, "off-by-one").double()
    c_skip, c_out, c_in, c_noise = (c.numpy() for c in edm_scalings(sigmas[:-1], config))
    ratio = (sigmas[1:] / sigmas[:-1]).numpy()
    return Sampler(
        time=c_noise, c_in=c_in, u=c_skip, v=c_out, a=ratio, b=(1.0 - ratio)[:, None], s=np.zeros(len(ratio))
    )


class SamplerStep(nn.Module):
    """One evaluation: state (B, 1 + remembered, T, M), condition (B, T, C), step_index () -> the next state.

    The first entry of a state is x, normalised as the network has it; the others are former predictions, latest first.
    `noise` (B, T, M) is an input where the sampler draws.
    """

    table: Tensor

    def __init__(self, network: Evaluate, sampler: Sampler) -> None:
        super().__init__()
        self.denoise_fn, self.clips, self.remembered = network, sampler.clips, sampler.remembered
        columns = (sampler.time, sampler.c_in, sampler.u, sampler.v, sampler.a, sampler.s, *sampler.b.T)
        table = torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)
        self.register_buffer("table", table, persistent=False)

    def forward(self, state: Tensor, condition: Tensor, step_index: Tensor, noise: Tensor | None = None) -> Tensor:
        # index_select, as an index in brackets would wait for the device to learn its value
        row = self.table.index_select(0, step_index.view(1)).view(-1).unbind()
        time, c_in, u, v, a, s = row[:6]
        x, *former = state.unbind(dim=1)
        predicted = u * x + v * self.denoise_fn(c_in * x, time.expand(len(x)), condition)
        if self.clips:
            predicted = predicted.clamp(-1.0, 1.0)
        predictions: Sequence[Tensor] = (predicted, *former)
        x = a * x
        for b, prediction in zip(row[6:], predictions, strict=True):
            x = x + b * prediction
        if noise is not None:
            x = x + s * noise
        return torch.stack((x, *predictions[: self.remembered]), dim=1)


@torch.inference_mode()
def sample(sampler: Sampler, evaluate: Evaluate, condition: Tensor, draw: Callable[[int], Tensor]) -> Tensor:
    """x (B, T, M) after all evaluations; `draw(k)` is the k-th noise, of which the first is the initial x."""
    step, x = SamplerStep(evaluate, sampler), draw(0)
    state = torch.cat((x[:, None], x.new_zeros(len(x), sampler.remembered, *x.shape[1:])), dim=1)
    for index in range(sampler.evaluations):
        noise = draw(index + 1) if sampler.s[index] else None
        state = step(state, condition, torch.tensor(index), noise)
    return state[:, 0]


def sampler_graph(sampler: Sampler) -> GraphSpec:
    """Inputs and outputs of `SamplerStep`."""
    noise = (TensorSpec("noise", "float32", ("B", "T", "M")),) if sampler.draws else ()
    return GraphSpec(
        name="acoustic",
        inputs=(
            TensorSpec("state", "float32", ("B", "K", "T", "M")),
            TensorSpec("condition", "float32", ("B", "T", "C")),
            TensorSpec("step_index", "int32", ()),
            *noise,
        ),
        outputs=(TensorSpec("state_out", "float32", ("B", "K", "T", "M")),),
    )
