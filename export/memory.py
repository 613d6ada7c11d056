"""How much memory this process has needed."""

import sys


def peak_memory_bytes() -> int | None:
    """The largest resident size of this process so far; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
