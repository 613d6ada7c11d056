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
from .crops import Crops
from .draws import Batch, Draws
from .features import FeatureIndex
from .loop import LoopConfig, Objective, fit
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

    def __init__(self, clips: list[VocoderClip], spec: AudioSpec, crop_frames: int) -> None:
        self.clips, self.spec = clips, spec
        self.crops = Crops([len(clip.mel) for clip in clips], crop_frames)

    def batch(self, draws: Draws) -> dict[str, Tensor]:
        """mel (B, T, M), f0_hz (B, T), audio (B, L), and two draws each of source (B, 2, L, 1) and noise (B, 2, L)."""
        crops = [self._crop(rng) for _, rng in draws]
        return {name: torch.from_numpy(np.stack([crop[name] for crop in crops])) for name in crops[0]}

    def _crop(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        number, frames = self.crops.draw(rng)
        clip = self.clips[number]
        samples = slice(self.spec.samples(frames.start), self.spec.samples(frames.stop))
        audio = clip.audio[samples].astype(np.float32) / np.float32(32768)
        f0_hz = clip.f0_hz[frames]
        pulses = [pulse_source(f0_hz, self.spec, phase)[0] for phase in rng.random(2).tolist()]
        noise = rng.standard_normal((2, len(audio)), np.float32)
        return {"mel": clip.mel[frames], "f0_hz": f0_hz, "audio": audio, "source": np.stack(pulses), "noise": noise}


class VocoderObjective(Objective[Vocoder]):
    """Distance between the recording and what the vocoder makes of the recording's mel and F0, twice."""

    def __init__(self, model: Vocoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        mel, f0_hz = batch["mel"].repeat(2, 1, 1), batch["f0_hz"].repeat(2, 1)
        source, noise = (batch[name].transpose(0, 1).flatten(0, 1) for name in ("source", "noise"))
        with torch.autocast(mel.device.type, enabled=False):  # bf16 is a noise floor of -50 dB in a Fourier transform
            audio = self.model(mel, f0_hz, source, noise)
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
        VocoderData(clips, features.audio, config.crop_frames).batch,
        config.loop,
        run / VOCODER,
        seed=seed,
        resolved_config=resolved,
        resume=resume,
        device=device,
        console=console,
    )
