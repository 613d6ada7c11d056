"""Changes of recordings since features were made from them."""

import logging
from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from .commands import some, train_command
from .datasets import CORPUS, Material, Recording, corpus_material, open_dataset
from .errors import DataError
from .features import FeatureIndex, Source

logger = logging.getLogger(__name__)


def source_of(material: Material) -> Source | None:
    """Layout and folder of `material`, with size and time of each file; None for material from elsewhere."""
    if material.source is None:
        return None
    dataset, folder = material.source
    return Source(dataset, str(folder.absolute()), _files(material.recordings))


def changed_recordings(features: FeatureIndex) -> list[str]:
    """Sentences on recordings that are new, gone or changed since `features` were made.

    Empty where nothing changed, and where the folder is not on this machine.
    """
    source = features.source
    if source is None or not Path(source.folder).is_dir():
        return []
    try:
        now = _files(_material(source.dataset, Path(source.folder)).recordings)
    except DataError:  # an emptied folder
        now = {}
    groups = {
        "new": now.keys() - source.files.keys(),
        "gone": source.files.keys() - now.keys(),
        "of another size or date": {name for name in now if name in source.files and now[name] != source.files[name]},
    }
    return [f"{len(names)} {what} ({some(names)})" for what, names in groups.items() if names]


def warn_of_changed_recordings(features: FeatureIndex) -> None:
    """Log a warning for changed recordings. Training goes on with the features as they are."""
    if (changes := changed_recordings(features)) and (source := features.source):
        data = "" if source.dataset == CORPUS else f" --data {quote(source.folder)} --dataset {source.dataset}"
        logger.warning(
            "recordings in %s have changed since they were prepared: %s. Training takes them as they were.\n"
            "hint: to take them as they are: %s%s",
            source.folder,
            "; ".join(changes),
            train_command(features.folder),
            data,
        )


def _material(dataset: str, folder: Path) -> Material:
    return corpus_material(folder) if dataset == CORPUS else open_dataset(dataset, folder)


def _files(recordings: Iterable[Recording]) -> dict[str, tuple[int, int]]:
    found = {}
    for recording in recordings:
        try:
            stat = recording.path.stat()
        except OSError:
            continue
        found[recording.id] = (stat.st_size, stat.st_mtime_ns)
    return found
