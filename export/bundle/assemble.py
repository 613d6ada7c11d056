"""From a voice to the files of its bundle: trace, compare with torch, describe."""

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile
import torch
from onnx import ModelProto
from safetensors.numpy import save
from torch import nn

from ...runtime.converter import Converter
from ...runtime.providers.self_test import PROBES_FILE
from ...runtime.storage import sha256
from ...runtime.voice import graphs as contracts
from ...runtime.voice.bundle import PARITY_FILE
from ...runtime.voice.graphs import GRAPHS
from ...runtime.voice.manifest import MANIFEST_FILE, Manifest, to_json
from ...training.loop.log import Report
from ..archive import write_zip
from ..graphs.common_weights import store_once, with_common_tail
from ..graphs.inputs import InputMaker
from ..graphs.parity import (
    ParityRow,
    Runner,
    check_end_to_end,
    check_graph,
    encode_probes,
    make_probes,
    onnx_runner,
    require,
    torch_runner,
)
from ..graphs.trace import AcousticFirstStep, AcousticNextStep, baked_schedules, spec_of, trace
from ..precision.precision import add_precisions, files_reader
from .describe import DATA_CARD_FILE, EMBEDDING_FILE, PREVIEW_FILE, make_manifest
from .voice import TrainedVoice

logger = logging.getLogger(__name__)
_TRACING = 0.5
"""Rough share of tracing in the time of an export."""
_RUNTIME_DATA = Path(contracts.__file__).parents[1] / "data"
_NOTICES = ("NOTICE-swift-f0.txt",)
_LARGE_BYTES = 32 << 20
"""Size of the acoustic graphs' common weights from which they become a file of their own. ONNX tools cannot open the
parts of a divided graph."""
_TRACE_BATCH, _TRACE_SAMPLES, _TRACE_FRAMES = 2, 4_000, 24


def _silent(what: str, share: float | None) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class TorchGraphs:
    """Torch's side: the module behind each graph, the inputs that they are fed, where each sampler finds its sigmas."""

    modules: dict[str, nn.Module]
    maker: InputMaker
    schedules: dict[int, list[int]]
    sigmas: list[float]

    @classmethod
    def of(cls, voice: TrainedVoice) -> "TorchGraphs":
        sigmas, schedules = baked_schedules(voice.acoustic, voice.sampler_steps)
        modules = {
            "content": voice.content,
            **({"content_low": voice.content_low} if voice.content_low else {}),
            "acoustic": AcousticFirstStep(voice.acoustic, voice.noise_scale),
            **({"acoustic_n": AcousticNextStep(voice.acoustic, sigmas, voice.follows_ode)} if schedules else {}),
            "vocoder": voice.vocoder,
        }
        sizes = {
            "C": voice.acoustic.content_embed.in_features,
            "D": voice.embeddings.shape[1],
            "H": voice.source.channels,
            "M": voice.audio.n_mels,
        }
        maker = InputMaker(
            audio=voice.audio,
            sizes=sizes,
            n_sigmas=len(sigmas),
            source_kind=voice.source.kind,
            phones=bool(voice.content_labels),
            min_samples=voice.content.min_samples,
        )
        return cls(modules, maker, schedules, sigmas.tolist())

    def runners(self) -> dict[str, Runner]:
        """Each graph as torch computes it."""
        return {name: torch_runner(GRAPHS[name], module) for name, module in self.modules.items()}

    def trace(self, name: str) -> ModelProto:
        """The ONNX graph `name`."""
        length = _TRACE_SAMPLES if GRAPHS[name].inputs[0].name == "audio" else _TRACE_FRAMES
        example = self.maker.make(GRAPHS[name], _TRACE_BATCH, length, seed=0)
        spec = spec_of(GRAPHS[name], self.modules[name])
        return trace(spec, self.modules[name], {key: torch.from_numpy(value) for key, value in example.items()})


def build_files(voice: TrainedVoice, name: str, progress: Report = _silent) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and every file of the bundle. Raises `ParityError` if a graph is not what torch computes."""
    torch_graphs = TorchGraphs.of(voice)
    graphs = {"pitch": (_RUNTIME_DATA / "pitch.onnx").read_bytes()}
    count = len(torch_graphs.modules)
    for number, graph in enumerate(torch_graphs.modules):
        logger.info("tracing %s", graph)
        progress(f"tracing {graph}", _TRACING * number / count)
        graphs[graph] = torch_graphs.trace(graph).SerializeToString(deterministic=True)
    graphs = with_common_tail(graphs)
    onnx = {graph: onnx_runner(data) for graph, data in graphs.items()}
    references = torch_graphs.runners()

    def comparing(what: str, share: float | None) -> None:
        progress(what, _TRACING + (share or 0.0) * (1.0 - _TRACING))

    rows = measure_parity(onnx, references, torch_graphs.maker, comparing)
    require(rows)
    progress("probes", None)
    probes = make_probes({**references, "pitch": onnx["pitch"]}, torch_graphs.maker)
    files = {
        **{f"{graph}.onnx": data for graph, data in graphs.items()},
        EMBEDDING_FILE: save({"embedding": voice.embeddings}),
        PARITY_FILE: encode_parity(rows, graphs),
        PROBES_FILE: encode_probes(probes),
        DATA_CARD_FILE: voice.data_card.encode(),
        **{notice: (_RUNTIME_DATA / notice).read_bytes() for notice in _NOTICES},
    }
    manifest = make_manifest(voice, name, files, torch_graphs.schedules, torch_graphs.sigmas)
    return manifest, {MANIFEST_FILE: to_json(manifest).encode(), **files}


def export_bundle(
    voice: TrainedVoice, name: str, path: Path, precisions: Collection[str] = (), progress: Report = _silent
) -> Manifest:
    """Write the bundle of `voice` to `path`, all or nothing, its preview sung by the bundle itself.

    `precisions`: those that it has besides fp32. `progress` is called with the current work and its share from 0
    to 1.
    """
    manifest, files = build_files(voice, name, progress)
    progress(f"precisions {', '.join(precisions)}" if precisions else "writing", None)
    manifest, files = add_precisions(manifest, files, precisions, files_reader(files), voice.embeddings)
    if len(voice.preview_source):
        progress("preview", None)
        preview = make_preview(voice, files)
        facts = manifest.provenance
        facts = {**facts, "files": {**facts["files"], PREVIEW_FILE: sha256(preview)}}
        manifest = replace(manifest, provenance=facts)
        files = {**files, PREVIEW_FILE: preview, MANIFEST_FILE: to_json(manifest).encode()}
    manifest, files = store_once(manifest, files, _LARGE_BYTES)
    write_zip(path, files)
    return manifest


def make_preview(voice: TrainedVoice, files: dict[str, bytes]) -> bytes:
    """The preview's source converted to the first singer, as FLAC."""
    with TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.comosvc"
        write_zip(trial, files)
        with Converter(trial) as converter:
            singer = next(iter(voice.singers))
            result = converter.convert(voice.preview_source, voice.audio.sample_rate, singer=singer, key="auto")
    buffer = BytesIO()
    soundfile.write(buffer, result.audio, result.sample_rate, "PCM_16", format="FLAC")
    return buffer.getvalue()


def measure_parity(
    onnx: dict[str, Runner], references: dict[str, Runner], maker: InputMaker, progress: Report = _silent
) -> list[ParityRow]:
    """Every graph that torch made at every length and batch, then the whole chain."""
    rows: list[ParityRow] = []
    for number, (graph, reference) in enumerate(references.items()):
        logger.info("comparing %s with torch", graph)
        progress(f"comparing {graph} with torch", number / (len(references) + 1))
        rows += check_graph(GRAPHS[graph], onnx[graph], reference, maker)
    progress("comparing the whole chain with torch", len(references) / (len(references) + 1))
    return rows + check_end_to_end(onnx, references, maker)


def encode_parity(rows: list[ParityRow], graphs: dict[str, bytes]) -> bytes:
    """`parity.json`: the rows, and the hashes of the graphs that they were measured on."""
    hashes = {graph: sha256(data) for graph, data in graphs.items()}
    return json.dumps({"graphs": hashes, "rows": [row.as_dict() for row in rows]}, indent=1).encode()
