"""Self-test of a voice on this machine: a synthetic vowel with known pitch through the whole chain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .errors import ComosvcError
from .results import Conversion
from .source import pulse_source
from .spec import AudioSpec

SECONDS = 1.5
F0_HZ = (180.0, 270.0)
"""The vowel glides up a fifth."""
_FORMANTS_HZ = ((700.0, 80.0), (1200.0, 90.0), (2600.0, 120.0))  # an "ah": frequency and bandwidth
_WITHIN_CENTS = 50.0
_VOICED_SHARE = 0.8


@dataclass(frozen=True)
class SelfTest:
    """Outcome of a self-test that passed. `f0_error_cents`: median error of the pitch found in the vowel."""

    seconds: float
    rtf: float
    f0_error_cents: float
    output_peak: float
    provider: str
    precision: str
    timings_ms: Mapping[str, float]
    probe_errors: Mapping[str, float] = field(default_factory=dict)
    """By graph, the relative error against what torch gave at export; empty if the voice holds nothing of that.

    Where a GPU's padding leaves nothing of that to compare, against what the CPU gives, which was compared with torch.
    """


def run_self_test(convert: Callable[[NDArray[np.float32], int], Conversion], spec: AudioSpec) -> SelfTest:
    """Convert the vowel. Raises `ComosvcError` if what comes out is not a conversion of it."""
    audio, truth_hz = vowel(spec)
    convert(audio, spec.sample_rate)  # first runs take longer, and are not measured
    result = convert(audio, spec.sample_rate)
    found = result.f0_hz[: len(truth_hz)]
    voiced = found > 0.0
    if len(result.audio) != len(audio) or not np.isfinite(result.audio).all():
        raise ComosvcError(f"self-test failed: {len(audio)} samples became {len(result.audio)}, or are not finite")
    peak = float(np.abs(result.audio).max())
    if peak == 0.0:
        raise ComosvcError("self-test failed: the result is silent")
    error_cents = (
        float(np.median(np.abs(1200.0 * np.log2(found[voiced] / truth_hz[voiced])))) if voiced.any() else np.inf
    )
    if voiced.mean() < _VOICED_SHARE or error_cents > _WITHIN_CENTS:
        raise ComosvcError(
            f"self-test failed: pitch was found in {voiced.mean():.0%} of a vowel, "
            f"{error_cents:.0f} cents off in the median"
        )
    seconds = len(audio) / spec.sample_rate
    rtf = result.timings_ms["total"] / 1e3 / seconds
    options = result.options
    return SelfTest(seconds, rtf, error_cents, peak, options.provider, options.precision, result.timings_ms)


def vowel(spec: AudioSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A sung "ah" at the model's rate, (L,), and its F0 at mel frames, (T,)."""
    f0_hz = np.geomspace(*F0_HZ, round(SECONDS * spec.frame_rate_hz)).astype(np.float32)
    signal = pulse_source(f0_hz, spec)[0][:, 0].astype(np.float64)
    seconds = np.arange(round(0.05 * spec.sample_rate)) / spec.sample_rate
    for centre_hz, bandwidth_hz in _FORMANTS_HZ:
        ringing = np.exp(-np.pi * bandwidth_hz * seconds) * np.cos(2.0 * np.pi * centre_hz * seconds)
        signal = np.convolve(signal, ringing)[: len(f0_hz) * spec.hop_length]
    return (0.3 * signal / np.abs(signal).max()).astype(np.float32), f0_hz
