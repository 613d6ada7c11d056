"""A recipe: all tables of a TOML file."""

from dataclasses import dataclass, field

from ..runtime.audio.spec import AudioSpec
from .acoustic.model import AcousticConfig
from .acoustic.teaching import StudentConfig, TeacherConfig
from .content.stage import ContentTraining
from .corpus import CorpusConfig
from .data.prepare import PrepareConfig
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
