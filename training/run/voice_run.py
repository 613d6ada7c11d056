"""Reads a voice back into a run folder, to train new singers on it: `--init-from voice.comosvc`.

A bundle holds the student as graphs at fixed noise levels: all weights that act on the signal, and the values of the
step path at these levels. So the restored network equals the graphs at these levels only. It is good for training
singers' vectors, not for training the rest.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn
from torch.optim import AdamW

from ...runtime.audio.spec import AudioSpec
from ...runtime.errors import BundleError
from ...runtime.providers.sessions import open_session
from ...runtime.voice.bundle import SUFFIX, Bundle, open_bundle, shipped_voices
from ...runtime.voice.manifest import MANIFEST_FILE
from ..acoustic.diffusion import edm_scalings, sampling_sigmas
from ..acoustic.model import AcousticConfig, AcousticModel, Condition
from ..config import from_mapping
from ..content.adopt import write_encoders
from ..content.encoders import CONTENTVEC, load_content_encoders
from ..errors import TrainingError
from ..loop.checkpoint import latest_checkpoint, read_metadata, save_checkpoint, sha256_of
from ..vocoder.light import MATCHING, Vocoder, build_vocoder, vocoder_config
from ..vocoder.stage import VOCODER

logger = logging.getLogger(__name__)
_STAGES = ("content", "vocoder", "teacher", "student")
_TOLERANCE = 1e-3
"""Allowed difference of the mel in log units, and of audio within ±1: rounding of float32 sums in another order."""


_STEEPNESS = 100.0
"""Factor on the weights of the step embedding. As initialised, the embeddings of eight levels are nearly linearly
dependent, and projections that fit them lose five digits.
"""


def is_voice(source: Path) -> bool:
    """True if `source` names a bundle: a .comosvc file, its unpacked folder, or a shipped voice."""
    shipped = not source.exists() and str(source) in shipped_voices()
    return shipped or source.suffix == SUFFIX or (source / MANIFEST_FILE).is_file()


def open_voice(source: Path) -> Bundle:
    """The bundle at `source`. Raises `TrainingError` for other files and for voices not exported from a run folder."""
    try:
        bundle = open_bundle(str(source))
    except BundleError as error:
        raise TrainingError(f"{source} is no checkpoint of a training stage, and no voice: {error}") from None
    stages = bundle.manifest.provenance.get("stages", {})
    if lacking := [stage for stage in _STAGES if stage not in stages]:
        raise TrainingError(
            f"{source} was not exported from a run folder: it does not say how its {', '.join(lacking)} was trained\n"
            "hint: --init-from takes voices that comosvc-export bundle made, and run folders"
        )
    if stages["content"]["config"].get("kind") == CONTENTVEC:
        raise TrainingError(
            f"{source} has ContentVec as its content encoder, which cannot be read back from a voice\n"
            "hint: give the run folder that the voice came from"
        )
    return bundle


def run_of_voice(bundle: Bundle, folder: Path) -> Path:
    """Write the stages of a voice into the run folder `folder`, unless they are there, and return the folder.

    Teacher and student are the same network, the voice's student. In the teacher's configuration `sigmas` are the noise
    levels at which the network is valid, and `sampled_as` is the student's configuration. Raises `TrainingError` for
    voices that cannot be read back.
    """
    manifest = bundle.manifest
    origin = {"voice": manifest.name, "sha256": manifest.graphs["acoustic"].sha256}
    if (path := latest_checkpoint(folder / "student")) is not None:
        if read_metadata(path)[1].get("adopted_from") == origin:
            return folder
        raise TrainingError(f"{folder} holds another voice than {bundle.origin}\nhint: move {folder} away")
    write_encoders(bundle, folder, bundle.origin)
    _write_vocoder(bundle, manifest.provenance["stages"][VOCODER], folder, origin)
    _write_acoustic(bundle, manifest.provenance["stages"], folder, origin)
    return folder


def _write_vocoder(bundle: Bundle, stage: Mapping[str, Any], folder: Path, origin: dict[str, str]) -> None:
    config, data = stage["config"], bundle.graph_bytes("vocoder")
    spec = from_mapping(AudioSpec, config["audio"], "vocoder")
    vocoder = build_vocoder(vocoder_config(config.get("kind", MATCHING), config["network"], "vocoder"), spec).eval()
    if not isinstance(vocoder, Vocoder) or vocoder.config.per_bin:
        logger.info("the vocoder of %s is of a kind that is not read back: train one, or take one with --from", origin)
        return
    graph = onnx.load_from_string(data)
    steps = [value for name, value in _constants(graph).items() if name.startswith("select")]
    state = named_weights(vocoder, graph, "")
    state["step_sizes"] = np.stack([value for value in steps if value.ndim == 1])
    state["momentum"] = np.array([value for value in steps if value.ndim == 0], np.float32)
    _load(vocoder, state, "vocoder")
    rng = np.random.default_rng(0)
    T, M = 40, spec.n_mels
    feeds = {
        "mel": rng.normal(-2.0, 0.5, (1, T, M)),
        "f0_hz": np.full((1, T), 220.0),
        "source": rng.normal(0.0, 0.1, (1, spec.samples(T), vocoder.source_channels)),
        "noise": rng.normal(0.0, 1.0, (1, spec.samples(T))),
    }
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    with torch.no_grad():
        ours = vocoder(**{name: torch.from_numpy(value) for name, value in feeds.items()})
    _require_close("vocoder", ours, _run(data, feeds))
    _save(folder / VOCODER, stage["step"], vocoder, {**config, "adopted_from": origin})


def _write_acoustic(bundle: Bundle, stages: Mapping[str, Any], folder: Path, origin: dict[str, str]) -> None:
    config = dict(stages["student"]["config"])
    singers = sorted(bundle.manifest.singers, key=lambda name: bundle.manifest.singers[name].index)
    spec = from_mapping(AudioSpec, config["audio"], "student")
    acoustic = from_mapping(AcousticConfig, config["acoustic"], "student")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AcousticModel(acoustic, spec, config["n_content"], len(singers)).eval()
    sigmas = restore_acoustic(model, bundle, singers)
    hashes = {name: encoder_hash for name, (_, encoder_hash) in load_content_encoders(folder).items()}
    shared = {
        **{key: config[key] for key in ("audio", "acoustic", "n_content", "front_end") if key in config},
        "singers": singers, "content_encoders": hashes, "adopted_from": origin,
    }  # fmt: skip
    teacher = stages["teacher"]
    facts = {key: teacher["config"][key] for key in ("teacher", "loop", "seed") if key in teacher["config"]}
    facts |= {"sigmas": sigmas, "sampled_as": config["student"]}
    path = _save(folder / "teacher", teacher["step"], model, {**shared, **facts})
    facts = {key: config[key] for key in ("student", "loop", "seed") if key in config}
    facts["teacher"] = {"step": teacher["step"], "sha256": sha256_of(path, "ema")}
    _save(folder / "student", stages["student"]["step"], model, {**shared, **facts})


def restore_acoustic(model: AcousticModel, bundle: Bundle, singers: list[str]) -> list[float]:
    """Load the weights of the bundle's acoustic graphs into `model`; return the noise levels at which both are equal.

    Raises `TrainingError` where model and graphs differ.
    """
    first, further = (onnx.load_from_string(bundle.graph_bytes(name)) for name in ("acoustic", "acoustic_n"))
    state = named_weights(model, first, "model.")
    rows = [bundle.manifest.singers[name].index for name in singers]
    state["singer_embed.weight"] = bundle.embeddings[rows]
    levels = {0: model.config.sigma.sigma_max}
    for steps, indices in bundle.manifest.model.schedules.items():
        ladder = sampling_sigmas(int(steps), model.config.sigma)[1:].tolist()
        levels |= {index + 1: sigma for index, sigma in zip(indices, ladder, strict=True)}
    sigmas = [levels[index] for index in sorted(levels)]
    table = _step_table(model, first, further, len(sigmas))
    state |= _step_weights(model, torch.tensor(sigmas), table)
    _load(model, state, "acoustic")
    for index, graph in enumerate(("acoustic", *["acoustic_n"] * (len(sigmas) - 1))):
        _check_level(model, bundle, graph, sigmas[index], index)
    return sigmas


def _step_table(model: AcousticModel, first: ModelProto, further: ModelProto, n_sigmas: int) -> NDArray[np.float32]:
    """Values of the step path at each noise level, (n_sigmas, E): of the first graph, then of the further steps."""
    C, M = model.config.denoiser.channels, model.spec.n_mels
    constants = _constants(first)
    added = [name for node in first.graph.node if node.op_type == "Add" for name in node.input if name in constants]
    vectors = [constants[name].reshape(C) for name in added if constants[name].shape == (1, C, 1)]
    if model.denoiser.skip_gains is not None:
        factors = [name for n in first.graph.node if n.op_type == "Mul" for name in n.input if name in constants]
        gain, skip = [constants[name].reshape(M) for name in factors if constants[name].shape == (1, 1, M)]
        vectors += [gain - 1.0, skip]
    width = sum(map(len, vectors))
    tables = [value for value in _constants(further).values() if value.shape == (n_sigmas - 1, width)]
    if len(tables) != 1 or len(vectors) < model.config.denoiser.layers:
        raise TrainingError("the acoustic graphs are not those of their network: no table of noise levels is found")
    return np.concatenate([np.concatenate(vectors)[None], tables[0]])


def _step_weights(model: AcousticModel, sigmas: Tensor, table: NDArray[np.float32]) -> dict[str, NDArray]:
    """Weights of the step path that give `table` (n, E) at `sigmas` (n,): a random embedding, steep along the levels,
    and the smallest projections of it that fit.
    """
    with torch.no_grad():
        cast(nn.Linear, model.denoiser.step_embedding.mlp[0]).weight.mul_(_STEEPNESS)
        c_noise = edm_scalings(sigmas, model.config.sigma)[3]
        embedding = model.denoiser.step_embedding(c_noise).double().numpy()
    weight = (np.linalg.pinv(embedding) @ table.astype(np.float64)).T.astype(np.float32)
    n_vectors = model.denoiser.step_projection.out_features
    parts = {"step_projection": weight[:n_vectors], "skip_gains": weight[n_vectors:]}
    state = {f"denoiser.{k}": v.numpy() for k, v in model.denoiser.state_dict().items() if k.startswith("step_embed")}
    for name, part in parts.items():
        if len(part):
            state |= {f"denoiser.{name}.weight": part, f"denoiser.{name}.bias": np.zeros(len(part), np.float32)}
    return state


def _check_level(model: AcousticModel, bundle: Bundle, graph: str, sigma: float, index: int) -> None:
    """Raise `TrainingError` unless torch and the graph give equal mels at one noise level."""
    rng = np.random.default_rng(index)
    T, M, scale = 40, model.spec.n_mels, bundle.manifest.model.initial_noise_scale
    feeds = {
        "content": rng.dirichlet(np.ones(model.content_embed.in_features), (1, T)).astype(np.float32),
        "content_index": np.arange(T, dtype=np.int32)[None],
        "f0_hz": np.full((1, T), 220.0, np.float32),
        "loudness": np.full((1, T), 0.1, np.float32),
        "singer": bundle.embeddings[:1],
        "noise": rng.standard_normal((1, T, M), np.float32),
    }
    condition = [torch.from_numpy(feeds[name]) for name in list(feeds)[:5]]
    noise = torch.from_numpy(feeds["noise"])
    mel = np.zeros((1, T, M), np.float32)
    if graph == "acoustic":
        x = scale * sigma * noise
    else:
        feeds |= {"mel": mel, "step_index": np.array(index - 1, np.int32)}
        spread = (sigma**2 - model.config.sigma.sigma_min**2) ** 0.5
        x = model.normalise(torch.from_numpy(mel)) + spread * noise
    with torch.no_grad():
        ours = model.denormalise(model.denoise(x, torch.tensor([sigma]), model.embed(Condition(*condition))))
    _require_close(graph, ours, _run(bundle.graph_bytes(graph), feeds))


def named_weights(module: nn.Module, graph: ModelProto, prefix: str) -> dict[str, NDArray]:
    """Parameters and buffers of `module` from `graph`: by name; matrices of linear layers by the order of their
    products, because an export renames them and keeps the order.
    """
    constants, wanted = _constants(graph), module.state_dict()
    state = {
        key: constants[prefix + key]
        for key, tensor in wanted.items()
        if prefix + key in constants and constants[prefix + key].shape == tuple(tensor.shape)
    }
    fixed = {prefix + name for name, _ in module.named_buffers()}
    products = [node.input[1] for node in graph.graph.node if node.op_type == "MatMul"]
    matrices = [constants[name] for name in products if name in constants and name not in fixed]
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and "step" not in name]
    names = [f"{name}.weight" for name in layers if "skip_gains" not in name]
    if len(names) != len(matrices):
        raise TrainingError(f"the graph is not that of its network: {len(matrices)} products of {len(names)}")
    return state | {name: matrix.T for name, matrix in zip(names, matrices, strict=True)}


def _constants(graph: ModelProto) -> dict[str, NDArray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def _load(module: nn.Module, state: Mapping[str, NDArray], what: str) -> None:
    try:
        module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    except RuntimeError as error:
        raise TrainingError(f"the {what} graph is not that of its network: {error}") from None


def _require_close(what: str, ours: Tensor, theirs: NDArray) -> None:
    if not (error := float(np.abs(ours.numpy() - theirs).max())) <= _TOLERANCE:
        raise TrainingError(
            f"the {what} graph is another version's: torch differs from it by {error:.2g}\n"
            "hint: take a voice that this version exported, or the run folder that it came from"
        )


def _run(data: bytes, feeds: Mapping[str, NDArray]) -> NDArray:
    session = open_session(data, "the graph", None)
    return np.asarray(session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})[0])


def _save(folder: Path, step: int, module: nn.Module, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return save_checkpoint(folder, step, {"model": module, "ema": module}, AdamW(module.parameters()), config)
