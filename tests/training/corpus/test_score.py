import numpy as np
import pytest

from comosvc.training.corpus.phones import ARTICULATIONS, CONSONANTS, NOISE_NAMES, PHONES, VOWELS
from comosvc.training.corpus.songs import NoteRange, compose, hz_to_midi


def test_phone_order_is_the_released_one():
    assert " ".join(PHONES) == ("sil aa ae ah ao eh er ih iy uh uw b d g p t k f v th dh s z sh zh h m n ng l r w y")


def test_every_phone_has_an_articulation_with_known_noise():
    assert set(ARTICULATIONS) == set(PHONES)
    for articulation in ARTICULATIONS.values():
        assert {state.noise for state in articulation.states} <= set(NOISE_NAMES)
        assert sum(state.share for state in articulation.states) == pytest.approx(1.0)


def test_melody_stays_in_its_range_and_the_song_near_its_length():
    for seed in range(20):
        notes = NoteRange(130.0, 300.0)
        score = compose(np.random.default_rng(seed), 12.0, notes)
        assert 11.0 < score.seconds < 15.0
        assert min(score.pitch_midi) >= hz_to_midi(notes.low_hz)
        assert max(score.pitch_midi) <= hz_to_midi(notes.high_hz)


def test_no_phone_is_shorter_than_an_encoder_can_see():
    for seed in range(20):
        for segment in compose(np.random.default_rng(seed), 10.0, NoteRange(200.0, 400.0)).segments:
            assert segment.duration_s >= 0.045, segment


def test_songs_use_all_phones():
    used = set()
    for seed in range(40):
        used |= {
            segment.phone for segment in compose(np.random.default_rng(seed), 10.0, NoteRange(150.0, 300.0)).segments
        }
    assert used == set(PHONES)
    assert len(VOWELS) + len(CONSONANTS) + 1 == len(PHONES)


def test_same_generator_state_same_song():
    first, again = (compose(np.random.default_rng(5), 8.0, NoteRange(150.0, 300.0)) for _ in range(2))
    assert first == again
    assert compose(np.random.default_rng(6), 8.0, NoteRange(150.0, 300.0)) != first
