"""How much memory this process has, and had at most since somebody asked."""

import sys
from pathlib import Path

from ...export.memory import peak_memory_bytes

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_high_water() -> bool:
    """Let the high-water mark of the resident size begin anew (Linux, proc(5)); whether that is possible here."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def high_water_mb() -> float | None:
    """The largest resident size since the last reset; None where the system does not say."""
    if (peak := _status_mb("VmHWM")) is not None:
        return peak
    peak = peak_memory_bytes()
    return None if peak is None else peak / 1e6


def resident_mb() -> float | None:
    """The resident size now; None where the system does not say (not Linux)."""
    return _status_mb("VmRSS")


def _status_mb(field: str) -> float | None:
    if not sys.platform.startswith("linux"):
        return None
    lines = _STATUS.read_text("utf-8").splitlines()
    found = next((line for line in lines if line.startswith(f"{field}:")), None)
    return None if found is None else int(found.split()[1]) * 1024 / 1e6
