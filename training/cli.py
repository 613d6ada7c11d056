"""`comosvc-train`: from recordings to a run folder that `comosvc-export` turns into a voice.

A command imports torch when it runs.
"""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.console import Console

from ..runtime.cli.exit import errors_in_words, log_to, run
from ..runtime.conversion.cores import check_threads, usable_cores
from ..runtime.errors import printable
from .config import RECIPES, load_config, shipped_recipe
from .errors import DEFAULT_RECIPE, STUDENT_PUBLISHED, ConfigError
from .evaluation.cli import register
from .loop.log import is_first_process, shown
from .options import (
    FOREIGN,
    ConfigOption,
    DatasetOption,
    DeviceOption,
    DevicesOption,
    Hardware,
    InitOption,
    JobsOption,
    NodesOption,
    Part,
    ResumeOption,
    RunOption,
    StepsOption,
    StrategyOption,
    ThreadsOption,
    TrainOption,
)

if TYPE_CHECKING:
    from .data.prepared import FeatureIndex
    from .recipe import Recipe
    from .run.fine_tune import Start

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train a voice. The commands build on each other, in this order: corpus (or your own recordings), prepare, "
    "content, vocoder, teacher, student. Each can be stopped and goes on with --resume; a finished one does nothing.",
)
console = Console(stderr=True)
_COMMAND = re.compile(r"(?<=comosvc-train )(\w+) (?:-c (?:'[^']*'|\S+) )?(?=-o )")
"""A command in a hint, up to its -o."""


def _clear_errors(config: str = DEFAULT_RECIPE) -> AbstractContextManager[None]:
    """`errors_in_words`, of the first process only, with the -c `config` in the commands of hints."""
    log_to(console)

    def edit(text: str) -> str:
        if not is_first_process():
            return ""
        return text if config == DEFAULT_RECIPE else _COMMAND.sub(lambda stage: f"{stage[1]} -c {quote(config)} ", text)

    return errors_in_words(console, edit=edit)


@dataclass(frozen=True)
class StageName:
    """Arguments that all training stages share."""

    recipe: "Recipe"
    run: Path
    resume: bool
    hardware: Hardware

    @property
    def how(self) -> dict[str, Any]:
        """Keyword arguments of the functions that train a stage."""
        return {
            "seed": self.recipe.seed, "resume": self.resume, "device": self.hardware.device, "console": console,
        }  # fmt: skip


def _run_stage(
    stage: Callable[[StageName], Path],
    config: str,
    run: Path,
    resume: bool,
    hardware: Hardware,
    *,
    prepared: bool = True,
) -> None:
    """`prepared`: the stage is trained on the features of `run`, which must have the audio settings of the recipe."""
    with _clear_errors(config):
        import torch

        from .data.prepared import require_audio

        if threads := check_threads(hardware.threads or None):
            torch.set_num_threads(threads)
        recipe = _recipe(config)
        if prepared:
            require_audio(run, recipe.audio)
        _done(stage(StageName(recipe, run, resume, hardware)))


def _recipe(config: str) -> "Recipe":
    from .recipe import Recipe

    return load_config(Recipe, config)


def _done(path: Path) -> None:
    if is_first_process():
        console.print(printable(f"done: {path}"), markup=False)


def _warn(text: str) -> None:
    console.print(printable(f"warning: {text}"), style="yellow", markup=False, highlight=False)


def _start(source: Path | None, train: str, run: Path) -> "Start | None":
    from .run.fine_tune import Start

    if train not in get_args(Part):
        raise ConfigError(f"--train is {train}\nhint: it is one of {', '.join(get_args(Part))}")
    if source is None and train != "all":
        raise ConfigError(f"--train {train} needs a trained model\nhint: name it with --init-from RUN")
    return Start.of(source, cast(Part, train), run) if source is not None else None


@app.command("recipe")
def print_recipe(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")] = DEFAULT_RECIPE,
) -> None:
    """Print a shipped recipe, to be changed and given as -c: comosvc-train recipe demo > my.toml."""
    with _clear_errors():
        typer.echo(shipped_recipe(name), nl=False)


@app.command()
def corpus(
    run: RunOption,
    config: ConfigOption = DEFAULT_RECIPE,
    synthetic_only: Annotated[
        bool, typer.Option("--synthetic-only", help="Leave out the voices that rest on recordings (flite, Festival).")
    ] = False,
    jobs: JobsOption = 0,
) -> None:
    """Render the demo corpus into RUN/corpus: synthetic singers, and phoneme-timed speech of recorded voices."""
    from .corpus import write_corpus

    with _clear_errors(config), shown("corpus", console) as report:

        def progress(done: int, total: int, clip: str) -> None:
            report(f"{done} of {total}", done / total)

        recipe = _recipe(config)
        write_corpus(
            recipe.corpus, run / "corpus", progress, synthetic_only=synthetic_only, jobs=jobs or usable_cores()
        )


@app.command()
def prepare(
    run: RunOption,
    config: ConfigOption = DEFAULT_RECIPE,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="The folder of your recordings or of a data set. Default: the corpus in RUN/corpus."
        ),
    ] = None,
    dataset: DatasetOption = "folder",
    jobs: JobsOption = 0,
) -> None:
    """Compute mel, F0 and loudness of all recordings into RUN/features, and write RUN/features/report.json.

    About one song in twenty of a singer with five or more is held out for validation, whole. In the layout folder, a
    folder inside a singer's is one song; so are files whose names differ in a number at the end only (take-1.wav,
    take-2.wav) beside others; every other file is a song of its own. Stopped and run again, it goes on where it
    stopped.
    """
    from .data.datasets import corpus_material, open_dataset
    from .data.material import report_tables
    from .data.prepare import prepare as prepare_features
    from .data.record import DataRecord, changed_stages

    with _clear_errors(config):
        recipe = _recipe(config)
        material = corpus_material(run / "corpus") if data is None else open_dataset(dataset, data)
        features = prepare_features(
            material, recipe.audio, run / "features", jobs or usable_cores(), console, recipe.prepare,
            crop_frames=recipe.longest_crop, recipe=config,
        )  # fmt: skip
        for table in report_tables(features.folder):
            console.print(table)
        minutes = sum(features.singers[name].minutes for name in features.trained_singers)
        console.print(
            f"{len(features.clips)} clips of {len(features.singers)} singers, {minutes:.1f} minutes to train on "
            f"(singers: {len(features.trained_singers)}); "
            f"report: {run / 'features' / 'report.json'}",
            markup=False,
        )
        for line in changed_stages(run, ("vocoder", "teacher", "student", STUDENT_PUBLISHED), DataRecord.of(features)):
            _warn(line)
        _advise_on_content(run, features)


def _advise_on_content(run: Path, features: "FeatureIndex") -> None:
    """Before anything is trained: recorded singers need another content encoder than the shipped one."""
    from .content.stage import CONTENT
    from .loop.checkpoint import latest_checkpoint

    recorded = any(features.singers[name].kind == "recorded" for name in features.trained_singers)
    if recorded and latest_checkpoint(run / CONTENT) is None:
        from .content.adopt import contentvec_advice

        _warn(contentvec_advice(run, features.audio))


@app.command()
def content(
    run: RunOption,
    config: ConfigOption = DEFAULT_RECIPE,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Take ContentVec from this file (fairseq's .pt, a Hugging Face folder, hf://owner/name@commit/file) "
            "instead of training an encoder.",
            rich_help_panel=FOREIGN,
        ),
    ] = None,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    steps: StepsOption = None,
    threads: ThreadsOption = 0,
    devices: DevicesOption = None,
    nodes: NodesOption = None,
    strategy: StrategyOption = None,
) -> None:
    """Train the content encoder on the corpus' phones, or take ContentVec from a file."""
    from .content.stage import train_content
    from .data.prepared import FeatureIndex

    if source is not None:
        from .foreign.stages import take_content

        with _clear_errors(config):
            recipe = _recipe(config)
            _done(take_content(source, recipe.audio, recipe.prepare.front_end, run))
        return

    def train(s: StageName) -> Path:
        if (s.run / "features").is_dir():
            _advise_on_content(s.run, FeatureIndex.open(s.run / "features"))
        return train_content(s.hardware.placed(s.recipe.content), s.recipe.audio, s.run, **s.how)

    _run_stage(
        train,
        config, run, resume, Hardware(device, threads, devices, nodes, strategy, steps), prepared=False,
    )  # fmt: skip


@app.command()
def vocoder(
    run: RunOption,
    config: ConfigOption = DEFAULT_RECIPE,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Take this NSF-HiFi-GAN checkpoint (a path or hf://owner/name@commit/file) instead of training one.",
            rich_help_panel=FOREIGN,
        ),
    ] = None,
    vocoder_config: Annotated[
        str | None,
        typer.Option("--vocoder-config", help="Configuration of --from. Default: beside it.", rich_help_panel=FOREIGN),
    ] = None,
    vocoder_kind: Annotated[
        str,
        typer.Option(
            "--vocoder-kind",
            help="Of --from: m4singer, openvpi, diffsinger; auto: by its layout.",
            rich_help_panel=FOREIGN,
        ),
    ] = "auto",
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    steps: StepsOption = None,
    threads: ThreadsOption = 0,
    devices: DevicesOption = None,
    nodes: NodesOption = None,
    strategy: StrategyOption = None,
) -> None:
    """Train the vocoder: from mel and F0 back to sound; or take one from a file."""
    from .data.prepared import require_crops
    from .vocoder.stage import train_vocoder

    if source is not None:
        from .foreign.stages import take_vocoder

        with _clear_errors(config):
            _done(take_vocoder(source, vocoder_config, vocoder_kind, _recipe(config).audio, run))
        return
    if vocoder_config is not None or vocoder_kind != "auto":
        given = "--vocoder-kind" if vocoder_config is None else "--vocoder-config"
        with _clear_errors():
            raise ConfigError(f"{given} is about a vocoder from a file\nhint: name the file with --from FILE")

    def train(s: StageName) -> Path:
        require_crops(s.run, s.recipe.longest_crop)
        return train_vocoder(s.hardware.placed(s.recipe.vocoder), s.run, **s.how)

    _run_stage(
        train,
        config, run, resume, Hardware(device, threads, devices, nodes, strategy, steps),
    )  # fmt: skip


@app.command()
def teacher(
    run: RunOption,
    config: ConfigOption = DEFAULT_RECIPE,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    steps: StepsOption = None,
    threads: ThreadsOption = 0,
    devices: DevicesOption = None,
    nodes: NodesOption = None,
    strategy: StrategyOption = None,
    init_from: InitOption = None,
    train: TrainOption = "all",
) -> None:
    """Train the diffusion teacher that generates mel spectrograms from content, F0, loudness and singer."""
    from .run.acoustic_stages import train_teacher

    _run_stage(
        lambda s: train_teacher(
            s.recipe.acoustic, s.hardware.placed(s.recipe.teacher), s.run, **s.how,
            start=_start(init_from, train, s.run),
        ),
        config, run, resume, Hardware(device, threads, devices, nodes, strategy, steps),
    )  # fmt: skip


@app.command()
def student(
    run: RunOption,
    config: ConfigOption = DEFAULT_RECIPE,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    steps: StepsOption = None,
    threads: ThreadsOption = 0,
    devices: DevicesOption = None,
    nodes: NodesOption = None,
    strategy: StrategyOption = None,
    init_from: InitOption = None,
    train: TrainOption = "all",
    teacher_file: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="Distil this teacher of the CoMoSVC authors' code, model_<step>.pt (a path or "
            "hf://owner/name@commit/file), instead of the run's own. The run needs their front end (recipe authors), "
            "ContentVec, and recordings of singers that the teacher has.",
            rich_help_panel=FOREIGN,
        ),
    ] = None,
    teacher_config: Annotated[
        str | None,
        typer.Option("--teacher-config", help="config.yaml of --teacher. Default: beside it.", rich_help_panel=FOREIGN),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="The published recipe without the recipe file's departures, into RUN/student-published."
        ),
    ] = False,
) -> None:
    """Distil the teacher into the student that needs one step."""
    from .run.acoustic_stages import take_teacher, train_student

    def taught(stage: StageName) -> Path:
        """The run folder, after its teacher was replaced by that of --teacher."""
        if teacher_file is not None:
            take_teacher(teacher_file, teacher_config, stage.run)
        elif teacher_config is not None:
            raise ConfigError("--teacher-config is about a teacher from a file\nhint: name the file with --teacher")
        return stage.run

    _run_stage(
        lambda s: train_student(
            s.hardware.placed(s.recipe.student.as_published() if published else s.recipe.student), taught(s), **s.how,
            folder=STUDENT_PUBLISHED if published else "student", start=_start(init_from, train, s.run),
        ),
        config, run, resume, Hardware(device, threads, devices, nodes, strategy, steps),
    )  # fmt: skip


register(app, console, _clear_errors)


def main() -> None:
    """Entry point of `comosvc-train`."""
    run(app, "comosvc-train", "train")
