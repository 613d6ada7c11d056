"""Content encoders of a run folder: ContentVec (Qian et al. 2022) or a trained one, applied in windows."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ...runtime.audio.frames import Track
from ...runtime.audio.spec import AudioSpec, FrontEnd
from ...runtime.conversion.calls import Batches
from ...runtime.conversion.content import WindowedContent
from ...runtime.conversion.stages import Clip, Stages, Timings, run
from ...runtime.errors import install
from ..config import from_mapping
from ..errors import ConfigError
from ..loop.checkpoint import latest_checkpoint, load_module, read_metadata, require_checkpoint
from .encoder import ContentConfig, ContentEncoder
from .stage import CONTENT, CONTENT_LOW, Encode

if TYPE_CHECKING:
    from transformers import HubertModel


@dataclass(frozen=True, kw_only=True)
class ContentVecConfig:
    """Sizes, under the names of Hugging Face's `config.json`. The defaults are HuBERT base."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5

    def frames(self, n_samples: int) -> int:
        """Content frames of a clip: floor((n - 400) / 320) + 1 for HuBERT base, 0 for less than 400 samples."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            n_samples = max(0, (n_samples - kernel) // stride + 1)
        return n_samples

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next: 320."""
        return math.prod(self.conv_stride)

    @property
    def min_samples(self) -> int:
        """Samples that one frame takes: 400."""
        n_samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            n_samples = (n_samples - 1) * stride + kernel
        return n_samples


class ContentVec(nn.Module):
    """Audio (B, N) at 16 kHz -> content (B, S, C), S = `config.frames(N)`, N >= `config.min_samples`.

    `hubert` is a `transformers.HubertModel` (post-norm, no final projection): its state dict has the names of the
    Hugging Face files, with the weight norm of the positional convolution as a parametrisation (`fold` removes it).
    Raises `ConfigError` where `transformers` is not installed.
    """

    def __init__(self, config: ContentVecConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ContentVecConfig()
        self.hubert = _hubert(config)

    @property
    def n_content(self) -> int:
        """C."""
        return self.config.hidden_size

    @property
    def min_samples(self) -> int:
        """Fewest samples that it takes."""
        return self.config.min_samples

    def forward(self, audio: Tensor) -> Tensor:
        return self.hubert(audio).last_hidden_state

    def fold(self) -> "ContentVec":
        """Put the positional convolution's weight norm into its weights, as an exported graph wants it."""
        conv = self.hubert.encoder.pos_conv_embed.conv
        if nn.utils.parametrize.is_parametrized(conv):
            nn.utils.parametrize.remove_parametrizations(conv, "weight")
        return self


def _hubert(config: ContentVecConfig) -> "HubertModel":
    try:
        from transformers import HubertConfig, HubertModel
    except ImportError as error:
        raise ConfigError(
            f"ContentVec needs the transformers package ({error})\nhint: {install('contentvec')}"
        ) from error
    sizes = {name: list(size) if isinstance(size, tuple) else size for name, size in vars(config).items()}
    fixed = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "apply_spec_augment": False}
    return HubertModel(HubertConfig(**sizes, **fixed, layerdrop=0.0)).eval()


CONTENTVEC = "contentvec"
"""`kind` in the configuration of a checkpoint that holds a `ContentVec`; a `ContentEncoder`'s names none."""


def load_content_encoders(run: Path) -> dict[str, tuple[ContentEncoder | ContentVec, str]]:
    """The averaged content encoders of a run by their folder, each with the hash that names what it makes.

    `CONTENT` first; `CONTENT_LOW` where the run has one.
    """
    names = [CONTENT, *([CONTENT_LOW] if latest_checkpoint(run / CONTENT_LOW) else [])]
    return {name: _load_content_encoder(run / name) for name in names}


def _load_content_encoder(folder: Path) -> tuple[ContentEncoder | ContentVec, str]:
    path = require_checkpoint(folder)
    _, config = read_metadata(path)
    if config.get("kind") == CONTENTVEC:
        encoder = ContentVec(from_mapping(ContentVecConfig, config["network"], str(path))).fold()
    else:
        spec = from_mapping(AudioSpec, config["audio"], str(path))
        encoder = ContentEncoder(from_mapping(ContentConfig, config["network"], str(path)), spec).eval()
    load_module(path, "ema", encoder)
    weights = hashlib.sha256()
    for parameter in encoder.parameters():
        weights.update(parameter.detach().numpy().tobytes())
    return encoder, weights.hexdigest()[:12]


def require_windows(encoder: nn.Module, front_end: FrontEnd) -> None:
    """Raise `ConfigError` where an encoder that sees all it is given is not told how long that may be."""
    if isinstance(encoder, ContentVec) and not front_end.content_window_s:
        raise ConfigError(
            "ContentVec sees all of what it is given, and content_window_s is 0: nothing says how a long song is cut\n"
            "hint: set content_window_s = 20.0 and content_overlap_s = 2.0 under [prepare.front_end], as in the recipe "
            "authors, and run prepare again: features that are there stay"
        )


class _WholeClip:
    """A clip that is there from its beginning to its end (`runtime.conversion.content.AnalysedClip`)."""

    def __init__(self, at_16k: NDArray[np.float32], n_frames: int) -> None:
        self.at_16k = Track()
        self.at_16k.append(at_16k)
        self.n_frames: int | None = n_frames
        self.goal = n_frames

    def has_frame(self, frame: int) -> bool:
        return True

    def is_silent(self, first: int, last: int) -> bool:
        return False


@dataclass(frozen=True)
class _Encoder:
    """An encoder as the graph `content`."""

    encode: Encode

    def run(self, inputs: dict[str, NDArray], /) -> tuple[NDArray, ...]:
        return (self.encode(inputs["audio"][0])[None],)


def windowed_content(
    encode: Encode, n_content: int, at_16k: NDArray[np.float32], n_frames: int, spec: AudioSpec, front_end: FrontEnd
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Content (S, C) of audio (N,) at 16 kHz, and for each of its `n_frames` mel frames its row (T,)."""
    track = WindowedContent(spec, front_end, n_content, _WholeClip(at_16k, n_frames), Timings(float))

    def stages() -> Stages[None]:
        yield track.plan_ready()

    run(Clip(stages()), Batches({"content": _Encoder(encode)}))
    return track.read(0, n_frames)
