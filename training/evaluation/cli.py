"""The commands `evaluate` and `audition`, and the cross-dataset experiment `cross`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ...runtime.conversion.cores import usable_cores
from ..config import load_config
from ..errors import DEFAULT_RECIPE
from ..loop.log import shown
from ..options import ConfigOption, DatasetOption, DeviceOption, JobsOption, RunOption, clear_errors, console

SystemsArgument = Annotated[
    list[str],
    typer.Argument(
        help="[NAME=]PATH[@STEPS]: a .comosvc file, RUN/student, RUN/teacher, a checkpoint, or a folder of WAV files.",
        show_default=False,
    ),
]
DataOption = Annotated[Path, typer.Option("--data", help="The folder of recordings to convert.", show_default=False)]
SplitOption = Annotated[str, typer.Option("--split", help="valid (songs held out from training), train or all.")]
ClipsOption = Annotated[int, typer.Option("--clips", help="Clips of each singer.", min=1)]
RecogniserOption = Annotated[
    str | None,
    typer.Option("--recogniser", help="A program that prints the words in a file: 'whisper-print {wav}'. For CER."),
]
EmbeddingOption = Annotated[
    str | None,
    typer.Option(
        "--embedding", help="For SIM: an ONNX graph, a run folder with a singer classifier, or the word resemblyzer."
    ),
]


def evaluate(
    systems: SystemsArgument,
    data: DataOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for tables and audio.")],
    dataset: DatasetOption = "folder",
    target_data: Annotated[
        Path | None, typer.Option("--target-data", help="Recordings of whom is imitated. Default: DATA.")
    ] = None,
    target_dataset: Annotated[str, typer.Option("--target-dataset", help="How those are laid out.")] = "folder",
    task: Annotated[str, typer.Option("--task", help="reconstruction, conversion or both.")] = "both",
    target: Annotated[list[str] | None, typer.Option("--target", help="Convert to these singers only.")] = None,
    split: SplitOption = "valid",
    clips: ClipsOption = 3,
    recogniser: RecogniserOption = None,
    embedding: EmbeddingOption = None,
) -> None:
    """Measure systems on recordings: tables like the paper's 1 (reconstruction) and 2 (conversion).

    Writes OUTPUT/evaluation.md, OUTPUT/evaluation.json and the audio of each system.
    """
    from ..data.datasets import open_dataset
    from .converters import open_system
    from .run import Data, EvaluationOptions
    from .run import evaluate as measure
    from .scores import as_tables

    with clear_errors():
        sources = Data(data.name, open_dataset(dataset, data))
        targets = sources
        if target_data is not None:
            targets = Data(target_data.name, open_dataset(target_dataset, target_data))
        options = EvaluationOptions(
            task=task,
            split=split,
            clips=clips,
            targets=tuple(target or ()),
            recogniser=recogniser,
            embedding=embedding,
        )
        opened = [open_system(system) for system in systems]
        with shown("evaluate", console) as report:
            results = measure(opened, sources, targets, options, output, lambda what: report(what, None))
        terminal = Console()
        for result in results:
            terminal.print(*as_tables(result, terminal.width))
        console.print(f"done: {output / 'evaluation.md'}", markup=False)


def audition(
    run: Annotated[Path, typer.Argument(help="The run folder.", show_default=False)],
    song: Annotated[Path, typer.Option("--song", help="The recording of the song to sing.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="An .html file, or a folder for index.html.", show_default=False)
    ],
    singer: Annotated[str | None, typer.Option("-s", "--singer", help="By whom. Default: the run's first.")] = None,
    key: Annotated[str, typer.Option("-k", "--key", help="Semitones, or auto.")] = "auto",
    seconds: Annotated[float, typer.Option("--seconds", help="From the song's beginning.", min=0.1)] = 15.0,
    teacher_steps: Annotated[int, typer.Option("--teacher-steps", help="Of its sampler.", min=1)] = 20,
    student_steps: Annotated[int, typer.Option("--student-steps", help="Of its sampler.", min=1)] = 1,
) -> None:
    """Write one page with what every checkpoint of RUN makes of a song: players, mels with F0, figures.

    The page needs no other file and no network.
    """
    from .audition import AuditionOptions
    from .audition import audition as write_page

    with clear_errors():
        options = AuditionOptions(
            singer=singer, key=key, seconds=seconds, teacher_steps=teacher_steps, student_steps=student_steps
        )
        with shown("audition", console) as report:
            path = write_page(run, song, output, options, lambda what: report(what, None))
        console.print(f"done: {path}", markup=False)


def cross(
    train: Annotated[str, typer.Option("--train", help="LAYOUT=FOLDER of the data to learn from.")],
    convert: Annotated[str, typer.Option("--convert", help="LAYOUT=FOLDER of the data to convert.")],
    run: RunOption,
    config: ConfigOption = DEFAULT_RECIPE,
    split: SplitOption = "all",
    clips: ClipsOption = 3,
    recogniser: RecogniserOption = None,
    embedding: EmbeddingOption = None,
    teacher_steps: Annotated[int, typer.Option("--teacher-steps", help="Of its sampler.", min=1)] = 50,
    device: DeviceOption = "auto",
    jobs: JobsOption = 0,
) -> None:
    """The paper's cross-dataset experiment: train on one data set, convert another to its singers, and measure.

    Prepares, trains vocoder, teacher and student into OUTPUT, and writes OUTPUT/evaluation. Stopped and run again,
    it goes on.
    """
    from ..recipe import Recipe
    from .run import Cross, EvaluationOptions, named_data
    from .run import cross as run_cross
    from .scores import as_tables

    with clear_errors(config):
        experiment = Cross(
            train=named_data(train),
            convert=named_data(convert),
            recipe=load_config(Recipe, config),
            device=device,
            jobs=jobs or usable_cores(),
            teacher_steps=teacher_steps,
        )
        options = EvaluationOptions(
            task="conversion", split=split, clips=clips, recogniser=recogniser, embedding=embedding
        )
        terminal = Console()
        for result in run_cross(experiment, run, options, console):
            terminal.print(*as_tables(result, terminal.width))
        console.print(f"done: {run / 'evaluation' / 'evaluation.md'}", markup=False)
