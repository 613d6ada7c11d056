"""A voice bundle in a second: seeded random convolutions that obey the contracts.

Every graph has an uneven, finite context and biases, so that a piece cut without its context, or an array's end that is
taken for the clip's, shows. The pitch graph is the real one.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from comosvc.runtime import COMOSVC_24K, AudioSpec
from comosvc.runtime.audio.spec import FrontEnd
from comosvc.runtime.voice import bundle as runtime_bundle
from comosvc.runtime.voice.graphs import GRAPHS, TensorSpec
from comosvc.runtime.voice.manifest import (
    Context,
    ContextEntry,
    GraphEntry,
    LicenceEntry,
    LookaheadEntry,
    Manifest,
    ModelEntry,
    SingerEntry,
    SourceEntry,
    to_json,
)

SPEC = replace(COMOSVC_24K, n_mels=8, content_hop_length=160)
CONTENT, SINGER = 6, 4
SIGMAS = (2.0, 0.5, 0.2)
SCHEDULES = {"2": (1,), "4": (0, 1, 2)}
CONTEXT = ContextEntry(
    content=Context(past=3, future=1, window_ms=20.0),  # two hops of SPEC
    pitch=Context(past=11, future=10),
    acoustic=Context(past=5, future=2),
    vocoder=Context(past=2, future=2),
)


class _Net:
    """An ONNX graph under construction; weights come from a seeded generator."""

    def __init__(self, name: str, spec: AudioSpec, seed: int) -> None:
        self.name, self.spec, self._rng = name, spec, np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def conv(self, x: str, channels: tuple[int, int], past: int, future: int, *, stride: int = 1, size: int = 0) -> str:
        """A convolution over (B, C, T), zeros at the array's ends. `size` 0: what `past` and `future` make it."""
        size = size or past + 1 + future
        scale = 1.0 / np.sqrt(channels[0] * size)
        weight = self._rng.normal(0.0, scale, (channels[1], channels[0], size)).astype(np.float32)
        bias = self._rng.normal(0.0, 0.3, channels[1]).astype(np.float32)
        parts = self.constant(weight), self.constant(bias)
        return self("Conv", x, *parts, kernel_shape=[size], pads=[past, future], strides=[stride])

    def swap(self, x: str, output: str | None = None) -> str:
        return self("Transpose", x, perm=[0, 2, 1], output=output)

    def column(self, x: str) -> str:
        """(B, T) as (B, T, 1)."""
        return self("Unsqueeze", x, self.constant(np.array([-1])))

    def build(self) -> bytes:
        spec, sizes = GRAPHS[self.name], _sizes(self.spec)
        kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}

        def values(tensors: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
            dims = [[sizes.get(letter, letter) for letter in tensor.dims] for tensor in tensors]
            named = zip(tensors, dims, strict=True)
            return [helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], d) for tensor, d in named]

        graph = helper.make_graph(self._nodes, self.name, values(spec.inputs), values(spec.outputs), self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        return model.SerializeToString()


def _content(spec: AudioSpec) -> bytes:
    net, hop = _Net("content", spec, 1), spec.content_hop_length
    x = net("Unsqueeze", "audio", net.constant(np.array([1])))
    x = net("Tanh", net.conv(x, (1, 16), hop // 2, hop // 2, stride=hop, size=2 * hop))
    x = net.conv(x, (16, CONTENT), 3, 1)
    net("Softmax", net.swap(x), axis=-1, output="content")
    return net.build()


def _condition(net: _Net) -> str:
    """Everything the acoustic graphs are told, (B, channels, T)."""
    index = net("Cast", net.column("content_index"), to=TensorProto.INT64)
    index = net("Expand", index, net.constant(np.array([1, 1, CONTENT])))
    content = net("GatherElements", "content", index, axis=1)
    pitch = net("Log", net("Add", net.column("f0_hz"), net.constant(np.array(1.0, np.float32))))
    level = net.column("loudness")
    singer = net("Unsqueeze", "singer", net.constant(np.array([1])))
    length = net("Shape", "f0_hz", start=1, end=2)
    one = net.constant(np.array([1]))
    singer = net("Expand", singer, net("Concat", one, length, one, axis=0))
    return net.swap(net("Concat", content, pitch, level, singer, "noise", axis=2))


def _acoustic(name: str, spec: AudioSpec) -> bytes:
    net = _Net(name, spec, 2)
    channels = CONTENT + 2 + SINGER + spec.n_mels
    x = _condition(net)
    if name == "acoustic_n":
        sigma = net("Gather", net.constant(np.array(SIGMAS, np.float32)), "step_index")
        noisy = net("Add", "mel", net("Mul", "noise", sigma))
        x, channels = net("Concat", x, net.swap(noisy), axis=1), channels + spec.n_mels
    x = net("Tanh", net.conv(x, (channels, 24), 3, 1))
    x = net.conv(x, (24, spec.n_mels), 2, 1)
    net.swap(x, output="mel" if name == "acoustic" else "mel_out")
    return net.build()


def _vocoder(spec: AudioSpec) -> bytes:
    """Gains per frame for the pulses and the noise, held over the hop, then a filter over samples."""
    net = _Net("vocoder", spec, 3)
    pitch = net("Log", net("Add", net.column("f0_hz"), net.constant(np.array(1.0, np.float32))))
    x = net.swap(net("Concat", "mel", pitch, axis=2))
    x = net("Sigmoid", net.swap(net.conv(x, (spec.n_mels + 1, 2), 1, 1)))
    x = net("Unsqueeze", x, net.constant(np.array([2])))
    x = net("Expand", x, net.constant(np.array([1, 1, spec.hop_length, 1])))
    gains = net("Reshape", x, net.constant(np.array([0, -1, 2])))
    excited = net("Mul", gains, net("Concat", "source", net.column("noise"), axis=2))
    samples = net.conv(net.swap(excited), (2, 1), 100, 60)
    samples = net("Tanh", net("Mul", samples, net.constant(np.array(0.3, np.float32))))
    net("Squeeze", samples, net.constant(np.array([1])), output="audio")
    return net.build()


def _pitch() -> bytes:
    return (Path(runtime_bundle.__file__).parents[1] / "data" / "pitch.onnx").read_bytes()


def tiny_files(spec: AudioSpec = SPEC, front_end: FrontEnd | None = None) -> dict[str, bytes]:
    """The files of a bundle by name, bundle.json first."""
    models = {
        "content": _content(spec),
        "pitch": _pitch(),
        "acoustic": _acoustic("acoustic", spec),
        "acoustic_n": _acoustic("acoustic_n", spec),
        "vocoder": _vocoder(spec),
    }
    embedding = np.random.default_rng(4).normal(size=(3, SINGER)).astype(np.float32)
    singers = save({"embedding": embedding})
    manifest = _manifest({name: _entry(name, model, spec) for name, model in models.items()}, _sha256(singers), spec)
    if front_end is not None:
        manifest = replace(manifest, front_end=front_end)
    files = {f"{name}.onnx": model for name, model in models.items()}
    return {"bundle.json": to_json(manifest).encode(), "singers.safetensors": singers, **files}


def _sizes(spec: AudioSpec) -> dict[str, int]:
    return {"C": CONTENT, "D": SINGER, "M": spec.n_mels, "H": 1}


def _entry(name: str, model: bytes, spec: AudioSpec) -> GraphEntry:
    sizes, graph = _sizes(spec), GRAPHS[name]
    inputs, outputs = (
        tuple((t.name, t.dtype, tuple(sizes.get(d, d) for d in t.dims)) for t in tensors)
        for tensors in (graph.inputs, graph.outputs)
    )
    return GraphEntry(sha256=_sha256(model), precision="fp32", inputs=inputs, outputs=outputs, file=f"{name}.onnx")


def _manifest(graphs: dict[str, GraphEntry], singers_sha256: str, spec: AudioSpec) -> Manifest:
    def singer(index: int, median_hz: float) -> SingerEntry:
        near = (0.6 * median_hz, 1.6 * median_hz)
        return SingerEntry(index=index, f0_median_hz=median_hz, f0_range_hz=near, licence="CC0", credit="nobody")

    frame_ms = 1e3 * spec.hop_length / spec.sample_rate
    return Manifest(
        name="tiny",
        audio=spec,
        graphs=graphs,
        singers={"alto": singer(0, 300.0), "bass": singer(1, 110.0), "Ténor 1": singer(2, 160.0)},
        singer_embedding_file="singers.safetensors",
        singer_embedding_sha256=singers_sha256,
        model=ModelEntry(
            content_channels=CONTENT,
            singer_channels=SINGER,
            sigma_min=0.002,
            sigma_max=80.0,
            source=SourceEntry(kind="pulse", channels=1),
            objective="none: random weights",
            schedules=SCHEDULES,
        ),
        context=CONTEXT,
        lookahead_ms=LookaheadEntry(
            content=20.0,
            pitch=176.0,
            pitch_low_latency=16.0,
            acoustic=2 * frame_ms,
            vocoder=2.5 * frame_ms,
            total=36.0 + 4.5 * frame_ms,
        ),
        licences=(LicenceEntry(part="pitch", licence="MIT", credit="swift-f0"),),
        consent="no recordings were used",
        provenance={"made_by": "tests"},
    )


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A bundle as one file."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    """A bundle as its unpacked folder."""
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def edited(files: dict[str, bytes], edit: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    """`files` with `edit` done to the parsed bundle.json, and without its digest, which an attacker could write too."""
    manifest = json.loads(files["bundle.json"])
    manifest.pop("digest", None)
    edit(manifest)
    return {**files, "bundle.json": json.dumps(manifest).encode()}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
