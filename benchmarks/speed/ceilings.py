"""The most that this machine computes and copies: ceilings of the FLOP per second of a stage."""

import time
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from .results import Ceilings

if TYPE_CHECKING:
    import torch

_REPEATS = 10
_WARM_UP = 2
_LIMIT_S = 2.0
"""Time limit for the repetitions of one ceiling, so that slow machines measure fewer."""


def the_better(one: Ceilings, other: Ceilings) -> Ceilings:
    """The higher of both in each respect: a disturbance can only lower a ceiling."""
    best = {}
    for field in fields(Ceilings):
        a, b = getattr(one, field.name), getattr(other, field.name)
        best[field.name] = max(a, b) if isinstance(a, float) and isinstance(b, float) else a
    return Ceilings(**best)


def measure_ceilings(threads: int, device: str, gemm_size: int = 2048, copy_mb: int = 256) -> Ceilings:
    """Measure them. Changes the number of torch's threads: call it in a process of its own."""
    import torch

    from ...training.loop.devices import why_emulated

    torch.set_num_threads(threads)
    where = torch.device(device)
    size = 4 * gemm_size if where.type == "cuda" else gemm_size

    def sync() -> None:
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    def gemm(dtype: "torch.dtype") -> float:
        a, b = (torch.ones(size, size, dtype=dtype, device=where) for _ in range(2))
        return 2.0 * size**3 / _best_s(lambda: a @ b, sync) / 1e9

    left_out = {precision: why_emulated(precision, where) for precision in ("bf16", "fp16")}

    block = torch.ones(copy_mb * 250_000, device=where)
    target = torch.empty_like(block)
    with torch.inference_mode():
        return Ceilings(
            threads=threads,
            device=device,
            fp32_torch_gflop_s=gemm(torch.float32),
            fp32_onnx_gflop_s=_onnx_gemm(size, threads) if where.type == "cpu" else None,
            bf16_torch_gflop_s=None if left_out["bf16"] else gemm(torch.bfloat16),
            fp16_torch_gflop_s=None if left_out["fp16"] else gemm(torch.float16),
            copy_gb_s=2.0 * block.nbytes / _best_s(lambda: target.copy_(block), sync) / 1e9,
            fp32_matmul_precision=torch.get_float32_matmul_precision(),
            left_out=tuple(f"{name}: {why}" for name, why in left_out.items() if why),
        )


def _onnx_gemm(size: int, threads: int) -> float:
    from onnx import TensorProto, helper

    from ...runtime.providers.sessions import open_session

    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "gemm", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = open_session(model.SerializeToString(), "a matrix product", threads)
    inputs = {name: np.ones((size, size), np.float32) for name in "ab"}
    return 2.0 * size**3 / _best_s(lambda: session.run(None, inputs), lambda: None) / 1e9


def _best_s(work: Callable[[], object], sync: Callable[[], object]) -> float:
    """Shortest repetition in seconds, without the warm-up unless the time limit ends it."""
    seconds: list[float] = []
    while len(seconds) < _WARM_UP + _REPEATS and sum(seconds) < _LIMIT_S:
        sync()
        start = time.perf_counter()
        work()
        sync()
        seconds.append(time.perf_counter() - start)
    return min(seconds[_WARM_UP:] or seconds)
