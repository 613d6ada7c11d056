"""CUDA kernels on the processor: `source.cu` as C, a loop in place of the threads. For machines without a GPU."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

_AS_C = """
#include <math.h>
#define __device__
#define __global__
static struct { unsigned x; } blockIdx, blockDim = {256}, threadIdx;
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
#include "source.cu"
#define EVERY_THREAD(n) \\
    for (blockIdx.x = 0; blockIdx.x < (n + blockDim.x - 1) / blockDim.x; blockIdx.x++) \\
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
void run_normals(u64 n, float *out, u64 count, u64 total, Stream stream) {
    EVERY_THREAD(n) normals(out, count, total, stream);
}
void run_sines(u64 n, float *out, u64 count, u64 total, Stream stream, u64 *frames, double *phases, u64 hop) {
    EVERY_THREAD(n) sines(out, count, total, stream, frames, phases, hop);
}
void run_pulses(
    u64 n, float *out, u64 count, u64 total, u64 channels, double *frames, u64 hop, double sample_rate, double band_hz
) {
    EVERY_THREAD(n) pulses(out, count, total, channels, frames, hop, sample_rate, band_hz);
}
"""


@functools.cache
def load(source: bytes, kernels: tuple[str, ...]):
    """Functions (threads, arguments...) by the kernels' names."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "source.cu").write_bytes(source)
        Path(folder, "host.c").write_text(_AS_C)
        # No contraction: NVRTC is told the same.
        command = [compiler, "-O2", "-ffp-contract=off", "-shared", "-fPIC", "host.c", "-o", "host.so", "-lm"]
        subprocess.run(command, cwd=folder, check=True)
        library = ctypes.CDLL(str(Path(folder, "host.so")))
    return {kernel: getattr(library, f"run_{kernel}") for kernel in kernels}
