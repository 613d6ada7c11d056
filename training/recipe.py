"""A recipe: all tables of a TOML file, and the options that commands share."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ..runtime.audio.spec import AudioSpec
from .acoustic.model import AcousticConfig
from .acoustic.student import StudentConfig
from .acoustic.teacher import TeacherConfig
from .config import RECIPES, from_mapping, to_mapping
from .content.stage import ContentTraining
from .corpus import CorpusConfig
from .data.prepare import PrepareConfig
from .errors import ConfigError
from .loop.loop import LoopConfig
from .vocoder.stage import VocoderTraining


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The tables of a configuration file. `demo` and `smoke` are shipped."""

    seed: int = 0
    audio: AudioSpec
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    content: ContentTraining | None = None
    vocoder: VocoderTraining | None = None
    acoustic: AcousticConfig = field(default_factory=AcousticConfig)
    teacher: TeacherConfig
    student: StudentConfig

    @property
    def longest_crop(self) -> int:
        """Mel frames that every stage on features takes of a clip at a time, or fewer."""
        stages = (self.teacher, self.student, *([self.vocoder] if self.vocoder else []))
        return max(stage.crop_frames for stage in stages)


C = TypeVar("C", ContentTraining, VocoderTraining, TeacherConfig, StudentConfig)

ConfigOption = Annotated[
    str, typer.Option("-c", "--config", help=f"A TOML file, or a shipped recipe: {', '.join(RECIPES)}.")
]
RunOption = Annotated[Path, typer.Option("-o", "--output", help="The run folder.")]
DatasetOption = Annotated[
    str,
    typer.Option("--dataset", help="How DATA is laid out: folder (a sub-folder per singer), m4singer or opensinger."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DevicesOption = Annotated[
    int | None,
    typer.Option("--devices", help="Processes on this machine, a device for each; 0: all. Else the recipe's.", min=0),
]
NodesOption = Annotated[int | None, typer.Option("--nodes", help="Machines, started by torchrun on each.", min=1)]
StrategyOption = Annotated[str | None, typer.Option("--strategy", help="auto or ddp.")]
InitOption = Annotated[
    Path | None,
    typer.Option(
        "--init-from",
        help="Start from the weights of another run folder, of a checkpoint in one, or of the CoMoSVC authors' "
        "model_<step>.pt with its config.yaml beside it; with --train embedding also of a voice: a .comosvc file or a "
        "shipped name.",
    ),
]
TrainOption = Annotated[
    str, typer.Option("--train", help="With --init-from: embedding (the new singers' vectors only) or all.")
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", help="Steps of training in place of the recipe's, for this stage.", min=1)
]
JobsOption = Annotated[int, typer.Option("-n", "--jobs", help="Processes; 0: one for each core.", min=0)]
ThreadsOption = Annotated[int, typer.Option("--threads", help="Threads of torch; 0: its own choice.", min=0)]


@dataclass(frozen=True)
class Hardware:
    """Options for the devices of a training stage. None: the recipe's value."""

    device: str
    threads: int
    devices: int | None
    nodes: int | None
    strategy: str | None
    steps: int | None

    def placed(self, config: C | None) -> C:
        """The table of a stage with these options in its loop. Raises `ConfigError` for a recipe without the table."""
        if config is None:
            raise ConfigError(
                "this recipe trains no such network\nhint: take one from a file with --from FILE, or add its table"
            )
        given = {"devices": self.devices, "nodes": self.nodes, "strategy": self.strategy, "steps": self.steps}
        loop = {**to_mapping(config.loop), **{name: value for name, value in given.items() if value is not None}}
        return replace(config, loop=from_mapping(LoopConfig, loop, "the command line"))
