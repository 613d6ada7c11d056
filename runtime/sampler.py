"""The noise that each step after the first puts back: fresh for a student, what is left of the first for a teacher."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .drawn import Input
from .manifest import ModelEntry

Draw = Callable[[int], Input]
"""Standard normal noise (1, T, M) of a step."""


class StepNoise(Protocol):
    """Noise of the steps after the first, which are asked for in order."""

    def next(self, step: int, mel: NDArray[np.float32]) -> Input:
        """What step `step`, 1 or later, adds to `mel` (1, T, M), the one before's result, scaled by its own level."""
        ...


class FreshNoise:
    """Consistency sampling (Song et al. 2023, algorithm 1): each step draws anew."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def next(self, step: int, mel: NDArray[np.float32]) -> Input:
        return self._draw(step)


class OdeNoise:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 1).

    A step goes from x at level s to D + s' (x - D) / s. What is scaled by s' is the noise that the steps so far find in
    x: (x - D) / s, in the model's units.
    """

    def __init__(self, model: ModelEntry, schedule: tuple[int, ...], first_noise: Input) -> None:
        assert model.ode is not None
        self._levels = [model.sigma_max, *(model.ode.sigmas[index] for index in schedule)]
        self._mean, self._scale = np.array(model.ode.mel_mean, np.float64), model.ode.mel_scale
        self._noise = model.initial_noise_scale * np.asarray(first_noise).astype(np.float64)
        self._before: NDArray[np.float64] | None = None

    def next(self, step: int, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        denoised = (mel.astype(np.float64) - self._mean) / self._scale
        origin = 0.0 if self._before is None else self._before
        # x = origin + s * noise, so (x - D) / s = noise + (origin - D) / s.
        self._noise = self._noise + (origin - denoised) / self._levels[step - 1]
        self._before = denoised
        return self._noise.astype(np.float32)


def make_step_noise(model: ModelEntry, schedule: tuple[int, ...], first_noise: Input, draw: Draw) -> StepNoise:
    """The noise of a conversion's further steps. `first_noise` (1, T, M) is that of its first."""
    return FreshNoise(draw) if model.ode is None else OdeNoise(model, schedule, first_noise)
