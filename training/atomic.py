"""Files written all or nothing, also when the power fails or several processes write the same one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: it becomes `path` when the block ends, and is gone if that ends in an error.

    The name is nobody else's, in this process or another, on this machine or one that shares the folder.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex[:12]}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
