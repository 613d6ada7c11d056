"""Where frames of one rate lie among frames and samples of another. Integer arithmetic: exact at any position."""

import numpy as np
from numpy.typing import NDArray

from .spec import AudioSpec


def ceil_div(numerator: int, denominator: int) -> int:
    """Quotient rounded up."""
    return -(-numerator // denominator)


def frames_to_cover(n_samples: int, sample_rate: int, spec: AudioSpec) -> int:
    """Mel frames that a clip of `n_samples` at `sample_rate` is converted in; the last may be partly past its end."""
    return max(1, ceil_div(n_samples * spec.sample_rate, sample_rate * spec.hop_length))


def content_index(first_frame: int, n_frames: int, spec: AudioSpec) -> NDArray[np.int64]:
    """For mel frames `first_frame` on, the content frame nearest in time, (T,).

    Both kinds of frame are centred in their hop, so the nearest is the one whose hop holds the mel frame's centre.
    """
    twice_centre = 2 * np.arange(first_frame, first_frame + n_frames, dtype=np.int64) + 1
    numerator = twice_centre * (spec.hop_length * spec.content_sample_rate)
    return numerator // (2 * spec.sample_rate * spec.content_hop_length)


def frames_within_content(n_content: int, spec: AudioSpec) -> int:
    """Mel frames whose content frame (`content_index`) is among the first `n_content`."""
    twice_centre = ceil_div(
        n_content * 2 * spec.sample_rate * spec.content_hop_length, spec.hop_length * spec.content_sample_rate
    )
    return max(0, ceil_div(twice_centre - 1, 2))


def stretched_index(n_content: int, n_frames: int) -> NDArray[np.int64]:
    """For each of a piece's `n_frames` mel frames its content frame of `n_content`, floor(i S / T), (T,).

    The authors' alignment (`F.interpolate(mode="nearest")`): the content is stretched to the mel's length, whatever the
    instants of its frames.
    """
    return np.arange(n_frames, dtype=np.int64) * n_content // n_frames


def next_piece(done: int, size: int, goal: int | None) -> tuple[int, int]:
    """The piece that follows position `done`. Pieces lie on a fixed grid, whatever blocks the clip comes in."""
    end = (done // size + 1) * size
    return done, end if goal is None else min(end, goal)


def mel_range(first_sample: int, last_sample: int, sample_rate: int, spec: AudioSpec) -> tuple[int, int]:
    """Mel frames, first and last (exclusive), that samples `first_sample` to `last_sample` at `sample_rate` touch."""
    first = first_sample * spec.sample_rate // (sample_rate * spec.hop_length)
    return first, ceil_div(last_sample * spec.sample_rate, sample_rate * spec.hop_length)


def samples_before(frame: int, sample_rate: int, spec: AudioSpec) -> int:
    """Samples at `sample_rate` that lie wholly before mel frame `frame`."""
    return frame * spec.hop_length * sample_rate // spec.sample_rate
