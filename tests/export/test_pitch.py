"""The pitch graph against swift-f0 itself."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import swift_f0
from swift_f0_graph import F0_MAX_HZ, F0_MIN_HZ, adapt_swift_f0

from comosvc.runtime.audio import spec

ORIGINAL = Path(swift_f0.__file__).with_name("model.onnx")
SHIPPED = Path(spec.__file__).parents[1] / "data" / "pitch.onnx"


def sung(n_samples: int, start_hz: float) -> np.ndarray:
    """A gliding tone with an overtone, a little noise and a stretch of digital silence, at 16 kHz."""
    rng = np.random.default_rng(n_samples)
    f0_hz = start_hz * (1 + 0.1 * np.arange(n_samples) / 16_000)
    phase = 2 * np.pi * np.cumsum(f0_hz) / 16_000
    audio = 0.3 * np.sin(phase) + 0.1 * np.sin(2 * phase) + 1e-3 * rng.standard_normal(n_samples)
    audio[n_samples // 2 : n_samples * 7 // 10] = 0
    return audio.astype(np.float32)


def test_shipped_graph_is_the_adapted_original():
    assert SHIPPED.read_bytes() == adapt_swift_f0(onnx.load(ORIGINAL)).SerializeToString(deterministic=True)


@pytest.mark.parametrize("n_samples", [1, 255, 257, 5_000, 48_000])
def test_batch_equals_swift_f0(n_samples):
    audio = np.stack([sung(n_samples, start_hz) for start_hz in (90.0, 440.0, 1_200.0)])
    session = onnxruntime.InferenceSession(SHIPPED, providers=["CPUExecutionProvider"])
    f0_hz, confidence = session.run(["f0_hz", "confidence"], {"audio": audio})
    detector = swift_f0.SwiftF0(threads=1)
    for row in range(len(audio)):
        expected = detector.detect(audio[row], 16_000, F0_MIN_HZ, F0_MAX_HZ)
        np.testing.assert_allclose(f0_hz[row], expected.pitch_hz, rtol=5e-6)  # 0.01 cents: float32 instead of double
        np.testing.assert_allclose(confidence[row], expected.confidence, atol=1e-5)


def test_silence_is_unvoiced():
    session = onnxruntime.InferenceSession(SHIPPED, providers=["CPUExecutionProvider"])
    _, confidence = session.run(None, {"audio": np.zeros((1, 16_000), np.float32)})
    assert not confidence.any()
