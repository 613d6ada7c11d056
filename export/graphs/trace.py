"""Traces the training modules to ONNX graphs, with constant folding and metadata."""

import json
import logging
import platform
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from inspect import signature

import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn

from ...runtime import __version__
from ...runtime.providers.sessions import open_session
from ...runtime.storage import sha256
from ...runtime.voice.graphs import GRAPHS, OPTIONAL_INPUTS, GraphSpec, TensorSpec
from ...runtime.voice.manifest import GraphEntry
from ...training.acoustic.diffusion import edm_scalings, renoise, sampling_sigmas
from ...training.acoustic.model import AcousticModel, Condition
from ..archive import graph_file
from ..errors import ExportError
from .transposed import unroll_transposed

FORMAT = "comosvc-graph/1"


def stamp(model: onnx.ModelProto, spec: GraphSpec, extra: dict[str, str] | None = None) -> None:
    """Write format, graph name, our version and the contract into `metadata_props`, replacing earlier entries."""
    entries = {
        "format": FORMAT,
        "graph": spec.name,
        "comosvc_version": __version__,
        "spec": json.dumps(asdict(spec), sort_keys=True),
        **(extra or {}),
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, entries)


def fold_constants(model: ModelProto) -> None:
    """Replace every node that no input reaches by its value, in place; values come from ONNX Runtime.

    At fixed sigma this is the denoiser's whole step path with its weights; torch's exporter folds it only up to Mish.
    """
    graph = model.graph
    constant, dynamic = _split(graph)
    made = {name for node in constant for name in node.output if name}
    wanted = made & ({name for node in dynamic for name in node.input} | {output.name for output in graph.output})
    values = _evaluate(model, constant, sorted(wanted))
    del graph.node[:]
    graph.node.extend(dynamic)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    used = {name for node in dynamic for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _split(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """Nodes that no input reaches, and the rest. A node with a body may read anything, so it belongs to the rest."""
    reached = {value.name for value in graph.input}
    constant, dynamic = [], []
    for node in graph.node:
        has_body = any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute)
        if has_body or reached.intersection(node.input):
            reached.update(node.output)
            dynamic.append(node)
        else:
            constant.append(node)
    return constant, dynamic


def _evaluate(model: ModelProto, nodes: list[NodeProto], names: list[str]) -> dict:
    if not names:
        return {}
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    part = helper.make_model(
        helper.make_graph(nodes, "constants", [], outputs, weights),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
    session = open_session(part.SerializeToString(), "the part of constants", None)
    return dict(zip(names, session.run(names, {}), strict=True))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part in an export."""
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
    return {"comosvc": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def graph_entry(name: str, data: bytes, precision: str = "fp32") -> GraphEntry:
    """The manifest's entry of an ONNX file whose tensors follow the contract `name`."""
    model = onnx.load_from_string(data)
    sizes = check_contract(GRAPHS[name], model)
    spec = narrowed(GRAPHS[name], [value.name for value in model.graph.input])
    inputs, outputs = (
        tuple((t.name, t.dtype, tuple(x if x in DYNAMIC_LETTERS else sizes[x] for x in t.dims)) for t in tensors)
        for tensors in (spec.inputs, spec.outputs)
    )
    file = graph_file(name, precision)
    return GraphEntry(sha256=sha256(data), precision=precision, inputs=inputs, outputs=outputs, file=file)


OPSET = 20  # the first with GELU as one operator
DYNAMIC_LETTERS = frozenset("BNSPTL")
"""Dimensions that stay free in a graph: the batch and every length. All others are fixed by the weights."""

SAMPLER_STEPS = (2, 4, 8)


def baked_schedules(
    model: AcousticModel, sampler_steps: tuple[int, ...] = SAMPLER_STEPS
) -> tuple[Tensor, dict[int, list[int]]]:
    """Noise levels after the first one, descending and without repeats, and where each sampler's own lie among them."""
    ladders = {n: sampling_sigmas(n, model.config.sigma)[1:].tolist() for n in sampler_steps}
    sigmas = sorted({sigma for ladder in ladders.values() for sigma in ladder}, reverse=True)
    return torch.tensor(sigmas), {n: [sigmas.index(sigma) for sigma in ladder] for n, ladder in ladders.items()}


class AcousticFirstStep(nn.Module):
    """The student at sigma_max, from noise to mel. Sigma is one constant, so the trace folds the whole step path away.

    `noise_scale` multiplies the initial noise (`StudentConfig.noise_scale`).
    """

    sigma: Tensor

    def __init__(self, model: AcousticModel, noise_scale: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.initial_scale = noise_scale * model.config.sigma.sigma_max
        self.register_buffer("sigma", torch.tensor([model.config.sigma.sigma_max]))

    def forward(
        self, content: Tensor, content_index: Tensor, f0_hz: Tensor, loudness: Tensor, singer: Tensor, noise: Tensor
    ) -> Tensor:
        embedded = self.model.embed(Condition(content, content_index, f0_hz, loudness, singer))
        return self.model.denormalise(self.model.denoise(self.initial_scale * noise, self.sigma, embedded))


class AcousticNextStep(nn.Module):
    """A further step: re-noise the mel so far to `sigmas[step_index]` and denoise it again.

    A student adds fresh noise. A teacher follows its ODE: the noise that it is given is what the steps so far say is
    left (`runtime.conversion.generated.OdeNoise`), and all of it is put back.
    """

    sigmas: Tensor

    def __init__(self, model: AcousticModel, sigmas: Tensor, follows_ode: bool = False) -> None:
        super().__init__()
        self.model, self.follows_ode = model, follows_ode
        self.register_buffer("sigmas", sigmas)

    def forward(
        self,
        content: Tensor,
        content_index: Tensor,
        f0_hz: Tensor,
        loudness: Tensor,
        singer: Tensor,
        mel: Tensor,
        noise: Tensor,
        step_index: Tensor,
    ) -> Tensor:
        embedded = self.model.embed(Condition(content, content_index, f0_hz, loudness, singer))
        denoiser = self.model.denoiser
        # Of all levels, so that it does not depend on the index: the trace folds it to a table and drops its weights.
        step_paths = denoiser.step_path(edm_scalings(self.sigmas, self.model.config.sigma)[3])

        def network(x: Tensor, _: Tensor, condition: Tensor) -> Tensor:
            return denoiser.evaluate(x, step_paths[step_index].view(1, -1), condition)

        sigma = self.sigmas[step_index].view(1)
        x = self.model.normalise(mel)
        x = x + sigma * noise if self.follows_ode else renoise(x, sigma, noise, self.model.config.sigma)
        return self.model.denormalise(self.model.denoise(x, sigma, embedded, network))


def narrowed(spec: GraphSpec, names: Collection[str]) -> GraphSpec:
    """`spec` without those inputs that a design may do without and that `names` does not have."""
    optional = set(OPTIONAL_INPUTS.get(spec.name, ())) - set(names)
    return replace(spec, inputs=tuple(tensor for tensor in spec.inputs if tensor.name not in optional))


def spec_of(spec: GraphSpec, module: nn.Module) -> GraphSpec:
    """`spec` with the optional inputs that the module's `forward` takes."""
    return narrowed(spec, signature(module.forward).parameters)


def trace(spec: GraphSpec, module: nn.Module, example: Mapping[str, Tensor]) -> ModelProto:
    """`module` as an ONNX graph of the contract `spec`, free in the batch and in every length.

    It is traced with `example` inputs, whose sizes must differ from 1 (torch specialises on it). Raises `ExportError`
    if the graph that comes out breaks the contract; a fixed length does.
    """
    free = {tensor.name: dict.fromkeys(_free_axes(tensor), torch.export.Dim.DYNAMIC) for tensor in spec.inputs}
    with warnings.catch_warnings(), _QuietExporter():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.onnx.export(
            module.eval(),
            kwargs={tensor.name: example[tensor.name] for tensor in spec.inputs},
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=free,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _anonymise(model)
    fold_constants(model)
    unroll_transposed(model)
    check_contract(spec, model)
    _name_dims(spec, model)
    stamp(model, spec)
    onnx.checker.check_model(model, full_check=True)
    return model


def check_contract(spec: GraphSpec, model: ModelProto) -> dict[str, int]:
    """Sizes of the fixed dimensions by letter. `ExportError` where names, types, ranks or free dimensions differ."""
    sizes: dict[str, int] = {}
    spec = narrowed(spec, [value.name for value in model.graph.input])
    sides = ("input", model.graph.input, spec.inputs), ("output", model.graph.output, spec.outputs)
    for kind, values, tensors in sides:
        names, wanted = [value.name for value in values], [tensor.name for tensor in tensors]
        if names != wanted:
            raise ExportError(f"the {spec.name} graph has {kind}s {names}; its contract says {wanted}")
        for value, tensor in zip(values, tensors, strict=True):
            _check_tensor(f"{kind} {tensor.name} of the {spec.name} graph", value, tensor, sizes)
    return sizes


def _check_tensor(where: str, value: onnx.ValueInfoProto, tensor: TensorSpec, sizes: dict[str, int]) -> None:
    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    if dtype != tensor.dtype:
        raise ExportError(f"{where} is {dtype}; its contract says {tensor.dtype}")
    if len(kind.shape.dim) != len(tensor.dims):
        raise ExportError(f"{where} has {len(kind.shape.dim)} dimensions; its contract says {tensor.dims}")
    for dim, letter in zip(kind.shape.dim, tensor.dims, strict=True):
        if letter in DYNAMIC_LETTERS:
            if dim.HasField("dim_value"):
                raise ExportError(
                    f"{where}: dimension {letter} came out fixed at {dim.dim_value}\n"
                    "hint: some operation of the module turned a tensor's size into a constant"
                )
        elif sizes.setdefault(letter, dim.dim_value) != dim.dim_value or not dim.dim_value:
            raise ExportError(f"{where}: dimension {letter} is {dim.dim_value or 'free'}, elsewhere {sizes[letter]}")


def _free_axes(tensor: TensorSpec) -> list[int]:
    return [axis for axis, letter in enumerate(tensor.dims) if letter in DYNAMIC_LETTERS]


def _name_dims(spec: GraphSpec, model: ModelProto) -> None:
    """Call each free dimension by its letter."""
    for value, tensor in zip((*model.graph.input, *model.graph.output), (*spec.inputs, *spec.outputs), strict=True):
        for axis in _free_axes(tensor):
            value.type.tensor_type.shape.dim[axis].dim_param = tensor.dims[axis]


def _anonymise(model: ModelProto) -> None:
    """Drop what the exporter notes about the machine and the source lines it ran on: same weights, same bytes."""
    del model.graph.value_info[:]
    for item in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""


class _QuietExporter:
    """torch.onnx warns of every torchvision operator it does not find, its optimisers tell each thing they remove."""

    def __enter__(self) -> None:
        self._loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
