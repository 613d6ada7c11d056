"""Steps of training a second, ours against the authors' arithmetic, at equal size on the same machine, in turns."""

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ...runtime.audio.spec import COMOSVC_24K
from ...runtime.errors import OptionError
from ...training.acoustic.dataset import AcousticData, ClipFeatures
from ...training.acoustic.model import AUTHORS_ACOUSTIC, AcousticConfig, AcousticModel
from ...training.acoustic.teaching import StudentConfig, StudentObjective, TeacherConfig, TeacherObjective
from ...training.loop.batches import Loader
from ...training.loop.checkpoint import Snapshot
from ...training.loop.devices import MixedPrecision, Placement, Precision, open_fabric, why_emulated
from ...training.loop.loop import LoopConfig, Objective, Stage
from ..baselines.authors import AuthorsModel, AuthorsTraining, Items, Network
from ..report import Figures, Provenance, Row

N_CONTENT, N_SINGERS = 768, 20
_CLIPS, _CLIP_FRAMES = 24, 1500


@dataclass(frozen=True)
class TrainOptions:
    """Choices of `comosvc-bench train`. Defaults: the published network and crop, and a batch that suits a CPU."""

    batch_size: int = 4
    crop_frames: int = 375
    rounds: int = 5
    steps: int = 2
    """Of each system in each round; one round before the first is not counted."""
    threads: int = 1
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    """Of ours, each a system of its own; the authors' arithmetic is in fp32."""
    acoustic: AcousticConfig = field(default_factory=lambda: of_size(20, 512))
    limit_s: float = 900.0
    """Seconds after which no further round begins; the first round is always measured."""


@dataclass(frozen=True)
class Turn:
    """Seconds of a step, and the share of them spent waiting for a batch (None: not apart from the computation)."""

    step_s: float
    wait: float | None


System = Callable[[int], Turn]


def of_size(layers: int, channels: int) -> AcousticConfig:
    """The published acoustic model with another number and width of layers."""
    denoiser = replace(AUTHORS_ACOUSTIC.denoiser, layers=layers, channels=channels)
    return replace(AUTHORS_ACOUSTIC, denoiser=denoiser, key_shift_embedding=False)


def random_clips(seed: int = 0) -> list[ClipFeatures]:
    """Random features in memory; the time of a step does not depend on their values."""
    rng = np.random.default_rng(seed)
    clips = []
    for number in range(_CLIPS):
        content = rng.standard_normal((_CLIP_FRAMES, N_CONTENT), np.float32).astype(np.float16)
        mel = rng.normal(-3.0, 1.0, (_CLIP_FRAMES, COMOSVC_24K.n_mels)).astype(np.float32)
        f0_hz, loudness = (np.full(_CLIP_FRAMES, value, np.float32) for value in (220.0, 0.1))
        clips.append(ClipFeatures(mel, (content,), f0_hz, loudness, number % N_SINGERS))
    return clips


def authors(clips: list[ClipFeatures], options: TrainOptions, *, student: bool) -> System:
    """The authors' arithmetic on their network of the same size."""
    size = options.acoustic.denoiser
    torch.manual_seed(0)
    network = Network(size.layers, size.channels, size.hidden, COMOSVC_24K.n_mels)
    model = AuthorsModel(network, N_CONTENT, size.hidden, N_SINGERS)
    training = AuthorsTraining(model, Items(clips, options.crop_frames), options.batch_size, student=student)

    def turn(steps: int) -> Turn:
        start = time.perf_counter()
        for _ in range(steps):
            training.step()
        return Turn((time.perf_counter() - start) / steps, None)

    return turn


def ours(
    clips: list[ClipFeatures], options: TrainOptions, folder: Path, precision: Precision, *, student: bool
) -> System:
    """The steps of `training.loop.fit`, batches and all; nothing is saved."""
    loop = LoopConfig(
        steps=1_000_000,
        batch_size=options.batch_size,
        learning_rate=1e-4,
        final_learning_rate=1e-4,
        precision=precision,
    )
    torch.manual_seed(0)
    model = AcousticModel(options.acoustic, COMOSVC_24K, N_CONTENT, N_SINGERS)
    objective: Objective[AcousticModel] = (
        StudentObjective(model, StudentConfig(loop=loop))
        if student
        else TeacherObjective(model, TeacherConfig(loop=loop))
    )
    fabric = open_fabric(Placement(device="cpu"))
    trained = [p for p in objective.parameters() if p.requires_grad]
    snapshot = Snapshot(
        folder=folder,
        modules={"ema": deepcopy(model).requires_grad_(False)},
        optimizer=torch.optim.AdamW(trained),
        precision=MixedPrecision(precision, fabric.device),
        config={},
    )
    stage, make_batch = Stage(objective, loop, fabric, snapshot, 0), AcousticData(clips, options.crop_frames).batch
    done = 0

    def turn(steps: int) -> Turn:
        nonlocal done
        loader = Loader(lambda step: stage.batches(step, make_batch), range(done, done + steps))
        start = time.perf_counter()
        for step, batches in loader:
            stage.step(step, batches)
        done += steps
        return Turn((time.perf_counter() - start) / steps, loader.wait_fraction())

    return turn


def measure_training(options: TrainOptions, command: str, progress: Callable[[str], None]) -> Figures:
    """All systems in turns, so that other load on the machine affects all of them.

    A precision that the processor has no unit for is left out, with the reason in a row. Raises `OptionError` if none
    is left.
    """
    reasons = {name: why_emulated(name, torch.device("cpu")) for name in options.precisions}
    left_out = {name: why for name, why in reasons.items() if why}
    options = replace(options, precisions=tuple(name for name in options.precisions if name not in left_out))
    if not options.precisions:
        raise OptionError("; ".join(left_out.values()) + "\nhint: --precision fp32")
    torch.set_num_threads(options.threads)
    clips = random_clips()
    with TemporaryDirectory() as folder:
        systems: dict[str, System] = {}
        for stage, student in (("teacher", False), ("student", True)):
            systems[f"{stage}, authors"] = authors(clips, options, student=student)
            for precision in options.precisions:
                systems[f"{stage}, {precision}"] = ours(clips, options, Path(folder), precision, student=student)
        turns: dict[str, list[Turn]] = {name: [] for name in systems}
        begun = time.perf_counter()
        for number in range(-1, options.rounds):
            if number > 0 and time.perf_counter() - begun > options.limit_s:
                break
            for name, system in systems.items():
                progress(f"round {number + 1} of {options.rounds}: {name}")
                turn = system(options.steps)
                if number >= 0:
                    turns[name].append(turn)
    report = as_report(turns, options, command)
    without = (Row(what=name, note=f"left out: {why}") for name, why in left_out.items())
    return replace(report, rows=(*report.rows, *without))


def as_report(turns: dict[str, list[Turn]], options: TrainOptions, command: str) -> Figures:
    """Steps a second by the median over the rounds; the ratio is the median of each round's own."""
    size = options.acoustic.denoiser
    shape = f"{size.layers} x {size.channels}, batch {options.batch_size} x {options.crop_frames} frames"
    note = f"{shape}, {options.threads} thread(s)"
    rows: list[Row] = []
    for stage in ("teacher", "student"):
        theirs = turns[f"{stage}, authors"]
        rows.append(
            Row(what=f"{stage}: steps a second, the authors' arithmetic in fp32", value=_speed(theirs), note=note)
        )
        for precision in options.precisions:
            rows += _rows_of(f"{stage}, {precision}", theirs, turns[f"{stage}, {precision}"], note)
    seconds = {name: [turn.step_s for turn in found] for name, found in turns.items()}
    return Figures(
        provenance=Provenance.here(command), rows=tuple(rows), voice={"name": "training"}, details={"step_s": seconds}
    )


def _rows_of(name: str, theirs: list[Turn], ours: list[Turn], note: str) -> list[Row]:
    ratios = [a.step_s / b.step_s for a, b in zip(theirs, ours, strict=True)]
    waits = [turn.wait for turn in ours if turn.wait is not None]
    return [
        Row(what=f"{name}: steps a second, ours", value=_speed(ours), note=note),
        Row(
            what=f"{name}: ours over the authors'",
            value=statistics.median(ratios),
            note=f"{len(ratios)} rounds in turns; from {min(ratios):.2f} to {max(ratios):.2f}",
        ),
        Row(
            what=f"{name}: share of the time that ours waits for batches",
            value=100 * statistics.median(waits),
            unit="%",
            at_most=5.0,
            note="a fresh loader each round, its first batch included",
        ),
    ]


def _speed(turns: list[Turn]) -> float:
    return 1.0 / statistics.median(turn.step_s for turn in turns)
