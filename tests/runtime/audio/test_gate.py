"""The gate: silence is exact, onsets are whole, and block sizes do not matter."""

import numpy as np
import pytest

from comosvc.runtime import COMOSVC_24K as SPEC
from comosvc.runtime.audio.gate import CLOSE_LOUDNESS, HOLD_S, OPEN_BEFORE_S, OPEN_LOUDNESS, Gate, gains

LOUD, MIDDLE, QUIET = 2 * OPEN_LOUDNESS, 0.5 * (OPEN_LOUDNESS + CLOSE_LOUDNESS), 0.5 * CLOSE_LOUDNESS


def opened(levels, step=None):
    gate = Gate(SPEC)
    loudness = np.asarray(levels, np.float32)
    step = step or max(1, len(loudness))
    pieces = [gate.push(loudness[start : start + step], False) for start in range(0, len(loudness), step)]
    return np.concatenate([*pieces, gate.push(np.zeros(0, np.float32), True)])


def test_it_opens_ahead_and_holds():
    is_open = opened([QUIET] * 100 + [LOUD] + [QUIET] * 100)
    where = np.flatnonzero(is_open)
    assert len(is_open) == 201
    assert np.all(np.diff(where) == 1)
    assert (100 - where[0]) / SPEC.frame_rate_hz == pytest.approx(OPEN_BEFORE_S, abs=0.006)
    assert (where[-1] - 100) / SPEC.frame_rate_hz == pytest.approx(HOLD_S, abs=0.006)


def test_a_level_between_the_thresholds_changes_nothing():
    assert not opened([QUIET] * 50 + [MIDDLE] * 50).any()
    assert opened([LOUD] * 5 + [MIDDLE] * 200)[-1]
    assert not opened([LOUD] * 5 + [MIDDLE] * 200 + [QUIET] * 50 + [MIDDLE] * 50)[-1]


def test_block_sizes_do_not_matter():
    levels = np.random.default_rng(0).choice(
        [QUIET, QUIET, QUIET, MIDDLE, LOUD], 3_000, p=[0.33, 0.33, 0.3, 0.03, 0.01]
    )
    whole = opened(levels)
    assert 0.1 < whole.mean() < 0.9
    for step in (1, 7, 500):
        np.testing.assert_array_equal(opened(levels, step), whole)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_short_clips_get_all_their_frames(count):
    assert opened([LOUD] * count).tolist() == [True] * count


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100, 192_000])
def test_gains_are_zero_in_every_sample_of_a_closed_frame(rate):
    is_open = np.array([1, 1, 0, 0, 1, 1, 1, 0, 1], bool)
    n_samples = len(is_open) * SPEC.hop_length * rate // SPEC.sample_rate
    gain = gains(is_open, 0, 0, n_samples, rate, SPEC)
    frame = np.arange(n_samples) * SPEC.sample_rate // (rate * SPEC.hop_length)
    assert not gain[~is_open[frame]].any()
    assert gain[0] == 1.0
    assert gain.max() == 1.0
    step = np.abs(np.diff(gain)).max()
    assert step <= SPEC.sample_rate / (rate * SPEC.hop_length) * 1.01  # a ramp, no click
    pieces = [gains(is_open, 0, a, min(97, n_samples - a), rate, SPEC) for a in range(0, n_samples, 97)]
    np.testing.assert_array_equal(np.concatenate(pieces), gain)
