"""Judges from other packages, and likeness to the target."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.console import Console

from ...runtime.audio.features import mel_spectrogram
from ...runtime.audio.resampling import resample
from ...runtime.audio.spec import COMOSVC_24K, AudioSpec
from ...runtime.errors import BundleError, install
from ...runtime.providers.sessions import open_session
from ..data.prepared import FeatureIndex
from ..errors import DataError
from ..loop.checkpoint import latest_checkpoint, load_module, read_metadata
from ..loop.loop import fit
from .converters import EvaluationClip
from .measures import readable
from .singer_id import SINGER_ID, SingerClassifier, SingerCrops, SingerIdConfig, SingerIdObjective

MEASURE_RATE = 16_000
"""PESQ's wide band, what recognisers listen at, and most embeddings."""
_EXTRA = install("evaluate")
_RESEMBLYZER = "pip install librosa && pip install --no-deps resemblyzer webrtcvad-wheels"
"""Its own dependencies are a webrtcvad that has to be compiled and a backport of `typing`."""
_RECOGNISER_TIMEOUT_S = 600.0

Audio = NDArray[np.float32]
Compare = Callable[[Audio, Audio], float]
"""(estimate (N,), reference (N,)) at `MEASURE_RATE` -> figure."""
Embed = Callable[[Audio], NDArray[np.float32]]
"""Audio (N,) at `MEASURE_RATE` -> the voice as a vector (D,)."""


@dataclass(frozen=True)
class Missing:
    """A measure that is not taken, and how to get it."""

    why: str


def find_pesq() -> Compare | Missing:
    """PESQ, wide band (ITU-T P.862.2), by the `pesq` package. NaN where it finds no speech."""
    package = _package("pesq")
    if isinstance(package, Missing):
        return package

    def measure(estimate: Audio, reference: Audio) -> float:
        try:
            return float(package.pesq(MEASURE_RATE, reference, estimate, "wb"))
        except package.PesqError:
            return float("nan")

    return measure


def find_stoi() -> Compare | Missing:
    """STOI (Taal et al. 2011), by the `pystoi` package."""
    package = _package("pystoi")
    if isinstance(package, Missing):
        return package
    return lambda estimate, reference: float(package.stoi(reference, estimate, MEASURE_RATE))


def find_character_errors() -> Callable[[str, str], float] | Missing:
    """(recognised, sung) -> character error rate, by the `jiwer` package."""
    package = _package("jiwer")
    if isinstance(package, Missing):
        return package
    return lambda recognised, sung: float(package.cer(readable(sung), readable(recognised)))


def _package(name: str) -> Any | Missing:
    try:
        return import_module(name)
    except ImportError as error:
        return Missing(f"not measured ({error}): {_EXTRA}")


def find_embedding(choice: str | None, runs: list[Path]) -> tuple[str, Embed] | Missing:
    """A speaker embedding and its name: `choice` is an ONNX file, a run folder with a singer classifier, or
    "resemblyzer"; None takes the classifier of one of `runs`, else resemblyzer, `Missing` where neither is there.

    Raises `DataError` where `choice` cannot be had.
    """
    if choice is not None and choice.endswith(".onnx"):
        return f"{Path(choice).name}", onnx_embedding(Path(choice))
    candidates = runs if choice is None else [] if choice == "resemblyzer" else [Path(choice)]
    for run in candidates:
        if latest_checkpoint(run / SINGER_ID) is not None:
            return "our singer classifier", classifier_embedding(run)
    if choice not in (None, "resemblyzer"):
        raise DataError(
            f"{choice} holds no singer classifier\n"
            f"hint: train one: python -m comosvc.training.evaluation.singer_id {choice} -o singer_id.onnx; "
            "else --embedding takes an .onnx file or the word resemblyzer"
        )
    try:
        package = import_module("resemblyzer")
    except ImportError as error:
        if choice is not None:
            raise DataError(f"--embedding resemblyzer: {error}\nhint: {_RESEMBLYZER}") from None
        return Missing(f"not measured ({error}): {_RESEMBLYZER}")
    encoder = package.VoiceEncoder("cpu", verbose=False)
    return "resemblyzer", lambda audio: encoder.embed_utterance(package.preprocess_wav(audio, MEASURE_RATE))


def onnx_embedding(path: Path) -> Embed:
    """A graph from one input, audio (1, N) at 16 kHz, to the voice as its first output, (1, D)."""
    if not path.is_file():
        raise DataError(f"{path} is no file\nhint: --embedding takes an ONNX graph, audio (1, N) to a vector (1, D)")
    try:
        session = open_session(path.read_bytes(), "it", None)
    except (OSError, BundleError) as error:
        raise DataError(f"{path} is no graph that ONNX Runtime can run: {error}") from None
    name = session.get_inputs()[0].name
    return lambda audio: np.asarray(session.run(None, {name: audio[None]})[0], np.float32).reshape(-1)


def classifier_embedding(run: Path) -> Embed:
    """The last hidden layer of the singer classifier trained on the features of `run`."""
    path = latest_checkpoint(run / SINGER_ID)
    assert path is not None
    spec: AudioSpec = FeatureIndex.open(run / "features").audio
    _, config = read_metadata(path)
    model = SingerClassifier(spec.n_mels, len(config["classes"]), config["channels"]).eval()
    load_module(path, "ema", model)
    return hidden_layer(model, spec)


def hidden_layer(model: SingerClassifier, spec: AudioSpec) -> Embed:
    """The last hidden layer of a singer classifier for mels of `spec`, as an embedding. Changes `model`."""
    model.head = torch.nn.Sequential(*list(model.head)[:2])

    @torch.inference_mode()
    def embed(audio: Audio) -> NDArray[np.float32]:
        mel = mel_spectrogram(resample(audio, MEASURE_RATE, spec.sample_rate), spec)
        return model(torch.from_numpy(mel)[None])[0].numpy()

    return embed


@dataclass(frozen=True)
class Recogniser:
    """A program that prints the words of a recording: `command` with {wav} in the place of the file."""

    command: str

    def __post_init__(self) -> None:
        if "{wav}" not in self.command:
            raise DataError(f"the recogniser {self.command!r} gets no file\nhint: put {{wav}} where its path goes")

    def __call__(self, audio: Audio) -> str:
        """What is sung in `audio` (N,) at `MEASURE_RATE`. Raises `DataError` where the program fails."""
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "clip.wav"
            soundfile.write(wav, audio, MEASURE_RATE)
            words = [word.replace("{wav}", str(wav)) for word in shlex.split(self.command)]
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=_RECOGNISER_TIMEOUT_S, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise DataError(f"the recogniser {self.command!r} did not run: {error}") from None
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["it wrote nothing to stderr"]
            raise DataError(f"the recogniser {self.command!r} ended with {done.returncode}: {last[0]}")
        return done.stdout.strip()


LEARNING_CLIPS = 12
"""Training clips of each singer."""
LEARNING_STEPS = 150
_SHORTEST_FRAMES = 60


def learn_embedding(clips: Mapping[str, Sequence[EvaluationClip]]) -> tuple[str, Embed] | Missing:
    """Train a small singer classifier on `clips` by singer, for seconds; its name and its last hidden layer.

    `Missing` where fewer than two singers have a clip of a third of a second.
    """
    spec = COMOSVC_24K
    mels = {
        singer: [mel_spectrogram(resample(clip.audio, clip.rate, spec.sample_rate), spec) for clip in own]
        for singer, own in clips.items()
    }
    longest = {singer: max(map(len, own), default=0) for singer, own in mels.items()}
    usable = [singer for singer in mels if longest[singer] >= _SHORTEST_FRAMES]
    if len(usable) < 2:
        return Missing(
            "not measured: likeness is learned from the recordings of two singers or more; with --target-data give "
            "those of others too, or --embedding FILE.onnx"
        )
    usual = SingerIdConfig()
    loop = replace(
        usual.loop, steps=LEARNING_STEPS, batch_size=16, checkpoint_every=LEARNING_STEPS, log_every=LEARNING_STEPS
    )
    config = replace(usual, loop=loop, crop_frames=min(usual.crop_frames, *(longest[singer] for singer in usable)))
    torch.manual_seed(0)
    model = SingerClassifier(spec.n_mels, len(usable), config.channels)
    with TemporaryDirectory(prefix="comosvc-singer-id-") as folder:
        checkpoint = fit(
            SingerIdObjective(model),
            SingerCrops([mels[singer] for singer in usable], config),
            config.loop,
            Path(folder),
            seed=0,
            resolved_config={"loop": config.loop},
            resume=False,
            device="cpu",
            console=Console(quiet=True),
        )
        load_module(checkpoint, "ema", model)
    name = f"a singer classifier trained on recordings of {len(usable)} singers of this data"
    return name, hidden_layer(cast(SingerClassifier, model.eval()), spec)
