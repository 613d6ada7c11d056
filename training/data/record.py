"""The training data of a stage: recorded beside its checkpoints, compared with the present recordings."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ...runtime.storage import reason, sha256, write_whole
from ..errors import DataError, TrainingError, some, train_command
from ..loop.checkpoint import latest_checkpoint, read_metadata
from .datasets import CORPUS, Material, Recording, corpus_material, open_dataset
from .prepared import FeatureIndex, RecordingSource

logger = logging.getLogger(__name__)


def source_of(material: Material) -> RecordingSource | None:
    """Layout and folder of `material`, with size and time of each file; None for material from elsewhere."""
    if material.source is None:
        return None
    dataset, folder = material.source
    return RecordingSource(dataset, str(folder.absolute()), _files(material.recordings))


def changed_recordings(features: FeatureIndex) -> list[str]:
    """Sentences on recordings that are new, gone or changed since `features` were made.

    Empty where nothing changed, and where the folder is not on this machine.
    """
    source = features.source
    if source is None or not Path(source.folder).is_dir():
        return []
    try:
        folder = Path(source.folder)
        found = corpus_material(folder) if source.dataset == CORPUS else open_dataset(source.dataset, folder)
        now = _files(found.recordings)
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


def _files(recordings: Iterable[Recording]) -> dict[str, tuple[int, int]]:
    found = {}
    for recording in recordings:
        try:
            stat = recording.path.stat()
        except OSError:
            continue
        found[recording.id] = (stat.st_size, stat.st_mtime_ns)
    return found


RECORD = "data.json"
_CONTENT_SETTINGS = ("content_sample_rate", "content_hop_length")
"""Audio settings that content encoders depend on; vocoders depend on the others."""


@dataclass(frozen=True)
class DataRecord:
    """Settings, singers and clips of a training set, of types that JSON has."""

    settings: Mapping[str, Any]
    """Settings of the audio, the front end and the augmentation; for a corpus, those of its rendering."""
    singers: Sequence[str]
    """Names in the order of the embedding table."""
    clips: Mapping[str, Sequence[str]]
    """Clip id to its singer, its split, and a key that changes with its audio."""

    @classmethod
    def of(cls, features: FeatureIndex) -> "DataRecord":
        """The record of the features of a run."""
        parts = {"front_end": features.front_end, "augmentation": features.augmentation}
        settings = {
            **asdict(features.audio),
            **{f"{part}.{name}": value for part, config in parts.items() for name, value in asdict(config).items()},
        }
        clips = {clip.id: [clip.singer, clip.split, clip.key] for clip in features.clips}
        return cls(json.loads(json.dumps(settings)), features.trained_singers, clips)

    @property
    def digest(self) -> str:
        """A hash of the record, 16 hexadecimal digits."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode())[:16]

    def write(self, folder: Path) -> str:
        """Write the record into the stage's `folder` and return its digest, for the checkpoints.

        Raises `TrainingError` where the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / RECORD, json.dumps(asdict(self)).encode())
        except OSError as error:
            raise TrainingError(
                f"{folder} cannot be written: {reason(error)}\n"
                "hint: free some space, or give a -o that you may write to"
            ) from None
        return self.digest

    def changes_since(self, then: "DataRecord") -> list[str]:
        """Sentences on the differences from the earlier record; empty for the same data."""
        singers = changed_singers(then.singers, self.singers, self._renamed(then))
        return [*self.changed_settings(then.settings), *singers, *self._changed_clips(then)]

    def changed_settings(self, then: Mapping[str, Any]) -> list[str]:
        """Sentences on settings that both have with different values."""
        both = [name for name in then if name in self.settings]
        return [
            f"{name} is now {self.settings[name]}, was {then[name]}"
            for name in both
            if then[name] != self.settings[name]
        ]

    def _renamed(self, then: "DataRecord") -> dict[str, str]:
        """Old name to new name of each singer whose clips' audio is the same."""
        before, now = then._audio_by_singer(), self._audio_by_singer()
        new = {keys: name for name, keys in now.items() if name not in before}
        return {name: new[keys] for name, keys in before.items() if name not in now and keys in new}

    def _audio_by_singer(self) -> dict[str, frozenset[str]]:
        keys: dict[str, set[str]] = {}
        for singer, _, key in self.clips.values():
            keys.setdefault(singer, set()).add(key)
        return {singer: frozenset(found) for singer, found in keys.items()}

    def _changed_clips(self, then: "DataRecord") -> list[str]:
        """Sentences on changed clips of singers that both records have."""
        kept = self._audio_by_singer().keys() & then._audio_by_singer().keys()
        now, before = ({i: c for i, c in record.clips.items() if c[0] in kept} for record in (self, then))
        common = now.keys() & before.keys()
        groups = {
            "added": now.keys() - before.keys(),
            "gone": before.keys() - now.keys(),
            "with other audio or labels": {i for i in common if now[i][2] != before[i][2]},
            "moved between training and validation": {i for i in common if now[i][1] != before[i][1]},
        }
        return [f"{len(ids)} clips {what} ({some(ids)})" for what, ids in groups.items() if ids]


def changed_singers(then: Sequence[str], now: Sequence[str], renamed: Mapping[str, str] | None = None) -> list[str]:
    """Sentences on singers that were added to, removed from or moved within the table `then`."""
    renamed = renamed or {}
    added = [name for name in now if name not in then and name not in renamed.values()]
    gone = [name for name in then if name not in now and name not in renamed]
    changes = [f"singer {old} is now called {new}" for old, new in renamed.items()]
    changes += [f"singers added: {', '.join(added)}"] if added else []
    changes += [f"singers gone: {', '.join(gone)}"] if gone else []
    if not changes and list(then) != list(now):
        changes = [f"singers in another order: now {', '.join(now)}, was {', '.join(then)}"]
    return changes


def data_changes(checkpoint: Path, now: DataRecord) -> list[str]:
    """Sentences on the differences of the training data of `checkpoint` from `now`; empty without differences.

    A checkpoint without its record (of an earlier version, or copied here alone) is compared by its audio settings and
    its singers.
    """
    config = read_metadata(checkpoint)[1]
    if config.get("data") == now.digest:
        return []
    then = _read(checkpoint.parent)
    if then is not None and config.get("data") == then.digest:
        return now.changes_since(then)
    changes = now.changed_settings(config.get("audio", {}))
    changes += changed_singers(config["singers"], now.singers) if isinstance(config.get("singers"), list) else []
    if not changes and "data" in config:
        return [f"it was trained on other clips (which ones, only the {RECORD} of its own run folder says)"]
    return changes


def begin_stage(run: Path, name: str, features: FeatureIndex) -> DataRecord:
    """The record of `features`, before the stage in `run / name` is trained or resumed on it.

    Raises `TrainingError` where it was begun on other data. Logs a warning where the recordings have changed since
    they were prepared.
    """
    now = DataRecord.of(features)
    require_same_data(run / name, now, features.folder)
    warn_of_changed_recordings(features)
    return now


def require_same_data(folder: Path, now: DataRecord, held_by: Path) -> None:
    """Raise `TrainingError` where the stage in `folder` was trained on other data than `now`, which lies in `held_by`.

    A stage without a checkpoint passes.
    """
    path = latest_checkpoint(folder)
    if path is None or not (changes := data_changes(path, now)):
        return
    raise TrainingError(
        f"{folder} was trained on other data than {held_by} holds now: {'; '.join(changes)}. Nothing was changed.\n"
        f"hint: to train on what is there now, move {folder} away and run {train_command(folder)}; to go on with what "
        "it was trained on, prepare that data again, or keep the new data in another -o folder"
    )


def require_fitting(run: Path, features: FeatureIndex, content: Sequence[str], others: Sequence[str]) -> None:
    """Raise `DataError` where a network of `run`, in one of the folders `content` or `others`, is for other audio
    settings than `features`. Logs a warning for each of `others` that was trained in `run` on other data.
    """
    now = DataRecord.of(features)
    for name in (*content, *others):
        if (path := latest_checkpoint(run / name)) is None:
            continue
        theirs = read_metadata(path)[1].get("audio", {})
        used = {key: value for key, value in theirs.items() if (key in _CONTENT_SETTINGS) == (name in content)}
        if changes := now.changed_settings(used):
            raise DataError(
                f"{run / name} is for other audio settings than {features.folder}: {'; '.join(changes)}\n"
                f"hint: prepare with the recipe that it was made with; or move it away and run "
                f"{train_command(run / name)}"
            )
    for line in changed_stages(run, others, now):
        logger.warning("%s", line)


def changed_stages(run: Path, names: Iterable[str], now: DataRecord) -> list[str]:
    """A sentence on each stage of `run`, of the folders `names`, that was trained there on other data than `now`."""
    lines = []
    for name in names:
        path = latest_checkpoint(run / name)
        if path is not None and (run / name / RECORD).is_file() and (changes := data_changes(path, now)):
            lines.append(
                f"{run / name} was trained on other data than {run / 'features'} holds now: {'; '.join(changes)}. It "
                "stays as it is."
            )
    return lines


def _read(folder: Path) -> DataRecord | None:
    """The record in a stage's folder; None where there is none, or a damaged one."""
    try:
        return DataRecord(**json.loads((folder / RECORD).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
