"""Comparison of a provider's outputs with the probes in the bundle, and a synthetic vowel through the whole chain."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import ceil_div
from ..audio.spec import AudioSpec
from ..conversion.calls import Runnable
from ..conversion.processes import native_code
from ..conversion.request import Conversion
from ..conversion.shapes import check_finite, check_outputs, grid_of
from ..conversion.source import pulse_source
from ..errors import BundleError, ComosvcError
from ..voice.bundle import Bundle, load_tensors
from ..voice.graphs import GRAPHS, OPTIONAL_INPUTS
from ..voice.manifest import Manifest
from . import cpu

PROBES_FILE = "probes.safetensors"
BUDGETS = {
    "fp32": (1e-3, "the same arithmetic in another order gives 2e-6, TF32 on a GPU 5e-4"),
    "bf16": (0.05, "8 bits of mantissa: 1.5e-2 was seen; wrong weights or a wrong layout give 0.5 and more"),
    "fp16": (0.05, "as bf16, for the graphs that pass the export's own, narrower budgets"),
    "int8": (0.05, "as fp16; what is not in 8 bits may be in bf16 then"),
}
"""By precision: the largest ||measured - torch|| / ||torch|| of any output, and why."""


@dataclass(frozen=True)
class Probe:
    """One call of a graph and what it must give."""

    graph: str
    inputs: dict[str, NDArray]
    outputs: dict[str, NDArray]
    given_by: str = "torch gave at export"

    @property
    def size(self) -> tuple[int, int]:
        """Batch, and length in 16 kHz samples or mel frames."""
        first = next(self.inputs[name] for name in ("audio", "f0_hz", "mel") if name in self.inputs)
        return first.shape[0], first.shape[1]


def read_probes(bundle: Bundle) -> list[Probe]:
    """The probes of a bundle, one or more of each graph. Raises `BundleError` for a file that holds anything else.

    The tensors of the file are named `<number>.<graph>.in.<tensor>` and `...out.<tensor>`.
    """
    what, manifest = f"{bundle.origin}: {PROBES_FILE}", bundle.manifest
    probes: dict[tuple[int, str], Probe] = {}
    for key, value in load_tensors(bundle.read(PROBES_FILE), what).items():
        found = re.fullmatch(r"([0-9]{1,6})\.(\w{1,20})\.(in|out)\.(\w{1,20})", key)
        if found is None or found[2] not in manifest.graphs:
            raise BundleError(f"{what} has a tensor {key!r}, which is of no graph of this voice")
        number, graph, side, name = found.groups()
        taken = {tensor[0] for tensor in manifest.graphs[graph].inputs}
        if side == "in" and name not in taken and name in OPTIONAL_INPUTS.get(graph, ()):
            continue  # a probe has all inputs of the contract, also those that the design leaves out
        probe = probes.setdefault((int(number), graph), Probe(graph, {}, {}))
        # The export's `numpy.ascontiguousarray` turned scalars into (1,).
        (probe.inputs if side == "in" else probe.outputs)[name] = (
            value.reshape(()) if name == "step_index" and value.size == 1 else value
        )
    if missing := [name for name in manifest.graphs if name not in {graph for _, graph in probes}]:
        raise BundleError(f"{what} has no probe of {', '.join(missing)}")
    for (number, graph), probe in probes.items():
        _check_probe(f"{what}, probe {number} of the {graph} graph", probe, manifest)
    return [probes[key] for key in sorted(probes)]


def _check_probe(what: str, probe: Probe, manifest: Manifest) -> None:
    """Raise `BundleError` unless the arrays fit the contract and each other, and indices point into the content."""
    entry, sizes = manifest.graphs[probe.graph], dict[str, int]()
    letters = {tensor.name: tensor.dims for tensor in GRAPHS[probe.graph].inputs}
    for tensors, arrays in ((entry.inputs, probe.inputs), (entry.outputs, probe.outputs)):
        if set(arrays) != (wanted := {name for name, _, _ in tensors}):
            raise BundleError(f"{what} has {', '.join(arrays) or 'nothing'} in place of {', '.join(sorted(wanted))}")
    for name, dtype, dims in entry.inputs:
        found = probe.inputs[name]
        fits = found.dtype == dtype and found.ndim == len(dims) and found.size > 0 and np.isfinite(found).all()
        for size, dim, letter in zip(found.shape, dims, letters[name], strict=False):
            fits = fits and size == (dim if isinstance(dim, int) else sizes.setdefault(letter, size))
        if not fits:
            raise BundleError(f"{what}: {name} is {found.dtype} {found.shape}; it does not fit, or is not finite")
    index = probe.inputs.get("content_index")
    if index is not None and not 0 <= index.min() <= index.max() < sizes["S"]:
        raise BundleError(f"{what}: content_index is {index.min()} to {index.max()}, of {sizes['S']} rows of content")
    shapes = {name: array.shape for name, array in probe.inputs.items()}
    try:
        outputs = [probe.outputs[name] for name, _, _ in entry.outputs]
        check_outputs(grid_of(manifest, probe.graph), entry, shapes, outputs)
        check_finite(probe.graph, outputs)
    except BundleError as error:
        raise BundleError(f"{what}: {error}") from error


def probe_errors(bundle: Bundle, graphs: Mapping[str, Runnable], precision: str) -> dict[str, float]:
    """The largest relative error of each graph on the bundle's probes; nothing for a bundle that has none.

    Raises `BundleError` for invalid probes, and `ComosvcError` for an error beyond the precision's budget.
    """
    if PROBES_FILE not in bundle.manifest.files:
        return {}
    errors: dict[str, float] = {}
    for probe in read_probes(bundle):
        error = _error(bundle, graphs[probe.graph], probe, precision)
        errors[probe.graph] = max(errors.get(probe.graph, 0.0), error)
    return errors


def steps_at_end(manifest: Manifest, graph: str) -> int:
    """How many of an output's last frames, or of the vocoder's samples, depend on what follows the input's end.

    They change where the input is padded: the graph pads each of its layers with zeros, which are not silence.
    """
    frames = 1 + manifest.context_of(graph).future  # the first: one that the end cuts
    return frames * (manifest.audio.hop_length if graph == "vocoder" else 1)


def _error(bundle: Bundle, graph: Runnable, probe: Probe, precision: str) -> float:
    """Largest error of any output. Where `graph` pads the probe, without frames that depend on its end."""
    budget, reason = BUDGETS[precision]
    names, at_end, errors = [tensor.name for tensor in GRAPHS[probe.graph].outputs], 0, [0.0]
    with native_code():
        outputs = dict(zip(names, graph.run(probe.inputs), strict=True))
    if any(outputs[name].shape[1] > probe.outputs[name].shape[1] for name in names):
        at_end = steps_at_end(bundle.manifest, probe.graph)
    shortest = min(probe.outputs[name].shape[1] for name in names)
    if shortest <= at_end:
        return _error(bundle, graph, _lengthened(bundle, probe, 1 + ceil_div(at_end, shortest)), precision)
    for name in names:
        wanted = probe.outputs[name].astype(np.float64)
        wanted = wanted[:, : wanted.shape[1] - at_end]
        error = float(np.linalg.norm(outputs[name][:, : wanted.shape[1]] - wanted) / (np.linalg.norm(wanted) or 1.0))
        if not error <= budget:  # nor NaN
            raise ComosvcError(
                f"self-test failed: {name} of the {probe.graph} graph in {precision} is {error:.1e} from "
                f"what {probe.given_by}, at most {budget:.0e} is allowed ({reason})\n"
                "hint: precision='fp32', or another provider; comosvc-doctor says what works here"
            )
        errors.append(error)
    return max(errors)


def _lengthened(bundle: Bundle, probe: Probe, times: int) -> Probe:
    """The probe repeated, with what the CPU gives for that in fp32, once it has given what torch gave for the probe."""
    entry = bundle.manifest.graphs[probe.graph]
    reference = cpu.open_graph(bundle, probe.graph, entry, None)
    _error(bundle, reference, probe, "fp32")
    along = {name for name, _, dims in entry.inputs if len(dims) > 1 and isinstance(dims[1], str)}
    inputs = {n: np.concatenate([a] * times, axis=1) if n in along else a for n, a in probe.inputs.items()}
    outputs = zip(GRAPHS[probe.graph].outputs, reference.run(inputs), strict=True)
    return Probe(probe.graph, inputs, {tensor.name: output for tensor, output in outputs}, "the CPU gives in fp32")


SECONDS = 1.5
F0_HZ = (180.0, 270.0)
"""The vowel glides up a fifth."""
_FORMANTS_HZ = ((700.0, 80.0), (1200.0, 90.0), (2600.0, 120.0))  # an "ah": frequency and bandwidth
_WITHIN_CENTS = 50.0
_VOICED_SHARE = 0.8


@dataclass(frozen=True)
class SelfTest:
    """Outcome of a self-test that passed. `f0_error_cents`: median error of the pitch found in the vowel."""

    seconds: float
    rtf: float
    f0_error_cents: float
    output_peak: float
    provider: str
    precision: str
    timings_ms: Mapping[str, float]
    probe_errors: Mapping[str, float] = field(default_factory=dict)
    """By graph, the relative error against what torch gave at export; empty if the voice holds nothing of that.

    Where a GPU's padding leaves nothing of that to compare, against what the CPU gives, which was compared with torch.
    """


def run_self_test(convert: Callable[[NDArray[np.float32], int], Conversion], spec: AudioSpec) -> SelfTest:
    """Convert the vowel. Raises `ComosvcError` if what comes out is not a conversion of it."""
    audio, truth_hz = vowel(spec)
    convert(audio, spec.sample_rate)  # first runs take longer, and are not measured
    result = convert(audio, spec.sample_rate)
    found = result.f0_hz[: len(truth_hz)]
    voiced = found > 0.0
    if len(result.audio) != len(audio) or not np.isfinite(result.audio).all():
        raise ComosvcError(f"self-test failed: {len(audio)} samples became {len(result.audio)}, or are not finite")
    peak = float(np.abs(result.audio).max())
    if peak == 0.0:
        raise ComosvcError("self-test failed: the result is silent")
    error_cents = (
        float(np.median(np.abs(1200.0 * np.log2(found[voiced] / truth_hz[voiced])))) if voiced.any() else np.inf
    )
    if voiced.mean() < _VOICED_SHARE or error_cents > _WITHIN_CENTS:
        raise ComosvcError(
            f"self-test failed: pitch was found in {voiced.mean():.0%} of a vowel, "
            f"{error_cents:.0f} cents off in the median"
        )
    seconds = len(audio) / spec.sample_rate
    rtf = result.timings_ms["total"] / 1e3 / seconds
    options = result.options
    return SelfTest(seconds, rtf, error_cents, peak, options.provider, options.precision, result.timings_ms)


def vowel(spec: AudioSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A sung "ah" at the model's rate, (L,), and its F0 at mel frames, (T,)."""
    f0_hz = np.geomspace(*F0_HZ, round(SECONDS * spec.frame_rate_hz)).astype(np.float32)
    signal = pulse_source(f0_hz, spec)[0][:, 0].astype(np.float64)
    seconds = np.arange(round(0.05 * spec.sample_rate)) / spec.sample_rate
    for centre_hz, bandwidth_hz in _FORMANTS_HZ:
        ringing = np.exp(-np.pi * bandwidth_hz * seconds) * np.cos(2.0 * np.pi * centre_hz * seconds)
        signal = np.convolve(signal, ringing)[: len(f0_hz) * spec.hop_length]
    return (0.3 * signal / np.abs(signal).max()).astype(np.float32), f0_hz
