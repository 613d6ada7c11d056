"""The paper's cross-dataset experiment in one go: train on one data set, convert another to its singers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..acoustic_stages import STUDENT, TEACHER, train_student, train_teacher
from ..datasets import DATASETS, open_dataset
from ..errors import DataError
from ..prepare import prepare
from ..recipe import Recipe
from ..vocoder_stage import train_vocoder
from .run import Data, EvaluationOptions, evaluate
from .systems import StageSystem
from .tables import Results


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
