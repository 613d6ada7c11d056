"""The numbers of the audio front end, and the only place where they are written.

They travel from here: config -> checkpoint -> bundle manifest -> `Converter.spec`.
"""

import math
from dataclasses import dataclass
from typing import Literal

SINE_HARMONICS = 9
"""Sines of an NSF source: the fundamental and eight overtones."""


@dataclass(frozen=True, kw_only=True)
class AudioSpec:
    """Rates, framing and mel scale that a voice was trained with.

    A mel frame `n` covers `win_length` samples centred on sample `hop_length * n + hop_length / 2` (the authors'
    framing: reflect padding of `(n_fft - hop_length) / 2`, no centring). F0 and loudness are taken at the same
    instants. A content frame `s` is centred on sample `content_hop_length * s + content_hop_length / 2` of the
    `content_sample_rate` signal.
    """

    sample_rate: int
    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int
    f_min_hz: float
    f_max_hz: float
    content_sample_rate: int
    content_hop_length: int
    mel_log_base: float
    """Base of the logarithm of the mel spectrogram: 10 in the authors' system."""
    mel_floor: float
    """Smallest magnitude before the logarithm."""

    @property
    def frame_rate_hz(self) -> float:
        """Mel frames per second."""
        return self.sample_rate / self.hop_length

    def frames(self, n_samples: int) -> int:
        """Mel frames of a signal of `n_samples` at `sample_rate`: whole hops only, as the authors count them."""
        return n_samples // self.hop_length

    def samples(self, n_frames: int) -> int:
        """Samples at `sample_rate` that `n_frames` mel frames cover."""
        return n_frames * self.hop_length


COMOSVC_24K = AudioSpec(
    sample_rate=24_000,
    n_fft=512,
    win_length=512,
    hop_length=128,
    n_mels=80,
    f_min_hz=30.0,
    f_max_hz=12_000.0,
    content_sample_rate=16_000,
    content_hop_length=320,
    mel_log_base=10.0,
    mel_floor=1e-5,
)
"""The authors' values (Grace9994/CoMoSVC, config data and the vocoder's config.yaml)."""

OPENVPI_44K = AudioSpec(
    sample_rate=44_100,
    n_fft=2_048,
    win_length=2_048,
    hop_length=512,
    n_mels=128,
    f_min_hz=40.0,
    f_max_hz=16_000.0,
    content_sample_rate=16_000,
    content_hop_length=320,
    mel_log_base=math.e,
    mel_floor=1e-5,
)
"""Values of the openvpi NSF-HiFi-GAN and of models for it (so-vits-svc, DiffSinger)."""


F0Name = Literal["swift-f0", "dio", "harvest"]
"""Extractors of F0: the shipped pitch graph, and two of WORLD."""


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """How the conditions are taken from the audio. It travels as `AudioSpec` does; the defaults are ours."""

    loudness: Literal["hann", "hop"] = "hann"
    """"hann": root mean square of the mel's own windowed frame. "hop": of `hop_length` samples, unwindowed."""
    condition_at: Literal["centre", "start"] = "centre"
    """Where in its hop a frame's F0 and hop loudness are taken; the authors' lie half a hop before the mel's."""
    unvoiced_f0: Literal["zero", "interpolated"] = "zero"
    """What a frame without pitch has for F0: 0, or a straight line between the voiced frames around it."""
    content_index: Literal["time", "stretched"] = "time"
    """The content frame of mel frame i: the nearest in time, or floor(i * S / T) of the whole piece."""
    content_window_s: float = 0.0
    """Length of the pieces that an encoder without finite context is given. 0: its context is finite."""
    content_overlap_s: float = 0.0
    """How much neighbouring pieces share; each is used up to the middle of it."""

    @property
    def instant(self) -> float:
        """`condition_at` in hops from a frame's first sample."""
        return 0.5 if self.condition_at == "centre" else 0.0


AUTHORS_FRONT_END = FrontEnd(
    loudness="hop",
    condition_at="start",
    unvoiced_f0="interpolated",
    content_index="stretched",
    content_window_s=20.0,
    content_overlap_s=2.0,
)
"""CoMoSVC's (data_loaders.py, Features.py, infer_tool.py)."""
