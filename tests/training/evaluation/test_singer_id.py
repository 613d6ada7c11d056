"""The singer classifier: timbre and not level, any length, a file that carries its own facts."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from run_folders import short_loop

from comosvc.runtime.audio.spec import COMOSVC_24K, AudioSpec
from comosvc.training.data.prepared import FeatureIndex, PreparedClip, PreparedSinger, save_arrays
from comosvc.training.evaluation.singer_id import (
    OTHER,
    SingerClassifier,
    SingerIdConfig,
    classes,
    disturbed,
    named_right,
    train_singer_id,
    write_singer_id,
)
from comosvc.training.loop.checkpoint import load_module

SPEC = replace(COMOSVC_24K, content_hop_length=160)
LOOP = short_loop(40, batch_size=8, learning_rate=3e-3, final_learning_rate=1e-4, warmup_steps=5, ema_decay=0.8)
CONFIG = SingerIdConfig(loop=LOOP, channels=24, crop_frames=60)
pytestmark = pytest.mark.usefixtures("one_thread")


def voice(peak: int, seed: int, n_frames: int = 150) -> np.ndarray:
    """A log10-mel whose energy lies around band `peak`, at a random level, with a random melody of levels."""
    rng = np.random.default_rng(seed)
    envelope = -(((np.arange(80) - peak) / 20.0) ** 2)
    course = np.cumsum(rng.normal(0.0, 0.05, n_frames))[:, None]
    return (envelope + course + rng.uniform(-2, 0) + rng.normal(0, 0.1, (n_frames, 80))).astype(np.float32)


@pytest.fixture
def run(tmp_path):
    """Features of two demo voices that differ in envelope, and of two further singers."""
    folder = tmp_path / "features"
    folder.mkdir()
    peaks = {"alto": 30, "bass": 15, "someone": 45, "unseen": 60}
    clips = []
    for name, peak in peaks.items():
        splits = ("test",) if name == "unseen" else ("train", "train", "valid")
        for n, split in enumerate(splits):
            clip = PreparedClip(f"{name}{n}", f"{name}-{n}", name, f"song-{n}", split, 150)
            save_arrays(folder / f"{clip.key}.safetensors", {"mel": voice(peak, len(clips))})
            clips.append(clip)
    singers = {
        name: PreparedSinger(
            "synthetic",
            "heldout" if name == "unseen" else "train",
            name in ("alto", "bass"),
            None,
            1.0,
            200.0,
            (100.0, 300.0),
        )
        for name in peaks
    }
    FeatureIndex(folder, SPEC, singers, tuple(clips)).save()
    return tmp_path


def test_trained_on_demo_voices_it_names_held_out_songs_and_strangers(run, tmp_path):
    checkpoint = train_singer_id(CONFIG, run, seed=0, resume=False)
    path = tmp_path / "singer_id.onnx"
    write_singer_id(run, checkpoint, CONFIG, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    names = json.loads(facts["classes"])
    assert names == ["alto", "bass", OTHER]
    assert AudioSpec(**json.loads(facts["audio"])) == SPEC
    features = FeatureIndex.open(run / "features")
    held_out = [*features.select("valid"), *features.select("test")]
    assert len(held_out) == 4
    for clip in held_out:
        for level in (-1.0, 0.0, 1.0):  # 20 dB quieter and louder
            (logits,) = session.run(None, {"mel": features.load(clip)["mel"][None] + np.float32(level)})
            assert names[int(logits.argmax())] == (clip.singer if clip.singer in names else OTHER)


def test_onnx_equals_torch_at_any_length(run, tmp_path):
    checkpoint = train_singer_id(replace(CONFIG, loop=replace(LOOP, steps=2)), run, seed=0, resume=False)
    write_singer_id(run, checkpoint, CONFIG, tmp_path / "singer_id.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "singer_id.onnx", providers=["CPUExecutionProvider"])
    model = SingerClassifier(80, 3, CONFIG.channels).eval()
    load_module(checkpoint, "ema", model)
    for n_frames in (17, 101, 3000):
        mel = voice(30, 1, n_frames)[None]
        with torch.no_grad():
            expected = model(torch.from_numpy(mel)).numpy()
        (logits,) = session.run(None, {"mel": mel})
        assert np.abs(logits - expected).max() < 1e-4


def test_level_changes_nothing():
    torch.manual_seed(0)
    model = SingerClassifier(80, 3, 16).eval()
    mel = torch.from_numpy(voice(30, 0))[None]
    with torch.no_grad():
        assert torch.allclose(model(mel), model(mel + 1.5), atol=1e-4)


def test_wrong_names_count_as_wrong(run):
    features = FeatureIndex.open(run / "features")
    model = SingerClassifier(80, len(classes(features)), 8)
    model.head[-1].weight.data.zero_()
    model.head[-1].bias.data = torch.tensor([0.0, 1.0, 0.0])  # always "bass"
    found = {clip.singer: named_right(model, features, clip) for clip in features.clips}
    assert found == {"alto": False, "bass": True, "someone": False, "unseen": False}


def test_disturbance_keeps_the_shape_and_what_it_promises():
    mel = voice(30, 0)
    still = replace(CONFIG, gain=0.0, tilt=0.0, equaliser=0.0, noise=0.0)
    rng = np.random.default_rng(0)
    results = [disturbed(mel, still, rng) for _ in range(30)]
    untouched = [np.array_equal(result, mel) for result in results]
    assert 5 < sum(untouched) < 25
    blurred = next(result for result, same in zip(results, untouched, strict=True) if not same)
    assert blurred.shape == mel.shape
    assert np.abs(np.diff(blurred, axis=0)).mean() < np.abs(np.diff(mel, axis=0)).mean()
    assert np.abs(blurred.mean() - mel.mean()) < 0.05
