"""Commands that install the extras of this package."""

import importlib
import importlib.metadata
import json
import shlex
import sys
from typing import Any
from urllib.parse import urlsplit


def install(extra: str) -> str:
    """The command that installs an extra, from where this package was installed: a clone, or the index."""
    return pip_install(f"comosvc[{extra}]" if is_frozen() else shlex.quote(f"{_source()}[{extra}]"))


def pip_install(requirements: str) -> str:
    """The command that installs `requirements`. A frozen application has no pip: a sentence for its maker."""
    if is_frozen():
        return f"this application has to be built again with {requirements}"
    return f"pip install {requirements}"


def is_frozen() -> bool:
    """True in applications frozen by PyInstaller or the like. Pip's notes then describe the build machine."""
    return getattr(sys, "frozen", False)


def _source() -> str:
    """The local folder that the package was installed from, as noted by pip (PEP 610), else the package's name."""
    try:
        noted = json.loads(importlib.metadata.distribution("comosvc").read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        return "comosvc"
    if "dir_info" not in noted:
        return "comosvc"
    from urllib.request import url2pathname  # here, where something is missing anyway: it brings http along

    return url2pathname(urlsplit(noted["url"]).path)


def import_native(name: str) -> Any:
    """Import a package of compiled code. Raises `ImportError`, or the exception of a signal handler.

    pybind11 makes an ImportError of Ctrl-C, which looks like a package that is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        interrupt = error.__cause__
        if interrupt is None or isinstance(interrupt, Exception):
            raise
        raise interrupt from None


def run_command(module: str, command: str, extra: str) -> None:
    """Call `main` of `module`; where a package that it needs is missing, say how to install it, and exit 1."""
    try:
        importlib.import_module(module).main()
    except ModuleNotFoundError as error:
        raise without_package(error, command, extra) from None


def without_package(error: ModuleNotFoundError, command: str, extra: str) -> BaseException:
    """An exit whose message gives the command that installs the missing package; `error` for a module of our own."""
    if (error.name or "comosvc").startswith("comosvc"):
        return error
    missing = f"error: {command} needs the package {error.name}, which is not installed"
    return SystemExit(f"{missing}\nhint: {install(extra)}")
