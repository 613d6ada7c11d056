"""The trained systems on the held-out parallel set, and their table of quality against speed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.conversion.source import noise_samples, pulse_source
from ...runtime.errors import ComosvcError
from ...runtime.voice.bundle import Bundle, open_bundle
from ...training.corpus import CorpusConfig
from ...training.run.rendering import AnalysedSong, Renderer
from ..held_out import SAMPLE_RATE, HeldOutPair, Score, load_held_out, pairs, pool, rotated_pairs, score_output
from ..metrics import PitchMeter, SingerMeter
from ..quality.bundle_parts import open_graph
from ..report import Provenance
from .equal_compute import read_plan, require_finished, spent_cpu_s, stages_of
from .rendered import TrainedSystem, draw_with, load_systems, song_batch
from .table import SystemRow, SystemsTable

T = TypeVar("T")
MANY_EVALUATIONS = 1000
"""A system of so many evaluations is measured on a few conversions only: each takes minutes of processor time."""


@dataclass(frozen=True)
class Take:
    """One conversion: its score, and processor seconds per second of audio."""

    score: Score
    acoustic_rtf: float
    chain_rtf: float


@dataclass(frozen=True)
class Judge:
    """Front end, vocoder and meters, common to all systems. `say` is called with progress."""

    run: Path
    voice: str
    corpus: CorpusConfig
    cache: Path
    say: Callable[[str], None]

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.run)

    @cached_property
    def bundle(self) -> Bundle:
        """The voice whose vocoder sings. Raises `ComosvcError` where it is not for mels like those of the run."""
        bundle = open_bundle(self.voice)
        if bundle.manifest.audio != self.renderer.spec or bundle.manifest.audio.sample_rate != SAMPLE_RATE:
            raise ComosvcError(
                f"the vocoder of {self.voice} sings {bundle.manifest.audio}, {self.run} has {self.renderer.spec}\n"
                "hint: prepare with the recipe of that voice, or name another one with -m"
            )
        return bundle

    @cached_property
    def meters(self) -> tuple[PitchMeter, SingerMeter]:
        return PitchMeter(), SingerMeter()

    @cached_property
    def _vocoder(self) -> Any:
        return open_graph(self.bundle, "vocoder")

    def sing(self, mel: NDArray[np.float32], f0_hz: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """The shared vocoder's audio (L,) of a mel (T, M) and its F0 (T,)."""
        spec = self.renderer.spec
        source, _ = pulse_source(f0_hz, spec)
        inputs = {"mel": mel, "f0_hz": f0_hz, "source": source, "noise": noise_samples(seed, 0, spec.samples(len(mel)))}
        (audio,) = self._vocoder.run({name: array[None] for name, array in inputs.items()})
        return audio[0]

    def score(self, mel: NDArray[np.float32], audio: NDArray[np.float32], pair: HeldOutPair) -> Score:
        return score_output(mel, audio, pair, self.renderer.spec, *self.meters)


def evaluate(judge: Judge, command: str, *, all_pairs: bool = False, few: int = 2) -> SystemsTable:
    """Judge every system of the run. Systems of `MANY_EVALUATIONS` get the first `few` conversions only.

    Raises `TrainingError` where one is not trained to the end of the plan.
    """
    plan = read_plan(judge.run)
    for name in plan.steps:
        require_finished(judge.run, name, plan)
    systems = load_systems(judge.run)
    judge.say("held-out songs")
    songs = load_held_out(judge.corpus, judge.cache, lambda song: judge.say(f"rendered {song}"))
    chosen = list(pairs(songs)) if all_pairs else rotated_pairs(songs)
    _require_singers(judge, {pair.target for pair in chosen})
    takes: dict[int, list[Take]] = {number: [] for number in range(len(systems))}
    references: dict[str, list[Score]] = {"unconverted": [], "copy-synthesis of the target": []}
    for seed, pair in enumerate(chosen):
        song, listen_s = _timed(lambda pair=pair: judge.renderer.listen(pair.source_audio, SAMPLE_RATE))
        references["unconverted"].append(judge.score(song.mel, song.audio, pair))
        references["copy-synthesis of the target"].append(_copied(judge, pair, seed))
        for number, system in enumerate(systems):
            if system.evaluations < MANY_EVALUATIONS or seed < few:
                judge.say(f"{pair.name} ({seed + 1} of {len(chosen)}): {system.title}, {system.evaluations}")
                takes[number].append(_take(judge, system, pair, song, listen_s, seed))
    spec = judge.renderer.spec
    rows = [SystemRow(title=title, quality=pool(scores, spec)) for title, scores in references.items()]
    rows += [_row(judge, system, takes[number]) for number, system in enumerate(systems) if takes[number]]
    return SystemsTable(
        provenance=Provenance.here(command),
        rows=tuple(rows),
        conditions=_conditions(judge),
        details=_details(systems, takes),
    )


def _require_singers(judge: Judge, wanted: set[str]) -> None:
    if missing := sorted(wanted - {*judge.renderer.features.trained_singers}):
        raise ComosvcError(
            f"the held-out set has targets for {', '.join(sorted(wanted))}; {judge.run} did not train on "
            f"{', '.join(missing)}\nhint: prepare the demo corpus: comosvc-train corpus and prepare, with the same -c"
        )


@torch.inference_mode()
def _take(
    judge: Judge, system: TrainedSystem, pair: HeldOutPair, song: AnalysedSong, listen_s: float, seed: int
) -> Take:
    batch = song_batch(song, judge.renderer.features, pair.target)
    mel, paint_s = _timed(lambda: system.paint(batch, draw_with(seed, len(song.mel)))[0].numpy())
    audio, sing_s = _timed(lambda: judge.sing(mel, song.f0_hz, seed))
    seconds = len(song.audio) / judge.renderer.spec.sample_rate
    return Take(judge.score(mel, audio, pair), paint_s / seconds, (listen_s + paint_s + sing_s) / seconds)


def _copied(judge: Judge, pair: HeldOutPair, seed: int) -> Score:
    """The best that the vocoder could do: the true mel, sung at the F0 that is found in it."""
    target = judge.renderer.listen(pair.target_audio, SAMPLE_RATE)
    return judge.score(target.mel, judge.sing(target.mel, target.f0_hz, seed), pair)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work`, and its processor seconds."""
    start = time.process_time()
    return work(), time.process_time() - start


def _row(judge: Judge, system: TrainedSystem, takes: Sequence[Take]) -> SystemRow:
    return SystemRow(
        title=system.title,
        quality=pool((take.score for take in takes), judge.renderer.spec),
        evaluations=system.evaluations,
        parameters=system.parameters,
        training_cpu_s=read_plan(judge.run).cpu_s(system.stage),
        spent_cpu_s=sum(spent_cpu_s(judge.run, name) for name in stages_of(system.stage)),
        acoustic_rtf=median(take.acoustic_rtf for take in takes),
        chain_rtf=median(take.chain_rtf for take in takes),
    )


def _conditions(judge: Judge) -> dict[str, Any]:
    features = judge.renderer.features
    return {
        "plan": asdict(read_plan(judge.run)),
        "training_minutes": sum(singer.minutes for singer in features.singers.values()),
        "training_singers": len(features.trained_singers),
        "vocoder": judge.bundle.manifest.name,
        "threads": torch.get_num_threads(),
    }


def _details(systems: Sequence[TrainedSystem], takes: dict[int, list[Take]]) -> dict[str, Any]:
    return {
        f"{system.title}, {system.evaluations}": [
            {
                "pair": take.score.pair,
                "identified": take.score.identified,
                "mel": asdict(take.score.mel),
                "audio": asdict(take.score.audio),
                "acoustic_rtf": take.acoustic_rtf,
            }
            for take in takes[number]
        ]
        for number, system in enumerate(systems)
    }
