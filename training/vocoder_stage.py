"""The command `vocoder`: crops of mel, F0 and audio, and the training run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ..runtime.source import pulse_source
from ..runtime.spec import AudioSpec
from .config import to_mapping
from .errors import DataError
from .features import FeatureIndex
from .loop import Batch, LoopConfig, Objective, fit
from .vocoder import Vocoder, VocoderConfig
from .vocoder_loss import vocoder_loss

VOCODER = "vocoder"


@dataclass(frozen=True, kw_only=True)
class VocoderTraining:
    loop: LoopConfig
    network: VocoderConfig = field(default_factory=VocoderConfig)
    crop_frames: int = 128


@dataclass(frozen=True)
class VocoderClip:
    """mel (T, M) and f0_hz (T,) float32, audio (L,) int16."""

    mel: NDArray[np.float32]
    f0_hz: NDArray[np.float32]
    audio: NDArray[np.int16]


class VocoderData:
    """Random crops with the excitation that the runtime would make for them."""

    def __init__(self, clips: list[VocoderClip], spec: AudioSpec, crop_frames: int, batch_size: int) -> None:
        self.clips = [clip for clip in clips if len(clip.mel) >= crop_frames]
        if not self.clips:
            raise DataError(f"no clip has {crop_frames} frames\nhint: lower crop_frames, or give longer recordings")
        self.spec, self.crop_frames, self.batch_size = spec, crop_frames, batch_size
        self.weights = torch.tensor([float(len(clip.mel) - crop_frames + 1) for clip in self.clips])

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """mel (B, T, M), f0_hz (B, T), audio (B, L), and two draws of source (2, B, L, 1) and noise (2, B, L)."""
        chosen = torch.multinomial(self.weights, self.batch_size, replacement=True, generator=generator)
        places = torch.rand(self.batch_size, generator=generator).tolist()
        crops = [self._crop(self.clips[i], place) for i, place in zip(chosen, places, strict=True)]
        stacked = {name: torch.from_numpy(np.stack([crop[name] for crop in crops])) for name in crops[0]}
        phases = torch.rand(2, self.batch_size, generator=generator).tolist()
        pulses = [
            [pulse_source(crop["f0_hz"], self.spec, p)[0] for crop, p in zip(crops, row, strict=True)] for row in phases
        ]
        noise = torch.randn(2, *stacked["audio"].shape, generator=generator)
        return stacked | {"source": torch.from_numpy(np.stack(pulses)), "noise": noise}

    def _crop(self, clip: VocoderClip, place: float) -> dict[str, NDArray[np.float32]]:
        start = int(place * (len(clip.mel) - self.crop_frames + 1))
        frames = slice(start, start + self.crop_frames)
        samples = slice(self.spec.samples(start), self.spec.samples(start + self.crop_frames))
        audio = clip.audio[samples].astype(np.float32) / np.float32(32768)
        return {"mel": clip.mel[frames], "f0_hz": clip.f0_hz[frames], "audio": audio}


class VocoderObjective(Objective[Vocoder]):
    """Distance between the recording and what the vocoder makes of the recording's mel and F0, twice."""

    def __init__(self, model: Vocoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        mel, f0_hz = batch["mel"].repeat(2, 1, 1), batch["f0_hz"].repeat(2, 1)
        with torch.autocast(mel.device.type, enabled=False):  # bf16 is a noise floor of -50 dB in a Fourier transform
            audio = self.model(mel, f0_hz, batch["source"].flatten(0, 1), batch["noise"].flatten(0, 1))
            return vocoder_loss(audio.unflatten(0, (2, -1)), batch["audio"], self.model.spectra)


def train_vocoder(
    config: VocoderTraining,
    run: Path,
    *,
    seed: int,
    resume: bool,
    device: str = "auto",
    console: Console | None = None,
) -> Path:
    """Train the vocoder on all training clips of the singers of `run` and return its last checkpoint."""
    features = FeatureIndex.open(run / "features")
    loaded = [features.load(clip) for clip in features.select("train", trained=True)]
    clips = [VocoderClip(c["mel"], c["f0_hz"], c["audio"]) for c in loaded]
    torch.manual_seed(seed)
    resolved = {
        "audio": to_mapping(features.audio),
        "network": to_mapping(config.network),
        "crop_frames": config.crop_frames,
        "loop": to_mapping(config.loop),
        "seed": seed,
        "singers": features.trained_singers,
    }
    return fit(
        VocoderObjective(Vocoder(config.network, features.audio)),
        VocoderData(clips, features.audio, config.crop_frames, config.loop.batch_size).batch,
        config.loop,
        run / VOCODER,
        seed=seed,
        resolved_config=resolved,
        resume=resume,
        device=device,
        console=console,
    )
