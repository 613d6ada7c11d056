"""Entry point of `comosvc-export`."""

from ..runtime.errors import run_command


def main() -> None:
    """Run the command, or say which packages it lacks."""
    run_command("comosvc.export.cli", "comosvc-export", "export")
