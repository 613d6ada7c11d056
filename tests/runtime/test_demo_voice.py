"""The voice that is shipped."""

import numpy as np
import pytest
from opened import assert_same, converted

from comosvc.runtime import Converter
from comosvc.runtime.audio.resampling import resample
from comosvc.runtime.providers.self_test import vowel


@pytest.fixture(scope="module")
def demo():
    return Converter("demo", threads=1)


@pytest.fixture(scope="module")
def song(demo):
    """Six seconds: a glide up, a rest, a glide down, louder and softer."""
    glide, _ = vowel(demo.spec)
    swell = np.linspace(0.2, 1.0, len(glide))
    return np.concatenate((glide * swell, np.zeros(24_000), glide[::-1], glide * swell[::-1])).astype(np.float32)


def test_it_passes_its_self_test(demo):
    result = demo.self_test()
    assert result.f0_error_cents < 10
    assert 0.01 < result.output_peak <= 1.0


@pytest.mark.parametrize("steps", [1, 2])
def test_pieces_are_the_whole(demo, song, steps):
    """That is, the contexts that its manifest states are all that its graphs see."""

    found, whole = (
        converted(demo, song, 24_000, piece_s, 24_000, steps, singer=None, key=0.0) for piece_s in (0.7, 100)
    )
    assert_same(found, whole)


def test_the_result_is_sung_at_the_asked_pitch(demo):
    glide, truth_hz = vowel(demo.spec)
    result = demo.convert(glide, 24_000, key=3)
    found = demo.track_f0(result.audio, 24_000)[10:-10]
    wanted = (truth_hz * 2 ** (3 / 12))[10:-10]
    voiced = found > 0
    cents = 1_200 * np.log2(found[voiced] / wanted[: len(found)][voiced])
    assert voiced.mean() > 0.9
    assert np.median(np.abs(cents)) < 20


def test_look_ahead_is_within_its_budget(demo):
    ahead = demo.manifest.lookahead_ms
    assert ahead.content_low_latency is not None
    parts = ahead.content_low_latency + ahead.pitch_low_latency + ahead.acoustic + ahead.vocoder
    assert ahead.total == pytest.approx(parts, abs=0.1)
    assert ahead.total <= 60.0


def test_a_stream_is_soon_and_is_the_low_latency_conversion(demo):
    glide, _ = vowel(demo.spec)
    song = resample(np.concatenate((glide, np.zeros(6_000, np.float32), glide)), 24_000, 48_000)
    wanted = demo.convert(song, 48_000, key=3, latency="low").audio
    with demo.stream(48_000, key=3, block_ms=20) as stream:
        assert stream.latency_samples <= 0.056 * 48_000
        out = [stream.process(song[at : at + 960]) for at in range(0, len(song), 960)]
        found = np.concatenate((*out, stream.flush()))[stream.latency_samples :]
    assert np.abs(wanted).max() > 0.05
    assert np.square(found - wanted).sum() < 1e-9 * np.square(wanted).sum()  # 90 dB; 120 seen


def test_every_part_states_its_licence(demo):
    assert demo.manifest.licences
    assert all(entry.licence and entry.credit for entry in demo.manifest.licences)
    assert all(singer.licence and singer.credit for singer in demo.singers.values())
    assert demo.manifest.consent


def unevenness(audio, at):
    """The largest step from sample to sample within 160 ms from `at` on, over the largest in 100 ms on either side."""
    steps = np.abs(np.diff(audio))
    near = np.concatenate((steps[at - 2_640 : at - 240], steps[at + 3_840 : at + 6_240]))
    return steps[at - 240 : at + 3_840].max() / near.max()


def test_singer_and_key_change_in_a_stream_without_a_click(demo):
    """No step is larger than what singing has: 1.4 times its neighbourhood seen, 1.8 to 3 where two singers are cut."""
    audio = vowel(demo.spec)[0]

    def sung(change=None, singer="alto", key=0.0):
        with demo.stream(24_000, singer="alto") as stream:
            out = []
            for at in range(0, len(audio), 960):
                if at == change:
                    stream.singer, stream.key = singer, key
                out.append(stream.process(audio[at : at + 960]))
            return np.concatenate((*out, stream.flush()))[stream.latency_samples :]

    steady, other = sung(), demo.convert(audio, 24_000, "bass", key=-12, latency="low").audio
    for change in (9_600, 24_000):
        for singer, key in (("alto", 7.0), ("soprano", 0.0), ("bass", -12.0), ("tenor", -5.0)):
            changed = sung(change, singer, key)
            begins = int(np.flatnonzero(np.abs(changed - steady) > 1e-4)[0])
            assert change - 1_920 < begins < change
            assert unevenness(changed, begins) < 1.6
        cuts = [np.concatenate((steady[:at], other[at:])) for at in range(change, change + 480, 60)]
        assert max(unevenness(cut, change) for cut in cuts) > 2.0
