"""Seeded inputs for any graph, from its contract alone, for tracing, parity and the stored probes.

Everything comes from one synthetic voice, because a graph must be right where voices are. A mel of independent random
numbers, which no audio has, makes the vocoder divide by nearly nothing: within torch, float32 is then up to 6e-5 away
from float64, against 1e-6 here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from ...runtime.audio.features import mel_spectrogram
from ...runtime.audio.frames import content_index
from ...runtime.audio.spec import AudioSpec
from ...runtime.conversion.source import clip_source, pulse_source
from ...runtime.voice.graphs import GraphSpec, TensorSpec

Arrays = dict[str, NDArray]
_SPECTRAL_TILT = 0.05 * 0.9 ** np.arange(64)
"""Impulse response that falls by 25 dB over the band."""
_BREATH = 3e-3


@dataclass(frozen=True)
class InputMaker:
    """Inputs of every graph of one voice. `sizes` are its fixed dimensions by letter (C, D, H, M)."""

    audio: AudioSpec
    sizes: Mapping[str, int]
    n_sigmas: int
    source_kind: str = "pulse"
    phones: bool = True
    """Content frames are distributions over phones, as our own encoder gives; else features about zero."""
    min_samples: int = 160
    """Fewest 16 kHz samples that the content encoder takes."""
    embeddings: NDArray[np.float32] | None = None
    """The voice's own singers (n, D), where they are known; else normal noise."""

    def make(self, spec: GraphSpec, batch: int, length: int, seed: int) -> Arrays:
        """Inputs of `spec` for `batch` clips of `length` 16 kHz samples if the graph takes audio, else mel frames."""
        rng = np.random.default_rng([seed, batch, length])
        if spec.inputs[0].name == "audio":
            return {"audio": self._sung_16k(rng, batch, length)}
        n_content = self.audio.samples(length) * self.audio.content_sample_rate // self.audio.sample_rate
        n_content = max(1, n_content // self.audio.content_hop_length)
        sizes = {**self.sizes, "B": batch, "T": length, "L": self.audio.samples(length), "S": n_content}
        clip = self._sung(rng, batch, length)
        return {tensor.name: self._tensor(tensor, sizes, clip, rng) for tensor in spec.inputs}

    def _tensor(self, tensor: TensorSpec, sizes: Mapping[str, int], clip: Arrays, rng: np.random.Generator) -> NDArray:
        if tensor.name in clip:
            return clip[tensor.name]
        shape = tuple(sizes[letter] for letter in tensor.dims)
        if tensor.name == "content_index":
            return np.tile(clipped_content_index(shape[1], sizes["S"], self.audio), (shape[0], 1))
        if tensor.name == "step_index":
            return np.array(rng.integers(self.n_sigmas), np.int32)
        if tensor.name == "singer" and self.embeddings is not None:
            return np.resize(self.embeddings, shape)
        value = rng.standard_normal(shape)
        if tensor.name == "content" and self.phones:
            value = np.exp(2.0 * value)
            value /= value.sum(axis=-1, keepdims=True)
        return value.astype(tensor.dtype)

    def _sung(self, rng: np.random.Generator, batch: int, n_frames: int) -> Arrays:
        """f0_hz (B, T), loudness (B, T), mel (B, T, M), source (B, L, H) of a glide with an unvoiced gap."""
        f0_hz = rng.uniform(90.0, 500.0, (batch, 1)) * np.geomspace(1.0, rng.uniform(0.7, 1.4), n_frames)
        f0_hz[:, n_frames // 2 : n_frames // 2 + n_frames // 4] = 0.0
        f0_hz = f0_hz.astype(np.float32)
        source = np.stack([pulse_source(row, self.audio)[0] for row in f0_hz])
        audio = self._voiced(source, rng)
        loudness = np.sqrt(np.square(audio).reshape(batch, n_frames, -1).mean(axis=-1))
        mel = np.stack([mel_spectrogram(row, self.audio) for row in audio])
        return {"f0_hz": f0_hz, "loudness": loudness, "mel": mel, "source": self._excitation(f0_hz)}

    def _excitation(self, f0_hz: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([clip_source(self.source_kind, row, self.audio, seed) for seed, row in enumerate(f0_hz)])

    def _voiced(self, source: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        tilted = np.stack([np.convolve(row, _SPECTRAL_TILT)[: len(row)] for row in source[..., 0]])
        return (tilted + _BREATH * rng.standard_normal(tilted.shape)).astype(np.float32)

    def _sung_16k(self, rng: np.random.Generator, batch: int, n_samples: int) -> NDArray[np.float32]:
        from_rate, to_rate = self.audio.sample_rate, self.audio.content_sample_rate
        n_frames = 2 + n_samples * from_rate // (to_rate * self.audio.hop_length)
        voices = self._voiced(self._sung(rng, batch, n_frames)["source"], rng)
        return np.stack([soxr.resample(row, from_rate, to_rate)[:n_samples] for row in voices])


def clipped_content_index(n_frames: int, n_content: int, spec: AudioSpec) -> NDArray[np.int32]:
    """The content frame of each mel frame of a clip from its start, (T,); the last one is held."""
    return np.minimum(content_index(0, n_frames, spec), n_content - 1).astype(np.int32)
