import numpy as np
import pytest

from comosvc.training.corpus.performance import CONTROL_RATE_HZ, glide, perform_song, slow_noise
from comosvc.training.corpus.phones import ARTICULATIONS, PHONES
from comosvc.training.corpus.songs import NoteRange


@pytest.fixture(scope="module")
def performance():
    return perform_song(np.random.default_rng(3), 10.0, NoteRange(150.0, 350.0))


def test_f0_is_zero_exactly_on_unvoiced_phones(performance):
    times_s = np.arange(len(performance.f0_hz)) / CONTROL_RATE_HZ
    index = np.searchsorted(performance.phone_start_s, times_s, side="right") - 1
    voiced = np.array([ARTICULATIONS[phone].voiced for phone in PHONES])[performance.phone[index]]
    np.testing.assert_array_equal(performance.f0_hz > 0, voiced)


def test_pitch_stays_near_the_songs_range(performance):
    assert performance.pitch_hz.min() > 150.0 * 2 ** (-2 / 12)
    assert performance.pitch_hz.max() < 350.0 * 2 ** (2 / 12)


def test_phones_cover_the_clip_in_order(performance):
    assert performance.phone_start_s[0] == 0.0
    assert (np.diff(performance.phone_start_s) >= 0.02).all()
    assert performance.phone_start_s[-1] < performance.seconds


def test_glide_leaves_the_midpoint_of_a_step_in_place():
    step = np.repeat([0.0, 1.0], 20)
    smooth = glide(step, 7)
    assert smooth[19] + smooth[20] == pytest.approx(1.0)
    assert smooth[0] == pytest.approx(0.0)
    assert smooth[-1] == pytest.approx(1.0)
    np.testing.assert_allclose(glide(np.stack([step, 2 * step], axis=1), 7)[:, 1], 2 * smooth)


def test_slow_noise_has_unit_variance_and_is_slow():
    noise = slow_noise(np.random.default_rng(0), 400_000, 2.0)
    assert noise.std() == pytest.approx(1.0, abs=0.05)
    assert np.diff(noise).std() < 0.1


def test_vibrato_and_effort_are_within_what_singers_do(performance):
    assert ((performance.effort >= 0) & (performance.effort <= 1)).all()
    semitones_per_frame = np.abs(np.diff(12 * np.log2(performance.pitch_hz)))
    assert semitones_per_frame.max() < 1.0
