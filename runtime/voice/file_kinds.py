"""Kinds of files and folders, recognised by first bytes and names, for messages about a wrong file."""

import struct
import zipfile
from enum import StrEnum
from pathlib import Path

_MANIFEST, _SUFFIX = "bundle.json", ".comosvc"
_AUDIO = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM")
_SETTINGS = (".yaml", ".yml", ".json", ".toml")
_STAGES = ("features", "corpus", "content", "vocoder", "teacher", "student")
_LISTED = 5
_END = struct.Struct("<12xI6x")  # the end of a zip without a comment: the size of its directory
_DIRECTORY_LIMIT = 4 << 20  # bytes; a checkpoint has about 80 for each tensor


class FileKind(StrEnum):
    """Kinds; the values are the words for messages."""

    VOICE = "a voice"
    ZIPPED_VOICE = "a zip archive with the folder of a voice inside"
    CHECKPOINT = "a PyTorch checkpoint"
    TORCHSCRIPT = "a TorchScript archive"
    SAFETENSORS = "a safetensors file"
    ONNX = "an ONNX graph"
    ZIP = "a zip archive"
    AUDIO = "an audio file"
    SETTINGS = "a configuration"
    POINTER = "a Git LFS pointer, not the file"
    WEB_PAGE = "a web page"
    EMPTY = "an empty file"
    RUN = "a run folder of comosvc-train"
    STAGE = "the folder of one training stage"
    HUGGING_FACE = "a Hugging Face model folder"
    FOLDER = "a folder"
    UNKNOWN = "a file of another kind"


def file_kind(path: Path) -> FileKind:
    """Kind of `path`; UNKNOWN where `path` cannot be read or is neither a file nor a folder."""
    if path.is_dir():
        return _folder_kind(path)
    if not path.is_file():
        return FileKind.UNKNOWN
    try:
        with path.open("rb") as file:
            head = file.read(512)
        return _zip_kind(path) if head.startswith(b"PK\x03\x04") else _head_kind(head, path.suffix.lower())
    except Exception:  # `zipfile` raises errors of many types for damaged archives
        return FileKind.UNKNOWN


def not_a_voice(path: Path, origin: str) -> str | None:
    """Message for a `path`, given as `origin`, that is no voice: its kind and a hint. None where `path` may be a voice
    or its kind is not recognised.
    """
    kind = file_kind(path)
    hint = inside(path, _SUFFIX) if path.is_dir() else None
    if (hint := hint or _hints(path, origin).get(kind)) is None or kind is FileKind.VOICE:
        return None
    return f"{origin} is {kind}; it is not a voice bundle\nhint: {hint}"


def not_a_run(path: Path) -> str | None:
    """Message for a `path` that is no run folder of `comosvc-train`; None where it may be one."""
    kind = file_kind(path)
    hints = {
        FileKind.VOICE: f"a voice is finished: comosvc-export inspect {path}, comosvc-convert song.wav -m {path}",
        FileKind.CHECKPOINT: f"comosvc-export import --como {path} makes a voice of a CoMoSVC model",
        FileKind.STAGE: f"give the folder around it, {path.parent}",
        FileKind.SAFETENSORS: f"give the run folder around it, {path.parent.parent}",
    }
    if kind in (FileKind.RUN, FileKind.FOLDER):
        return None
    if not path.exists():
        return f"{path} is not there; the run folder of comosvc-train is needed"
    return f"{path} is {kind}; the run folder of comosvc-train is needed\nhint: {hints.get(kind, 'give its -o folder')}"


def _hints(path: Path, origin: str) -> dict[FileKind, str]:
    run = Path(origin)  # `path` is a run folder, a stage of one, or a checkpoint in a stage
    run = run.parent.parent if path.is_file() else run.parent if file_kind(path) is FileKind.STAGE else run
    bundle = f"comosvc-export bundle {run} -o {run.name or 'voice'}{_SUFFIX}"
    trained = path.suffix == ".safetensors" and (path.stem.startswith("step_") or path.stem == "best")
    return {
        FileKind.CHECKPOINT: "a CoMoSVC model becomes a voice by comosvc-export import "
        f"--como {origin} --vocoder FILE --content FILE -o {path.stem}{_SUFFIX}",
        FileKind.TORCHSCRIPT: "comosvc-export import takes the checkpoint that torch.save wrote",
        FileKind.SAFETENSORS: bundle
        if trained
        else f"comosvc-export bundle RUN -o voice{_SUFFIX} exports a run folder",
        FileKind.ONNX: f"a voice has several graphs and a manifest: give the {_SUFFIX} file",
        FileKind.ZIPPED_VOICE: f"unpack it, then: comosvc-export pack FOLDER -o {path.stem}{_SUFFIX}",
        FileKind.AUDIO: f"-m takes a {_SUFFIX} file, a song needs no option: comosvc-convert {origin}",
        FileKind.SETTINGS: f"give the {_SUFFIX} file; a configuration is --config of comosvc-export import",
        FileKind.POINTER: f"git lfs pull, or download the {_SUFFIX} file itself",
        FileKind.WEB_PAGE: "the download gave a page instead of the file; open the link in a browser",
        FileKind.EMPTY: f"fetch the {_SUFFIX} file again",
        FileKind.RUN: bundle,
        FileKind.STAGE: bundle,
        FileKind.HUGGING_FACE: "the folder of a ContentVec is --content of comosvc-export import",
    }


def inside(folder: Path, *suffixes: str) -> str | None:
    """A hint that names files of `folder` with one of the `suffixes`; None if there are none."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    except OSError:
        return None
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{folder} holds {', '.join(path.name for path in found[:_LISTED])}{more}" if found else None


def _folder_kind(folder: Path) -> FileKind:
    if (folder / _MANIFEST).is_file():
        return FileKind.VOICE
    if any((folder / stage).is_dir() for stage in _STAGES):
        return FileKind.RUN
    if any(folder.glob("step_*.safetensors")) or (folder / "index.json").is_file():
        return FileKind.STAGE
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return FileKind.HUGGING_FACE
    return FileKind.FOLDER


def _zip_kind(path: Path) -> FileKind:
    with path.open("rb") as file:
        file.seek(path.stat().st_size - _END.size)
        if _END.unpack(file.read())[0] > _DIRECTORY_LIMIT:
            return FileKind.ZIP
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if _MANIFEST in names:
        return FileKind.VOICE
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" in inner:
        return FileKind.TORCHSCRIPT if "constants.pkl" in inner else FileKind.CHECKPOINT
    return FileKind.ZIPPED_VOICE if _MANIFEST in inner else FileKind.ZIP


def _head_kind(head: bytes, suffix: str) -> FileKind:
    if not head:
        return FileKind.EMPTY
    if head.startswith(b"version https://git-lfs"):
        return FileKind.POINTER
    if head.startswith(_AUDIO):
        return FileKind.AUDIO
    if head[8:10] == b'{"':
        return FileKind.SAFETENSORS
    if head.startswith(b"\x80") or head[257:262] == b"ustar":
        return FileKind.CHECKPOINT
    if suffix == ".onnx" and head.startswith(b"\x08"):  # the field ir_version of a ModelProto
        return FileKind.ONNX
    if suffix in _SETTINGS:
        return FileKind.SETTINGS
    return FileKind.WEB_PAGE if head.lstrip().startswith(b"<") else FileKind.UNKNOWN
