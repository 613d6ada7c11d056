import json
from types import SimpleNamespace

import numpy as np
import pytest

from comosvc.benchmarks.metrics import PitchMeter
from comosvc.benchmarks.quality import bundle_parts as parts
from comosvc.benchmarks.quality.bundle_parts import (
    bounded_pitch_errors,
    content_accuracy,
    copy_synthesis,
    held_out_singers_clips,
    one_core_rtf,
    worst_parity,
)
from comosvc.runtime import COMOSVC_24K, Converter
from comosvc.training.corpus import PHONES


def test_content_accuracy_of_an_oracle_and_of_a_late_one(songs, tiny_bundle, monkeypatch):
    clips = list(held_out_singers_clips(songs))
    manifest = SimpleNamespace(audio=tiny_bundle.manifest.audio, model=SimpleNamespace(content_labels=PHONES))

    def oracle(late_frames):
        def run(inputs):
            n_frames = inputs["audio"].shape[1] // 160
            times_s = (np.arange(n_frames) - late_frames + 0.5) * 0.01
            return (np.eye(len(PHONES), dtype=np.float32)[clips[0][1].phones_at(times_s)][None],)

        return lambda bundle, name: SimpleNamespace(run=run)

    bundle = SimpleNamespace(manifest=manifest)
    monkeypatch.setattr(parts, "open_graph", oracle(0))
    exact = content_accuracy(bundle, clips)
    assert (exact.all, exact.sounding) == (1.0, 1.0)
    assert exact.n_frames == 2 * (len(clips[0][0]) * 2 // 3 // 160)
    monkeypatch.setattr(parts, "open_graph", oracle(3))
    assert 0.3 < content_accuracy(bundle, clips).all < 0.95


def test_content_without_phones_is_refused(songs, tiny_bundle):
    with pytest.raises(ValueError, match="not the corpus' phones"):
        content_accuracy(tiny_bundle, held_out_singers_clips(songs))


def test_copy_synthesis_measures_the_vocoder(songs, tiny_bundle):
    score = copy_synthesis(tiny_bundle, songs, PitchMeter())
    assert score.l1 > 0.1  # random weights
    assert np.isfinite(score.texture)


def test_bounded_pitch_stays_near_the_truth(songs):
    errors = bounded_pitch_errors(songs, PitchMeter(), COMOSVC_24K)
    assert errors.gross < 0.1
    assert errors.rmse_cents < 20
    assert errors.voicing < 0.1


def test_worst_parity_is_the_worst():
    rows = [("vocoder", 1e-7), ("vocoder", 3e-6), ("vocoder", 2e-7), ("content", 1e-6)]
    text = json.dumps({"rows": [{"graph": graph, "relative": relative} for graph, relative in rows]})
    bundle = SimpleNamespace(read=lambda name: text.encode())
    assert worst_parity(bundle) == {"vocoder": 3e-6, "content": 1e-6}


def test_rtf_counts_processor_time_per_second_of_audio(tiny_path):
    audio = np.zeros(24_000, np.float32)
    audio[::100] = 0.5
    converter = Converter(tiny_path, threads=1)
    assert 1e-4 < one_core_rtf(converter, audio, "alto") < 1.0

    class Idle:
        def convert(self, audio, sample_rate, singer):
            sum(range(2_000_000))

    one, two = one_core_rtf(Idle(), audio, "alto"), one_core_rtf(Idle(), np.tile(audio, 2), "alto")
    assert two == pytest.approx(one / 2, rel=0.5)
