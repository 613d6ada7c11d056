"""The machine that speed is measured on, as far as it decides about speed."""

import os
from pathlib import Path
from typing import Any

import psutil

from ..report import this_machine

_DECISIVE_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_SAME = ("cpu", "cores", "os", "flags", "isa_limit", "gpu")
_ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Set it for a run, to `avx512_core_vnni` or `avx2` say, and OpenVINO and oneDNN in torch leave out what goes beyond.

ONNX Runtime has no such switch.
"""


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Processor with its decisive instruction sets, cores, memory, operating system, and the GPU where one is used."""
    facts = {**this_machine(), "flags": _cpu_flags(), "memory_gb": round(psutil.virtual_memory().total / 1e9)}
    if _ISA_LIMIT in os.environ:
        facts["isa_limit"] = os.environ[_ISA_LIMIT]
    if device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def is_same_machine(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether figures of the two may be compared, as far as their facts tell."""
    return all(a.get(name) == b.get(name) for name in _SAME)


def in_words(facts: dict[str, Any]) -> str:
    """For a table's foot."""
    flags = f" ({' '.join(facts['flags'])})" if facts.get("flags") else ""
    limit = f", {_ISA_LIMIT}={facts['isa_limit']}" if facts.get("isa_limit") else ""
    gpu = f", {facts['gpu']}, CUDA {facts['cuda']}" if facts.get("gpu") else ""
    return f"{facts['cpu']}{flags}, {facts['cores']} cores, {facts.get('memory_gb', '?')} GB, {facts['os']}{limit}{gpu}"


def _cpu_flags() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    found = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in _DECISIVE_FLAGS if flag in found]
