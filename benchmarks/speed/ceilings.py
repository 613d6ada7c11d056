"""What this machine can do at most: what a stage's FLOP per second are held against."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_REPEATS = 7
_WARM_UP = 2


@dataclass(frozen=True)
class Ceilings:
    """The best of some repetitions, with torch. GFLOP/s of square matrix products, GB/s of a copy, read and written."""

    threads: int
    device: str
    fp32_gemm_gflop_s: float
    bf16_gemm_gflop_s: float
    copy_gb_s: float
    fp32_matmul_precision: str = "highest"
    """torch's setting; anything else lets a GPU use TF32."""


def measure_ceilings(threads: int, device: str, gemm_size: int = 2048, copy_mb: int = 256) -> Ceilings:
    """Measure them. Changes the number of torch's threads: call it in a process of its own."""
    import torch  # only here: who reads results need not have it

    torch.set_num_threads(threads)
    where = torch.device(device)
    size = 4 * gemm_size if where.type == "cuda" else gemm_size

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(_WARM_UP + _REPEATS):
            _sync(where)
            start = time.perf_counter()
            work()
            _sync(where)
            seconds.append(time.perf_counter() - start)
        return min(seconds[_WARM_UP:])

    def gemm(dtype: "torch.dtype") -> float:
        a, b = (torch.ones(size, size, dtype=dtype, device=where) for _ in range(2))
        return 2.0 * size**3 / best(lambda: a @ b) / 1e9

    block = torch.ones(copy_mb * 250_000, device=where)
    target = torch.empty_like(block)
    with torch.inference_mode():
        return Ceilings(
            threads=threads,
            device=device,
            fp32_gemm_gflop_s=gemm(torch.float32),
            bf16_gemm_gflop_s=gemm(torch.bfloat16),
            copy_gb_s=2.0 * block.nbytes / best(lambda: target.copy_(block)) / 1e9,
            fp32_matmul_precision=torch.get_float32_matmul_precision(),
        )


def _sync(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
