"""Content of a whole clip by an encoder that sees all it is given: in the windows that the runtime cuts."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..runtime.calls import Batches, run
from ..runtime.content_track import WindowedContent
from ..runtime.spec import AudioSpec, FrontEnd
from ..runtime.tracks import Track
from .content_scores import Encode
from .contentvec import ContentVec
from .errors import ConfigError


def require_windows(encoder: nn.Module, front_end: FrontEnd) -> None:
    """Raise `ConfigError` where an encoder that sees all it is given is not told how long that may be."""
    if isinstance(encoder, ContentVec) and not front_end.content_window_s:
        raise ConfigError(
            "ContentVec sees all of what it is given, and content_window_s is 0: nothing says how a long song is cut\n"
            "hint: set content_window_s = 20.0 and content_overlap_s = 2.0 under [prepare.front_end], as in the recipe "
            "authors, and run prepare again: features that are there stay"
        )


class _WholeClip:
    """A clip that is there from its beginning to its end (`runtime.content_track.Heard`)."""

    def __init__(self, at_16k: NDArray[np.float32], n_frames: int) -> None:
        self.at_16k = Track()
        self.at_16k.append(at_16k)
        self.n_frames: int | None = n_frames
        self.goal = n_frames
        self.timings_ms: defaultdict[str, float] = defaultdict(float)

    def knows(self, frame: int) -> bool:
        return True

    def is_silent(self, first: int, last: int) -> bool:
        return False


class _Encoder:
    """An encoder as the graph `content` (`runtime.calls.Runnable`)."""

    def __init__(self, encode: Encode) -> None:
        self.encode = encode

    def run(self, inputs: dict[str, NDArray], /) -> tuple[NDArray, ...]:
        return (self.encode(inputs["audio"][0])[None],)


def windowed_content(
    encode: Encode, n_content: int, at_16k: NDArray[np.float32], n_frames: int, spec: AudioSpec, front_end: FrontEnd
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Content (S, C) of audio (N,) at 16 kHz, and for each of its `n_frames` mel frames its row (T,)."""
    track = WindowedContent(spec, front_end, n_content)
    run(track.advance(_WholeClip(at_16k, n_frames)), Batches({"content": _Encoder(encode)}))
    return track.read(0, n_frames)
