"""Files in, files out, in constant memory."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .calls import Work
from .errors import ComosvcError, OutputError
from .files import AudioReader, AudioWriter
from .manifest import Manifest
from .pipeline import BLOCK_S, Outcome, convert_blocks
from .request import Request
from .sources import Openable, name_of
from .storage import reason, remove_stale
from .voices import AUTO_KEY


@dataclass(frozen=True)
class FileJob:
    """One file to convert into another. `obstacle`: why it cannot even be tried."""

    source: Openable
    output: Openable
    obstacle: ComosvcError | None = None
    channel: str = "mid"
    skipped: bool = False
    """Nothing is done: the output is there."""
    object_ending: str | None = None
    """Format of an output that is no path."""

    @property
    def source_path(self) -> Path:
        return Path(name_of(self.source))

    @property
    def output_path(self) -> Path:
        return Path(name_of(self.output))


def jobs_into(
    folder: Path, sources: list[Openable], request: Request, ending: str, channel: str, skip_existing: bool
) -> Iterator[FileJob]:
    """A job for each source, results in `folder`; two sources never share a result."""
    taken: dict[Path, Openable] = {}
    for source in sources:
        name = name_of(source)
        output = folder / output_name(Path(name), request, ending)
        first = taken.setdefault(output, source)
        clash = (
            f"{name}: its result {output} would replace that of {name_of(first)}\n"
            "hint: convert them into different folders"
        )
        obstacle = None if first is source else OutputError(clash)
        skipped = obstacle is None and skip_existing and os.path.lexists(output)
        yield FileJob(source, output, obstacle, channel, skipped)


def output_name(source: Path, request: Request, ending: str) -> str:
    """`<song>_<singer>_<key>key` + `ending`; a key still to be found is called auto."""
    key = AUTO_KEY if request.key is None else f"{request.key:g}"
    label = re.sub(r"[^-+.=()&\w ]", "_", request.voice.label)
    return f"{source.stem.strip('<>')}_{label}_{key}key{ending}"


def file_work(
    manifest: Manifest,
    request: Request,
    job: FileJob,
    overwrite: bool,
    at_once: Callable[[float], int],
    progress: Callable[[float], None],
) -> Work[tuple[Outcome, int]]:
    """Convert one file; returns outcome and rate. Nothing appears under the result's name unless all went well.

    `at_once`: the pieces that a clip of so many seconds is computed in at the same time.
    """
    if job.obstacle is not None:
        raise job.obstacle
    with AudioReader(job.source, job.channel) as reader:
        if _is_same(job.source, job.output):
            raise OutputError(f"{job.output} is the source itself\nhint: give the result another name")
        rate, claimed = reader.sample_rate, reader.claimed_samples
        with AudioWriter(job.output, rate, overwrite, claimed or None, job.object_ending) as writer:
            written = 0

            def sink(piece: NDArray[np.float32]) -> None:
                nonlocal written
                writer.write(piece)
                written += len(piece)
                progress(min(1.0, written / claimed) if claimed else 0.0)

            request = replace(request, at_once=at_once(claimed / rate))
            length = round(BLOCK_S * request.at_once * rate)
            outcome = yield from convert_blocks(
                manifest, request, lambda: reader.blocks(length), rate, reader.n_mixed, sink, keep=False
            )
            if written != claimed:
                progress(1.0)
        outcome.warnings[:0] = reader.warnings
        return outcome, rate


def _is_same(source: Openable, output: Openable) -> bool:
    """Whether both are one file."""
    if not isinstance(source, Path) or not isinstance(output, Path):
        return source is output
    try:
        return output.samefile(source)
    except (OSError, ValueError):  # not there: nothing to lose
        return False


def make_folder(folder: Path) -> None:
    """Make the folder for results if it is not there, and clear it of what killed processes left there.

    Raises `OutputError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder} cannot be made: {reason(error)}") from error
    remove_stale(folder)
