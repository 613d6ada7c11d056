"""The resampler of a stream: right, aligned, the same in any blocks, and soon."""

import numpy as np
import pytest

from comosvc.runtime.audio.resampling import ShortResampler, half_length

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
