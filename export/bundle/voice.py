"""A trained voice: the networks and facts of a run folder, read for export."""

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from ...runtime.audio.spec import AudioSpec, F0Name, FrontEnd
from ...runtime.voice.file_kinds import not_a_run
from ...runtime.voice.manifest import LicenceEntry, SingerEntry, SourceEntry
from ...training.acoustic.model import AUTHORS_ACOUSTIC, AcousticConfig, AcousticModel
from ...training.acoustic.teaching import StudentConfig, TeacherConfig
from ...training.config import from_mapping
from ...training.content.encoder import ContentEncoder
from ...training.content.encoders import ContentVec
from ...training.content.stage import CONTENT, CONTENT_LOW
from ...training.corpus import PHONES
from ...training.data.prepared import FeatureIndex
from ...training.data.record import DataRecord, changed_singers, changed_stages
from ...training.errors import TrainingError
from ...training.loop.checkpoint import load_module, missing_commands, read_metadata, require_checkpoint
from ...training.run.acoustic_stages import STUDENT, TEACHER, load_acoustic, load_content_encoders
from ...training.run.rendering import load_vocoder
from ...training.vocoder.light import AnyVocoder
from ...training.vocoder.stage import VOCODER
from ..errors import ExportError
from ..graphs.trace import SAMPLER_STEPS
from .statements import Statements, data_card

logger = logging.getLogger(__name__)
PREVIEW_S = 6.0


@dataclass(frozen=True, kw_only=True)
class TrainedVoice:
    """Everything of a bundle that training decides. `embeddings` is (n, D) float32, a row for each of `singers`."""

    audio: AudioSpec
    content: ContentEncoder | ContentVec
    content_low: ContentEncoder | None
    """A second encoder with a shorter look-ahead; None: the first one is live use's too."""
    acoustic: AcousticModel
    vocoder: AnyVocoder
    noise_scale: float
    content_labels: tuple[str, ...]
    embeddings: NDArray[np.float32]
    singers: dict[str, SingerEntry]
    objective: str
    departures: tuple[str, ...]
    licences: tuple[LicenceEntry, ...]
    consent: str
    data_card: str
    preview_source: NDArray[np.float32]
    """Singing at the voice's rate (L,) that the bundle's preview is made from; empty: no preview."""
    provenance: dict[str, Any]
    front_end: FrontEnd = field(default_factory=FrontEnd)
    sampler_steps: tuple[int, ...] = SAMPLER_STEPS
    follows_ode: bool = False
    """A teacher: its steps are those of the probability-flow ODE."""
    f0_extractor: F0Name = "swift-f0"
    """Extractor of the F0 that the acoustic model was trained on."""

    @property
    def default_steps(self) -> int:
        """Default number of steps of a conversion: 1, or the most steps of a teacher, which needs many."""
        return max((1, *self.sampler_steps)) if self.follows_ode else 1

    @property
    def source(self) -> SourceEntry:
        """The excitation of the vocoder."""
        return SourceEntry(kind=self.vocoder.source_kind, channels=self.vocoder.source_channels)


WEIGHTS = ("ema", "online", "target")
"""Which of a student's weights a bundle gets: the training's long average, those of its last step (the authors'
choice), or the target network's short average.
"""


def load_voice(run: Path, statements: Statements, student: str = STUDENT, weights: str = "ema") -> TrainedVoice:
    """The networks of `run` with the student in `run / student`, and the facts of the manifest. `weights`: one of
    `WEIGHTS`.

    Raises `TrainingError` or `DataError` (naming the command to run) where a stage is missing, `ExportError` where the
    stages do not belong together.
    """
    if words := not_a_run(run):
        raise ExportError(words)
    require_weights(weights)
    if missing := missing_commands(run, (VOCODER, TEACHER, student)):
        raise TrainingError(f"{run} is not trained to its end, so there is nothing to export\nhint: run {missing}")
    features = FeatureIndex.open(run / "features")
    singers = target_singers(features, statements)
    encoders = load_content_encoders(run)
    vocoder, vocoder_spec = load_vocoder(run)
    acoustic = load_student(require_checkpoint(run / student), weights)
    stages = {stage: stage_facts(run, stage) for stage in (*encoders, VOCODER, TEACHER, student)}
    distilled = stages[student]["config"]
    hashes = {name: encoder_hash for name, (_, encoder_hash) in encoders.items()}
    _require_same(run, "content encoders", distilled["content_encoders"], hashes)
    data = DataRecord.of(features)
    if changes := changed_singers(distilled["singers"], data.singers):
        _refuse(run, f"other data: {'; '.join(changes)}")
    _require_same_audio(run, acoustic.spec, vocoder_spec, features.audio)
    for line in changed_stages(run, (VOCODER, TEACHER, student), data):
        logger.warning("%s", line)
    content = encoders[CONTENT][0]
    return TrainedVoice(
        audio=acoustic.spec,
        content=content,
        content_low=cast(ContentEncoder, encoders[CONTENT_LOW][0]) if CONTENT_LOW in encoders else None,
        acoustic=acoustic,
        vocoder=vocoder,
        noise_scale=distilled["student"]["noise_scale"],
        content_labels=tuple(PHONES) if isinstance(content, ContentEncoder) else (),
        embeddings=embedding_rows(features, list(singers), acoustic),
        singers=singers,
        objective=objective(from_mapping(StudentConfig, distilled["student"], "student")),
        departures=published_departures(stages[TEACHER]["config"], distilled),
        licences=statements.licences(features, taken_from(stages)),
        consent=statements.consent_text({features.singers[name].kind for name in singers}),
        data_card=data_card(run, features),
        preview_source=preview_source(features),
        provenance={"stages": stages, "data": data_summary(features), "student_weights": weights},
        front_end=from_mapping(FrontEnd, distilled.get("front_end", {}), "front_end"),
        f0_extractor=distilled.get("f0", "swift-f0"),
    )


def require_weights(weights: str) -> None:
    """Raise `ExportError` unless `weights` is one of `WEIGHTS`."""
    if weights not in WEIGHTS:
        raise ExportError(f"unknown weights {weights!r}\nhint: {', '.join(WEIGHTS)}")


def load_student(checkpoint: Path, weights: str) -> AcousticModel:
    """The model of a student's checkpoint with the `WEIGHTS` asked for. Raises `ExportError` for unknown ones."""
    require_weights(weights)
    model = load_acoustic(checkpoint, "ema" if weights == "ema" else "model")
    if weights == "target":  # of the denoiser alone: distillation trains nothing else
        load_module(checkpoint, "target", model.denoiser)
    return model


def target_singers(features: FeatureIndex, statements: Statements) -> dict[str, SingerEntry]:
    """The singers that the bundle offers. Raises `ExportError` where there are none, or none agreed."""
    targets = {n: s for n, s in features.singers.items() if s.demo and s.index is not None}
    if not targets:
        raise ExportError("none of the trained singers is marked as a target (demo) in features/index.json")
    entries = {}
    for row, (name, singer) in enumerate(targets.items()):
        licence, credit = statements.of_singer(name, singer.kind)
        median, span = singer.f0_median_hz, singer.f0_range_hz
        entries[name] = SingerEntry(index=row, f0_median_hz=median, f0_range_hz=span, licence=licence, credit=credit)
    return entries


def embedding_rows(features: FeatureIndex, names: list[str], acoustic: AcousticModel) -> NDArray[np.float32]:
    """The embeddings (n, D) of trained singers."""
    rows = [features.trained_singers.index(name) for name in names]
    return np.ascontiguousarray(acoustic.singer_embed.weight.detach().numpy()[rows], np.float32)


def preview_source(features: FeatureIndex) -> NDArray[np.float32]:
    """The beginning of a clip of the test split, else of the validation split, else nothing."""
    clips = sorted(features.select("test") or features.select("valid"), key=lambda clip: clip.id)
    if not clips:
        return np.zeros(0, np.float32)
    audio = features.load(clips[0])["audio"][: round(PREVIEW_S * features.audio.sample_rate)]
    return audio.astype(np.float32) / np.float32(32768)


def stage_facts(run: Path, stage: str) -> dict[str, Any]:
    """Step and configuration of a stage's last checkpoint."""
    step, config = read_metadata(require_checkpoint(run / stage))
    return {"step": step, "config": config}


def taken_from(stages: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The files that stages were taken from instead of being trained, by graph."""
    configs = {name: facts["config"] for name, facts in stages.items()}
    graphs = {TEACHER: "acoustic"}  # the student is made of it
    taken = {name: config["taken_from"]["file"] for name, config in configs.items() if "taken_from" in config}
    return {graphs.get(name, name): file for name, file in taken.items()}


def data_summary(features: FeatureIndex) -> dict[str, Any]:
    """Singers by kind and split, minutes trained on, clips by split, marks of the songs not trained on."""
    singers = features.singers.values()
    return {
        "singers": dict(sorted(Counter(f"{s.kind}, {s.split}" for s in singers).items())),
        "train_minutes": round(sum(s.minutes for s in singers), 1),
        "clips": dict(sorted(Counter(clip.split for clip in features.clips).items())),
        "held_out": sorted(mark for mark, split in features.songs.items() if split == "valid"),
    }


def objective(config: StudentConfig) -> str:
    """The student's training objective in words."""
    parts = ["consistency distillation"]
    if config.pseudo_huber is not None:
        parts.append(f"pseudo-Huber distance (c = {config.pseudo_huber:g})")
    if config.data_l1_weight:
        parts.append(f"L1 to data at sigma_max (weight {config.data_l1_weight:g})")
    return ", ".join(parts)


def published_departures(teacher: dict[str, Any], student: dict[str, Any]) -> tuple[str, ...]:
    """Each setting that is not the published recipe's, as "table.key = value (published: value)"."""
    acoustic = from_mapping(AcousticConfig, student["acoustic"], "acoustic")
    distilling = from_mapping(StudentConfig, student["student"], "student")
    return (
        *_differences("acoustic", acoustic, AUTHORS_ACOUSTIC),
        *_teacher_departures(teacher),
        *_differences("student", distilling, StudentConfig(loop=distilling.loop)),
    )


def _teacher_departures(config: dict[str, Any]) -> list[str]:
    """None of a teacher that was taken from a file: how it was trained is not known."""
    if "taken_from" in config:
        return []
    teaching = from_mapping(TeacherConfig, config["teacher"], "teacher")
    return _differences("teacher", teaching, TeacherConfig(loop=teaching.loop))


def _differences(where: str, config: Any, published: Any) -> list[str]:
    lines = []
    for item in dataclasses.fields(config):
        value, usual = getattr(config, item.name), getattr(published, item.name)
        if dataclasses.is_dataclass(value):
            lines += _differences(f"{where}.{item.name}", value, usual)
        elif value != usual:
            lines.append(f"{where}.{item.name} = {value} (published: {usual})")
    return lines


def _require_same_audio(run: Path, acoustic: AudioSpec, vocoder: AudioSpec, features: AudioSpec) -> None:
    """Raise `ExportError` for stages of different audio settings; a vocoder has none of content."""
    content = {"content_sample_rate": acoustic.content_sample_rate, "content_hop_length": acoustic.content_hop_length}
    _require_same(run, "audio settings of the vocoder", acoustic, replace(vocoder, **content))
    _require_same(run, "audio settings of the features", acoustic, features)


def _require_same(run: Path, what: str, of_student: Any, found: Any) -> None:
    if of_student != found:
        _refuse(run, f"another {what}: {of_student}, now {found}")


def _refuse(run: Path, what: str) -> NoReturn:
    raise ExportError(
        f"the student in {run} was trained with {what}\n"
        "hint: train teacher and student again, or export the run folder that they came from"
    )
