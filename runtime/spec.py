"""The numbers of the audio front end, and the only place where they are written.

They travel from here: config -> checkpoint -> bundle manifest -> `Converter.spec`.
"""

from dataclasses import dataclass


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
