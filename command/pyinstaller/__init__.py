"""Hooks for PyInstaller, which cannot find modules that are imported by name."""

from pathlib import Path


def hook_dirs() -> list[str]:
    """The folders with hooks; the entry point `pyinstaller40` of this package."""
    return [str(Path(__file__).parent)]
