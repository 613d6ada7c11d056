"""Equal training compute: a pilot measures the cost of a step, which gives the number of steps of each system.

Compute is the processor time of the training process, all its threads together, on one thread of torch. The plans are
equal: steps times the cost of a step on an idle machine. A busy machine makes the same steps cost more, up to
a third as seen here. The seconds in fact are kept in the checkpoints, so that a training which is killed and resumed
counts the seconds of its weights. A student's compute is its teacher's and its own.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from torch import nn

from ...training.errors import ConfigError, TrainingError
from ...training.loop.checkpoint import latest_checkpoint, read_figures, read_metadata, require_checkpoint
from ...training.loop.loop import fit
from ...training.recipe import Recipe
from .objectives import BUDGET_SHARES, STUDENT, STUDENTS_TEACHER, TEACHER, RunMaterial, TrainedPart, build_stage

logger = logging.getLogger(__name__)
CPU_S = "cpu_s"
_PLAN = "plan.json"
_PILOT_STRETCHES, _PILOT_STEPS = 4, 20
_WARMUP_SHARE, _CHECKPOINTS = 0.05, 10


@dataclass(frozen=True)
class Plan:
    """Number of steps of each stage, and the processor seconds of a step by the pilot."""

    system_cpu_s: float
    cost_cpu_s: dict[str, float]
    steps: dict[str, int]

    def cpu_s(self, system: str) -> float:
        """Processor seconds of a system's training on an idle machine."""
        return sum(self.steps[name] * self.cost_cpu_s[name] for name in stages_of(system))


class CpuClock:
    """Processor seconds of this process as a figure of each checkpoint, from those of the checkpoint in `folder` on."""

    def __init__(self, folder: Path, validate: Callable[[nn.Module], Mapping[str, float]]) -> None:
        path = latest_checkpoint(folder)
        self.before_s = 0.0 if path is None else read_figures(path)[CPU_S]
        self.validate, self.start_s = validate, time.process_time()

    def __call__(self, average: nn.Module) -> dict[str, float]:
        cpu_s = self.before_s + time.process_time() - self.start_s
        return {CPU_S: cpu_s, **self.validate(average)}


def spent_cpu_s(run: Path, name: str) -> float:
    """Processor seconds of the stage `name` of `run` so far, without the teacher that a student starts from."""
    return read_figures(require_checkpoint(run / name))[CPU_S]


def stages_of(system: str) -> tuple[str, ...]:
    """The stages that were trained for a system: for the student its teacher too."""
    return (STUDENTS_TEACHER, STUDENT) if system == STUDENT else (system,)


def read_plan(run: Path) -> Plan:
    """The plan that `run` was begun with. Raises `TrainingError` where there is none."""
    path = run / _PLAN
    if not path.is_file():
        raise TrainingError(f"there is no {path}\nhint: train the systems first: comosvc-bench systems-train -o {run}")
    return Plan(**json.loads(path.read_text("utf-8")))


def make_plan(
    run: Path, recipe: Recipe, material: RunMaterial, budget_cpu_s: float, console: Console | None = None
) -> Plan:
    """The plan in `run`, or a new one that is kept there. Raises `ConfigError` where that has another budget."""

    @cache
    def cost(name: str) -> float:
        return step_cost(build_stage(name, recipe, material, None), console)

    # A student's teacher is the teacher's network.
    return kept_plan(run, BUDGET_SHARES, budget_cpu_s, lambda name: cost(TEACHER if name == STUDENTS_TEACHER else name))


def kept_plan(
    folder: Path, shares: Mapping[str, float], budget_cpu_s: float, step_cpu_s: Callable[[str], float]
) -> Plan:
    """The plan in `folder`, or a new one that is kept there, by the cost of a step of each stage. Raises `ConfigError`
    where that has another budget.
    """
    path = folder / _PLAN
    if path.is_file():
        plan = Plan(**json.loads(path.read_text("utf-8")))
        if plan.system_cpu_s != budget_cpu_s:
            raise ConfigError(
                f"{folder} was begun with {plan.system_cpu_s:g} processor seconds for each system, "
                f"now {budget_cpu_s:g}\n"
                f"hint: give the same --cpu-minutes, or delete {path} and the stages' folders"
            )
        return plan
    cost = {name: step_cpu_s(name) for name in shares}
    steps = {name: max(1, round(share * budget_cpu_s / cost[name])) for name, share in shares.items()}
    plan = Plan(budget_cpu_s, cost, steps)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(plan), indent=1), "utf-8")
    return plan


def step_cost(stage: TrainedPart, console: Console | None = None) -> float:
    """Processor seconds of a step: the least over a few stretches, since other work on the machine only adds to it."""
    stage = replace(stage, validate=lambda average: {})
    with TemporaryDirectory() as folder:
        fit_stage(stage, Path(folder), _PILOT_STRETCHES * _PILOT_STEPS, _PILOT_STEPS, console)
        spent = [read_figures(path)[CPU_S] for path in sorted(Path(folder).glob("step_*.safetensors"))]
    # The first stretch warms up.
    return min(later - earlier for earlier, later in pairwise(spent)) / _PILOT_STEPS


def train_stage(
    name: str, run: Path, recipe: Recipe, material: RunMaterial, plan: Plan, console: Console | None = None
) -> Path:
    """Train one stage of the plan, going on where it stopped; returns its last checkpoint."""
    steps = plan.steps[name]
    if name == STUDENT:
        require_finished(run, STUDENTS_TEACHER, plan)
    stage = build_stage(name, recipe, material, run)
    path = fit_stage(stage, run / name, steps, console=console)
    logger.info("%s: %d steps, %.0f processor seconds", name, steps, spent_cpu_s(run, name))
    return path


def require_finished(run: Path, name: str, plan: Plan) -> None:
    """Raise `TrainingError` unless the stage `name` has taken all its steps."""
    path = latest_checkpoint(run / name)
    if (done := read_metadata(path)[0] if path else 0) < plan.steps[name]:
        raise TrainingError(
            f"{run / name} has {done} of {plan.steps[name]} steps\n"
            f"hint: finish it first: comosvc-bench systems-train -o {run} --only {name}"
        )


def fit_stage(
    stage: TrainedPart, folder: Path, steps: int, checkpoint_every: int | None = None, console: Console | None = None
) -> Path:
    """Train `stage` in `folder` for `steps`, going on where it stopped; returns its last checkpoint."""
    warmup = min(stage.loop.warmup_steps, max(1, round(_WARMUP_SHARE * steps)))
    every = checkpoint_every or max(1, steps // _CHECKPOINTS)
    loop = replace(stage.loop, steps=steps, warmup_steps=warmup, checkpoint_every=every, keep=_PILOT_STRETCHES)
    return fit(
        stage.objective,
        stage.make_batch,
        loop,
        folder,
        seed=int(stage.config["seed"]),
        resolved_config=stage.config,
        resume=True,
        device="cpu",
        validate=CpuClock(folder, stage.validate),
        console=console,
    )
