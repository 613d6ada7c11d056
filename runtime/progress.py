"""Progress of a conversion, updated after each call of a graph."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .arguments import check_progress
from .calls import Call
from .errors import CancelledError
from .pitch import PITCH_SAMPLE_RATE
from .spec import AudioSpec

Progress = Callable[[float], Any]
"""Called with the share that is done, 0 to 1, never less than before; returning False cancels (`CancelledError`)."""
_WEIGHTS = {"pitch": 1.0, "content": 1.0, "acoustic": 1.0, "vocoder": 3.0}
"""About how long a second of audio takes in each graph, relative to each other."""
_BEFORE_THE_END = 0.99


class Meter:
    """Progress of one clip. `pitch_passes`: 2 where the key is found first. Raises `OptionError`."""

    def __init__(self, report: Progress | None, spec: AudioSpec, steps: int, pitch_passes: int) -> None:
        check_progress(report)
        self._report, self._frame_rate_hz = report, spec.frame_rate_hz
        calls = {"pitch": pitch_passes, "content": 1, "acoustic": steps, "vocoder": 1}
        self._expected_per_s = sum(_WEIGHTS[graph] * count for graph, count in calls.items())
        self._n_samples: int | None = None
        self._seconds, self._computed, self._written, self._share = 0.0, 0.0, 0, 0.0

    def expect(self, n_samples: int | None, sample_rate: int) -> None:
        """Set the length of the clip. None: unknown; then 0 is reported until the end."""
        self._n_samples, self._seconds = n_samples or None, (n_samples or 0) / sample_rate

    def computed(self, call: Call) -> None:
        """Count a finished call of a graph. Raises `CancelledError`."""
        name = "audio" if "audio" in call.inputs else "f0_hz"
        seconds = call.inputs[name].shape[1] / (PITCH_SAMPLE_RATE if name == "audio" else self._frame_rate_hz)
        self._computed += seconds * _WEIGHTS[call.graph.split("_")[0]]
        self._report_share()

    def written(self, n_samples: int) -> None:
        """Count finished samples of the result. Raises `CancelledError`."""
        self._written += n_samples
        self._report_share()

    def finish(self) -> None:
        """Report the end. Raises `CancelledError`."""
        self._share = 1.0
        self._report_share()

    def _report_share(self) -> None:
        if self._n_samples is not None:
            share = max(self._computed / (self._seconds * self._expected_per_s), self._written / self._n_samples)
            self._share = max(self._share, min(share, _BEFORE_THE_END))
        answer = None if self._report is None else self._report(self._share)
        if isinstance(answer, bool | np.bool_) and not answer:
            raise CancelledError(f"cancelled at {self._share:.0%} by the progress function")
