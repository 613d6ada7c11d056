"""Graph inputs that a formula generates: excitation, noise, and the noise of each sampling step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import Track
from ..audio.spec import AudioSpec
from ..voice.manifest import ModelEntry
from .source import NormalStream, pulse_frames, pulses, sine_frames, sine_noise, sines

Shape = tuple[int, ...]
_Host = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class Normals:
    """The first numbers of a stream."""

    stream: NormalStream
    shape: Shape

    def host(self) -> NDArray[np.float32]:
        return self.stream.numbers(int(np.prod(self.shape))).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Sines:
    """`source.sines` of `frames` (T, 2), (L, 9)."""

    frames: NDArray[np.uint64]
    seed: int
    noise: NormalStream
    spec: AudioSpec
    shape: Shape
    host: _Host = field(repr=False)


@dataclass(frozen=True, eq=False)
class Pulses:
    """`source.pulses` of `frames` (T, 2), the same in every channel: (L, H)."""

    frames: NDArray[np.float64]
    spec: AudioSpec
    shape: Shape
    host: _Host = field(repr=False)


GeneratedRow = Normals | Sines | Pulses
"""Formula of the input of one clip. `shape`: its length first."""


class Generated:
    """An input (B, length, ...) with a `GeneratedRow` for each clip; zeros follow shorter rows."""

    dtype = np.dtype(np.float32)

    def __init__(self, rows: Sequence[GeneratedRow]) -> None:
        self.rows = tuple(rows)
        longest = max(row.shape[0] for row in self.rows)
        self.shape: Shape = (len(self.rows), longest, *self.rows[0].shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, clips: slice) -> "Generated":
        return Generated(self.rows[clips])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if len(self.rows) == 1:
            return self.rows[0].host()[None].astype(dtype or self.dtype, copy=False)
        made = np.zeros(self.shape, dtype or self.dtype)
        for row, target in zip(self.rows, made, strict=True):
            target[: row.shape[0]] = row.host()
        return made


Input = NDArray[Any] | Generated


class SourceTrack:
    """The source of one clip's vocoder. Frames are fixed one after the other, and forgotten; samples are made later."""

    def __init__(self, kind: str, channels: int, spec: AudioSpec, seed: int) -> None:
        self._spec, self._seed, self._channels, self._sine = spec, seed, channels, kind == "sine"
        self._frames = Track((2,), np.uint64 if self._sine else np.float64)
        self._made = 0, np.zeros((0, channels), np.float32)
        """First frame and samples of the last piece made on the host; the next piece may begin with some of them."""
        self._phase: Any = 0 if self._sine else 0.0

    @property
    def end(self) -> int:
        """Frame up to which the source is fixed."""
        return self._frames.end

    def extend(self, f0_hz: NDArray[np.float32]) -> None:
        """Fix the next frames, whose F0 is (T,)."""
        fix = sine_frames if self._sine else pulse_frames
        frames, self._phase = fix(f0_hz, self._spec, self._phase)
        self._frames.append(frames)

    def forget(self, frame: int) -> None:
        """Discard frames before `frame`."""
        self._frames.forget(frame)

    def read(self, first: int, last: int) -> Generated:
        """The source of frames `first` to `last`, (1, L, H), to be made at any time and in any thread."""
        frames, shape = self._frames.read(first, last), ((last - first) * self._spec.hop_length, self._channels)

        def host() -> NDArray[np.float32]:
            return self._on_the_host(first, frames)

        if self._sine:
            noise = sine_noise(self._seed, first, self._spec)
            return Generated([Sines(frames, self._seed, noise, self._spec, shape, host)])
        return Generated([Pulses(frames, self._spec, shape, host)])

    def _on_the_host(self, first: int, frames: NDArray[Any]) -> NDArray[np.float32]:
        hop, (start, made) = self._spec.hop_length, self._made
        there = made[(first - start) * hop : (first - start + len(frames)) * hop] if start <= first else made[:0]
        n_there = len(there) // hop
        missing = frames[n_there:]
        if self._sine:
            new = sines(missing, self._spec, self._seed, first + n_there)
        else:
            new = np.broadcast_to(pulses(missing, self._spec), (len(missing) * hop, self._channels))
        samples = np.concatenate((there, new))
        self._made = first, samples  # both at once: pieces are made in several threads
        return samples


def make_source_track(kind: str, channels: int, spec: AudioSpec, seed: int) -> SourceTrack | None:
    """The source that a manifest's `source.kind` names; None for "none"."""
    return None if kind == "none" else SourceTrack(kind, channels, spec, seed)


StepNoise = Callable[[int, NDArray[np.float32]], Input]
"""Noise that step 1, 2, ... adds to mel (1, T, M), the result of the step before, scaled by the step's own level."""


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

    def __call__(self, step: int, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        denoised = (mel.astype(np.float64) - self._mean) / self._scale
        origin = 0.0 if self._before is None else self._before
        # x = origin + s * noise, so (x - D) / s = noise + (origin - D) / s.
        self._noise = self._noise + (origin - denoised) / self._levels[step - 1]
        self._before = denoised
        return self._noise.astype(np.float32)


def make_step_noise(
    model: ModelEntry, schedule: tuple[int, ...], first_noise: Input, draw: Callable[[int], Input]
) -> StepNoise:
    """The noise of the steps after the first, whose noise (1, T, M) is `first_noise`.

    A student's steps draw anew: consistency sampling (Song et al. 2023, algorithm 1).
    """
    return OdeNoise(model, schedule, first_noise) if model.ode else lambda step, _: draw(step)
