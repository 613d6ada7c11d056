"""F0 as a voice's model was trained on it: WORLD's, whole or in windows, and what is said where it cannot be had."""

import sys

import numpy as np
import pytest
import soundfile
from reference import authors
from tiny_bundle import SPEC, edited, tiny_files, write_zip

from comosvc.runtime import BundleError, Converter
from comosvc.runtime.audio.spec import AUTHORS_FRONT_END
from comosvc.runtime.audio.world_f0 import harvest, squeezed
from comosvc.runtime.providers.self_test import vowel

GLIDE, _ = vowel(SPEC)
SONG = np.concatenate([GLIDE * level for level in (1.0, 0.5, 0.8, 0.3, 1.0)])[:-51]


def voice_file(folder, extractor):
    files = tiny_files(front_end=AUTHORS_FRONT_END)
    files = edited(files, lambda manifest: manifest["model"].update(f0_extractor=extractor))
    return write_zip(folder / f"{extractor}.comosvc", files)


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A voice for each extractor."""
    folder = tmp_path_factory.mktemp("voices")
    return {name: Converter(voice_file(folder, name), threads=1) for name in ("swift-f0", "dio", "harvest")}


def test_a_clip_within_a_window_has_the_authors_f0(voices):
    """To the digit, at a length that is no multiple of the hop."""
    found = voices["dio"].convert(SONG, 24_000)
    wanted = authors.dio_f0(SONG.astype(np.float64), 128, 24_000)
    assert found.warnings == ()
    assert found.f0_hz.shape == wanted.shape == (len(SONG) // 128,)
    sung = found.f0_hz > 0
    assert sung.mean() > 0.8
    np.testing.assert_allclose(found.f0_hz[sung], wanted[sung], rtol=1e-6)
    assert np.abs(voices["swift-f0"].convert(SONG, 24_000).f0_hz - found.f0_hz).max() > 0.1


def test_harvest_is_used_too(voices):
    found = voices["harvest"].convert(SONG, 24_000).f0_hz
    wanted = squeezed(harvest(SONG, SPEC), len(SONG) // 128)
    np.testing.assert_array_equal(found[found > 0], wanted[found > 0])


def test_a_longer_clip_is_analysed_in_windows_whatever_blocks_it_comes_in(voices, tmp_path):
    """Windows of 20 s that share 2 s, each used up to the middle of that."""
    audio = np.resize(SONG, 24_000 * 23 + 77)
    found = voices["dio"].convert(audio, 24_000)
    assert len(found.audio) == len(audio)
    window, step, seam, total = 3_750, 3_375, 3_750 - 375 // 2, len(audio) // 128
    first = authors.dio_f0(audio[: window * 128].astype(np.float64), 128, 24_000)[:seam]
    second = authors.dio_f0(audio[step * 128 :].astype(np.float64), 128, 24_000)[seam - step :]
    wanted, sung = np.concatenate((first, second)), found.f0_hz > 0
    assert len(wanted) == total
    np.testing.assert_allclose(found.f0_hz[sung], wanted[sung], rtol=1e-6)
    soundfile.write(tmp_path / "in.wav", audio, 24_000, "FLOAT")
    voices["dio"].convert_file(tmp_path / "in.wav", tmp_path / "out.wav")
    np.testing.assert_allclose(soundfile.read(tmp_path / "out.wav")[0], found.audio, atol=2.0**-22)


def test_clips_of_a_few_samples(voices):
    for n_samples in (1, 2, 127, 129):
        for rate in (8_000, 24_000, 192_000):
            assert voices["dio"].convert(SONG[:n_samples], rate).audio.shape == (n_samples,)


def test_without_pyworld_the_pitch_graph_is_used_and_named(voices, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyworld", None)
    found = voices["dio"].convert(SONG, 24_000)
    (warning,) = found.warnings
    assert "trained on F0 from dio, which is missing: pip install" in warning
    assert "[f0]" in warning
    np.testing.assert_array_equal(found.audio, voices["swift-f0"].convert(SONG, 24_000).audio)
    assert voices["swift-f0"].convert(SONG, 24_000).warnings == ()
    assert voices["dio"].convert(SONG, 24_000, f0_hz=found.f0_hz).warnings == ()


def test_a_live_conversion_says_that_its_f0_is_another(voices):
    with voices["dio"].stream(24_000) as stream:
        (warning,) = stream.warnings
    assert "more of the song than a live conversion has; swift-f0 is used" in warning
    low = voices["dio"].convert(GLIDE, 24_000, latency="low")
    assert low.warnings == (warning,)
    np.testing.assert_array_equal(low.audio, voices["swift-f0"].convert(GLIDE, 24_000, latency="low").audio)
    assert voices["swift-f0"].stream(24_000).warnings == ()


def test_an_unknown_extractor_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"model.f0_extractor must be one of 'swift-f0', 'dio', 'harvest', got 'yin'"):
        Converter(voice_file(tmp_path, "yin"))
