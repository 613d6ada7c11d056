"""Starting a command whose packages may have been left out of the installation."""

import importlib
import sys


def run_command(module: str, command: str, extra: str) -> None:
    """Call `main` of `module`; where a package that it needs is missing, say how to install it, and exit 1."""
    try:
        importlib.import_module(module).main()
    except ModuleNotFoundError as error:
        if (error.name or "comosvc").startswith("comosvc"):
            raise
        missing = f"error: {command} needs the package {error.name}, which is not installed"
        sys.exit(f'{missing}\nhint: pip install "comosvc[{extra}]"')
