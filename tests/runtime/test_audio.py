"""What may be passed in, and the resampler."""

import numpy as np
import pytest

from comosvc.runtime import AudioError, OptionError
from comosvc.runtime.audio import Resampler, blocks, check_rate, mono, resample


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(0, np.float32), "is empty"),
        (np.zeros((0, 2), np.float32), "is empty"),
        (np.zeros((5, 0), np.float32), "is empty"),
        (np.zeros((2, 3, 4), np.float32), "has shape (2, 3, 4)"),
        (np.float32(1.0), "has shape ()"),
        (np.zeros((2, 48_000), np.float32), "48000 channels\nhint: transpose it"),
        (np.zeros(5, np.int64), "is int64"),
        (np.zeros(5, np.uint8), "is uint8"),
        (np.zeros(5, np.complex64), "is complex64"),
        (np.zeros(5, bool), "is bool"),
        (np.zeros(5, np.float16), "is float16"),
        (np.array(["a"]), "it must be float32, float64, int16 or int32"),
        (["no", "audio"], "it must be float32"),
        (None, "is object"),
        (np.array([0.0, np.nan, np.inf]), "2 samples that are NaN or infinite, the first at sample 1"),
        (np.array([[0.0, 0.0], [0.0, -np.inf]]), "the first at sample 1"),
        (np.array([0.0, 1e300]), "the first at sample 1"),
    ],
)
def test_unusable_audio_is_one_clear_error(audio, words):
    with pytest.raises(AudioError) as caught:
        mono(audio)
    assert words in str(caught.value)


def test_types_and_channels_become_mono_float32():
    np.testing.assert_array_equal(mono(np.array([-32768, 0, 16384], np.int16)), np.float32([-1.0, 0.0, 0.5]))
    np.testing.assert_array_equal(mono(np.array([0.25, -0.5])), np.float32([0.25, -0.5]))
    stereo = np.array([[32767, 32767], [-32768, 32767]], np.int16)
    np.testing.assert_allclose(mono(stereo), [32767 / 32768, -0.5 / 32768], rtol=1e-6)
    assert mono(np.zeros((4, 6))).dtype == np.float32


def test_the_callers_array_is_never_written():
    given = np.ones(8, np.float32)
    mono(given)[:] = 0.0
    assert given.min() == 1.0


@pytest.mark.parametrize(
    "rate", [7_999, 192_001, 0, -44_100, 44_100.5, float("nan"), float("inf"), 7_999.0, "44100", None]
)
def test_an_unusable_rate_is_one_clear_error(rate):
    with pytest.raises(OptionError, match=r"sample_rate|Hz"):
        check_rate(rate)


def test_numpy_rates_are_rates():
    assert check_rate(np.int64(48_000)) == 48_000


@pytest.mark.parametrize("kind", [float, np.float32, np.float64])
def test_whole_floats_are_rates(kind):
    rate = check_rate(kind(44_100.0))
    assert (rate, type(rate)) == (44_100, int)


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_100, 24_000), (8_000, 24_000), (24_000, 192_000), (16_000, 16_000)]
)
def test_resampling_in_blocks_is_resampling_the_whole(from_rate, to_rate):
    audio = np.random.default_rng(0).standard_normal(30_001).astype(np.float32)
    whole = resample(audio, from_rate, to_rate)
    for length in (977, 12_000):
        stream = Resampler(from_rate, to_rate)
        pieces = [stream.push(block, last) for block, last in blocks(audio, length)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert abs(len(whole) - len(audio) * to_rate / from_rate) <= 1.0


def test_resampling_does_not_delay():
    """An impulse stays where it was, to a fraction of a sample."""
    audio = np.zeros(44_100, np.float32)
    audio[22_050] = 1.0
    there = resample(audio, 44_100, 24_000)
    back = resample(there, 24_000, 44_100)
    assert np.argmax(np.abs(there)) == 12_000
    assert np.argmax(np.abs(back)) == 22_050


def test_a_path_is_sent_to_convert_file():
    with pytest.raises(AudioError, match=r"'song.wav'\nhint: convert_file"):
        mono("song.wav")
