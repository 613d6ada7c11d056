"""What PyInstaller, which finds modules by the imports that it reads, has to be told about this package."""

from pathlib import Path


def hook_dirs() -> list[str]:
    """The folders with hooks; the entry point `pyinstaller40` of this package."""
    return [str(Path(__file__).parent)]
