"""Content at mel frames: content rows, and the index of the row of each mel frame.

An encoder of finite context runs on pieces that join without a seam. An encoder whose outputs depend on all of its
input (ContentVec) runs on overlapping windows of a fixed length, anchored to absolute time. A clip no longer than a
window is one piece, as in CoMoSVC's own conversion.
"""

from collections import defaultdict
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import (
    ArrivedClip,
    Track,
    Window,
    Windows,
    content_index,
    mel_range,
    next_piece,
    samples_before,
    stretched_index,
)
from ..audio.spec import AudioSpec, FrontEnd
from ..voice.manifest import Manifest
from .calls import Call, Work, ask, gather

_MIN_SAMPLES = 400
"""25 ms, the window of a HuBERT's first frame; less is filled up with silence."""


class AnalysedClip(ArrivedClip, Protocol):
    """The part of a clip that has arrived: see `analysis.Analysis`."""

    at_16k: Track
    timings_ms: defaultdict[str, float]

    def is_silent(self, first: int, last: int) -> bool: ...


class ContentTrack(Protocol):
    """Content of one clip, kept until it is forgotten."""

    @property
    def position(self) -> int:
        """End of the content, as a mel frame."""
        ...

    @property
    def first_sample(self) -> int:
        """First 16 kHz sample of the input of the next call, as far as this track decides it."""
        ...

    def read(self, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Content (S, C) for mel frames `first` to `last`, and the row of each of them (T,)."""
        ...

    def advance(self, clip: AnalysedClip) -> Work[None]:
        """Compute all content that the audio so far allows."""
        ...

    def forget(self, frame: int) -> None:
        """Discard content before mel frame `frame`."""
        ...


def make_content_track(manifest: Manifest, piece_s: float, at_once: int) -> ContentTrack:
    """The kind of track that the manifest's content encoder needs."""
    if manifest.front_end.content_window_s:
        return WindowedContent(manifest.audio, manifest.front_end, manifest.model.content_channels)
    return FramedContent(manifest, piece_s, at_once)


class FramedContent:
    """Rows on the content encoder's own grid, computed in pieces of `piece_s` with their full context."""

    def __init__(self, manifest: Manifest, piece_s: float, at_once: int) -> None:
        spec, context = manifest.audio, manifest.context.content
        self._at_once = at_once
        self._spec, self._hop = spec, spec.content_hop_length
        hop_ms = 1e3 * spec.content_hop_length / spec.content_sample_rate
        self._past, self._future = context.around(hop_ms)
        self._piece = max(1, round(piece_s * 1e3 / hop_ms))
        self._n_channels = manifest.model.content_channels
        self._rows = Track((self._n_channels,))
        self.first_sample = 2**62

    @property
    def position(self) -> int:
        samples = self._rows.end * self._hop
        return mel_range(samples, samples, self._spec.content_sample_rate, self._spec)[0]

    def read(self, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        index = content_index(first, last - first, self._spec)
        return self._rows.read(int(index[0]), int(index[-1]) + 1), (index - index[0]).astype(np.int32)

    def advance(self, clip: AnalysedClip) -> Work[None]:
        goal = None if clip.goal is None else int(content_index(clip.goal - 1, 1, self._spec)[0]) + 1
        pieces, end = [], self._rows.end
        while goal is None or end < goal:
            first, end = next_piece(end, self._piece, goal)
            audio_end = (end + self._future) * self._hop
            if goal is None and not (clip.knows(self._mel_range(first, end)[1]) and clip.at_16k.end >= audio_end):
                break
            pieces.append(self._encode(clip, first, end))
        for rows in (yield from gather(pieces, self._at_once)):
            self._rows.append(rows)

    def _encode(self, clip: AnalysedClip, first: int, last: int) -> Work[NDArray[np.float32]]:
        if clip.is_silent(*self._mel_range(first, last)):
            return np.zeros((last - first, self._n_channels), np.float32)
        from_frame = max(0, first - self._past)
        audio = clip.at_16k.read_padded(from_frame * self._hop, (last + self._future) * self._hop)
        reply = yield from ask(Call("content", {"audio": audio[None]}))
        clip.timings_ms["content"] += reply.ms
        return reply.outputs[0][0, first - from_frame : last - from_frame]

    def _mel_range(self, first: int, last: int) -> tuple[int, int]:
        return mel_range(first * self._hop, last * self._hop, self._spec.content_sample_rate, self._spec)

    def forget(self, frame: int) -> None:
        self._rows.forget(samples_before(frame, self._spec.content_sample_rate, self._spec) // self._hop - 1)


class WindowedContent:
    """Rows window after window: see `framing.Windows`."""

    def __init__(self, spec: AudioSpec, front_end: FrontEnd, n_content: int) -> None:
        self._spec = spec
        self._windows = Windows(front_end.content_window_s, front_end.content_overlap_s, spec)
        self._stretched = front_end.content_index == "stretched"
        self._rows, self._index = Track((n_content,)), Track(dtype=np.int64)

    @property
    def position(self) -> int:
        return self._index.end

    @property
    def first_sample(self) -> int:
        return samples_before(self._windows.start, self._spec.content_sample_rate, self._spec)

    def read(self, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        index = self._index.read(first, last)
        return self._rows.read(int(index[0]), int(index[-1]) + 1), (index - index[0]).astype(np.int32)

    def advance(self, clip: AnalysedClip) -> Work[None]:
        while clip.goal is None or self.position < clip.goal:
            window = self._windows.next(clip)
            if window is None:
                return
            yield from self._encode(clip, window)

    def _encode(self, clip: AnalysedClip, window: Window) -> Work[None]:
        """Rows for the mel frames from `position` to `window.used_end`."""
        rate, length = self._spec.content_sample_rate, window.end - window.start
        used = np.arange(self.position, window.used_end) - window.start
        if clip.is_silent(self.position, window.used_end):
            self._append(np.zeros((1, self._rows.read(self._rows.end, self._rows.end).shape[1]), np.float32), 0 * used)
            return
        first_sample = samples_before(window.start, rate, self._spec)
        last_sample = clip.at_16k.end if window.is_last else samples_before(window.end, rate, self._spec)
        audio = clip.at_16k.read_padded(first_sample, max(last_sample, first_sample + _MIN_SAMPLES))
        reply = yield from ask(Call("content", {"audio": audio[None]}, whole=True))
        clip.timings_ms["content"] += reply.ms
        rows = reply.outputs[0][0]
        all_rows = stretched_index(len(rows), length) if self._stretched else content_index(0, length, self._spec)
        self._append(rows, np.minimum(all_rows[np.minimum(used, length - 1)], len(rows) - 1))

    def _append(self, rows: NDArray[np.float32], index: NDArray[np.int64]) -> None:
        """Append the rows that `index` uses, and the index."""
        first = int(index[0])
        self._index.append(index - first + self._rows.end)
        self._rows.append(rows[first : int(index[-1]) + 1])

    def forget(self, frame: int) -> None:
        frame = min(max(frame, self._index.start), self._index.end)
        if frame > self._index.start:
            self._rows.forget(int(self._index.read(frame - 1, frame)[0]))
            self._index.forget(frame)
