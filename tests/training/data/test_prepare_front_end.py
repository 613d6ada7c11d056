"""`prepare` with another F0 extractor and the authors' conditions, and what they become in training."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from reference import authors

from comosvc.runtime.audio.features import mel_filterbank
from comosvc.runtime.audio.spec import AUTHORS_FRONT_END, COMOSVC_24K, FrontEnd
from comosvc.runtime.providers.self_test import vowel
from comosvc.training.acoustic.dataset import build_acoustic, load_clip
from comosvc.training.acoustic.model import AUTHORS_ACOUSTIC, DenoiserConfig
from comosvc.training.config import from_mapping, to_mapping
from comosvc.training.data.augmentation import AugmentationConfig, vary
from comosvc.training.data.datasets import open_dataset
from comosvc.training.data.prepare import PrepareConfig, analyse, prepare
from comosvc.training.data.prepared import FeatureIndex, feature_key, save_arrays
from comosvc.training.errors import ConfigError

AUTHORS = PrepareConfig(f0="dio", front_end=AUTHORS_FRONT_END)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """One singer, one file: a vowel with a breath's pause."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "alto").mkdir()
    glide, _ = vowel(COMOSVC_24K)
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(6_000).astype(np.float32)
    soundfile.write(folder / "alto" / "one.wav", np.concatenate((glide, quiet, glide)), 24_000, "FLOAT")
    return folder


def prepared(recordings, folder, config):
    features = prepare(open_dataset("folder", recordings), COMOSVC_24K, folder, 1, config=config)
    assert FeatureIndex.open(folder) == features
    return features


def test_features_as_the_authors_take_them(recordings, tmp_path):
    features = prepared(recordings, tmp_path / "authors", AUTHORS)
    usual = prepared(recordings, tmp_path / "usual", PrepareConfig())
    (clip,), (usual_clip,) = features.clips, usual.clips
    assert clip.key != usual_clip.key
    assert (features.f0, usual.f0) == ("dio", "swift-f0")
    found, ours = features.load(clip), usual.load(usual_clip)
    np.testing.assert_array_equal(found["mel"], ours["mel"])

    audio = found["audio"].astype(np.float64) / 32767
    np.testing.assert_allclose(found["loudness"], authors.loudness(audio, 128), atol=3e-5)  # 16 bit
    assert np.abs(found["loudness"] - ours["loudness"]).max() > 1e-2
    assert (ours["f0_hz"] == 0).any()
    assert (found["f0_hz"] > 0).all()
    both = ours["f0_hz"] > 0
    assert np.median(np.abs(1200 * np.log2(found["f0_hz"][both] / ours["f0_hz"][both]))) < 10

    content = np.arange(5, dtype=np.float16)[:, None]
    save_arrays(features.content_path(clip, "encoder"), {"content": content})
    stretched = load_clip(features, clip, ["encoder"]).contents[0][:, 0]
    wanted = [i * 5 // clip.frames for i in range(clip.frames)]
    np.testing.assert_array_equal(stretched, wanted)


@pytest.mark.parametrize("front_end", [AUTHORS_FRONT_END, FrontEnd()])
def test_the_last_frames_see_the_end_of_the_clip(front_end):
    """The mirror stands at the last sample, not at the last whole hop."""
    audio = 0.2 * np.random.default_rng(0).standard_normal(20 * 128 + 77).astype(np.float32)
    filters = mel_filterbank(COMOSVC_24K).astype(np.float64)
    found = analyse(audio, COMOSVC_24K, "dio", front_end)
    wanted = authors.mel_spectrogram(audio.astype(np.float64), filters, 512, 128)
    np.testing.assert_allclose(found["mel"], wanted, atol=1e-4)
    trimmed = authors.mel_spectrogram(audio[: 20 * 128].astype(np.float64), filters, 512, 128)
    assert np.abs(trimmed - wanted)[-2:].max() > 0.1
    assert len(found["audio"]) == len(audio)
    assert {len(found[name]) for name in ("mel", "f0_hz", "loudness")} == {20}
    copy = vary(audio, "key", AugmentationConfig(key_shift=0.0), COMOSVC_24K)
    louder = authors.mel_spectrogram(audio.astype(np.float64) * copy["gain"], filters, 512, 128)
    np.testing.assert_allclose(copy["mel"], louder, atol=1e-4)


def test_the_front_end_travels(recordings, tmp_path):
    features = prepared(recordings, tmp_path / "features", AUTHORS)
    assert FeatureIndex.open(tmp_path / "features").front_end == AUTHORS_FRONT_END
    assert from_mapping(PrepareConfig, to_mapping(AUTHORS), "prepare") == AUTHORS
    small = replace(AUTHORS_ACOUSTIC, denoiser=DenoiserConfig(channels=8, hidden=4, layers=1))
    save_arrays(features.content_path(features.clips[0], "encoder"), {"content": np.zeros((9, 5), np.float16)})
    clip = load_clip(features, features.clips[0], ["encoder"])
    model = build_acoustic(small, features, 5, [clip])
    assert model.mel_mean.tolist() == pytest.approx([-2.25] * 80)
    assert float(model.mel_scale) == 3.75


def test_what_is_usual_has_the_names_it_always_had(recordings, tmp_path):
    assert PrepareConfig().feature_settings == b""
    audio, _ = soundfile.read(recordings / "alto" / "one.wav", dtype="float32")
    usual = prepared(recordings, tmp_path / "usual", PrepareConfig(front_end=FrontEnd(unvoiced_f0="interpolated")))
    assert usual.clips[0].frames <= COMOSVC_24K.frames(len(audio))
    assert AUTHORS.feature_settings != replace(AUTHORS, f0="harvest").feature_settings != b""
    assert feature_key(b"audio" + AUTHORS.feature_settings, COMOSVC_24K) != feature_key(b"audio", COMOSVC_24K)


def test_an_unknown_extractor_is_refused():
    with pytest.raises(ConfigError, match="swift-f0"):
        from_mapping(PrepareConfig, {"f0": "yin"}, "prepare")
