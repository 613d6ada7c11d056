import numpy as np
import pytest

from comosvc.benchmarks.held_out import load_held_out, pairs
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.corpus import CorpusConfig, held_out_set


def test_the_cache_holds_what_the_corpus_renders(songs, held_out_config):
    (truth,) = held_out_set(held_out_config)
    (song,) = songs
    assert (tuple(song.sources), tuple(song.targets)) == (truth.sources, truth.targets)
    for name, audio in {**song.sources, **song.targets}.items():
        np.testing.assert_allclose(audio, truth.audio[name], atol=1.1 / 32767)
        assert np.abs(audio).max() > 0.05


def test_it_is_rendered_once(tmp_path, monkeypatch, held_out_config):
    made = []
    load_held_out(held_out_config, tmp_path, made.append)
    assert len(made) == 1
    monkeypatch.setattr("comosvc.benchmarks.held_out.held_out_set", lambda config: pytest.fail("rendered again"))
    load_held_out(held_out_config, tmp_path, made.append)
    assert len(made) == 1
    other = CorpusConfig(demo_singers=1, held_out_singers=1, held_out_songs=0)
    monkeypatch.setattr("comosvc.benchmarks.held_out.held_out_set", lambda config: iter(()))
    assert load_held_out(other, tmp_path) == []  # another configuration is another set


def test_every_source_goes_to_every_target(songs):
    made = list(pairs(songs))
    assert len({pair.name for pair in made}) == 4
    assert all(len(pair.source_audio) == len(pair.target_audio) for pair in made)


def test_true_f0_belongs_to_the_mel_frames(songs):
    (song,) = songs
    f0_hz = song.f0_at_frames(COMOSVC_24K)
    assert len(f0_hz) == COMOSVC_24K.frames(len(next(iter(song.sources.values()))))
    assert 0.2 < (f0_hz > 0).mean() < 1.0
    assert f0_hz[f0_hz > 0].min() > 50
