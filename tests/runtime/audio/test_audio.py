"""Samples and rates that callers may pass, and the resamplers: of files, and of streams with a short delay."""

import numpy as np
import pytest

from comosvc.runtime import AudioError, OptionError
from comosvc.runtime.audio.resampling import (
    MAX_SAMPLE,
    Resampler,
    ShortResampler,
    blocks,
    check_channel,
    check_rate,
    half_length,
    mixed,
    mono,
    resample,
)


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
        ("song.wav", "is a path, 'song.wav'\nhint: convert_file"),
        (np.array([0.0, np.nan, np.inf]), "2 samples that are NaN or infinite, the first at sample 1"),
        (np.array([[0.0, 0.0], [0.0, -np.inf]]), "the first at sample 1"),
        (np.array([0.0, 1e300]), "the first at sample 1"),
        (np.array([0.0, 1.0, -1e20], np.float32), "1 samples beyond 1e+06, the first at sample 2 (-1e+20)"),
        (np.full(4, 2_147_483_647.0), "the first at sample 0"),
        (np.array([[0.0, 0.0], [0.0, 3e38]]), "the first at sample 1"),
        (np.zeros(5, "V4"), "it must be float32"),
        (np.zeros(5, np.longdouble), "it must be float32"),
        (np.ma.masked_array(np.zeros(3), [0, 1, 0]), "masked"),
        ([[0.0, 1.0], [0.0]], "is no array of samples"),
        (np.zeros((2, 100), np.float32), "hint: transpose it: audio.T"),
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


WAVE = np.round(0.3 * 32_767 * np.sin(np.arange(999) / 20))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i2", "i4", "f4", "f8"])
def test_byte_orders_and_layouts_do_not_matter(kind, order):
    values = WAVE / 32_768 if kind[0] == "f" else WAVE * (65_536 if kind == "i4" else 1)
    flat, wanted = values.astype(order + kind), (WAVE / 32_768).astype(np.float32)
    table = np.stack([flat, flat, flat], axis=1)
    read_only = flat.copy()
    read_only.flags.writeable = False
    for given in (
        flat,
        read_only,
        np.repeat(flat, 2)[::2],
        flat[::-1].copy()[::-1],
        flat[:, None],
        flat[None],
        np.asfortranarray(table),
        table[:, 1],
        table[:, :1],
        table[:, ::2],
    ):
        np.testing.assert_array_equal(mono(given), wanted)


def test_a_row_is_one_channel_and_a_column_of_two_is_stereo():
    assert len(mono(np.zeros((1, 48_000)))) == 48_000
    assert len(mono(np.zeros((1, 2)))) == 1


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-30, MAX_SAMPLE])
def test_the_smallest_and_the_largest_samples_pass(value):
    np.testing.assert_array_equal(mono(np.full(3, value, np.float32)), np.full(3, value, np.float32))


@pytest.mark.parametrize(("gain", "cancelled"), [(-1.0, True), (-0.8, True), (-0.3, False), (0.0, False), (1.0, False)])
def test_channels_that_cancel_are_noticed(gain, cancelled):
    left = WAVE / 32_768
    signal, n_mixed, notes = mixed(np.stack([left, gain * left], axis=1), "mid")
    wanted = left if cancelled else (1 + gain) / 2 * left
    np.testing.assert_allclose(signal, wanted, atol=1e-6)
    assert (n_mixed, bool(notes)) == ((1, True) if cancelled else (2, False))


def test_unrelated_channels_do_not_cancel():
    noise = np.random.default_rng(0).standard_normal((24_000, 6))
    assert mixed(noise, "mid")[1:] == (6, [])
    assert mixed(noise, "right")[1:] == (1, [])
    with pytest.raises(OptionError, match="channel is 'both'; known: mid, left, right"):
        check_channel("both")


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


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.int64])
def test_whole_numbers_of_any_type_are_rates(kind):
    rate = check_rate(kind(44_100))
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


RATES = [(48_000, 24_000), (44_100, 16_000), (24_000, 44_100), (16_000, 24_000), (8_000, 24_000), (44_099, 24_000)]


def tone(share, rates, length_s=0.5):
    """A sine at a share of the lower Nyquist frequency, at both rates."""
    hz = share * min(rates) / 2
    return tuple(np.sin(2 * np.pi * hz * np.arange(round(length_s * rate)) / rate).astype(np.float32) for rate in rates)


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_what_both_rates_can_hold_passes_in_place(rates, share):
    audio, wanted = tone(share, rates)
    found = ShortResampler(*rates).push(audio, last=True)
    assert len(found) == -(-len(audio) * rates[1] // rates[0])
    settled = slice(200, len(wanted) - 200)
    assert np.abs(found[settled] - wanted[settled]).max() < 10 ** (-70 / 20)


def test_what_the_lower_rate_cannot_hold_is_gone():
    audio, _ = tone(1.02, (48_000, 16_000))
    assert np.abs(ShortResampler(48_000, 16_000).push(audio, last=True))[200:-200].max() < 10 ** (-70 / 20)


@pytest.mark.parametrize("rates", RATES)
def test_blocks_of_any_size_give_the_whole_and_as_soon_as_promised(rates):
    rng = np.random.default_rng(0)
    audio = rng.normal(size=9_000).astype(np.float32)
    whole = ShortResampler(*rates).push(audio, last=True)
    stream, parts, at = ShortResampler(*rates), [], 0
    while at < len(audio):
        block = audio[at : at + int(rng.choice([1, 3, 60, 900]))]
        at += len(block)
        parts.append(stream.push(block, last=at == len(audio)))
        if at < len(audio):
            due = max(0, -(-(at - half_length(*rates)) * rates[1] // rates[0]))
            assert sum(map(len, parts)) == due
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_equal_rates_change_nothing_and_wait_for_nothing():
    audio = np.arange(5, dtype=np.float32)
    assert half_length(24_000, 24_000) == 0
    np.testing.assert_array_equal(ShortResampler(24_000, 24_000).push(audio), audio)
