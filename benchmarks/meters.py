"""Meters that listen to audio: its F0 and its singer."""

import json
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from ..runtime.mel import mel_spectrogram
from ..runtime.pitch import PITCH_SAMPLE_RATE, f0_at_frames, track_pitch
from ..runtime.providers.onnx import open_session
from ..runtime.spec import AudioSpec

_SINGER_GRAPH = Path(__file__).with_name("data") / "singer_id.onnx"
_PITCH_GRAPH = Path(__file__).parents[1] / "runtime" / "data" / "pitch.onnx"


class PitchMeter:
    """F0 of any audio, by the pitch graph that the package carries."""

    def __init__(self) -> None:
        self.session = open_session(_PITCH_GRAPH.read_bytes(), "the pitch graph", 1)

    def __call__(self, audio: NDArray[np.float32], sample_rate: int, spec: AudioSpec) -> NDArray[np.float32]:
        """(T,) in Hz at the mel frames of `spec`, 0 = unvoiced."""
        at_16k = soxr.resample(audio, sample_rate, PITCH_SAMPLE_RATE)
        n_frames = spec.frames(int(len(audio) * spec.sample_rate / sample_rate))
        return f0_at_frames(*track_pitch(self.session, at_16k), n_frames, spec)


class SingerMeter:
    """Which demo voice a clip sounds like, by a small classifier of our own; "other" for none of them.

    It hears real renderings in training, never a conversion. Where it comes from: `comosvc.training.singer_id`.
    """

    def __init__(self) -> None:
        self._session = open_session(_SINGER_GRAPH.read_bytes(), "the singer classifier", 1)
        facts = self._session.get_modelmeta().custom_metadata_map
        self.names: tuple[str, ...] = tuple(json.loads(facts["classes"]))
        self._spec = AudioSpec(**json.loads(facts["audio"]))

    def __call__(self, audio: NDArray[np.float32], sample_rate: int) -> str:
        """The name that is likeliest for the whole of `audio` (L,)."""
        mel = mel_spectrogram(soxr.resample(audio, sample_rate, self._spec.sample_rate), self._spec)
        (logits,) = self._session.run(None, {"mel": mel[None]})
        return self.names[int(np.argmax(logits[0]))]
