"""Evaluates systems on held-out clips, and across data sets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from ...runtime.errors import OutputError
from ..data.datasets import DATASETS, Material, Recording, open_dataset
from ..data.prepare import prepare
from ..data.prepared import song_mark
from ..errors import DataError
from ..recipe import Recipe
from ..run.acoustic_stages import STUDENT, TEACHER, train_student, train_teacher
from ..vocoder.stage import train_vocoder
from .converters import (
    ConverterUnderTest,
    EvaluationClip,
    Pair,
    StageSystem,
    Unconverted,
    choose_clips,
    conversions,
    file_name,
    reconstructions,
)
from .outside import (
    LEARNING_CLIPS,
    Missing,
    Recogniser,
    find_character_errors,
    find_embedding,
    find_pesq,
    find_stoi,
    learn_embedding,
)
from .scores import (
    CONVERSION,
    RECONSTRUCTION,
    ClipScore,
    Results,
    Scorer,
    Tools,
    f0_median_hz,
    mean_voice,
    write_results,
)

TASKS = ("both", RECONSTRUCTION, CONVERSION)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is measured, and on how much."""

    task: str = "both"
    split: str = "valid"
    clips: int = 3
    """Of each singer."""
    enrolment: int = 5
    """Clips of each target that its voice is known by."""
    targets: tuple[str, ...] = ()
    """Singers to convert to; empty: all that every system has."""
    recogniser: str | None = None
    embedding: str | None = None


@dataclass(frozen=True)
class Data:
    """A data set by name."""

    name: str
    material: Material


def evaluate(
    systems: Sequence[ConverterUnderTest],
    sources: Data,
    targets: Data,
    options: EvaluationOptions,
    out: Path,
    progress: Callable[[str], object] = lambda what: None,
) -> list[Results]:
    """Convert clips of `sources` by each of `systems` and measure; `targets` are recordings of whom they imitate.

    Writes `evaluation.md` and `evaluation.json` to `out`, the audio into a folder for each system, and `source` with
    the clips themselves. Raises `DataError` where nothing can be measured, or two systems have one name, and
    `OutputError` where `out` cannot be a folder.
    """
    _check_names(systems)
    if options.task not in TASKS:
        raise DataError(f"there is no task {options.task}\nhint: --task takes {', '.join(TASKS)}")
    for system in systems:
        if isinstance(system, StageSystem):
            system.require_own()
    source_material, target_material = (as_trained(data.material, systems) for data in (sources, targets))
    clips = choose_clips(source_material, options.split, options.clips)
    enrolment = _enrolment(target_material, clips, options.enrolment)
    names = _targets(systems, enrolment, options.targets)
    recogniser = None if options.recogniser is None else Recogniser(options.recogniser)
    _make_folder(out)
    embedding = find_embedding(options.embedding, [s.run for s in systems if isinstance(s, StageSystem)])
    if isinstance(embedding, Missing):
        progress("a classifier of the singers, for likeness")
        of_sources, of_targets = (_enrolment(m, clips, LEARNING_CLIPS) for m in (source_material, target_material))
        embedding = learn_embedding({**of_sources, **of_targets})
    tools = Tools(
        pesq=find_pesq(),
        stoi=find_stoi(),
        embed=embedding if isinstance(embedding, Missing) else embedding[1],
        character_errors=find_character_errors(),
        recogniser=recogniser,
    )
    progress("the singers' own voices")
    voices = {} if isinstance(tools.embed, Missing) else {n: mean_voice(enrolment[n], tools.embed) for n in names}
    results = []
    for task in (RECONSTRUCTION, CONVERSION):
        pairs = _pairs(task, clips, enrolment, names) if options.task in ("both", task) else []
        if not pairs:
            continue
        scores = _scores(
            Scorer(tools, voices, task == RECONSTRUCTION), _rows(task, systems), pairs, out / task, progress
        )
        where = sources.name if task == RECONSTRUCTION else f"{sources.name} → {targets.name}"
        known = {system.name: system.steps for system in _rows(task, systems)}
        label = "" if isinstance(embedding, Missing) else embedding[0]
        results.append(Results(task, where, known, scores, tools.missing(), label))
    if not results:
        raise DataError(
            f"nothing to measure: no singer of {sources.name} is among the targets {', '.join(names)}\n"
            "hint: --task conversion needs two singers, --task reconstruction the singers that the systems know"
        )
    write_results(results, out)
    return results


def as_trained(material: Material, systems: Sequence[ConverterUnderTest]) -> Material:
    """`material` with its split as the systems were trained: a song is held out if all systems held it out.

    The material's own split, by names alone, stays for singers whose songs no system records: systems trained on other
    recordings, older bundles, folders of files.
    """
    marks = {(r.singer, r.song): song_mark(r.singer, r.song) for r in material.recordings}
    records: dict[str, list[Mapping[str, str]]] = {}
    for singer in {r.singer for r in material.recordings}:
        own = {mark for (name, _), mark in marks.items() if name == singer}
        trained = [s.songs for s in systems if s.songs and singer in (s.singers or ())]
        records[singer] = [songs for songs in trained if own & songs.keys()]

    def split(recording: Recording) -> str:
        mark, known = marks[recording.singer, recording.song], records[recording.singer]
        if not known:
            return recording.split
        return "valid" if all(songs.get(mark) == "valid" for songs in known) else "train"

    return replace(material, recordings=[replace(r, split=split(r)) for r in material.recordings])


def _rows(task: str, systems: Sequence[ConverterUnderTest]) -> list[ConverterUnderTest]:
    return [Unconverted(), *systems] if task == CONVERSION else list(systems)


def _scores(
    scorer: Scorer,
    systems: Sequence[ConverterUnderTest],
    pairs: Sequence[Pair],
    out: Path,
    progress: Callable[[str], object],
) -> list[ClipScore]:
    scores = []
    for system in systems:
        found = []
        for number, pair in enumerate(pairs):
            progress(f"{system.name}, {number + 1} of {len(pairs)}: {pair.clip.id} to {pair.target}")
            if (score := scorer.score(system, pair, out / _folder(system.name))) is not None:
                found.append(score)
        if not found:
            raise DataError(
                f"{system.name} has none of the {len(pairs)} files that are asked of it, for instance "
                f"{file_name(pairs[0])}\nhint: name its files like those in {out}, which other systems' audio is in"
            )
        scores += found
    return scores


def _folder(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def _check_names(systems: Sequence[ConverterUnderTest]) -> None:
    """Each system has a row of the tables and a folder for its audio by its name alone."""
    taken: dict[str, ConverterUnderTest] = {}
    for system in (Unconverted(), *systems):
        other = taken.setdefault(_folder(system.name), system)
        if other is not system:
            whom = "the unconverted recordings" if isinstance(other, Unconverted) else f"another called {other.name!r}"
            raise DataError(
                f"the system {system.name!r} cannot be told from {whom}: their figures and audio would be mixed\n"
                "hint: name each system apart: NAME=PATH@STEPS"
            )


def _make_folder(out: Path) -> None:
    """Before anything is converted: what is made could not be kept."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be made a folder: {error.strerror}\nhint: -o takes a folder, new or not"
        ) from None


def _enrolment(
    material: Material, clips: Mapping[str, Sequence[EvaluationClip]], count: int
) -> dict[str, list[EvaluationClip]]:
    """Clips that tell how each singer sounds: of songs that are trained on, never one that is evaluated."""
    tried = {clip.id for own in clips.values() for clip in own}
    chosen = choose_clips(material, "train", count)
    others = {name: [clip for clip in own if clip.id not in tried] for name, own in chosen.items()}
    return {name: others[name] or own for name, own in chosen.items()}


def _targets(
    systems: Sequence[ConverterUnderTest], enrolment: Mapping[str, Sequence[EvaluationClip]], wanted: Sequence[str]
) -> list[str]:
    known = [set(system.singers) for system in systems if system.singers is not None]
    common = set(enrolment).intersection(*known)
    if not common:
        theirs = ", ".join(sorted(set().union(*known)))
        raise DataError(
            f"none of the systems' singers ({theirs}) is in the targets' data ({', '.join(enrolment)})\n"
            "hint: --target-data takes the recordings that they were trained on"
        )
    if unknown := [name for name in wanted if name not in common]:
        raise DataError(
            f"no recordings, or no system, for the targets {', '.join(unknown)}\n"
            f"hint: choose of {', '.join(sorted(common))}"
        )
    return [name for name in enrolment if name in (wanted or common)]


def _pairs(
    task: str,
    clips: Mapping[str, Sequence[EvaluationClip]],
    enrolment: Mapping[str, Sequence[EvaluationClip]],
    targets: Sequence[str],
) -> list[Pair]:
    if task == RECONSTRUCTION:
        return reconstructions({name: own for name, own in clips.items() if name in targets})
    medians = {name: f0_median_hz(own) for name, own in clips.items()}
    theirs = {name: f0_median_hz(enrolment[name]) for name in targets}
    unsung = [name for name, hz in {**medians, **theirs}.items() if not np.isfinite(hz)]
    return conversions(
        {name: own for name, own in clips.items() if name not in unsung},
        [name for name in targets if name not in unsung],
        medians,
        theirs,
    )


@dataclass(frozen=True, kw_only=True)
class Cross:
    """What is trained on, what is converted, and how."""

    train: Data
    convert: Data
    recipe: Recipe
    device: str = "auto"
    jobs: int = 1
    teacher_steps: int = 50


def named_data(argument: str) -> Data:
    """`LAYOUT=FOLDER`, as the command line gives it. Raises `DataError`."""
    layout, equals, folder = argument.partition("=")
    if not equals or layout not in DATASETS:
        raise DataError(
            f"{argument!r} names no data\n"
            f"hint: LAYOUT=FOLDER, LAYOUT one of {', '.join(DATASETS)}, as in m4singer=/data/m4singer"
        )
    return Data(layout, open_dataset(layout, Path(folder)))


def cross(
    experiment: Cross,
    run: Path,
    options: EvaluationOptions,
    console: Console | None = None,
    progress: Callable[[str], object] = lambda what: None,
) -> list[Results]:
    """Prepare, train vocoder, teacher and student into `run`, and evaluate both on the other data, in
    `run / "evaluation"`. What was finished or half done before is taken up; content encoders that lie in `run` are
    used, else the shipped voice's; a recipe without a vocoder needs one there.
    """
    recipe, how = experiment.recipe, {"seed": experiment.recipe.seed, "resume": True, "device": experiment.device}
    prepare(
        experiment.train.material, recipe.audio, run / "features", experiment.jobs, console, recipe.prepare,
        crop_frames=recipe.longest_crop,
    )  # fmt: skip
    if recipe.vocoder is not None:
        train_vocoder(recipe.vocoder, run, **how, console=console)
    train_teacher(recipe.acoustic, recipe.teacher, run, **how, console=console)
    train_student(recipe.student, run, **how, console=console)
    systems = [
        StageSystem(TEACHER, run / TEACHER, experiment.teacher_steps),
        StageSystem(STUDENT, run / STUDENT),
    ]
    return evaluate(systems, experiment.convert, experiment.train, options, run / "evaluation", progress)
