from dataclasses import replace

import numpy as np
import pytest
import soxr

from comosvc.runtime.audio.features import loudness, mel_spectrogram
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.corpus.performance import CONTROL_RATE_HZ, perform_song
from comosvc.training.corpus.render import PEAK_LIMIT, SAMPLE_RATE, _limited, render
from comosvc.training.corpus.singer import (
    DEMO_SINGERS,
    N_FORMANTS,
    SyntheticSinger,
    glottal_pulses,
    held_out_singers,
    noise_shapes,
    singer_formants,
    tract_frames,
)
from comosvc.training.corpus.songs import NoteRange

SINGERS = (*DEMO_SINGERS, *held_out_singers(1, 2))
BINS_HZ = np.fft.rfftfreq(4096, 1 / SAMPLE_RATE).astype(np.float32)


@pytest.fixture(scope="module")
def performance():
    return perform_song(np.random.default_rng(11), 5.0, NoteRange(130.0, 400.0))


@pytest.fixture(scope="module")
def parallel(performance):
    return {singer.name: render(performance, singer, 4 + index) for index, singer in enumerate(SINGERS)}


def ln_mel(audio):
    return mel_spectrogram(audio, COMOSVC_24K) * np.log(COMOSVC_24K.mel_log_base)


def test_same_seed_same_samples(performance, parallel):
    np.testing.assert_array_equal(render(performance, SINGERS[0], 4), parallel[SINGERS[0].name])
    assert not np.array_equal(render(performance, SINGERS[0], 5), parallel[SINGERS[0].name])


def test_length_type_and_peaks(performance, parallel):
    for audio in parallel.values():
        assert audio.dtype == np.float32
        assert len(audio) == round(performance.seconds * SAMPLE_RATE)
        assert np.abs(audio).max() < 0.95


def test_nothing_is_digitally_silent(parallel):
    for audio in parallel.values():
        blocks = audio[: len(audio) // 240 * 240].reshape(-1, 240)
        level_db = 10 * np.log10(np.mean(blocks**2, axis=1))
        assert level_db.min() > -80.0


def test_parallel_singers_are_equally_loud(parallel):
    levels_db = np.array([20 * np.log10(loudness(audio, COMOSVC_24K)) for audio in parallel.values()])
    difference_db = np.abs(levels_db - levels_db.mean(axis=0))
    assert difference_db.mean() < 0.3
    assert np.percentile(difference_db, 99) < 2.0


def test_singers_differ_far_more_than_two_takes_of_one(performance, parallel):
    target, source = DEMO_SINGERS[1], SINGERS[-1]
    between = np.abs(ln_mel(parallel[target.name]) - ln_mel(parallel[source.name])).mean()
    within = np.abs(ln_mel(render(performance, target, 99)) - ln_mel(parallel[target.name])).mean()
    assert between > 0.65
    assert within < 0.25


def test_high_notes_are_as_loud_as_the_dynamics_say():
    high = perform_song(np.random.default_rng(2), 4.0, NoteRange(460.0, 700.0))
    for singer in (DEMO_SINGERS[1], DEMO_SINGERS[3]):
        audio = render(high, singer, 1)
        level_db = 20 * np.log10(loudness(audio, COMOSVC_24K))
        frames = (np.arange(len(level_db)) + 0.5) * COMOSVC_24K.hop_length / SAMPLE_RATE * CONTROL_RATE_HZ
        vowel = np.interp(frames, np.arange(len(high.voice_db)), high.voice_db)
        steady = vowel > -26.0
        assert np.abs(np.median(level_db[steady] - vowel[steady])) < 1.0
        assert np.mean(np.abs(level_db[steady] - vowel[steady]) > 6.0) < 0.05


def test_f0_of_every_singer_is_the_label(performance, parallel):
    onnxruntime = pytest.importorskip("onnxruntime")
    from importlib import resources

    from comosvc.runtime.audio.pitch import PITCH_SAMPLE_RATE, f0_at_frames, track_pitch
    from comosvc.training.corpus.reader import Labels

    model = resources.files("comosvc.runtime").joinpath("data/pitch.onnx").read_bytes()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    labels = Labels(performance.f0_hz.astype(np.float32), performance.phone_start_s, performance.phone)
    for audio in parallel.values():
        n_frames = COMOSVC_24K.frames(len(audio))
        at_16k = soxr.resample(audio, SAMPLE_RATE, PITCH_SAMPLE_RATE)
        found_hz = f0_at_frames(*track_pitch(session, at_16k), n_frames, COMOSVC_24K)
        true_hz = labels.f0_at((np.arange(n_frames) + 0.5) * COMOSVC_24K.hop_length / SAMPLE_RATE)
        both = (found_hz > 0) & (true_hz > 0)
        cents = np.abs(1200 * np.log2(found_hz[both] / true_hz[both]))
        assert np.mean((found_hz > 0) != (true_hz > 0)) < 0.03
        assert np.mean(cents > 50) < 0.02
        assert np.median(cents) < 8


def test_formants_of_the_tract_are_the_singers(performance):
    singer = SyntheticSinger(name="plain", tract_scale=1.1, ring=0.0)
    formants, _ = singer_formants(performance, singer)
    frame = int(np.argmax(performance.voice_db))
    assert formants.shape == (len(performance.pitch_hz), N_FORMANTS)
    magnitude = np.abs(tract_frames(performance, singer, BINS_HZ)[frame])
    peaks = BINS_HZ[1:-1][(magnitude[1:-1] > magnitude[:-2]) & (magnitude[1:-1] > magnitude[2:])]
    for formant in formants[frame, :4]:
        assert np.abs(peaks - formant).min() < 40.0 + 0.02 * formant


def test_glottal_pulse_grows_towards_closure_and_effort_brightens_it():
    singer = replace(DEMO_SINGERS[0], name="glottis")
    pitch = np.array([100.0, 100.0], np.float32)
    spectrum = glottal_pulses(pitch, np.array([0.1, 0.9], np.float32), singer, BINS_HZ)
    pulse = np.fft.irfft(spectrum[1] * np.exp(-2j * np.pi * BINS_HZ * 0.05))
    closure = round(0.05 * SAMPLE_RATE)
    before, after = np.sum(pulse[: closure + 5] ** 2), np.sum(pulse[closure + 5 :] ** 2)
    assert before > 5 * after
    bright = np.abs(spectrum[:, np.searchsorted(BINS_HZ, 4000)]) / np.abs(spectrum[:, np.searchsorted(BINS_HZ, 400)])
    assert bright[1] > 2 * bright[0]


def test_noise_shapes_have_unit_power_and_follow_sibilance():
    low, high = (noise_shapes(SyntheticSinger(name="x", tract_scale=1.0, sibilance=s), BINS_HZ) for s in (0.85, 1.2))
    np.testing.assert_allclose(np.mean(low**2, axis=1), 1.0, rtol=1e-4)
    s_low, s_high = (np.average(BINS_HZ, weights=shape[0] ** 2) for shape in (low, high))
    assert s_high > s_low + 500.0


def test_limiter_touches_the_peak_only():
    t = np.arange(SAMPLE_RATE)
    audio = 0.5 * np.sin(2 * np.pi * 220 * t / SAMPLE_RATE)
    audio[12_000:12_100] *= 3.0
    limited = _limited(audio)
    assert np.abs(limited).max() <= PEAK_LIMIT
    np.testing.assert_array_equal(limited[:10_000], audio[:10_000])
    np.testing.assert_array_equal(_limited(audio[:10_000]), audio[:10_000])
