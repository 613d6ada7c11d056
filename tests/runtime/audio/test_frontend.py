"""Mel, loudness, F0 and source: what training and inference both stand on."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

from comosvc.runtime import COMOSVC_24K
from comosvc.runtime.audio.features import (
    HighPass,
    gate_loudness,
    hz_to_mel,
    loudness,
    mel_centres_hz,
    mel_filterbank,
    mel_spectrogram,
    mel_to_hz,
)
from comosvc.runtime.audio.frames import content_index, frames_to_cover, mel_range, samples_before
from comosvc.runtime.audio.pitch import PitchStatistics, f0_at_frames, pitch_frames_around
from comosvc.runtime.conversion.source import noise_frames, noise_samples, pulse_source

SPEC = replace(COMOSVC_24K, content_hop_length=160)
RNG = np.random.default_rng(0)


# librosa 0.11.0, filters.mel(sr=24000, n_fft=512, n_mels=80, fmin=30, fmax=12000): band, first bin, first weights
LIBROSA = (
    (0, 1, [0.009693878, 0.01131414]),
    (20, 19, [0.01503321, 0.005974807]),
    (50, 68, [0.00131658, 0.003690467, 0.006064354]),
    (79, 235, [2.131328e-05, 0.0002170316, 0.0004127499]),
)


def test_mel_filters_are_librosas():
    filters = mel_filterbank(SPEC)
    assert filters.shape == (80, 257)
    assert filters.sum() == pytest.approx(1.7063956, rel=1e-6)
    for band, first, weights in LIBROSA:
        assert np.flatnonzero(filters[band])[0] == first
        np.testing.assert_allclose(filters[band, first : first + len(weights)], weights, rtol=1e-5)


def test_mel_scale_and_its_inverse():
    f_hz = np.geomspace(20.0, 12_000.0, 200)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(f_hz)), f_hz, rtol=1e-12)
    assert hz_to_mel(1_000.0) == pytest.approx(15.0)


def test_a_tone_lights_its_mel_band():
    centres = mel_centres_hz(SPEC)
    for band in (10, 40, 70):
        tone = 0.5 * np.sin(2 * np.pi * centres[band] * np.arange(24_000) / 24_000)
        mel = mel_spectrogram(tone.astype(np.float32), SPEC)
        assert mel.shape == (187, 80)
        assert np.median(np.argmax(mel, axis=1)) == band


def test_the_floor_of_silence_is_the_mel_floor():
    mel = mel_spectrogram(np.zeros(1_280, np.float32), replace(SPEC, mel_floor=1e-2))
    np.testing.assert_allclose(mel, -2.0, atol=1e-6)


def test_short_signals_have_frames_too():
    assert mel_spectrogram(np.ones(128, np.float32), SPEC).shape == (1, 80)
    assert loudness(np.ones(128, np.float32), SPEC).shape == (1,)


def test_loudness_is_the_root_mean_square():
    tone = np.sin(2 * np.pi * 1_000 * np.arange(24_000) / 24_000).astype(np.float32)
    np.testing.assert_allclose(loudness(0.5 * tone, SPEC)[2:-2], 0.5 / np.sqrt(2), rtol=1e-3)


@pytest.mark.parametrize(
    ("offset", "f_hz", "amplitude"), [(0.2, 20, 0.0), (0.0, 20, 0.1), (0.0, 30, 0.1), (0.3, 8, 0.1)]
)
def test_loudness_is_that_of_the_voices_band(offset, f_hz, amplitude):
    """An offset and rumble change it by less than 1 %, and are no sound by themselves."""
    seconds = np.arange(24_000) / 24_000
    tone = (0.1 * np.sin(2 * np.pi * 200 * seconds)).astype(np.float32)
    low = (offset + amplitude * np.sin(2 * np.pi * f_hz * seconds)).astype(np.float32)
    np.testing.assert_allclose(loudness(tone + low, SPEC)[60:-4], loudness(tone, SPEC)[60:-4], rtol=0.01)
    assert loudness(low, SPEC)[60:].max() < 3e-3
    assert gate_loudness(low, SPEC)[60:].max() < 1e-4
    assert loudness(np.full(24_000, offset, np.float32), SPEC).max() < 1e-7


def test_mains_hum_opens_no_gate():
    seconds = np.arange(24_000) / 24_000
    hum = 0.0026 * sum(np.sin(2 * np.pi * f_hz * seconds) for f_hz in (50, 100, 150))  # -50 dB
    assert gate_loudness(hum.astype(np.float32), SPEC)[20:].max() < 1e-3
    assert gate_loudness((10 * hum).astype(np.float32), SPEC).max() > 2e-3, "that of a voice at 150 Hz does"


def test_an_abrupt_end_does_not_ring_on():
    tone = np.sin(2 * np.pi * 100 * np.arange(12_000) / 24_000).astype(np.float32)
    tone[8_000:] = 0.0
    assert not loudness(tone, SPEC)[66:].any()


@pytest.mark.parametrize(
    ("rate", "stop_hz", "kind"), [(8_000, 125.0, (7, 45.0)), (44_100, 33.0, (5, 30.0)), (192_000, 33.0, (5, 30.0))]
)
def test_the_high_pass_is_a_chebyshev_filter(rate, stop_hz, kind):
    noise = RNG.standard_normal(rate).astype(np.float32)
    wanted = signal.sosfilt(signal.cheby2(*kind, stop_hz, "high", fs=rate, output="sos"), noise - float(noise[0]))
    np.testing.assert_allclose(HighPass(rate, stop_hz, *kind).push(noise), wanted, atol=1e-6)


def test_the_high_pass_is_the_same_in_blocks():
    noise, filtered, at = RNG.standard_normal(20_000).astype(np.float32), HighPass(24_000, 33.0), 0
    pieces = []
    while at < len(noise):
        size = int(RNG.integers(0, 2_500))
        pieces.append(filtered.push(noise[at : at + size]))
        at += size
    np.testing.assert_array_equal(np.concatenate(pieces), HighPass(24_000, 33.0).push(noise))


def test_content_index_is_the_nearest_frame_in_time():
    index = content_index(0, 400, SPEC)
    mel_s = (np.arange(400) + 0.5) * 128 / 24_000
    content_s = (np.arange(300) + 0.5) * 160 / 16_000
    nearest = np.abs(mel_s[:, None] - content_s).min(axis=1)
    np.testing.assert_allclose(np.abs(mel_s - content_s[index]), nearest, atol=1e-12)
    np.testing.assert_array_equal(content_index(100, 50, SPEC), index[100:150])


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_000, 44_100, 192_000])
def test_frames_cover_the_clip_and_not_a_hop_more(rate):
    for n_samples in (1, 2, 127, 128, 129, 5_000, 44_100, 10_000_001):
        n_frames = frames_to_cover(n_samples, rate, SPEC)
        assert n_frames * 128 * rate >= n_samples * 24_000
        assert n_frames == 1 or (n_frames - 1) * 128 * rate < n_samples * 24_000
        assert samples_before(n_frames, rate, SPEC) >= n_samples - 1
        assert mel_range(0, n_samples, rate, SPEC) == (0, n_frames)


def test_f0_is_held_and_interpolated_only_within_voiced_runs():
    f0_hz = np.float32([100, 200, 400, 999, 300])
    confidence = np.float32([0, 1, 1, 0, 1])
    track = f0_at_frames(f0_hz, confidence, 14, SPEC)  # three mel frames a pitch frame, at 1/6, 1/2 and 5/6
    np.testing.assert_allclose(track[0], 0.0)
    np.testing.assert_allclose(track[1:3], 200.0, rtol=1e-5)
    np.testing.assert_allclose(track[3:6], 200.0 * 2.0 ** (np.array([1, 3, 5]) / 6), rtol=1e-5)
    np.testing.assert_allclose(track[6:8], 400.0, rtol=1e-5)
    assert track[8] == 0.0
    np.testing.assert_allclose(track[10:], 300.0, rtol=1e-5)


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, sample_rate=44_100, hop_length=512)])
def test_f0_in_pieces_is_f0_of_the_whole(spec):
    f0_hz = RNG.uniform(80, 800, 400).astype(np.float32)
    confidence = RNG.uniform(0, 1, 400).astype(np.float32)
    n_frames = int(390 * 256 / 16_000 * spec.sample_rate / spec.hop_length)
    whole = f0_at_frames(f0_hz, confidence, n_frames, spec)
    for first in range(0, n_frames - 37, 37):
        start, end = pitch_frames_around(first, 37, spec)
        piece = f0_at_frames(f0_hz[start:end], confidence[start:end], 37, spec, first, start)
        np.testing.assert_allclose(piece, whole[first : first + 37], rtol=1e-6)


def test_pulses_in_pieces_are_pulses_of_the_whole():
    f0_hz = np.concatenate((np.geomspace(80, 900, 300), np.zeros(50), np.full(50, 220.0))).astype(np.float32)
    whole, end = pulse_source(f0_hz, SPEC, 0.3)
    pieces, phase = [], 0.3
    for start in range(0, 400, 7):
        piece, phase = pulse_source(f0_hz[start : start + 7], SPEC, phase)
        pieces.append(piece)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2e-5)
    assert phase == pytest.approx(end, abs=1e-9)


def test_pulses_have_unit_power_their_pitch_and_no_aliases():
    f0_hz = np.full(1_875, 240.0, np.float32)  # 10 s: 0.1 Hz a bin
    pulses = pulse_source(f0_hz, SPEC)[0][:, 0].astype(np.float64)
    assert np.mean(pulses**2) == pytest.approx(1.0, rel=0.05)
    power = np.abs(np.fft.rfft(pulses * np.hanning(len(pulses)))) ** 2
    on_harmonics = sum(power[2_400 * n - 20 : 2_400 * n + 21].sum() for n in range(1, 50))
    assert on_harmonics / power.sum() > 1 - 1e-6
    assert pulse_source(np.zeros(10, np.float32), SPEC)[0].any() == False  # noqa: E712


def test_noise_belongs_to_its_absolute_position():
    frames, samples = noise_frames(7, 0, 100, 80), noise_samples(7, 0, 1_000)
    np.testing.assert_array_equal(noise_frames(7, 33, 20, 80), frames[33:53])
    np.testing.assert_array_equal(noise_samples(7, 333, 200), samples[333:533])
    for other in (noise_frames(8, 0, 100, 80), noise_frames(7, 0, 100, 80, step=1)):
        assert abs(np.corrcoef(frames.ravel(), other.ravel())[0, 1]) < 0.05


def test_noise_is_normal_and_has_golden_values():
    noise = noise_samples(0, 0, 200_000)
    assert np.mean(noise) == pytest.approx(0.0, abs=0.01)
    assert np.std(noise) == pytest.approx(1.0, abs=0.01)
    assert np.mean(noise**4) == pytest.approx(3.0, abs=0.06)
    np.testing.assert_allclose(noise_samples(0, 0, 4), GOLDEN_SAMPLES, rtol=1e-6)
    np.testing.assert_allclose(noise_frames(2**64 - 1, 10**9, 1, 4)[0], GOLDEN_FRAME, rtol=1e-6)


GOLDEN_SAMPLES = [0.0053772461, -0.64276636, -0.88719893, 0.09442845]
GOLDEN_FRAME = [0.17147608, -0.93123835, -0.23300268, 1.4099128]


def test_percentiles_of_pitch():
    statistics = PitchStatistics()
    f0_hz = np.exp(RNG.normal(np.log(220.0), 0.2, 50_000)).astype(np.float32)
    for piece in np.split(np.where(RNG.uniform(size=50_000) < 0.3, 0.0, f0_hz).astype(np.float32), 10):
        statistics.add(piece)
    assert statistics.voiced_frames == pytest.approx(35_000, rel=0.02)
    for share in (0.05, 0.5, 0.95):
        cents = 1_200 * np.log2(statistics.percentile_hz(share) / np.quantile(f0_hz, share))
        assert abs(cents) < 12


@pytest.mark.parametrize("f_hz", [21.0, 30.0, 5_000.0])
def test_percentiles_of_very_low_and_very_high_pitch(f_hz):
    statistics = PitchStatistics()
    statistics.add(np.full(10, f_hz, np.float32))
    assert statistics.percentile_hz(0.5) == pytest.approx(f_hz, rel=0.006)
