"""Parts of a voice that exists, taken over into a run that does not train its own.

Its content encoders: `content` needs phone labels, which recordings of one's own seldom have. A bundle holds them as
ONNX graphs; their weights are read back into the networks that were exported, and compared with the graphs.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from ...runtime.audio.spec import AudioSpec
from ...runtime.providers.sessions import open_session
from ...runtime.storage import replacing
from ...runtime.voice.bundle import Bundle, open_bundle
from ..config import from_mapping
from ..errors import DataError, TrainingError, train_command
from ..loop.checkpoint import latest_checkpoint, require_checkpoint, save_checkpoint
from .encoder import ContentConfig, ContentEncoder
from .stage import CONTENT, CONTENT_LOW

logger = logging.getLogger(__name__)
SHIPPED_VOICE = "demo"
_GRAPHS = {"content": CONTENT, "content_low": CONTENT_LOW}
_TOLERANCE = 1e-5
_LIMITS = (
    "It has 33 phones, learned from synthetic singers and four recorded English speakers: other languages, breaths "
    "and unusual voices come out blurred, and of a speaker outside its training it names about two frames in three."
)
_CONTENTVEC_HOP = 320


def contentvec_advice(run: Path, audio: AudioSpec) -> str:
    """Warning for a run with recorded singers and no content encoder: limits of the demo's encoder, and the command
    that takes ContentVec instead.
    """
    hop = audio.content_hop_length
    first = f"set content_hop_length = {_CONTENTVEC_HOP} under [audio] (the recipe has {hop}), prepare again, then "
    return (
        f"{run} has recorded singers and no content encoder yet: without another one it gets that of the demo voice. "
        f"{_LIMITS}\nhint: take ContentVec before anything is trained: {first if hop != _CONTENTVEC_HOP else ''}"
        f"{train_command(run / CONTENT)} --from FILE; with --init-from, the encoder comes along with the weights"
    )


def adopt_content(run: Path, audio: AudioSpec, voice: str = SHIPPED_VOICE) -> Path:
    """Write the content encoders of a bundle (a shipped name or a path) into `run` as if they had been trained there.

    Returns the first one's checkpoint. Raises `TrainingError` where they are not for recordings framed like `audio`, or
    not the networks of this version.
    """
    bundle = open_bundle(voice)
    theirs = bundle.manifest.audio
    for name in ("content_sample_rate", "content_hop_length"):
        if getattr(theirs, name) != getattr(audio, name):
            raise TrainingError(
                f"the content encoder of {voice} has {name} {getattr(theirs, name)}, this run {getattr(audio, name)}\n"
                f"hint: set {name} = {getattr(theirs, name)} under [audio] and prepare again; train `content`, or "
                "take ContentVec: comosvc-train content --from FILE"
            )
    logger.warning("no content encoder in %s: taking that of the voice %s. %s", run, voice, _LIMITS)
    write_encoders(bundle, run, voice)
    return require_checkpoint(run / CONTENT)


def write_encoders(bundle: Bundle, run: Path, voice: str) -> None:
    """Write the content encoders of the bundle called `voice` into `run`."""
    for graph, folder in _GRAPHS.items():
        if graph in bundle.manifest.graphs:
            _adopt(bundle, graph, run / folder, voice)


def _adopt(bundle: Bundle, graph: str, folder: Path, voice: str) -> None:
    stored: dict[str, Any] = bundle.manifest.provenance["stages"][folder.name]
    where = f"{voice}: {folder.name}"
    spec = from_mapping(AudioSpec, stored["config"]["audio"], where)
    encoder = ContentEncoder(from_mapping(ContentConfig, stored["config"]["network"], where), spec).eval()
    data = bundle.graph_bytes(graph)
    load_weights(encoder, onnx.load_from_string(data))
    if (error := _distance(encoder, data)) > _TOLERANCE:
        raise TrainingError(
            f"the content encoder of {voice} is another version's: torch differs from its graph by {error:.2g}\n"
            "hint: take a voice that this version exported, or train `content`"
        )
    folder.mkdir(parents=True, exist_ok=True)
    origin = {"voice": bundle.manifest.name, "sha256": bundle.manifest.graphs[graph].sha256}
    unused = torch.optim.AdamW(encoder.parameters())
    modules = {"model": encoder, "ema": encoder}
    save_checkpoint(folder, stored["step"], modules, unused, {**stored["config"], "adopted_from": origin})


def load_weights(encoder: ContentEncoder, graph: ModelProto) -> None:
    """Give `encoder` the weights of its exported graph.

    An export transposes and renumbers the matrices, and stores equal tensors once. So names are of no use, but the
    order of the layers is: the network's own. Raises `TrainingError` where it is not.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.graph.node if node.op_type == "MatMul"}
    found: dict[type[nn.Module], list[tuple[NDArray, NDArray]]] = {nn.LayerNorm: [], nn.Linear: []}
    for node in graph.graph.node:
        if node.op_type == "LayerNormalization":
            found[nn.LayerNorm].append((constants[node.input[1]], constants[node.input[2]]))
        elif node.op_type == "Add" and node.input[0] in products and node.input[1] in constants:
            found[nn.Linear].append((constants[products[node.input[0]]].T, constants[node.input[1]]))
    state: dict[str, Tensor] = {}
    for kind, pairs in found.items():
        names = [name for name, module in encoder.named_modules() if isinstance(module, kind)]
        if len(names) != len(pairs):
            raise TrainingError(
                f"the content graph is not that of its network: {len(pairs)} {kind.__name__}s of {len(names)}"
            )
        for name, (weight, bias) in zip(names, pairs, strict=True):
            state |= {f"{name}.weight": torch.from_numpy(weight.copy()), f"{name}.bias": torch.from_numpy(bias.copy())}
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(f"the content graph is not that of its network: {error}") from None


def _distance(encoder: ContentEncoder, data: bytes) -> float:
    """Largest difference between torch and the graph on a second and a half of sweeping hum and silence."""
    t = np.arange(3 * encoder.sample_rate // 2) / encoder.sample_rate
    audio = (0.3 * np.sin(2 * np.pi * (150.0 + 900.0 * t) * t) * (t > 0.4)).astype(np.float32)[None]
    session = open_session(data, "the content encoder", None)
    (expected,) = session.run(None, {session.get_inputs()[0].name: audio})
    with torch.no_grad():
        return float(np.abs(encoder(torch.from_numpy(audio)).numpy() - expected).max())


def adopt_stage(source: Path, run: Path, stage: str) -> bool:
    """Copy the last checkpoint of a stage of the run `source` into `run` unless that has one; whether it now does."""
    if latest_checkpoint(run / stage) is None and (path := latest_checkpoint(source / stage)) is not None:
        (run / stage).mkdir(parents=True, exist_ok=True)
        try:
            with replacing(run / stage / path.name) as partial:
                shutil.copyfile(path, partial)
        except OSError as error:
            raise DataError(f"{path} could not be copied to {run / stage}: {error}\nhint: free some space") from None
        logger.info("%s: taken over from %s", run / stage, source)
    return latest_checkpoint(run / stage) is not None
