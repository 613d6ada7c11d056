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
from .pipeline import BLOCK_S, Outcome, convert_blocks, with_key
from .progress import Meter
from .request import Request


@dataclass(frozen=True)
class FileJob:
    """One file to convert into another. `obstacle`: why it cannot even be tried."""

    source: Path
    output: Path
    obstacle: ComosvcError | None = None
    ending: str | None = None
    """Where the output is named after the key that was used, which `output` may not know yet."""


def jobs_into(folder: Path, sources: list[Path], request: Request, ending: str) -> Iterator[FileJob]:
    """A job for each source, results in `folder`; two sources of one name never share a result, whatever their keys."""
    taken: dict[Path, Path] = {}
    for source in sources:
        output = folder / output_name(source, request, ending)
        first = taken.setdefault(output, source)
        clash = (
            f"{source}: its result {output} would replace that of {first}\nhint: convert them into different folders"
        )
        yield FileJob(source, output, None if first is source else OutputError(clash), ending)


def output_name(source: Path, request: Request, ending: str) -> str:
    """`<song>_<singer>_<key>key` + `ending`; a key still to be found is called found."""
    key = "found" if request.key is None else f"{request.key:g}"
    label = re.sub(r"[^-+.=()&\w ]", "_", request.voice.label)
    return f"{source.stem}_{label}_{key}key{ending}"


def file_work(
    manifest: Manifest,
    request: Request,
    job: FileJob,
    overwrite: bool,
    at_once: Callable[[float], int],
    meter: Meter,
) -> Work[tuple[Outcome, int, Path]]:
    """Convert one file; returns outcome, rate and the result's path.

    Nothing appears under the result's name unless all went well. Where the key is found, the name has it.

    `at_once`: the pieces that a clip of so many seconds is computed in at the same time.
    """
    if job.obstacle is not None:
        raise job.obstacle
    with AudioReader(job.source) as reader:
        rate = reader.sample_rate
        meter.expect(reader.claimed_samples, rate)
        request = replace(request, at_once=at_once(reader.claimed_samples / rate))
        length, output = round(BLOCK_S * request.at_once * rate), job.output
        request = yield from with_key(manifest, request, lambda: reader.blocks(length), rate)
        if job.ending is not None:
            output = output.with_name(output_name(job.source, request, job.ending))
        if output.exists() and output.samefile(job.source):
            raise OutputError(f"{output} is the source itself\nhint: give the result another name")
        with AudioWriter(output, rate, overwrite) as writer:

            def sink(piece: NDArray[np.float32]) -> None:
                writer.write(piece)
                meter.written(len(piece))

            outcome = yield from convert_blocks(
                manifest, request, lambda: reader.blocks(length), rate, reader.channels, sink, keep=False
            )
            meter.finish()
        return outcome, rate, output


def make_folder(folder: Path) -> None:
    """Make the folder for results if it is not there. Raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
