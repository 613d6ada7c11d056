"""From other people's CoMoSVC checkpoints to a bundle."""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.audio.spec import AUTHORS_FRONT_END
from ..runtime.voice.bundle import open_bundle
from ..runtime.voice.manifest import MANIFEST_FILE, LicenceEntry, Manifest, SingerEntry, to_json
from ..runtime.voice.manifest_rules import MOST_STEPS
from ..training.errors import ForeignFileError
from ..training.foreign.checkpoints import read_checkpoint
from ..training.foreign.comosvc_file import (
    CONFIG_NAMES,
    ImportedAcoustic,
    Network,
    read_comosvc,
    says_m4singer,
    singers_of,
)
from ..training.foreign.content_file import ImportedContent, content_files
from ..training.foreign.locations import ForeignSource
from ..training.foreign.stages import ForeignFile, content_at, settings_at, vocoder_at
from ..training.foreign.vocoder_file import VOCODER_CONFIG_NAMES, ImportedVocoder
from ..training.foreign.weights import Part, require_part
from ..training.loop.log import Report
from .archive import peak_memory_bytes, share, write_zip
from .bundle.assemble import build_files
from .bundle.statements import PITCH_LICENCE, RECORDED, Statements, imported_part
from .bundle.voice import TrainedVoice
from .graphs.common_weights import store_once
from .graphs.trace import SAMPLER_STEPS
from .precision.precision import add_precisions, files_reader

logger = logging.getLogger(__name__)
TEACHER_STEPS = (*SAMPLER_STEPS, 16, 50)
"""50 is what the authors convert with; their ladder goes one step short of sigma_min (`off_by_one_sigmas`)."""


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """Paths or hf:// addresses to import. A configuration of None is looked for beside its checkpoint."""

    como: str
    vocoder: str
    content: str
    config: str | None = None
    vocoder_config: str | None = None
    network: Network = "online"
    """Of a student: the network that the authors convert with, or its average ("ema")."""
    vocoder_kind: str = "auto"
    """One of `vocoder_file.KINDS`; "auto" goes by the layout of the checkpoint."""
    steps: tuple[int, ...] | None = None
    """Numbers of steps of the voice besides 1; None: 2, 4 and 8, for a teacher also 16 and 50."""
    f0_medians_hz: Mapping[str, float] = field(default_factory=dict)
    """Median F0 of singers, as far as known: key "auto" needs it."""


def load_imported_voice(request: ImportRequest, statements: Statements) -> TrainedVoice:
    """Read, check and join the three checkpoints.

    Raises `ForeignFileError` where one cannot be used or they do not belong together, `ExportError` without a statement
    on the singers' consent.
    """
    _check_request(request, statements)
    vocoder, vocoder_file = vocoder_at(request.vocoder, request.vocoder_config, request.vocoder_kind)
    acoustic, como_file = _read_acoustic(request, vocoder)
    content, content_file = content_at(request.content)
    wanted, given = acoustic.model.content_embed.in_features, content.network.n_content
    if wanted != given:
        raise ForeignFileError(
            f"{request.content} gives {given} content channels; {request.como} was trained with {wanted}\n"
            "hint: CoMoSVC's encoder is ContentVec, layer 12, 768 channels"
        )
    files = {"acoustic": como_file, "vocoder": vocoder_file, "content": content_file}
    return TrainedVoice(
        audio=vocoder.audio,
        content=content.network,
        content_low=None,
        acoustic=acoustic.model,
        vocoder=vocoder.network,
        noise_scale=1.0,
        content_labels=(),
        embeddings=np.ascontiguousarray(acoustic.model.singer_embed.weight.detach().numpy(), np.float32),
        singers=_singers(acoustic.singers, request.f0_medians_hz, statements),
        objective=_objective(acoustic),
        departures=(),
        licences=_licences(files, statements),
        consent=statements.consent_text({RECORDED}),
        data_card=_data_card(files, acoustic),
        preview_source=np.zeros(0, np.float32),
        provenance={"imported": _provenance(files, acoustic, vocoder, content)},
        front_end=AUTHORS_FRONT_END,
        sampler_steps=_sampler_steps(request, acoustic),
        follows_ode=acoustic.is_teacher,
        f0_extractor="dio",
    )


def parse_steps(text: str) -> tuple[int, ...]:
    """The numbers of `--steps`, such as "1,4,50", ascending. Raises `ForeignFileError`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= 4 and 1 <= int(part) <= MOST_STEPS for part in parts):
        raise ForeignFileError(f"--steps {text}: must be numbers from 1 to {MOST_STEPS}, such as 1 or 1,4,50")
    return tuple(sorted({int(part) for part in parts}))


def _check_request(request: ImportRequest, statements: Statements) -> None:
    """Check addresses, configurations and statements on singers before any checkpoint is opened."""
    como, vocoder = ForeignSource.parse(request.como), ForeignSource.parse(request.vocoder)
    for source in (como, vocoder):
        if source.repo is None:
            source.file()
    settings = settings_at(como, request.config, CONFIG_NAMES, "--config", Part.MODEL)
    try:
        singers = singers_of(settings)
    except ForeignFileError:  # as with the configuration that lies beside a vocoder
        require_part(read_checkpoint(como.file()), Part.MODEL, request.como)
        raise
    _singers(singers, request.f0_medians_hz, statements)
    says_m4singer(settings)
    settings_at(vocoder, request.vocoder_config, VOCODER_CONFIG_NAMES, "--vocoder-config", Part.VOCODER)
    content_files(ForeignSource.parse(request.content))


def _read_acoustic(request: ImportRequest, vocoder: ImportedVocoder) -> tuple[ImportedAcoustic, ForeignFile]:
    source = ForeignSource.parse(request.como)
    path = source.file()
    settings = settings_at(source, request.config, CONFIG_NAMES, "--config", Part.MODEL)
    if not says_m4singer(settings):
        vocoder.warn_of_guess(request.vocoder)
    return read_comosvc(path, settings, vocoder.audio, request.network), ForeignFile.of(source, path)


def _sampler_steps(request: ImportRequest, acoustic: ImportedAcoustic) -> tuple[int, ...]:
    """Numbers of steps beyond 1; empty: the voice has no graph of further steps."""
    if request.steps is None:
        return TEACHER_STEPS if acoustic.is_teacher else SAMPLER_STEPS
    further = tuple(steps for steps in request.steps if steps > 1)
    if acoustic.is_teacher and not further:
        logger.warning("%s is a teacher: in one step it gives a blur; the authors convert in 50", request.como)
    return further


def _singers(
    rows: Mapping[str, int], medians_hz: Mapping[str, float], statements: Statements
) -> dict[str, SingerEntry]:
    if strangers := sorted(set(medians_hz) - set(rows)):
        raise ForeignFileError(f"--f0-median names {', '.join(strangers)}; the model's singers are {', '.join(rows)}")
    singers = {}
    for name, row in rows.items():
        licence, credit = statements.of_singer(name, RECORDED)
        singers[name] = SingerEntry(
            index=row, f0_median_hz=medians_hz.get(name), f0_range_hz=None, licence=licence, credit=credit
        )
    return singers


def _objective(acoustic: ImportedAcoustic) -> str:
    kind = "EDM teacher, sampled by Euler's method" if acoustic.is_teacher else f"student, {acoustic.network} network"
    return f"imported CoMoSVC {kind}, step {'unknown' if acoustic.step is None else acoustic.step}"


def _licences(files: Mapping[str, ForeignFile], statements: Statements) -> tuple[LicenceEntry, ...]:
    own = {"acoustic": statements.licence}
    return (*(imported_part(part, file.name, own.get(part)) for part, file in files.items()), PITCH_LICENCE)


def _data_card(files: Mapping[str, ForeignFile], acoustic: ImportedAcoustic) -> str:
    lines = [
        "# What this voice was trained on",
        "",
        "Not known here: it was imported from checkpoints of somebody's training with the CoMoSVC authors' code.",
        "",
        f"Singers: {', '.join(acoustic.singers)}.",
        "",
        *(f"- {part}: {file.name}" for part, file in files.items()),
    ]
    return "\n".join(lines) + "\n"


def _provenance(
    files: Mapping[str, ForeignFile], acoustic: ImportedAcoustic, vocoder: ImportedVocoder, content: ImportedContent
) -> dict[str, Any]:
    facts = {
        "acoustic": {
            "kind": "teacher" if acoustic.is_teacher else "student",
            "network": acoustic.network,
            "step": acoustic.step,
            "ignored_weights": acoustic.ignored,
        },
        "vocoder": {"kind": vocoder.kind, "ignored_weights": vocoder.ignored},
        "content": {"format": content.format, "ignored_weights": content.ignored},
    }
    return {part: file.facts(**facts[part]) for part, file in files.items()}


SHARED = ("content",)
"""Graphs that many voices have in common."""


@dataclass(frozen=True)
class ImportReport:
    """A written bundle: its manifest, sizes of its graphs in bytes, time, and the process's peak memory if known."""

    manifest: Manifest
    graph_bytes: Mapping[str, int]
    seconds: float
    peak_memory_bytes: int | None


def import_bundle(
    request: ImportRequest,
    statements: Statements,
    name: str,
    path: Path,
    full: bool = False,
    precisions: Collection[str] = (),
    progress: Report = lambda what, share: None,
) -> ImportReport:
    """Import, trace, compare with torch, and write `path`. The content graph goes to the blobs unless `full`.

    `precisions`: those that the voice has besides fp32. `progress` is called with the current work and its share from 0
    to 1. Time and peak memory are also in the manifest's provenance. Raises `ForeignFileError`, `ExportError` or
    `ParityError`; nothing is written then.
    """
    start = time.perf_counter()
    progress("reading the checkpoints", None)
    voice = load_imported_voice(request, statements)
    manifest, files = build_files(voice, name, progress)
    progress(f"precisions {', '.join(precisions)}" if precisions else "writing", None)
    manifest, files = add_precisions(manifest, files, precisions, files_reader(files), voice.embeddings)
    seconds, peak = time.perf_counter() - start, peak_memory_bytes()
    cost = {"seconds": round(seconds, 1), "peak_memory_bytes": peak}
    manifest = replace(manifest, provenance={**manifest.provenance, "export": cost})
    files[MANIFEST_FILE] = to_json(manifest).encode()
    manifest, files = store_once(manifest, files)
    if not full:
        manifest, files = share(manifest, files, SHARED)
    write_zip(path, files)
    bundle = open_bundle(path)
    sizes = {graph: len(bundle.graph_bytes(graph)) for graph in manifest.graphs}
    return ImportReport(manifest, sizes, seconds, peak)
