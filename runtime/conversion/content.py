"""Content at mel frames: content rows, and the index of the row of each mel frame.

An encoder of finite context runs on pieces that join without a seam. An encoder whose outputs depend on all of its
input (ContentVec) runs on overlapping windows of a fixed length, anchored to absolute time. A clip no longer than a
window is one piece, as in CoMoSVC's own conversion.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import Track, Window, Windows, content_index, pieces, samples_before, stretched_index
from ..audio.spec import AudioSpec, FrontEnd
from ..voice.manifest import Context, Manifest
from .calls import Call
from .stages import AnalysedClip, AudioStage, Outputs, Stage, Timings

_MIN_SAMPLES = 400
"""25 ms, the window of a HuBERT's first frame; less is filled up with silence."""


class ContentRows(AudioStage):
    """Rows on the content encoder's own grid."""

    name = "content"

    def __init__(
        self,
        manifest: Manifest,
        at_16k: Track,
        timings_ms: Timings,
        context: Context,
        clip: AnalysedClip | None,
        at_once: int,
    ) -> None:
        self.rows = Track((manifest.model.content_channels,))
        super().__init__(timings_ms, [self.rows], context, clip, at_once)
        self.at_16k, self.spec, self.hop = at_16k, manifest.audio, manifest.audio.content_hop_length

    def read(self, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Content (S, C) for mel frames `first` to `last`, and the row of each of them (T,)."""
        index = content_index(first, last - first, self.spec)
        return self.rows.read(int(index[0]), int(index[-1]) + 1), (index - index[0]).astype(np.int32)


class FramedContent(ContentRows):
    """Rows in pieces of `piece_s` with their full context."""

    first_sample = 2**62

    def __init__(
        self, manifest: Manifest, clip: AnalysedClip, timings_ms: Timings, piece_s: float, at_once: int
    ) -> None:
        super().__init__(manifest, clip.at_16k, timings_ms, manifest.context_of("content"), clip, at_once)
        self._arrived, self._piece = clip, max(1, round(piece_s * self.spec.content_sample_rate / self.hop))

    @property
    def position(self) -> int:
        """End of the content, as a mel frame."""
        return self.mel_range(self.rows.end, self.rows.end)[0]

    def plan_ready(self) -> Stage:
        """Plan all content that the audio so far allows."""
        goal = self._arrived.goal
        n_rows = None if goal is None else int(content_index(goal - 1, 1, self.spec)[0]) + 1
        return self.plan(pieces(self.rows.end, self._piece, n_rows, self.is_ready))

    def forget(self, frame: int) -> None:
        """Discard content before mel frame `frame`."""
        self.rows.forget(samples_before(frame, self.spec.content_sample_rate, self.spec) // self.hop - 1)


class WindowedContent(AudioStage):
    """Rows window after window: see `frames.Windows`. Its pieces are mel frames."""

    name, hop = "content", 1

    def __init__(
        self, spec: AudioSpec, front_end: FrontEnd, n_content: int, clip: AnalysedClip, timings_ms: Timings
    ) -> None:
        self._rows, self._index = Track((n_content,)), Track(dtype=np.int64)
        super().__init__(timings_ms, [], Context(past=0, future=0), clip, at_once=1)
        self._arrived, self.spec, self.at_16k = clip, spec, clip.at_16k
        self._windows = Windows(front_end.content_window_s, front_end.content_overlap_s, spec)
        self._stretched = front_end.content_index == "stretched"
        self._open, self._n_channels = deque[Window](), n_content

    @property
    def position(self) -> int:
        """End of the content, as a mel frame."""
        return self._index.end

    @property
    def first_sample(self) -> int:
        """First 16 kHz sample of the next window."""
        return samples_before(self._windows.start, self.spec.content_sample_rate, self.spec)

    def read(self, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Content (S, C) for mel frames `first` to `last`, and the row of each of them (T,)."""
        index = self._index.read(first, last)
        return self._rows.read(int(index[0]), int(index[-1]) + 1), (index - index[0]).astype(np.int32)

    def plan_ready(self) -> Stage:
        """Plan all windows that the audio so far allows."""
        clip, end = self._arrived, self.position
        while (clip.goal is None or end < clip.goal) and (window := self._windows.next(clip)):
            self._open.append(window)
            self.plan([(end, window.used_end)])
            end = window.used_end
        return self

    def call(self, first: int, last: int) -> Call | None:
        if self._arrived.is_silent(first, last):
            return None
        window, rate = self._open[0], self.spec.content_sample_rate
        start = samples_before(window.start, rate, self.spec)
        end = self.at_16k.end if window.is_last else samples_before(window.end, rate, self.spec)
        return Call("content", self.inputs(start, max(end, start + _MIN_SAMPLES)), whole=True)

    def join(self, first: int, last: int, answered: tuple[Call, Outputs] | None) -> None:
        """Append the rows that the mel frames use, and the row of each."""
        window = self._open.popleft()
        used, length = np.arange(first, last) - window.start, window.end - window.start
        if answered is None:
            rows, index = np.zeros((1, self._n_channels), np.float32), 0 * used
        else:
            rows = answered[1][0][0]
            every = stretched_index(len(rows), length) if self._stretched else content_index(0, length, self.spec)
            index = np.minimum(every[np.minimum(used, length - 1)], len(rows) - 1)
        self._index.append(index - index[0] + self._rows.end)
        self._rows.append(rows[int(index[0]) : int(index[-1]) + 1])

    def forget(self, frame: int) -> None:
        """Discard content before mel frame `frame`."""
        frame = min(max(frame, self._index.start), self._index.end)
        if frame > self._index.start:
            self._rows.forget(int(self._index.read(frame - 1, frame)[0]))
            self._index.forget(frame)


ContentTrack = FramedContent | WindowedContent
ContentReader = ContentRows | WindowedContent


def make_content_track(
    manifest: Manifest, clip: AnalysedClip, timings_ms: Timings, piece_s: float, at_once: int
) -> ContentTrack:
    """The kind of track that the manifest's content encoder needs."""
    if manifest.front_end.content_window_s:
        n_channels = manifest.model.content_channels
        return WindowedContent(manifest.audio, manifest.front_end, n_channels, clip, timings_ms)
    return FramedContent(manifest, clip, timings_ms, piece_s, at_once)
