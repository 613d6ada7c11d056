"""F0 with bounded look-ahead: what live use gets from the pitch graph, measured on whole clips."""

import numpy as np
from numpy.typing import NDArray

from ..runtime.pitch import (
    BOUNDED_SILENCE_HOPS,
    BOUNDED_WINDOW_HOPS,
    PITCH_HOP_LENGTH,
    PITCH_SAMPLE_RATE,
    VOICED_CONFIDENCE,
    Session,
    held_pitch_frames,
)
from ..runtime.spec import AudioSpec

LOOKAHEAD_MS = 1e3 * PITCH_HOP_LENGTH / PITCH_SAMPLE_RATE
"""From a frame's centre to the last sample that is used: one hop, 16 ms."""
_BATCH = 128


def track_pitch_bounded(
    session: Session, audio: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """F0 in Hz and confidence of `audio` (N,) at 16 kHz, each (P,).

    Frame p is centred on sample 256 p and made from samples 256 (p - 11) to 256 (p + 1) alone.
    """
    n_frames = max(1, len(audio) // PITCH_HOP_LENGTH)
    lead = (BOUNDED_WINDOW_HOPS - 1) * PITCH_HOP_LENGTH
    padded = np.zeros(lead + n_frames * PITCH_HOP_LENGTH, np.float32)
    used = audio[: n_frames * PITCH_HOP_LENGTH]
    padded[lead : lead + len(used)] = used
    views = np.lib.stride_tricks.sliding_window_view(padded, BOUNDED_WINDOW_HOPS * PITCH_HOP_LENGTH)[::PITCH_HOP_LENGTH]
    silence = ((0, 0), (0, BOUNDED_SILENCE_HOPS * PITCH_HOP_LENGTH))
    parts: list[list[NDArray[np.float32]]] = []
    for start in range(0, n_frames, _BATCH):
        windows = np.pad(views[start : start + _BATCH], silence)
        results = session.run(["f0_hz", "confidence"], {"audio": windows})
        parts.append([result[:, BOUNDED_WINDOW_HOPS - 1] for result in results])
    f0_hz, confidence = (np.concatenate(part) for part in zip(*parts, strict=True))
    return f0_hz, confidence


def f0_held(
    f0_hz: NDArray[np.float32], confidence: NDArray[np.float32], n_frames: int, spec: AudioSpec
) -> NDArray[np.float32]:
    """F0 in Hz at each mel frame, (T,), 0 where unvoiced: that of the last pitch frame, never of a later one."""
    index = np.minimum(held_pitch_frames(0, n_frames, spec), len(f0_hz) - 1)
    return np.where(confidence[index] >= VOICED_CONFIDENCE, f0_hz[index], 0.0).astype(np.float32)
