"""Where the pitch graph may be wrong: low voices, fast vibrato, several sounds at once."""

import numpy as np
import pytest
from tiny_bundle import SPEC

from comosvc.runtime.audio.pitch import second_opinion
from comosvc.runtime.audio.spec import FrontEnd
from comosvc.runtime.conversion.source import pulse_source
from comosvc.training.data.prepared import swift_f0

FORMANTS_HZ = ((700.0, 80.0), (1220.0, 90.0), (2600.0, 120.0), (3400.0, 200.0))


def sung(f0_hz):
    """An "ah" at the model's rate, (L,), of F0 at mel frames (T,)."""
    signal = pulse_source(f0_hz.astype(np.float32), SPEC)[0][:, 0].astype(np.float64)
    seconds = np.arange(1_200) / SPEC.sample_rate
    for centre_hz, bandwidth_hz in FORMANTS_HZ:
        ringing = np.exp(-np.pi * bandwidth_hz * seconds) * np.cos(2.0 * np.pi * centre_hz * seconds)
        signal = np.convolve(signal, ringing)[: len(signal)]
    return (0.3 * signal / np.abs(signal).max()).astype(np.float32)


def vibrato(base_hz, rate_hz, n_frames=300):
    seconds = np.arange(n_frames) / SPEC.frame_rate_hz
    return base_hz * 2.0 ** (2 / 12 * np.sin(2.0 * np.pi * rate_hz * seconds))


def off(found_hz, true_hz):
    """Cents by which voiced frames are off, the clip's ends left out, and the share of frames that are voiced."""
    found_hz, true_hz = found_hz[20:-20], true_hz[20:-20]
    voiced = found_hz > 0.0
    return 1200.0 * np.abs(np.log2(found_hz[voiced] / true_hz[voiced])), voiced.mean()


@pytest.mark.parametrize("f_hz", [38.0, 40.0, 43.0, 45.0, 47.0, 50.0, 55.0, 60.0])
def test_a_low_vowel_is_not_its_formant(converter, f_hz):
    true_hz = np.full(300, f_hz)
    result = converter.convert(sung(true_hz), 24_000, "bass")
    cents, voiced = off(result.f0_hz, true_hz)
    assert voiced > 0.95
    assert np.percentile(cents, 98) < 50
    assert any("was unsure, very low" in text for text in result.warnings) == (f_hz < 48)


@pytest.mark.parametrize("base_hz", [80.0, 110.0, 150.0, 220.0])
def test_a_fast_wide_vibrato_is_not_the_formant(converter, base_hz):
    """400 cents at 8 Hz."""
    true_hz = vibrato(base_hz, 8.0)
    result = converter.convert(sung(true_hz), 24_000)
    cents, voiced = off(result.f0_hz, true_hz)
    assert voiced > 0.8
    assert np.median(cents) < 40
    assert cents.max() < 150
    assert any("was unsure" in text for text in result.warnings)


def test_live_too(converter):
    true_hz = np.full(120, 43.0)
    result = converter.convert(sung(true_hz), 24_000, latency="low")
    cents, voiced = off(result.f0_hz, true_hz)
    assert voiced > 0.9
    assert np.percentile(cents, 95) < 50
    assert any("was unsure" in text for text in result.warnings)
    with converter.stream(24_000) as stream:
        stream.process(sung(true_hz))
        assert any("was unsure" in text for text in stream.warnings)


@pytest.mark.parametrize("base_hz", [260.0, 520.0, 700.0, 1_000.0])
def test_high_voices_are_left_to_the_graph(converter, base_hz):
    true_hz = vibrato(base_hz, 6.0, 200)
    result = converter.convert(sung(true_hz), 24_000)
    assert np.percentile(off(result.f0_hz, true_hz)[0], 95) < 60
    assert not any("unsure" in text for text in result.warnings)


def test_noise_and_silence_stay_unvoiced():
    rng = np.random.default_rng(0)
    for level in (0.0, 0.1):
        audio = (level * rng.standard_normal(16_000)).astype(np.float32)
        f0_hz = np.full(63, 1_200.0, np.float32)
        found_hz, confidence, changed = second_opinion(audio, f0_hz, np.zeros(63, np.float32))
        assert not changed.any()
        assert not confidence.any()
        np.testing.assert_array_equal(found_hz, f0_hz)


def chords(n_samples):
    """Decaying triads with harmonics, one each 0.7 s, RMS 1."""
    seconds, out = np.arange(n_samples) / 24_000, np.zeros(n_samples)
    for number, start in enumerate(np.arange(0.0, seconds[-1], 0.7)):
        since = np.clip(seconds - start, 0.0, None)
        envelope = np.where((seconds >= start) & (since < 0.7), np.exp(-since), 0.0)
        for interval in (0, 4, 7, 12):
            f_hz = 110.0 * 2.0 ** ((interval + (0, 5, 7, 2)[number % 4]) / 12)
            out += envelope * sum(np.sin(2 * np.pi * f_hz * k * since) / k**1.3 for k in range(1, 8))
    return out / np.sqrt(np.mean(out**2))


def phrases():
    """Four notes with rests, 4.3 s."""
    rest = np.zeros(6_400)
    notes = [sung(vibrato(f_hz, 5.0, 150)) for f_hz in (220.0, 280.0, 330.0, 250.0)]
    return np.concatenate([part for note in notes for part in (note, rest)])


@pytest.mark.parametrize("level_db", [None, 0.0, -6.0])
def test_a_mix_is_said(converter, level_db):
    voice = phrases()
    rms = np.sqrt(np.mean(voice[voice != 0.0] ** 2))
    under = 0.0 if level_db is None else rms * 10 ** (level_db / 20) * chords(len(voice))
    warnings = converter.convert((0.3 * (voice + under)).astype(np.float32), 24_000).warnings
    found = [text for text in warnings if "separate the vocals first" in text]
    assert len(found) == (0 if level_db is None else 1)


@pytest.mark.parametrize("latency", ["default", "low"])
def test_a_voice_with_noise_is_no_mix(converter, latency):
    voice = phrases()
    noisy = voice + 0.02 * np.random.default_rng(0).standard_normal(len(voice))
    warnings = converter.convert(noisy.astype(np.float32), 24_000, latency=latency).warnings
    assert not any("separate" in text for text in warnings)


def test_training_takes_the_same_f0():
    true_hz = np.full(200, 43.0)
    cents, voiced = off(swift_f0(sung(true_hz), SPEC, FrontEnd()), true_hz)
    assert voiced > 0.95
    assert np.percentile(cents, 98) < 50
