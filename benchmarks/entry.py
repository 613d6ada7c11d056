"""Entry point of `comosvc-bench`."""

from ..runtime.errors import run_command


def main() -> None:
    """Run the command, or say which packages it lacks."""
    run_command("comosvc.benchmarks.cli", "comosvc-bench", "bench")
