"""F0 extractors behind one interface, and the conditions that go with them."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from reference import authors

from comosvc.runtime.audio.pitch import told_f0
from comosvc.runtime.audio.spec import AUTHORS_FRONT_END, COMOSVC_24K, OPENVPI_44K, FrontEnd
from comosvc.runtime.providers.self_test import vowel
from comosvc.training.data.prepared import EXTRACTORS, squeezed
from comosvc.training.errors import ConfigError

OURS = FrontEnd()


def extract_f0(audio, spec, name, front_end):
    return told_f0(EXTRACTORS[name](audio, spec, front_end), spec, front_end)


BRIDGED = replace(OURS, unvoiced_f0="interpolated")


@pytest.fixture(scope="module")
def song():
    """A glide, half a second of silence, the glide an octave of samples later; and its F0 at mel frames."""
    glide, f0_hz = vowel(COMOSVC_24K)
    gap = np.zeros(12_032, np.float32)
    return np.concatenate((glide, gap, glide)), np.concatenate((f0_hz, np.zeros(94, np.float32), f0_hz))


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_finds_the_pitch(song, name):
    audio, truth_hz = song
    found = extract_f0(audio, COMOSVC_24K, name, OURS)
    assert found.dtype == np.float32
    assert found.shape == truth_hz.shape == (COMOSVC_24K.frames(len(audio)),)
    both = (found > 0) & (truth_hz > 0)
    assert both.sum() > 0.9 * (truth_hz > 0).sum()
    # DIO's frames lie half a hop before the mel's and are squeezed by one in 657: a few cents of a glide.
    assert np.median(np.abs(1200 * np.log2(found[both] / truth_hz[both]))) < 10
    gap = slice(np.flatnonzero(truth_hz == 0)[20], np.flatnonzero(truth_hz == 0)[-20])
    assert not found[gap].any()
    bridged = extract_f0(audio, COMOSVC_24K, name, BRIDGED)
    np.testing.assert_allclose(bridged, authors.interpolated_f0(found.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_other_rates_and_silence(name):
    audio, _ = vowel(OPENVPI_44K)
    f0_hz = extract_f0(audio, OPENVPI_44K, name, OURS)
    assert len(f0_hz) == OPENVPI_44K.frames(len(audio))
    assert 170 < np.median(f0_hz[f0_hz > 0]) < 280
    silence = np.zeros(12_800, np.float32)
    np.testing.assert_array_equal(extract_f0(silence, COMOSVC_24K, name, BRIDGED), np.zeros(100))


def test_dio_is_the_authors(song):
    """Written out from specification 1.3, loops and all."""
    resized = authors.dio_f0(song[0].astype(np.float64), 128, 24_000)
    np.testing.assert_allclose(extract_f0(song[0], COMOSVC_24K, "dio", OURS), resized, rtol=1e-6)
    wanted = authors.interpolated_f0(resized)
    np.testing.assert_allclose(extract_f0(song[0], COMOSVC_24K, "dio", AUTHORS_FRONT_END), wanted, rtol=1e-6)


def test_squeezing_widens_unvoiced_gaps():
    found = squeezed(np.array([100.0, 110.0, 0.0, 130.0, 140.0]), 4)
    np.testing.assert_allclose(found, [100.0, 0.0, 0.0, 137.5])


def test_a_missing_package_is_named(monkeypatch, song):
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(ConfigError, match=r"hint: pip install .*\[f0\]"):
        extract_f0(song[0], COMOSVC_24K, "harvest", OURS)
