"""Checks of the outputs of graphs against their contracts, for all engines."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
from .graph import GRAPHS
from .manifest import GraphEntry
from .profiles import Grid, Shape

_BROKEN = "hint: the bundle is broken; comosvc-export verify gives details"


def check_outputs(grid: Grid, entry: GraphEntry, inputs: Mapping[str, Shape], outputs: Sequence[NDArray]) -> None:
    """Raise `BundleError` unless `outputs`, in the order of `entry`, have the element types and shapes that inputs of
    these shapes ask for.
    """
    lengths = _lengths(grid, inputs)
    letters = {tensor.name: tensor.dims for tensor in GRAPHS[grid.graph].outputs}
    for (name, dtype, dims), output in zip(entry.outputs, outputs, strict=True):
        sizes = [
            range(d, d + 1) if isinstance(d, int) else lengths[x] for d, x in zip(dims, letters[name], strict=True)
        ]
        what = f"the {grid.graph} graph gave {name}"
        fits = output.ndim == len(sizes) and all(n in size for n, size in zip(output.shape, sizes, strict=True))
        if output.dtype != dtype or not fits:
            asked = ", ".join(f"{tensor} {shape}" for tensor, shape in inputs.items())
            wanted = ", ".join(f"{s.start}" if len(s) == 1 else f"{s.start} to {s.stop - 1}" for s in sizes)
            raise BundleError(
                f"{what} {output.dtype} {output.shape} for {asked}; it must be {dtype} ({wanted})\n{_BROKEN}"
            )


def check_finite(graph: str, outputs: Sequence[NDArray]) -> None:
    """Raise `BundleError` for numbers that are NaN or infinite; `outputs` are in the order of the contract."""
    for index, output in enumerate(outputs):
        if bad := output.size - np.count_nonzero(np.isfinite(output)):
            what = f"the {graph} graph gave {GRAPHS[graph].outputs[index].name}"
            raise BundleError(f"{what} with {bad} of {output.size} numbers that are NaN or infinite\n{_BROKEN}")


def _lengths(grid: Grid, inputs: Mapping[str, Shape]) -> dict[str, range]:
    """Sizes allowed for each free dimension of the outputs.

    Encoders give a row for each whole hop. An encoder that takes all of its input at once may leave out the first or
    the last row, as networks without padding do.
    """
    given = {"B": max(shape[0] for shape in inputs.values() if shape)}
    for tensor in GRAPHS[grid.graph].inputs:
        given |= dict(zip(tensor.dims, inputs.get(tensor.name, ()), strict=False))
    if grid.takes_audio:
        rows = max(1, given["N"] // grid.hop)
        spread = range(max(1, rows - 2), rows + 2) if grid.sees_all else range(rows, rows + 1)
        return {"B": range(given["B"], given["B"] + 1), "S": spread, "P": spread}
    given["L"] = given["T"] * grid.hop
    return {letter: range(size, size + 1) for letter, size in given.items()}
