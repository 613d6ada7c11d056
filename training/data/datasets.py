"""Where recordings come from: the demo corpus, a folder of one's own, M4Singer and OpenSinger as they are published.

Songs are held out for validation whole, never a part of a song that is trained on, and the same title for all singers
as far as that leaves each enough to train on.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...runtime.audio.sources import is_readable, readable_endings, unread_reason
from ...runtime.errors import printable
from ...runtime.storage import reason, sha256
from ..corpus.reader import Corpus
from ..errors import DataError

logger = logging.getLogger(__name__)
VALIDATION_SHARE = 0.05
MIN_SONGS_TO_VALIDATE = 5
CORPUS = "corpus"
"""Name of the layout of `comosvc-train corpus`, in addition to `DATASETS`."""
_OPENSINGER_GROUPS = {"ManRaw": "Man", "WomanRaw": "Woman"}
_NUMBERED = re.compile(r"(.*\S)[_\-#]+\d+")


@dataclass(frozen=True)
class Recording:
    """An audio file to take features from."""

    path: Path
    id: str
    singer: str
    song: str
    split: str = "train"
    cut: bool = True
    """Cut it at silences; False takes it as it is."""
    text: str = ""
    """What is sung, where the data set says so."""


@dataclass(frozen=True)
class Dropped:
    """An unused file, or part of a file, and the reason."""

    id: str
    reason: str
    singer: str = ""
    """Empty where it is unknown."""
    in_part: bool = False
    """The rest of the file is used."""


@dataclass(frozen=True)
class Material:
    """What `prepare` works on: files, facts about their singers, and what cannot be used."""

    recordings: list[Recording]
    singers: dict[str, dict]
    """kind, split and demo of each, as in `SingerEntry`."""
    trained: list[str]
    """Singers that get an embedding, in its order."""
    dropped: list[Dropped]
    source: tuple[str, Path] | None = None
    """Layout and folder of the recordings."""
    by_song: bool = False
    """True if `prepare` holds songs out, of the usable ones; the recordings' splits are then those of `split_by_song`,
    by names alone. False: the material has splits of its own.
    """


def corpus_material(folder: Path) -> Material:
    """A corpus written by `comosvc-train corpus`. Its recorded voices serve the content encoder only."""
    corpus = Corpus.open(folder)
    recordings = [Recording(c.audio_path, c.id, c.singer, c.song, c.split, cut=False) for c in corpus.clips()]
    singers = {name: {"kind": s.kind, "split": s.split, "demo": s.demo} for name, s in corpus.singers.items()}
    trained = [name for name, s in singers.items() if s["split"] == "train" and s["kind"] == "synthetic"]
    return Material(recordings, singers, sorted(trained), [], (CORPUS, folder))


def folder_material(folder: Path) -> Material:
    """One sub-folder per singer, audio files anywhere below it.

    A folder inside a singer's is a song, with all folders in it. So is a file beside others, unless their names differ
    in a number at the end only (`song_1.wav`, `song_2.wav`: a song cut up earlier) and the singer has more songs than
    that. Takes that are songs of their own need names that differ otherwise, or a folder each.
    """
    recordings, dropped = [], []
    for path in sorted(_require_folder(folder).iterdir()):
        if not path.name.startswith(".") and not path.is_dir():
            why = _unread_reason(path) or "beside the singers' folders, in none"
            dropped.append(Dropped(path.name, why))
    for singer in _folders(folder):
        files, unread = _files_below(singer)
        dropped += [Dropped(path.relative_to(folder).as_posix(), why) for path, why in unread.items()]
        if not files and singer not in unread:
            dropped.append(Dropped(singer.name, "a folder without recordings"))
        songs = _songs_of_files(singer, files)
        recordings += [Recording(p, p.relative_to(folder).as_posix(), singer.name, songs[p]) for p in files]
    if not recordings:
        raise DataError(
            f"{folder} has no sub-folder with {', '.join(readable_endings())} files\n"
            "hint: put each singer's recordings into a folder of the singer's name, and give the folder above them"
        )
    return _recorded(recordings, dropped, ("folder", folder))


def _files_below(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """The recordings in `folder` at any depth, in order, and why other files and folders there are not read. Names
    that begin with a dot are left out.
    """
    unread: dict[Path, str] = {}

    def refused(error: OSError) -> None:
        unread[Path(error.filename)] = f"cannot be read: {reason(error)}"

    paths: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".")]
        unread |= {Path(where, name): "a link to a folder" for name in folders if Path(where, name).is_symlink()}
        paths += [Path(where, name) for name in names if not name.startswith(".")]
    unread |= {path: why for path in paths if (why := _unread_reason(path))}
    return sorted(path for path in paths if path not in unread), unread


def _unread_reason(path: Path) -> str | None:
    """Reason why the file `path` is not read; None for files that are read."""
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() and not path.exists() else "not a plain file"
    if is_readable(path):
        return None
    suffix = path.suffix.lower()
    kind = f"{suffix} files are" if suffix else "a file without ending is"
    return unread_reason(path) or f"{kind} not read: only {', '.join(readable_endings())}"


def _text(name: str) -> str:
    r"""A name for files and terminals: bytes that are not UTF-8 and control characters as \xNN."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def _songs_of_files(singer: Path, files: list[Path]) -> dict[Path, str]:
    whole = {p: p.relative_to(singer).with_suffix("").as_posix() for p in files}
    songs = {}
    for path, name in whole.items():
        numbered = _NUMBERED.fullmatch(path.stem)
        songs[path] = (
            path.relative_to(singer).parts[0]
            if path.parent != singer
            else numbered[1] if numbered else name
        )  # fmt: skip
    return songs if len(set(songs.values())) > 1 else whole


def m4singer_material(folder: Path) -> Material:
    """M4Singer (Zhang et al. 2022): `<singer>#<song>/<number>.wav`, with `meta.json` above.

    Each entry of `meta.json` has an `item_name` `<singer>#<song>#<number>` and the lyrics in `txt`; the alignments in
    it, the `.TextGrid` and the `.mid` files are not needed here. Spaces of a name are hyphens in its folder's.
    """
    listing = _require_folder(folder) / "meta.json"
    if not listing.is_file():
        raise DataError(
            f"{folder} has no meta.json, so it is not M4Singer as it is published\n"
            "hint: give the folder with meta.json and the <singer>#<song> folders in it; others: --dataset folder"
        )
    recordings, dropped, listed = [], [], set()
    for name, text in _m4singer_items(listing):
        parts = name.split("#")
        if len(parts) != 3:
            dropped.append(Dropped(name, "its name in meta.json is not <singer>#<song>#<number>"))
            continue
        singer, song, number = parts
        places = [folder / f"{singer}#{title}" / f"{number}.wav" for title in (song, song.replace(" ", "-"))]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            dropped.append(Dropped(name, f"in meta.json, but {places[0].relative_to(folder)} is not there"))
            continue
        listed.add(path)
        recordings.append(Recording(path, name, singer, song, text=text))
    extra = [p for p in sorted(folder.glob("*#*/*.wav")) if p not in listed]
    dropped += [Dropped(p.relative_to(folder).as_posix(), "not in meta.json") for p in extra]
    if not recordings:
        raise DataError(f"none of the files that {listing} lists is there\nhint: unpack M4Singer as a whole")
    return _recorded(recordings, dropped, ("m4singer", folder))


def _m4singer_items(listing: Path) -> Iterator[tuple[str, str]]:
    try:
        for item in json.loads(listing.read_text("utf-8")):
            yield str(item["item_name"]), str(item.get("txt", ""))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{listing} is not a list of entries with an item_name ({type(error).__name__}: {error})\n"
            "hint: is it M4Singer's own meta.json, and complete?"
        ) from None


def opensinger_material(folder: Path) -> Material:
    """OpenSinger (Huang et al. 2021): `ManRaw` and `WomanRaw`, in each `<id>_<song>/<id>_<song>_<number>.wav`.

    The lyrics of a clip lie beside it in a `.txt`; the phones in `.lab` are not needed here. Man 1 and woman 1 are two
    singers, `Man_1` and `Woman_1`.
    """
    groups = {name: _require_folder(folder) / name for name in _OPENSINGER_GROUPS}
    if not any(path.is_dir() for path in groups.values()):
        raise DataError(
            f"{folder} has neither ManRaw nor WomanRaw, so it is not OpenSinger as it is published\n"
            "hint: give the folder that these two lie in; others: --dataset folder"
        )
    recordings, dropped = [], []
    for group, path in groups.items():
        for song_folder in _folders(path) if path.is_dir() else ():
            number, _, song = song_folder.name.partition("_")
            name = song_folder.relative_to(folder).as_posix()
            if not number.isdigit() or not song:
                dropped.append(Dropped(name, "its name is not <singer's number>_<song>"))
                continue
            singer = f"{_OPENSINGER_GROUPS[group]}_{number}"
            for wav in sorted(song_folder.glob("[!.]*.wav")):
                recordings.append(Recording(wav, f"{name}/{wav.stem}", singer, song, text=_text_beside(wav)))
    if not recordings:
        raise DataError(f"{folder} has no .wav file in ManRaw/<id>_<song> or WomanRaw/<id>_<song>")
    return _recorded(recordings, dropped, ("opensinger", folder))


def _text_beside(wav: Path) -> str:
    path = wav.with_suffix(".txt")
    return path.read_text("utf-8-sig", errors="replace").strip() if path.is_file() else ""


DATASETS: Mapping[str, Callable[[Path], Material]] = {
    "folder": folder_material,
    "m4singer": m4singer_material,
    "opensinger": opensinger_material,
}
"""By the name that `--dataset` takes."""


def open_dataset(name: str, folder: Path) -> Material:
    """The material in `folder`, laid out as `name` says. Raises `DataError` where it is not."""
    if name not in DATASETS:
        raise DataError(f"there is no layout called {name}\nhint: --dataset takes {', '.join(DATASETS)}")
    try:
        return DATASETS[name](folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {reason(error)}") from error


def _recorded(recordings: list[Recording], dropped: list[Dropped], source: tuple[str, Path]) -> Material:
    recordings = [replace(r, id=_text(r.id), singer=_text(r.singer), song=_text(r.song)) for r in recordings]
    dropped = [replace(d, id=_text(d.id)) for d in dropped]
    singers = sorted({r.singer for r in recordings})
    facts = {name: {"kind": "recorded", "split": "train", "demo": True} for name in singers}
    return Material(split_by_song(recordings), facts, singers, dropped, source, by_song=True)


def split_by_song(recordings: Iterable[Recording]) -> list[Recording]:
    """`recordings` with about one song in twenty of each singer held out, as "valid".

    A hash of the title chooses, so that nothing changes when other songs are added or taken away, and singers of one
    song mostly agree. A title that one singer holds out is held out by the others too, unless that would take more
    than a fifth of the songs of one of them.
    """
    recordings = list(recordings)
    songs: dict[str, set[str]] = {}
    for recording in recordings:
        songs.setdefault(recording.singer, set()).add(recording.song)
    held_out = held_out_songs(songs)
    return [replace(r, split="valid" if r.song in held_out[r.singer] else "train") for r in recordings]


def held_out_songs(songs: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The titles of `songs`, by singer, that `split_by_song` holds out."""

    def own_titles(titles: set[str]) -> set[str]:
        count = round(len(titles) * VALIDATION_SHARE) or int(len(titles) >= MIN_SONGS_TO_VALIDATE)
        return set(sorted(titles, key=lambda title: sha256(title.encode()))[:count])

    own = {singer: own_titles(titles) for singer, titles in songs.items()}
    anyone = set().union(*own.values())
    held_out = {}
    for singer, titles in songs.items():
        shared = titles & anyone
        held_out[singer] = shared if len(shared) <= len(titles) / 5 else own[singer]
    return held_out


def _require_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder\nhint: --data takes the folder that the recordings lie in")
    return folder


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
