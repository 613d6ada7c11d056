"""A picture of a conversion: mel spectrograms with their F0 curves. Needs matplotlib, the `plot` extra."""

import importlib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.features import hz_to_mel, mel_spectrogram
from ..audio.resampling import resample
from ..audio.spec import AudioSpec
from ..errors import ComosvcError, OutputError, import_native, install
from ..storage import reason, replacing

ROW_S = 12.0
"""Longest stretch in one row."""
_INCHES_PER_SECOND, _WIDTH_INCHES, _HIGH_INCHES = 2.0, (8.0, 24.0), 3.2
_OTHER_SCRIPTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei",
    "Malgun Gothic", "WenQuanYi Zen Hei", "IPAGothic", "Arial Unicode MS", "Noto Sans", "Segoe UI Emoji",
)  # fmt: skip
PICTURES = (".png", ".pdf", ".svg")
"""Endings of the files that can be drawn."""
LABELLED_HZ = (200, 400, 800, 1_600, 3_200, 6_400, 12_800)


@dataclass(frozen=True, eq=False)
class Panel:
    """One row of the picture: audio (L,) at `sample_rate` and its F0 at mel frames in Hz, (T,), 0 where unvoiced."""

    title: str
    audio: NDArray[np.float32]
    sample_rate: int
    f0_hz: NDArray[np.float32]


def require_matplotlib() -> Any:
    """matplotlib with a backend that only writes files. Raises `ComosvcError` if it is not installed."""
    try:
        matplotlib = import_native("matplotlib")
    except ImportError as error:
        raise ComosvcError(f"a picture needs matplotlib ({error})\nhint: {install('plot')}") from error
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.figure")


def draw(path: str | os.PathLike[str], panels: Sequence[Panel], spec: AudioSpec) -> None:
    """Write the panels, one above the other on common axes, to `path` (.png, .svg or .pdf).

    Clips of more than `ROW_S` continue in further rows below, each with all panels. Raises `OutputError`.
    """
    seconds = max(len(panel.audio) / panel.sample_rate for panel in panels)
    n_rows = max(1, math.ceil(seconds / ROW_S))
    width = float(np.clip(_INCHES_PER_SECOND * seconds / n_rows, *_WIDTH_INCHES))
    size = width, _HIGH_INCHES * len(panels) * n_rows
    figure = require_matplotlib().Figure(figsize=size, layout="constrained")
    grid = figure.subplots(n_rows * len(panels), 1, sharey=True, squeeze=False).reshape(n_rows, len(panels))
    mels = [mel_spectrogram(resample(panel.audio, panel.sample_rate, spec.sample_rate), spec) for panel in panels]
    top = max(float(mel.max(initial=-np.inf)) for mel in mels)
    fonts = _title_fonts()
    for row, row_axes in enumerate(grid):
        start, end = (seconds * part / n_rows for part in (row, row + 1))
        for axes, panel, mel in zip(row_axes, panels, mels, strict=True):
            _draw_panel(axes, mel, top, panel.f0_hz, spec)
            axes.set_xlim(start, end)
            title = panel.title if row == 0 else f"{panel.title}, from {start:.1f} s"
            axes.set_title(title, loc="left", parse_math=False, fontfamily=fonts)
            axes.set_ylabel("Hz")
        row_axes[-1].set_xlabel("seconds")
    grid[0, 0].legend(loc="upper right")
    try:
        with replacing(Path(path)) as partial, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # missing glyphs become boxes
            figure.savefig(partial, format=Path(path).suffix.lower().lstrip("."))
    except (OSError, ValueError) as error:
        raise OutputError(f"{os.fspath(path)} cannot be written: {reason(error)}") from error


def _title_fonts() -> list[str]:
    """matplotlib's own font, then fonts of this system with other scripts, for names of files."""
    installed = set(importlib.import_module("matplotlib.font_manager").get_font_names())
    return ["DejaVu Sans", *(font for font in _OTHER_SCRIPTS if font in installed)]


def _draw_panel(axes: Any, mel: NDArray[np.float32], top: float, f0_hz: NDArray[np.float32], spec: AudioSpec) -> None:
    decades = 4.0 * np.log(10.0) / np.log(spec.mel_log_base)  # 80 dB below the loudest
    low, high = (float(hz_to_mel(hz)) for hz in (spec.f_min_hz, spec.f_max_hz))
    extent = (0.0, len(mel) / spec.frame_rate_hz, low, high)
    axes.imshow(mel.T, origin="lower", aspect="auto", extent=extent, vmin=top - decades, vmax=top, cmap="magma")
    labelled = [hz for hz in LABELLED_HZ if spec.f_min_hz <= hz <= spec.f_max_hz]
    axes.set_yticks([float(hz_to_mel(hz)) for hz in labelled], [str(hz) for hz in labelled])
    seconds = (np.arange(len(f0_hz)) + 0.5) / spec.frame_rate_hz
    height = np.where(f0_hz > 0.0, hz_to_mel(np.maximum(f0_hz, 1.0)), np.nan)
    axes.plot(seconds, height, color="cyan", linewidth=1.5, label="F0")
