"""ContentVec (Qian et al. 2022): HuBERT base as `transformers` has it, of which layer 12 is taken.

The encoder that CoMoSVC, so-vits-svc and others are conditioned on. It takes the raw waveform at 16 kHz: nothing is
subtracted or scaled before it. Its first layer normalises over the whole clip and its attention looks everywhere, so a
piece of a clip gives other features than the clip (`runtime.spec.FrontEnd.content_window_s` says how long one is cut).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..runtime.extras import install
from .errors import ConfigError

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
        hop = 1
        for stride in self.conv_stride:
            hop *= stride
        return hop

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
    return HubertModel(
        HubertConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            conv_dim=list(config.conv_dim),
            conv_kernel=list(config.conv_kernel),
            conv_stride=list(config.conv_stride),
            num_conv_pos_embeddings=config.num_conv_pos_embeddings,
            num_conv_pos_embedding_groups=config.num_conv_pos_embedding_groups,
            layer_norm_eps=config.layer_norm_eps,
            feat_extract_norm="group",
            do_stable_layer_norm=False,
            apply_spec_augment=False,
            layerdrop=0.0,
        )
    ).eval()
