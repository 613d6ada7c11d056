from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from comosvc.benchmarks.held_out import SAMPLE_RATE, pairs, pool, score_conversion
from comosvc.benchmarks.metrics import PitchMeter
from comosvc.runtime import COMOSVC_24K, Converter
from comosvc.runtime.audio.features import mel_spectrogram


class Answering:
    """Stands in for a converter: gives the audio that `answer` makes of the pair."""

    spec = COMOSVC_24K

    def __init__(self, answer):
        self.answer = answer

    def convert(self, audio, sample_rate, **options):
        made = self.answer(audio).astype(np.float32)
        return SimpleNamespace(audio=made, mel=mel_spectrogram(made, self.spec), options=options)


@pytest.fixture(scope="module")
def pair(songs):
    return next(pairs(songs))


def scored(pair, answer, heard="nobody"):
    return score_conversion(Answering(answer), pair, 0, 1, PitchMeter(), lambda audio, rate: heard)


def test_the_truth_itself_scores_perfectly(pair):
    score = scored(pair, lambda source: pair.target_audio, heard=pair.target)
    pooled = pool([score], COMOSVC_24K)
    assert pooled.relative_l1 == pooled.relative_l1_audio == pooled.relative_smoothed_l1 == 0.0
    assert pooled.texture == pooled.texture_audio == 1.0
    assert pooled.identified == 1.0
    assert pooled.f0.gross < 0.02  # the tracker's own errors
    assert pooled.f0.rmse_cents < 15


def test_handing_the_source_through_scores_one(pair):
    pooled = pool([scored(pair, lambda source: source)], COMOSVC_24K)
    assert pooled.relative_l1 == pytest.approx(1.0)
    assert pooled.unconverted_l1 > 0.1
    assert pooled.identified == 0.0


def test_a_wrong_key_is_heard(pair):
    def third_up(source):  # faster playback: a third up, and shorter
        positions = np.arange(0.0, len(source) - 1, 2.0 ** (4 / 12))
        return np.pad(np.interp(positions, np.arange(len(source)), source), (0, len(source) - len(positions)))

    assert pool([scored(pair, third_up)], COMOSVC_24K).f0.gross > 0.5


def test_averages_come_before_the_ratio(pair):
    good = scored(pair, lambda source: pair.target_audio)
    bad = scored(pair, lambda source: source)
    pooled = pool([good, replace(bad, unconverted=replace(bad.unconverted, l1=3 * bad.unconverted.l1))], COMOSVC_24K)
    assert pooled.relative_l1 == pytest.approx(1 / 4)
    assert pooled.n == 2


def test_with_a_real_converter(tiny_path, pair):
    converter = Converter(tiny_path, threads=1)
    score = score_conversion(converter, pair, 0, 1, PitchMeter(), lambda audio, rate: "alto")
    assert len(score.f0_hz) == len(score.true_f0_hz) == converter.spec.frames(len(pair.source_audio))
    assert score.mel.l1 > 0
    assert score.audio.l1 > 0
    again = score_conversion(converter, pair, 0, 1, PitchMeter(), lambda audio, rate: "alto")
    assert again.mel == score.mel
    assert pair.source_audio.shape == (2.0 * SAMPLE_RATE,) or len(pair.source_audio) > SAMPLE_RATE
