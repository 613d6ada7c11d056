import numpy as np
import pytest

from comosvc.benchmarks.demo_clips import SAMPLE_RATE, read_audio, read_clips, shipped_folder
from comosvc.training.corpus import CorpusConfig, held_out_set


@pytest.fixture(scope="module")
def song():
    return next(held_out_set(CorpusConfig(demo_singers=2, held_out_singers=1, held_out_songs=1)))


def test_the_shipped_clips_are_held_out_material(song):
    """Rendered again by this version of the corpus they are the same samples: no training of this version saw them."""
    clips = read_clips(shipped_folder())
    assert clips.source.singer in song.sources
    for entry in (clips.source, *clips.targets):
        audio = read_audio(shipped_folder(), entry)
        np.testing.assert_allclose(audio, song.audio[entry.singer][: len(audio)], atol=1.1 / 32767)


def test_their_f0_is_the_performances(song):
    clips = read_clips(shipped_folder())
    audio = read_audio(shipped_folder(), clips.source)
    times_s = np.arange(0.0, len(audio) / SAMPLE_RATE, 0.005)
    truth = song.performance.f0_hz[: len(times_s)]
    np.testing.assert_allclose(clips.f0_at(times_s), truth, atol=1e-3)
    assert (truth > 0).any()


def test_source_and_targets_are_in_step_and_differ():
    clips = read_clips(shipped_folder())
    source = read_audio(shipped_folder(), clips.source)
    assert len(clips.targets) == 2
    for entry in clips.targets:
        target = read_audio(shipped_folder(), entry)
        assert len(target) == len(source)
        assert np.abs(target - source).max() > 0.05


def test_the_recorded_voice_comes_with_its_notice():
    clips = read_clips(shipped_folder())
    assert len(read_audio(shipped_folder(), clips.recorded)) > 5 * SAMPLE_RATE
    notice = (shipped_folder() / "NOTICE-flite.txt").read_text("utf-8")
    assert "Carnegie Mellon University" in notice
    assert clips.recorded.file in notice
