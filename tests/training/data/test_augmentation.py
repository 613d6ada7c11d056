"""Varied copies of clips against a direct evaluation of what the authors compute."""

import numpy as np
import pytest
import soundfile
import torch
from dataset_trees import tone

from comosvc.runtime.audio.features import mel_filterbank, mel_spectrogram
from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.training.acoustic.dataset import AcousticData, ClipFeatures, VariedCopy, batch_condition, load_clip
from comosvc.training.acoustic.model import AcousticConfig, AcousticModel, DenoiserConfig
from comosvc.training.data.augmentation import (
    AugmentationConfig,
    draw_variation,
    key_shifted_mel,
    vary,
)
from comosvc.training.data.datasets import open_dataset
from comosvc.training.data.prepare import PrepareConfig, prepare
from comosvc.training.data.prepared import save_arrays
from comosvc.training.errors import ConfigError
from comosvc.training.loop.batches import Draws

AUTHORS = AugmentationConfig(probability=0.5)


def reference(audio, semitones):
    """The authors' formula in float64, frame by frame."""
    n = int(np.round(512 * 2 ** (semitones / 12)))
    left, right = (n - 128) // 2, (n - 128 + 1) // 2
    padded = np.pad(audio.astype(np.float64), (left, right), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    basis = mel_filterbank(SPEC).astype(np.float64)
    frames = []
    for t in range(len(audio) // 128):
        piece = padded[128 * t : 128 * t + n] * window
        dft = np.exp(-2j * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n) @ piece
        magnitude = np.sqrt(np.abs(dft) ** 2 + 1e-9)
        bins = np.zeros(257)
        bins[: min(257, len(magnitude))] = magnitude[:257]
        frames.append(np.log10(np.maximum(basis @ bins * 512 / n, 1e-5)))
    return np.array(frames)


@pytest.mark.parametrize("semitones", [-5.0, -0.37, 2.6, 5.0])
def test_key_shift_is_the_authors(semitones):
    rng = np.random.default_rng(0)
    audio = (tone(210.0, 0.2) + 0.01 * rng.standard_normal(4800)).astype(np.float32)
    np.testing.assert_allclose(key_shifted_mel(audio, semitones, SPEC), reference(audio, semitones), atol=2e-4)


def test_no_shift_is_the_usual_mel():
    audio = tone(210.0, 0.3).astype(np.float32)
    np.testing.assert_allclose(key_shifted_mel(audio, 0.0, SPEC), mel_spectrogram(audio, SPEC), atol=1e-5)


def test_shifted_tone_looks_like_a_higher_tone():
    high = mel_spectrogram(tone(1000.0 * 2 ** (4 / 12), 0.3).astype(np.float32), SPEC)[20:-20]
    shifted = key_shifted_mel(tone(1000.0, 0.3).astype(np.float32), 4.0, SPEC)[20:-20]
    plain = mel_spectrogram(tone(1000.0, 0.3).astype(np.float32), SPEC)[20:-20]
    assert np.argmax(shifted.mean(0)) == np.argmax(high.mean(0)) != np.argmax(plain.mean(0))


def test_variation_is_the_clips_own_and_within_bounds():
    drawn = [draw_variation(f"clip {i}", 0.5, AUTHORS) for i in range(2000)]
    assert draw_variation("clip 7", 0.5, AUTHORS) == drawn[7]
    shifts, exponents = (np.array(x) for x in zip(*((v.key_shift, np.log10(v.gain)) for v in drawn), strict=True))
    top = np.log10(1 / (0.5 + 1e-5))
    for values, low, high in ((shifts, -5.0, 5.0), (exponents, -1.0, top)):
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_gain_alone_moves_the_mel_by_its_logarithm():
    audio = tone(300.0, 0.32).astype(np.float32)
    varied = vary(audio, "a clip", AugmentationConfig(probability=0.5, key_shift=0.0), SPEC)
    difference = varied["mel"] - mel_spectrogram(audio, SPEC)
    loud = mel_spectrogram(audio, SPEC) > -1.0
    np.testing.assert_allclose(difference[loud], np.log10(varied["gain"]), atol=2e-3)
    assert varied["key_shift"] == 0.0


def test_quiet_or_clipped_recordings_have_a_gain_too():
    assert 0.05 < draw_variation("x", 1.0, AUTHORS).gain <= 1.0
    assert draw_variation("x", 40.0, AUTHORS).gain == pytest.approx(1 / 40, rel=1e-3)
    assert draw_variation("x", 0.0, AUTHORS).gain <= 10.0


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"key_shift": -1.0}, {"quietest": 0.5, "loudest": 0.0}])
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ConfigError):
        AugmentationConfig(**wrong)


def clip_features():
    mel, f0_hz = np.zeros((40, 80), np.float32), np.full(40, 200.0, np.float32)
    content, loudness = np.arange(40, dtype=np.float16)[:, None], np.full(40, 0.1, np.float32)
    return ClipFeatures(mel, (content,), f0_hz, loudness, 0, VariedCopy(mel + 1.0, 3.0, 0.5))


def test_samples_come_from_either_copy():
    data = AcousticData([clip_features()], 8, vary=0.5)
    batch = data.batch(Draws(0, 0, range(400)))
    varied = batch["mel"][:, 0, 0] == 1.0
    assert 0.42 < varied.float().mean() < 0.58
    for name, plain, other in (
        ("f0_hz", 200.0, 200.0 * 2 ** (3 / 12)),
        ("loudness", 0.1, 0.05),
        ("mel", 0.0, 1.0),
    ):
        np.testing.assert_allclose(batch[name][~varied].numpy(), plain, rtol=1e-5)
        np.testing.assert_allclose(batch[name][varied].numpy(), other, rtol=1e-5)
    assert batch["key_shift"].tolist() == [3.0 if v else 0.0 for v in varied]


def test_the_network_is_told_the_shift():
    torch.manual_seed(0)
    small = DenoiserConfig(channels=8, hidden=8, layers=2)
    model = AcousticModel(AcousticConfig(denoiser=small, key_shift_embedding=True), SPEC, 1, 1)
    batch = AcousticData([clip_features()], 8, vary=1.0).batch(Draws(0, 0, range(2)))
    told = model.embed(batch_condition(model, batch))
    untold = model.embed(batch_condition(model, {**batch, "key_shift": torch.zeros(2)}))
    weight = model.key_shift_embed.weight[:, 0]
    torch.testing.assert_close(told - untold, (weight * 3.0 / 5.0).expand_as(told))


def test_without_augmentation_nothing_is_drawn_for_it():
    data, other = (AcousticData([clip_features()], 8, vary=p) for p in (0.0, 1.0))
    plain, varied = (d.batch(Draws(0, 0, range(4))) for d in (data, other))
    assert "key_shift" not in plain
    assert plain["content"].equal(varied["content"])  # the same crops


def test_a_varied_copy_is_what_training_reads(tmp_path):
    """Through the files: `prepare` writes the copy, the stage loads it."""
    config = AugmentationConfig(probability=0.5)
    rate, folder = SPEC.sample_rate, tmp_path / "features"
    for number in range(2):
        sweep = 0.3 * np.sin(2 * np.pi * (150 + 40 * number) * np.arange(2 * rate) / rate)
        (tmp_path / "recordings" / "me").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "recordings" / "me" / f"{number}.wav", sweep, rate)
    material = open_dataset("folder", tmp_path / "recordings")
    features = prepare(material, SPEC, folder, 1, config=PrepareConfig(augmentation=config))
    clip = features.select("train")[0]
    n_content = 2 * SPEC.content_sample_rate // SPEC.content_hop_length
    save_arrays(features.content_path(clip, "hash"), {"content": np.zeros((n_content, 4), np.float16)})
    loaded = load_clip(features, clip, ["hash"])
    drawn = draw_variation(clip.key, float(np.abs(features.load(clip)["audio"] / 32768).max()), config)
    assert loaded.varied.key_shift == pytest.approx(drawn.key_shift, abs=1e-5)
    assert loaded.varied.gain == pytest.approx(drawn.gain, rel=1e-3)
    assert loaded.varied.mel.shape == loaded.mel.shape
    assert np.abs(loaded.varied.mel - loaded.mel).mean() > 0.01
