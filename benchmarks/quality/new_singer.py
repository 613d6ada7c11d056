"""Adds an unseen singer to the voice of a run from minutes of audio, and measures the result.

    python -m comosvc.benchmarks.quality.new_singer RUN -o FOLDER [--minutes 3] [--json FILE]

The songs of the parallel set tell the truth: other unseen singers' renderings are converted to the new singer and
compared with the new singer's own. RUN is only read.
"""

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import soundfile
import torch
import typer
from numpy.typing import NDArray
from torch import nn

from ...runtime.audio.frames import content_index
from ...runtime.audio.resampling import resample
from ...training.acoustic.dataset import batch_condition
from ...training.acoustic.diffusion import consistency_sample
from ...training.acoustic.model import AcousticModel
from ...training.acoustic.teaching import denoise_with
from ...training.config import load_config
from ...training.content.stage import CONTENT
from ...training.corpus import CorpusConfig, ParallelSong, held_out_set
from ...training.corpus.plan import SongPlan, noise_seed, perform_plan
from ...training.corpus.render import SAMPLE_RATE, render
from ...training.corpus.singer import SyntheticSinger, held_out_singers
from ...training.corpus.songs import NoteRange
from ...training.data.datasets import open_dataset
from ...training.data.prepare import analyse, prepare
from ...training.data.prepared import FeatureIndex
from ...training.loop.checkpoint import require_checkpoint
from ...training.recipe import Recipe
from ...training.run.acoustic_stages import STUDENT, load_content_encoders, train_student, train_teacher
from ...training.run.fine_tune import Part, Start, initial_model, load_acoustic
from ..metrics import MelScore, mean_of, score_mel
from ..report import Figures, Provenance, Row, save, show

logger = logging.getLogger(__name__)
_RECIPES: dict[Part, str] = {"embedding": "fine-tune-embedding", "all": "fine-tune"}
_CLIP_S = 12.0
_LOWEST_HZ = (100.0, 260.0)


@dataclass(frozen=True)
class NewSingerSong:
    """A conversion to make: the source's condition, and the mels (T, M) of the source and of the new singer."""

    condition: Mapping[str, torch.Tensor]
    source: NDArray[np.float32]
    truth: NDArray[np.float32]


def record(singer: SyntheticSinger, config: CorpusConfig, minutes: float, folder: Path) -> None:
    """Render songs of `singer` that are not in the parallel set, about `minutes` of them, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, round(minutes * 60 / _CLIP_S))
    for n, low_hz in enumerate(np.geomspace(*_LOWEST_HZ, count)):
        song = SongPlan(f"new-singer-{n}", _CLIP_S, NoteRange(float(low_hz), float(2.2 * low_hz)))
        audio = render(perform_plan(config, song), singer, noise_seed(config, song.id))
        soundfile.write(folder / f"{n:02d}.wav", audio, SAMPLE_RATE, "PCM_16")


def conversions(
    songs: Sequence[ParallelSong], singer: str, encoder: nn.Module, model: AcousticModel
) -> list[NewSingerSong]:
    """Every other unseen singer's rendering of every song, to be converted to `singer`."""
    found = []
    for song in songs:
        mels = {
            name: analyse(resample(a, SAMPLE_RATE, model.spec.sample_rate), model.spec)
            for name, a in song.audio.items()
        }
        for source in (name for name in song.sources if name != singer):
            at_16k = resample(song.audio[source], SAMPLE_RATE, model.spec.content_sample_rate)
            content = encoder(torch.from_numpy(at_16k)[None])
            index = content_index(0, len(mels[source]["mel"]), model.spec).clip(max=content.shape[1] - 1)
            condition = {
                "content": content[:, index],
                "f0_hz": torch.from_numpy(mels[source]["f0_hz"])[None],
                "loudness": torch.from_numpy(mels[source]["loudness"])[None],
                "singer": torch.zeros(1, dtype=torch.long),
            }
            found.append(NewSingerSong(condition, mels[source]["mel"], mels[singer]["mel"]))
    return found


def convert(model: AcousticModel, songs: Sequence[NewSingerSong], noise_scale: float) -> MelScore:
    """One step from noise for each song; means of the distances to the truth."""
    scores = []
    for number, song in enumerate(songs):
        noise = torch.randn(1, *song.truth.shape, generator=torch.Generator().manual_seed(number))
        embedded = model.embed(batch_condition(model, song.condition))
        x = consistency_sample(denoise_with(model, embedded), [noise_scale * noise], model.config.sigma)
        scores.append(score_mel(model.denormalise(x)[0].numpy(), song.truth, model.spec.mel_log_base))
    return mean_of(scores)


def add_singer(run: Path, recordings: Path, folder: Path, part: Part) -> AcousticModel:
    """The commands `prepare`, `teacher` and `student` on the recordings, with the shipped recipe; the student."""
    recipe = load_config(Recipe, _RECIPES[part])
    prepare(open_dataset("folder", recordings), recipe.audio, folder / "features", 1)
    how = {"seed": recipe.seed, "resume": True, "device": "cpu", "start": Start(source=run, train=part)}
    train_teacher(recipe.acoustic, recipe.teacher, folder, **how)
    train_student(recipe.student, folder, **how)
    return load_acoustic(require_checkpoint(folder / STUDENT), "ema")


def untrained(run: Path, folder: Path) -> AcousticModel:
    """The student of `run` with the mean of its singers in place of the new one: no training at all."""
    encoders = {name: encoder_hash for name, (_, encoder_hash) in load_content_encoders(run).items()}
    features = FeatureIndex.open(folder / "features")
    return initial_model(Start(source=run), STUDENT, features, encoders).eval()


def main(
    run: Annotated[Path, typer.Argument(help="A run folder with teacher and student of the demo recipe.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the new runs go.")],
    minutes: float = 3.0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
) -> None:
    """Add an unseen singer to the voice of RUN in each of the ways that `--train` offers, and print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    config = CorpusConfig(demo_singers=1, held_out_songs=3)
    singer = held_out_singers(config.seed, config.held_out_singers)[0]
    record(singer, config, minutes, output / "recordings" / singer.name)
    students = {part: add_singer(run, output / "recordings", output / part, part) for part in get_args(Part)}
    encoder, _ = load_content_encoders(run)[CONTENT]
    with torch.inference_mode():
        songs = conversions(list(held_out_set(config)), singer.name, encoder, students["all"])
        unconverted = mean_of([score_mel(s.source, s.truth, students["all"].spec.mel_log_base) for s in songs])
        models = {"none: mean of the trained singers": untrained(run, output / "all"), **students}
        scores = {name: convert(model, songs, 1.0) for name, model in models.items()}
    command = shlex.join(["python", "-m", "comosvc.benchmarks.quality.new_singer", *sys.argv[1:]])
    report = Figures(
        provenance=Provenance.here(command),
        rows=tuple(
            Row(
                what=f"--train {name}: L1 to the new singer's own rendering over the unconverted source's",
                value=score.l1 / unconverted.l1,
                note=f"{len(songs)} conversions, {minutes:g} minutes of audio; texture {score.texture:.2f}",
            )
            for name, score in scores.items()
        ),
        voice={"name": f"{singer.name}, added to {run.name}"},
        details={"unconverted": asdict(unconverted), **{name: asdict(score) for name, score in scores.items()}},
    )
    show(report.table())
    if json is not None:
        save(report, json)


if __name__ == "__main__":
    typer.run(main)
