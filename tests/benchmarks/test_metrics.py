import numpy as np
import pytest

from comosvc.benchmarks.metrics import f0_errors, log_mel_l1, smoothed, smoothed_l1, texture

RATE_HZ = 187.5


@pytest.fixture
def mel():
    return np.random.default_rng(0).normal(size=(400, 80)).astype(np.float32)


def test_l1_is_in_nepers_whatever_the_base(mel):
    offset_nepers = 0.7
    for base in (np.e, 10.0, 2.0):
        stored = mel / np.float32(np.log(base))
        assert log_mel_l1(stored + offset_nepers / np.log(base), stored, base) == pytest.approx(offset_nepers, rel=1e-5)


def test_smoothing_equals_a_plain_loop_and_keeps_constants(mel):
    expected = np.stack([mel[max(n - 4, 0) : n + 5].mean(axis=0) for n in range(len(mel))])
    np.testing.assert_allclose(smoothed(mel), expected, atol=1e-6)
    np.testing.assert_allclose(smoothed(np.full_like(mel, 3.0)), 3.0)


def test_smoothed_l1_forgives_noise_and_not_an_offset(mel):
    truth = np.zeros_like(mel)
    assert smoothed_l1(mel, truth, np.e) < 0.4 * log_mel_l1(mel, truth, np.e)  # a third, over 9 frames
    assert smoothed_l1(truth + 0.5, truth, np.e) == pytest.approx(0.5)


def test_texture_tells_blur_from_noise(mel):
    assert texture(mel, mel) == pytest.approx(1.0)
    assert texture(0.8 * mel, mel) == pytest.approx(0.8, rel=1e-5)
    assert texture(smoothed(mel), mel) < 0.5
    assert texture(mel + 100.0, mel) == pytest.approx(1.0, rel=1e-3)


def test_shapes_must_match(mel):
    with pytest.raises(ValueError, match=r"\(399, 80\)"):
        log_mel_l1(mel[1:], mel, 10.0)


def test_f0_errors_of_known_faults():
    truth = np.zeros(1000, np.float32)
    truth[200:800] = 220.0
    estimate = truth.copy()
    estimate[300:330] *= 2.0  # an octave, 30 of 600
    estimate[400:700] *= 2.0 ** (10 / 1200)  # 10 cents over 300 of the other 570
    errors = f0_errors([(estimate, truth)], RATE_HZ)
    assert errors.gross == pytest.approx(30 / 600)
    assert errors.rmse_cents == pytest.approx(np.sqrt(300 * 10.0**2 / 570), rel=1e-3)
    assert errors.voicing == 0.0


def test_voicing_errors_count_only_away_from_the_truths_changes():
    truth = np.zeros(1000, np.float32)
    truth[200:800] = 220.0
    late = np.where(np.arange(1000) >= 203, truth, 0.0).astype(np.float32)  # 3 frames = 16 ms late
    assert f0_errors([(late, truth)], RATE_HZ).voicing == 0.0
    hole = truth.copy()
    hole[500:550] = 0.0
    errors = f0_errors([(hole, truth)], RATE_HZ)
    ignored = 2 * 2 * 4  # two changes, 4 frames (20 ms = 3.75 of them, counted from between two frames) to either side
    assert errors.n_frames == 1000 - ignored
    assert errors.voicing == pytest.approx(50 / (1000 - ignored))


def test_f0_errors_pool_clips_and_give_nan_for_nothing():
    silent = np.zeros(100, np.float32)
    tone = np.full(300, 100.0, np.float32)
    errors = f0_errors([(silent, silent), (tone, tone)], RATE_HZ)
    assert (errors.gross, errors.rmse_cents, errors.voicing, errors.n_frames) == (0.0, 0.0, 0.0, 400)
    assert np.isnan(f0_errors([(silent, silent)], RATE_HZ).gross)
