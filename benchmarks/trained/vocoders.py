"""`comosvc-bench vocoders`: the light vocoder and the HiFi-GAN shape, trained alike, and their audio of true mels.

Both get the same processor time on the same clips, with the same losses and the same adversary. The rival is the
authors' network with a quarter of its channels: a sixteenth of the work, about that of the light one, and little
enough to be trained on a processor. Stopped and run again, the training goes on where it stopped.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from ...export.graphs.inputs import InputMaker
from ...export.graphs.trace import spec_of, trace
from ...runtime.audio.spec import AudioSpec
from ...runtime.providers.sessions import open_session
from ...runtime.voice.bundle import comosvc_home, open_bundle
from ...runtime.voice.graphs import GRAPHS
from ...training.config import load_config, to_mapping
from ...training.corpus import CorpusConfig
from ...training.data.prepared import FeatureIndex
from ...training.loop.checkpoint import load_module, require_checkpoint
from ...training.loop.loop import LoopConfig
from ...training.recipe import Recipe
from ...training.vocoder.light import LIGHT, NSF_HIFIGAN, AnyVocoder, build_vocoder
from ...training.vocoder.losses import AdversaryConfig, log_spectrum
from ...training.vocoder.stage import VocoderClip, VocoderData, VocoderObjective, VocoderTraining
from ..held_out import load_held_out
from ..metrics import F0Errors, MelScore, PitchMeter, f0_errors, mean_of
from ..quality.bundle_parts import RTF_REPEATS, HeldOutClip, copy_inputs, copy_of, held_out_clips
from ..report import Figures, Provenance, Row
from .equal_compute import Plan, fit_stage, kept_plan, spent_cpu_s, step_cost
from .objectives import TrainedPart

FOLDER, SHIPPED = "vocoders", "demo"
GFLOP_ALLOWED = 5.0
_SEED = 1
_ADVERSARY = AdversaryConfig(period_channels=(8, 16, 32, 64), resolution_channels=8)
"""The published one costs ten times the vocoders themselves."""
_LOOP = LoopConfig(
    steps=1,
    batch_size=4,
    learning_rate=1e-3,
    final_learning_rate=2e-5,
    warmup_steps=30,
    betas=(0.8, 0.99),
    ema_decay=0.99,
)
RIVALS = {
    "light": VocoderTraining(
        kind=LIGHT, loop=replace(_LOOP, learning_rate=3e-4), crop_frames=64, adversary=_ADVERSARY
    ),
    "nsf-hifigan-128": VocoderTraining(
        kind=NSF_HIFIGAN, network={"upsample_initial_channel": 128}, loop=_LOOP, crop_frames=64, adversary=_ADVERSARY
    ),
}  # fmt: skip
"""The vocoders that are trained."""
_COUNTED_S, _WINDOW = 2, 2048


@dataclass(frozen=True)
class VocoderFigures:
    """One vocoder. `mel`: copy-synthesis of the held-out clips; `f0`: of the copies against the score."""

    parameters: int
    gflop_per_s: float
    mel: MelScore
    spectrum_l1: float
    """Of the log spectra, windows of `_WINDOW` samples, in nepers: they part harmonics from noise, and the
    mel-matching kinds do not match them.
    """
    f0: F0Errors
    rtf: float
    """Processor seconds per second of audio, ONNX Runtime on one thread, fp32."""
    steps: int | None = None
    training_cpu_s: float | None = None
    """By the plan, as if nothing else ran."""
    spent_cpu_s: float | None = None
    """Processor seconds of the same steps in fact."""


@dataclass(frozen=True, kw_only=True)
class VocodersOptions:
    run: Path
    """With the demo corpus' features."""
    cpu_minutes: float
    rivals: Mapping[str, VocoderTraining]
    corpus: CorpusConfig
    cache: Path


def default_options(run: Path, cpu_minutes: float) -> VocodersOptions:
    """All rivals on the demo's held-out songs."""
    return VocodersOptions(
        run=run, cpu_minutes=cpu_minutes, rivals=RIVALS, corpus=CorpusConfig(), cache=comosvc_home() / "benchmarks"
    )


def measure_vocoders(options: VocodersOptions, command: str, say: Callable[[str], None], console: Console) -> Figures:
    """Train what is not trained yet, then measure it and the shipped voice's vocoder. Raises `DataError` without
    features, `ConfigError` where the training was begun with another budget.
    """
    features = FeatureIndex.open(options.run / "features")
    plan = _train(options, features, console)
    songs = load_held_out(options.corpus, options.cache, lambda song: say(f"rendered {song}"))
    clips, meter = list(held_out_clips(songs, features.audio)), PitchMeter()
    found: dict[str, VocoderFigures] = {}
    for name, training in options.rivals.items():
        say(name)
        vocoder = build_vocoder(training.sizes, features.audio).eval()
        load_module(require_checkpoint(options.run / FOLDER / name), "ema", vocoder)
        figures = _measure(_graph_of(vocoder, features.audio), vocoder, features.audio, clips, meter)
        found[name] = replace(
            figures,
            steps=plan.steps[name],
            training_cpu_s=plan.cpu_s(name),
            spent_cpu_s=spent_cpu_s(options.run / FOLDER, name),
        )
    say(SHIPPED)
    bundle, recipe = open_bundle(SHIPPED), load_config(Recipe, SHIPPED)
    assert recipe.vocoder is not None
    shape = build_vocoder(recipe.vocoder.sizes, bundle.manifest.audio)
    found[SHIPPED] = _measure(bundle.graph_bytes("vocoder"), shape, bundle.manifest.audio, clips, meter)
    return _report(found, plan, clips, features, command)


def _train(options: VocodersOptions, features: FeatureIndex, console: Console) -> Plan:
    loaded = [features.load(clip) for clip in features.select("train", trained=True)]
    clips = [VocoderClip(c["mel"], c["f0_hz"], c["audio"]) for c in loaded]

    def stage(name: str) -> TrainedPart:
        return _stage(options.rivals[name], clips, features)

    folder = options.run / FOLDER
    shares = dict.fromkeys(options.rivals, 1.0)
    plan = kept_plan(folder, shares, 60.0 * options.cpu_minutes, lambda name: step_cost(stage(name), console))
    for name in options.rivals:
        fit_stage(stage(name), folder / name, plan.steps[name], console=console)
    return plan


def _stage(training: VocoderTraining, clips: list[VocoderClip], features: FeatureIndex) -> TrainedPart:
    torch.manual_seed(_SEED)
    model = build_vocoder(training.sizes, features.audio)
    objective = VocoderObjective(model, features.audio, training.draws, training.adversary)
    data = VocoderData(clips, features.audio, training.crop_frames, model.source_kind)
    config = {"audio": to_mapping(features.audio), "vocoder": to_mapping(training), "seed": _SEED}
    return TrainedPart(objective, training.loop, data.batch, config, lambda average: {})


def _graph_of(vocoder: AnyVocoder, spec: AudioSpec) -> bytes:
    contract = spec_of(GRAPHS["vocoder"], vocoder)
    example = {name: torch.from_numpy(value) for name, value in _inputs(vocoder, spec, 2, 8).items()}
    return trace(contract, vocoder, example).SerializeToString(deterministic=True)


def _inputs(vocoder: AnyVocoder, spec: AudioSpec, batch: int, n_frames: int) -> dict[str, np.ndarray]:
    maker = InputMaker(spec, {"M": spec.n_mels, "H": vocoder.source_channels}, 0, vocoder.source_kind)
    return maker.make(spec_of(GRAPHS["vocoder"], vocoder), batch, n_frames, seed=0)


def _measure(
    graph: bytes, shape: AnyVocoder, spec: AudioSpec, clips: list[HeldOutClip], meter: PitchMeter
) -> VocoderFigures:
    """`shape`: a network of the graph's sizes, for figures that do not depend on the weights."""
    session = open_session(graph, "the vocoder graph", threads=1)
    taken = {tensor.name for tensor in session.get_inputs()}

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return session.run(None, {name: value for name, value in inputs.items() if name in taken})

    copies = [copy_of(run, clip, spec, meter, shape.source_kind) for clip in clips]
    curves = [
        (meter(audio, spec.sample_rate, spec), clip.f0_hz) for (audio, _), clip in zip(copies, clips, strict=True)
    ]
    timed = {name: value[None] for name, value in copy_inputs(clips[0], spec, meter, shape.source_kind).items()}
    return VocoderFigures(
        parameters=sum(weight.numel() for weight in shape.parameters()),
        gflop_per_s=_gflop_per_s(shape, spec),
        mel=mean_of([score for _, score in copies]),
        spectrum_l1=float(np.mean([_spectrum_l1(audio, clip) for (audio, _), clip in zip(copies, clips, strict=True)])),
        f0=f0_errors(curves, spec.frame_rate_hz),
        rtf=_median_cpu_s(lambda: run(timed)) / (timed["noise"].shape[1] / spec.sample_rate),
    )


def _spectrum_l1(audio: np.ndarray, clip: HeldOutClip) -> float:
    length = min(len(audio), len(clip.audio))
    copied, truth = (log_spectrum(torch.from_numpy(x[None, :length]), _WINDOW) for x in (audio, clip.audio))
    return float((copied - truth).abs().mean())


def _gflop_per_s(vocoder: AnyVocoder, spec: AudioSpec) -> float:
    n_frames = round(_COUNTED_S * spec.frame_rate_hz)
    inputs = {name: torch.from_numpy(value) for name, value in _inputs(vocoder, spec, 1, n_frames).items()}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        vocoder(**{name: inputs[name] for name in signature(vocoder.forward).parameters})
    return counter.get_total_flops() / _COUNTED_S / 1e9


def _median_cpu_s(work: Callable[[], Any]) -> float:
    """Processor seconds, after one to warm up."""
    seconds = []
    for _ in range(1 + RTF_REPEATS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:]))


def _report(
    found: Mapping[str, VocoderFigures], plan: Plan, clips: list[HeldOutClip], features: FeatureIndex, command: str
) -> Figures:
    rows: list[Row] = []
    for name, one in found.items():
        limit = GFLOP_ALLOWED if name == LIGHT else None
        training = (
            "as shipped"
            if one.steps is None
            else f"{one.steps} steps, {one.training_cpu_s:.0f} processor seconds ({one.spent_cpu_s:.0f} in fact)"
        )
        rows += [
            Row(what=f"{name}: copy-synthesis, L1 of the log-mel", value=one.mel.l1, unit="nepers", note=training),
            Row(what=f"{name}: L1 of log spectra", value=one.spectrum_l1, unit="nepers", note=f"windows of {_WINDOW}"),
            Row(what=f"{name}: texture", value=one.mel.texture, note="over the truth's, 1 is right"),
            Row(
                what=f"{name}: F0 gross errors", value=_known(100.0 * one.f0.gross), unit="%", note="against the score"
            ),
            Row(what=f"{name}: F0 RMSE", value=_known(one.f0.rmse_cents), unit="cents", note="of the others"),
            Row(what=f"{name}: RTF", value=one.rtf, note="processor time, ONNX Runtime, one thread, fp32"),
            Row(what=f"{name}: work", value=one.gflop_per_s, unit="GFLOP per second of audio", at_most=limit),
            Row(what=f"{name}: parameters", value=one.parameters / 1e6, unit="M"),
        ]
    details = {
        "plan": asdict(plan),
        "held_out_clips": len(clips),
        "training_minutes": sum(singer.minutes for singer in features.singers.values()),
        "torch_threads": torch.get_num_threads(),
        "vocoders": {name: asdict(one) for name, one in found.items()},
    }
    return Figures(
        provenance=Provenance.here(command),
        rows=tuple(rows),
        voice={"name": "vocoders, trained alike"},
        details=details,
    )


def _known(value: float) -> float | None:
    """None where no frame was voiced in both."""
    return None if np.isnan(value) else value
