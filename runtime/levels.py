"""Loudness of a clip at each mel frame, block by block: for the model and for the gate."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .audio import Resampler
from .framing import ceil_div
from .high_pass import HighPass
from .loudness import RUMBLE_HZ, condition_loudness, frame_rms, without_hum
from .manifest import Manifest
from .short_resampler import ShortResampler
from .tracks import Track


class Levels:
    """A clip at `sample_rate`, filtered and resampled to the model's rate by `resampler`; held until forgotten."""

    def __init__(
        self, manifest: Manifest, sample_rate: int, resampler: Callable[[int, int], Resampler | ShortResampler]
    ) -> None:
        spec = self._spec = manifest.audio
        self._front_end, self._margin = manifest.front_end, ceil_div(spec.win_length, 2 * spec.hop_length)
        # Rumble is removed before the resampler, which would make a step of an offset at the clip's ends.
        self._without_rumble = HighPass(sample_rate, RUMBLE_HZ)
        self._to_model, self._filtered_to_model = (resampler(sample_rate, spec.sample_rate) for _ in range(2))
        self._without_hum = without_hum(spec.sample_rate)
        self.audio, self._filtered, self._voice = Track(), Track(), Track()
        """The audio so far at the model's rate: unfiltered, without rumble, and without hum."""

    def push(self, audio: NDArray[np.float32], last: bool) -> None:
        """The clip's next samples, mono; `last` with the final ones."""
        self.audio.append(self._to_model.push(audio, last))
        filtered = self._filtered_to_model.push(self._without_rumble.push(audio), last)
        self._filtered.append(filtered)
        self._voice.append(self._without_hum.push(filtered))

    def measure(self, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mel frames `first` to `last`: loudness as the model's condition, and as the gate's. (T,) each.

        Beyond the samples so far there is silence.
        """
        from_frame, hop = max(0, first - self._margin), self._spec.hop_length
        samples, piece = (from_frame * hop, (last + self._margin) * hop), slice(first - from_frame, last - from_frame)
        tracks = self.audio, self._filtered, self._voice
        unfiltered, filtered, voice = (frame_rms(track.read_padded(*samples), self._spec)[piece] for track in tracks)
        condition = np.minimum(filtered, unfiltered)
        if self._front_end.loudness != "hann":
            audio = self.audio.read_padded(*samples)
            condition = condition_loudness(audio, self._spec, self._front_end)[piece]
        return condition, np.minimum(voice, unfiltered)

    def forget(self, frame: int) -> None:
        """Discard audio that mel frames from `frame` on do not depend on."""
        for track in (self.audio, self._filtered, self._voice):
            track.forget((frame - self._margin) * self._spec.hop_length)
