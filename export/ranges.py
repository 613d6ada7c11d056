"""How large a graph's numbers get with inputs that are legal and as large as they come.

float16 ends at 65504. What comes near it for some input must stay in float32, and no parity over ordinary inputs shows
that.
"""

from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ..runtime.graph import GraphSpec
from ..runtime.mel import mel_spectrogram
from ..runtime.source import make_excitation
from ..runtime.spec import AudioSpec
from .half import FLOAT, element_types
from .inputs import Arrays, InputMaker
from .parity import onnx_runner

_SIGMAS = 6.0
"""Normal noise goes beyond this once in half a billion samples."""
_F0_HZ = (0.0, 50.0, 1_400.0)
_FRAMES, _LONG_S, _SHORT_S = 96, 20, 1


def largest(model: ModelProto, inputs: Iterable[Arrays]) -> dict[str, float]:
    """The largest magnitude of every float value of a graph over all `inputs`, constants too, by its name.

    NaN where one was not a number.
    """
    kinds = element_types(model)
    found = {t.name: _peak(numpy_helper.to_array(t)) for t in model.graph.initializer if t.data_type == FLOAT}
    names = [name for node in model.graph.node for name in node.output if kinds.get(name) == FLOAT]
    run = onnx_runner(_with_peaks(model, names).SerializeToString())
    for arrays in inputs:
        got = run(arrays)
        peaks = {name: _peak(value) for name, value in arrays.items() if value.dtype == np.float32}
        # A kernel's maximum may pass over NaN; its sum does not.
        peaks |= {n: float(got[f"{n}.peak"]) if not np.isnan(got[f"{n}.sum"]) else np.nan for n in names}
        found |= {name: float(np.maximum(peak, found.get(name, 0.0))) for name, peak in peaks.items()}
    return found


def _peak(value: NDArray) -> float:
    return float(np.abs(value).max(initial=0.0))


def _with_peaks(model: ModelProto, names: list[str]) -> ModelProto:
    """The model with largest magnitude and sum of magnitudes of each value as outputs instead of its own."""
    made = ModelProto()
    made.CopyFrom(model)
    del made.graph.output[:]
    # Last ones first: ONNX Runtime then computes each as soon as it can, else all values live to the end, 4 GB more.
    for name in reversed(names):
        made.graph.node.append(helper.make_node("Abs", [name], [f"{name}.abs"]))
        for op, end in (("ReduceMax", "peak"), ("ReduceSum", "sum")):
            made.graph.node.append(helper.make_node(op, [f"{name}.abs"], [f"{name}.{end}"], keepdims=0))
            made.graph.output.append(helper.make_tensor_value_info(f"{name}.{end}", TensorProto.FLOAT, []))
    return made


def extreme_inputs(spec: GraphSpec, maker: InputMaker) -> Iterator[Arrays]:
    """Inputs of a graph at the edges of what is legal: full scale, lowest and highest F0, mel and loudness, 6 sigma."""
    if spec.inputs[0].name == "audio":
        yield from _extreme_audio(spec, maker)
        return
    rng = np.random.default_rng(4)
    usual = maker.make(spec, 1, _FRAMES, seed=4)
    steps = range(maker.n_sigmas) if "step_index" in usual else (0,)
    for f0_hz, mel, step in product(_F0_HZ, _extreme_mels(maker.audio) if "mel" in usual else (None,), steps):
        f0 = np.full((1, _FRAMES), f0_hz, np.float32)
        extreme = {
            "f0_hz": f0,
            "mel": mel,
            "step_index": np.array(step, np.int32),
            "loudness": rng.integers(0, 2, f0.shape).astype(np.float32),
            "content": _extreme_content(usual["content"], maker.phones, rng) if "content" in usual else None,
            "noise": _SIGMAS * _signs(rng, usual["noise"].shape),
            "source": _extreme_source(maker, f0[0]) if "source" in usual else None,
        }
        yield {**usual, **{name: value for name, value in extreme.items() if name in usual and value is not None}}


def _extreme_audio(spec: GraphSpec, maker: InputMaker) -> Iterator[Arrays]:
    """Noise, a square wave, a tone, a click and silence, all at full scale, and singing, long where attention is."""
    rate, rng = maker.audio.content_sample_rate, np.random.default_rng(4)
    seconds = np.arange(_SHORT_S * rate) / rate
    click = np.zeros(len(seconds))
    click[len(click) // 2] = 1.0
    tone = np.sin(2.0 * np.pi * 440.0 * seconds)
    square = np.sign(np.sin(2.0 * np.pi * 110.0 * seconds))
    for sound in (rng.uniform(-1.0, 1.0, len(seconds)), square, tone, click, np.zeros(len(seconds))):
        yield {"audio": sound.astype(np.float32)[None]}
    sung = maker.make(spec, 1, (_LONG_S if spec.name == "content" else _SHORT_S) * rate, seed=4)["audio"]
    yield {"audio": sung / np.abs(sung).max()}


def _extreme_mels(audio: AudioSpec) -> list[NDArray[np.float32]]:
    """(1, T, M) at the mel's floor, at the highest that full scale gives, and jumping between the two."""
    seconds = np.arange(audio.samples(_FRAMES)) / audio.sample_rate
    tones = np.geomspace(audio.f_min_hz, audio.f_max_hz, 4 * audio.n_mels, endpoint=False)
    loud = [mel_spectrogram(np.sin(2.0 * np.pi * hz * seconds).astype(np.float32), audio).max(axis=0) for hz in tones]
    high = np.tile(np.max(loud, axis=0), (_FRAMES, 1))
    low = np.full_like(high, np.log(audio.mel_floor) / np.log(audio.mel_log_base))
    return [low[None], high[None], np.where(np.arange(_FRAMES)[:, None] % 8 < 4, low, high)[None]]


def _extreme_content(usual: NDArray, phones: bool, rng: np.random.Generator) -> NDArray:
    if phones:
        return np.eye(usual.shape[2], dtype=np.float32)[rng.integers(usual.shape[2], size=usual.shape[:2])]
    return _SIGMAS * _signs(rng, usual.shape)


def _extreme_source(maker: InputMaker, f0_hz: NDArray[np.float32]) -> NDArray[np.float32] | None:
    made = make_excitation(maker.source_kind, maker.audio, 4)
    return None if made is None else made.extend(f0_hz)[None]


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.choice(np.array([-1.0, 1.0], np.float32), shape)
