"""The demo corpus: synthetic singers with exact labels, and timed audio resting on recorded voices. No torch in it."""

from .phones import PHONES
from .plan import CorpusConfig
from .reader import Corpus, CorpusClip, Labels, SingerInfo
from .render import ParallelSong, held_out_set
from .write import write_corpus

__all__ = [
    "PHONES",
    "Corpus",
    "CorpusClip",
    "CorpusConfig",
    "Labels",
    "ParallelSong",
    "SingerInfo",
    "held_out_set",
    "write_corpus",
]
