"""Files in the formats of CoMoSVC, its vocoders and ContentVec, with random weights, and a cache of huggingface_hub."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_hub_cache(cache: Path, repo: str, files: Mapping[str, bytes], small: Collection[str] = ()) -> None:
    """The cache as huggingface_hub leaves it after `files` of `repo` at `COMMIT`; `small` ones are not in git LFS."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        blob = folder / "blobs" / (git if name in small else hashlib.sha256(data).hexdigest())
        blob.write_bytes(data)
        pointer = folder / "snapshots" / COMMIT / name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        pointer.symlink_to(f"{up}blobs/{blob.name}")
