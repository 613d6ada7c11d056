"""Entry point of `comosvc-train`."""

from ..runtime.errors import run_command


def main() -> None:
    """Run the command, or say which packages it lacks."""
    run_command("comosvc.training.cli", "comosvc-train", "train")
