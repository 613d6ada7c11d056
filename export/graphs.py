"""The training modules as ONNX graphs: thin wrappers with the inputs of `runtime/graph.py`, and the trace itself."""

import logging
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from inspect import signature

import onnx
import torch
from onnx import ModelProto, helper
from torch import Tensor, nn

from ..runtime.graph import OPTIONAL_INPUTS, GraphSpec, TensorSpec
from ..training.acoustic import AcousticModel, Condition
from ..training.diffusion import edm_scalings, renoise, sampling_sigmas
from .errors import ExportError
from .fold import fold_constants
from .metadata import stamp
from .transposed import unroll_transposed

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
    left (`runtime.sampler.OdeNoise`), and all of it is put back.
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
