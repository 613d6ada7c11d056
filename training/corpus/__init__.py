"""The demo corpus: synthetic singers with exact labels, and timed audio resting on recorded voices. No torch in it."""

from .config import CorpusConfig
from .held_out import ParallelSong, held_out_set, render_parallel
from .phones import PHONES
from .reader import Clip, Corpus, Labels, SingerInfo
from .write import write_corpus

__all__ = [
    "PHONES",
    "Clip",
    "Corpus",
    "CorpusConfig",
    "Labels",
    "ParallelSong",
    "SingerInfo",
    "held_out_set",
    "render_parallel",
    "write_corpus",
]
