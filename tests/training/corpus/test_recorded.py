import shutil

import numpy as np
import pytest

from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.corpus import Corpus, CorpusConfig, write_corpus
from comosvc.training.corpus.phones import PHONE_INDEX
from comosvc.training.corpus.recorded import (
    INSTALL,
    Pitch,
    _segments,
    speak_plan,
    speak_with_festival,
    speak_with_flite,
    spoken_clips,
)
from comosvc.training.corpus.render import SAMPLE_RATE
from comosvc.training.corpus.songs import few_words, sentence
from comosvc.training.data.prepare import analyse
from comosvc.training.errors import DataError

needs_voices = pytest.mark.skipif(
    not (shutil.which("flite") and shutil.which("festival")), reason=f"recorded voices are missing ({INSTALL})"
)
CONFIG = CorpusConfig(recorded_minutes=0.5, recorded_test_minutes=0.3)


def test_diphthongs_and_affricates_fall_into_two():
    segments = _segments([("pau", 0.2), ("ch", 0.4), ("ay", 0.8), ("hh", 0.9), ("ax", 1.0)])
    assert [name for name, _ in segments] == ["sil", "t", "sh", "aa", "ih", "h", "ah"]
    np.testing.assert_allclose([start for _, start in segments], [0.0, 0.2, 0.29, 0.4, 0.62, 0.8, 0.9])


def test_r_after_a_vowel_is_the_sound_of_er():
    car, red = ([("k", 0.1), ("aa", 0.3), ("r", 0.4), ("pau", 0.5)], [("r", 0.1), ("eh", 0.3), ("d", 0.4)])
    assert [name for name, _ in _segments(car)] == ["k", "aa", "er", "sil"]
    assert [name for name, _ in _segments(red)] == ["r", "eh", "d"]


def test_unknown_phone_is_an_error_not_a_guess():
    with pytest.raises(DataError, match="qq"):
        _segments([("qq", 0.2)])


def test_held_out_voice_is_never_trained_on():
    plans = spoken_clips(CorpusConfig())
    assert {plan.voice.name for plan in plans if plan.split == "train"} == {"slt", "awb", "kal16", "ked_diphone"}
    assert {plan.voice.name for plan in plans if plan.split == "test"} == {"rms"}
    assert len({plan.id for plan in plans}) == len(plans)


def test_sentences_are_varied_and_seeded():
    rng = np.random.default_rng(1)
    sentences = [sentence(rng) for _ in range(200)]
    assert len(set(sentences)) == 200
    assert all(5 <= len(text.split()) <= 16 for text in sentences)
    assert sentence(np.random.default_rng(1)) == sentences[0]
    assert 1 <= len(few_words(rng).split()) <= 3


@needs_voices
def test_a_clip_twice_is_the_same_and_its_labels_fit_the_sound():
    spoken, sung = spoken_clips(CONFIG)[:2]
    audio, labels = speak_plan(CONFIG, spoken)
    again, _ = speak_plan(CONFIG, spoken)
    np.testing.assert_array_equal(audio, again)
    assert sung.sung
    assert np.isnan(labels.f0_hz).all()
    assert np.abs(audio).max() < 0.95
    times_s = (np.arange(len(audio) // 240) + 0.5) * 240 / SAMPLE_RATE
    level_db = 10 * np.log10(np.mean(audio[: len(times_s) * 240].reshape(-1, 240) ** 2, axis=1))
    phones = labels.phones_at(times_s)
    silent = phones == PHONE_INDEX["sil"]
    vowels = (phones >= PHONE_INDEX["aa"]) & (phones <= PHONE_INDEX["uw"])
    assert np.median(level_db[vowels]) > np.median(level_db[silent]) + 20
    assert level_db.min() > -80
    assert labels.phone_start_s[-1] < len(audio) / SAMPLE_RATE


@needs_voices
def test_a_corpus_with_recorded_voices(tmp_path):
    config = CorpusConfig(
        demo_singers=1,
        demo_minutes=0.03,
        other_singers=0,
        held_out_singers=1,
        held_out_songs=1,
        held_out_seconds=2.0,
        clip_seconds=(2.0, 2.0),
        recorded_minutes=0.1,
        recorded_test_minutes=0.1,
    )
    write_corpus(config, tmp_path, jobs=1)
    corpus = Corpus.open(tmp_path)
    assert corpus.recipe == "synthetic+recorded"
    assert {clip.singer for clip in corpus.clips(kind="recorded", split="test")} == {"flite-rms"}
    assert "Carnegie Mellon" in corpus.data_card
    assert not any(singer.demo for singer in corpus.singers.values() if singer.kind == "recorded")


@pytest.mark.parametrize(("speak", "program"), [(speak_with_flite, "flite"), (speak_with_festival, "festival")])
def test_a_missing_synthesiser_is_named(speak, program, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=rf"{program} cannot be run.*\nhint: apt-get install flite"):
        speak("rms", "a sunny town", 1.0, None)


@needs_voices
def test_festival_obeys_pace_and_pitch():
    brisk, slow = (speak_with_festival("ked_diphone", "a sunny town", n, Pitch(150.0, 2.0)) for n in (1.0, 2.0))
    assert len(slow.audio) == pytest.approx(2 * len(brisk.audio), rel=0.15)
    assert [name for name, _ in slow.phone_ends] == [name for name, _ in brisk.phone_ends]
    assert slow.phone_ends[-1][1] == pytest.approx(len(slow.audio) / SAMPLE_RATE, abs=0.05)
    found = analyse(slow.audio, COMOSVC_24K)["f0_hz"]
    assert np.median(found[found > 0]) == pytest.approx(150.0, rel=0.05)
