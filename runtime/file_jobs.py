"""Files in, files out, in constant memory."""

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
from .voices import AUTO_KEY


@dataclass(frozen=True)
class FileJob:
    """One file to convert into another. `obstacle`: why it cannot even be tried."""

    source: Path
    output: Path
    obstacle: ComosvcError | None = None


def jobs_into(folder: Path, sources: list[Path], request: Request, ending: str) -> Iterator[FileJob]:
    """A job for each source, results in `folder`; two sources never share a result."""
    taken: dict[Path, Path] = {}
    for source in sources:
        output = folder / output_name(source, request, ending)
        first = taken.setdefault(output, source)
        clash = (
            f"{source}: its result {output} would replace that of {first}\nhint: convert them into different folders"
        )
        yield FileJob(source, output, None if first is source else OutputError(clash))


def output_name(source: Path, request: Request, ending: str) -> str:
    """`<song>_<singer>_<key>key` + `ending`; a key still to be found is called auto."""
    key = AUTO_KEY if request.key is None else f"{request.key:g}"
    label = re.sub(r"[^-+.=()&\w ]", "_", request.voice.label)
    return f"{source.stem}_{label}_{key}key{ending}"


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
    with AudioReader(job.source) as reader:
        if job.output.exists() and job.output.samefile(job.source):
            raise OutputError(f"{job.output} is the source itself\nhint: give the result another name")
        rate = reader.sample_rate
        with AudioWriter(job.output, rate, overwrite) as writer:
            written = 0

            def sink(piece: NDArray[np.float32]) -> None:
                nonlocal written
                writer.write(piece)
                written += len(piece)
                progress(min(1.0, written / max(1, reader.claimed_samples)))

            request = replace(request, at_once=at_once(reader.claimed_samples / rate))
            length = round(BLOCK_S * request.at_once * rate)
            outcome = yield from convert_blocks(
                manifest, request, lambda: reader.blocks(length), rate, reader.channels, sink, keep=False
            )
        return outcome, rate


def make_folder(folder: Path) -> None:
    """Make the folder for results if it is not there. Raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
