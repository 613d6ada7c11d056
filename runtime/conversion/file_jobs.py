"""Files in, files out, in constant memory."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..audio.files import AudioReader, AudioWriter
from ..audio.sources import Openable, name_of
from ..errors import ComosvcError, OutputError
from ..storage import reason, remove_stale
from ..voice.manifest import Manifest
from .clips import BLOCK_S, Meter, Outcome, convert_blocks, with_key
from .request import Request
from .stages import Stages


@dataclass(frozen=True)
class FileJob:
    """One file to convert into another. `obstacle`: why it cannot even be tried."""

    source: Openable
    output: Openable
    obstacle: ComosvcError | None = None
    channel: str = "mid"
    skip_existing: bool = False
    """Skip the job if the output exists."""
    name_ending: str | None = None
    """Ending of an output that is named after the used key, which may still have to be found; None: a fixed name."""
    object_ending: str | None = None
    """Format of a file object, by the ending of such files."""

    @property
    def source_path(self) -> Path:
        return Path(name_of(self.source))

    @property
    def output_path(self) -> Path:
        return Path(name_of(self.output))


def jobs_into(
    folder: Path, sources: list[Openable], request: Request, ending: str, channel: str, skip_existing: bool
) -> Iterator[FileJob]:
    """A job for each source, with results in `folder`. A second source with the same result gets an `obstacle`."""
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
        yield FileJob(source, output, obstacle, channel, skip_existing, ending)


def output_name(source: Path, request: Request, ending: str) -> str:
    """`<song>_<singer>_<key>key` + `ending`; "found" stands for a key that is not found yet."""
    key = "found" if request.key is None else f"{request.key:g}"
    label = re.sub(r"[^-+.=()&\w ]", "_", request.voice.label)
    return f"{source.stem.strip('<>')}_{label}_{key}key{ending}"


def convert_job(
    manifest: Manifest,
    request: Request,
    job: FileJob,
    overwrite: bool,
    at_once: Callable[[float], int],
    meter: Meter,
) -> Stages[tuple[Outcome | None, int, Path]]:
    """Convert one file; outcome, rate in Hz and path of the result. The outcome of a skipped job is None.

    The result appears under its name only if the conversion succeeds. A found key becomes part of the name.

    `at_once`: gives the number of pieces computed at the same time for a clip's length in seconds.
    """
    if job.obstacle is not None:
        raise job.obstacle
    output = job.output
    if request.key is not None and job.skip_existing and os.path.lexists(job.output_path):
        return None, 0, job.output_path
    with AudioReader(job.source, job.channel) as reader:
        rate, claimed = reader.sample_rate, reader.claimed_samples
        meter.expect(claimed, rate)
        request = replace(request, at_once=at_once(claimed / rate))
        length = round(BLOCK_S * request.at_once * rate)
        request = yield from with_key(manifest, request, lambda: reader.blocks(length), rate)
        if job.name_ending is not None:
            output = job.output_path.with_name(output_name(job.source_path, request, job.name_ending))
            if job.skip_existing and os.path.lexists(output):
                return None, rate, output
        if _is_same(job.source, output):
            raise OutputError(f"{output} is the source itself\nhint: give the result another name")
        with AudioWriter(output, rate, overwrite, claimed or None, job.object_ending) as writer:

            def sink(piece: NDArray[np.float32]) -> None:
                writer.write(piece)
                meter.written(len(piece))

            outcome = yield from convert_blocks(
                manifest, request, lambda: reader.blocks(length), rate, reader.n_mixed, sink, keep=False
            )
            meter.finish()
        outcome.warnings[:0] = reader.warnings
        return outcome, rate, Path(name_of(output))


def _is_same(source: Openable, output: Openable) -> bool:
    """True if both are one file."""
    if not isinstance(source, Path) or not isinstance(output, Path):
        return source is output
    try:
        return output.samefile(source)
    except (OSError, ValueError):  # not there: nothing to lose
        return False


def make_folder(folder: Path) -> None:
    """Make the folder for results if it is not there, and remove the partial files of killed processes.

    Raises `OutputError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder} cannot be made: {reason(error)}") from error
    remove_stale(folder)
