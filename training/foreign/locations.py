"""Where a file to import comes from: a path, or `hf://owner/name@commit/file` through huggingface_hub's cache."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...runtime.voice.file_kinds import FileKind, file_kind, inside
from ..errors import ForeignFileError

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", "")
_SCHEME = "hf://"
_FORM = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<file>.+))?")
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class ForeignSource:
    """A file or folder by path or hf:// address. Of a repository only the files that are asked for are fetched.

    A revision must be a commit: branches and tags move. huggingface_hub's own settings apply (HF_HOME, HF_HUB_CACHE,
    HF_HUB_OFFLINE, HF_TOKEN).
    """

    text: str
    repo: str | None = None
    revision: str = ""
    name: str = ""
    """Path of the file inside the repository; empty: the repository itself."""

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> "ForeignSource":
        """Raises `ForeignFileError` for an address that is not of the form, or without a commit."""
        text = os.fspath(text)
        if not text:
            raise ForeignFileError("the path of a file to import is empty")
        if not text.startswith(_SCHEME):
            return cls(text)
        match = _FORM.fullmatch(text)
        if match is None:
            raise ForeignFileError(f"{text} is not an address of the form hf://owner/name@commit/path/to/file")
        revision, name = match["revision"] or "", match["file"] or ""
        if not _COMMIT.fullmatch(revision):
            found = f"{revision!r} is a branch, a tag or an abbreviation" if revision else "it names no revision"
            raise ForeignFileError(
                f"{text}: {found}, so what it gives may change\n"
                "hint: name the commit, 40 hexadecimal digits: the repository's page lists them under History"
            )
        if any(part in ("", ".", "..") for part in name.split("/")) and name:
            raise ForeignFileError(f"{text}: {name!r} is not a path inside a repository")
        return cls(text, match["repo"], revision, name)

    @property
    def is_folder(self) -> bool:
        return os.path.isdir(self.text) if self.repo is None else not self.name  # noqa: PTH112 - no error for any text

    def file(self) -> Path:
        """The file on this disk; of a repository fetched if it is not in the cache, its hash checked either way.

        Raises `ForeignFileError` where it cannot be had.
        """
        if self.repo is None:
            path = Path(self.text)
            try:
                if not path.is_file():
                    raise ForeignFileError(_no_file(path))
            except OSError as error:
                raise ForeignFileError(f"{path} cannot be read: {error.strerror or error}") from error
            return path
        if not self.name:
            raise ForeignFileError(f"{self.text} is a repository; a file is needed\nhint: {self.text}/path/to/file")
        path = _fetched(self)
        _verify(path, self)
        return path

    def inside(self, name: str) -> "ForeignSource":
        """The file `name` in this folder or repository."""
        if self.repo is None:
            return ForeignSource(str(Path(self.text) / name))
        return ForeignSource(f"{self.text}/{name}", self.repo, self.revision, name)

    def beside(self, *names: str) -> "ForeignSource | None":
        """The first of `names` that lies beside this file."""
        for name in names:
            if self.repo is None:
                found = ForeignSource(str(Path(self.text).with_name(name)))
                if Path(found.text).is_file():
                    return found
                continue
            path = str(PurePosixPath(self.name).with_name(name))
            found = ForeignSource(f"{_SCHEME}{self.repo}@{self.revision}/{path}", self.repo, self.revision, path)
            if _exists(found):
                return found
        return None


def _no_file(path: Path) -> str:
    if not path.is_dir():
        found = "a pipe or a device" if path.exists() else "not there"
        return f"{path} is {found}; a file is needed"
    kind, hint = file_kind(path), inside(path, *CHECKPOINT_SUFFIXES, ".yaml", ".yml", ".json")
    if kind is FileKind.RUN:
        hint = f"comosvc-export bundle {path} -o {path.name or 'voice'}.comosvc makes a voice of it"
    return f"{path} is {kind}; a file is needed" + (f"\nhint: {hint}" if hint else "")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_hash(path: Path) -> str:
    with path.open("rb") as file:
        header = b"blob %d\0" % path.stat().st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()


def _fetched(source: ForeignSource) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    assert source.repo is not None
    try:
        return Path(hf_hub_download(source.repo, source.name, revision=source.revision))
    except LocalEntryNotFoundError as error:
        raise ForeignFileError(
            f"{source.text} is not in the cache of huggingface_hub, and the Hub was not reached: {_first_line(error)}\n"
            "hint: without HF_HUB_OFFLINE and with a network it is fetched once; or give the path of a file"
        ) from error
    except EntryNotFoundError as error:
        raise ForeignFileError(f"{source.text}: there is no such file at that commit: {_first_line(error)}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ForeignFileError(
            f"{source.text} cannot be fetched: {_first_line(error)}\n"
            "hint: check owner, name and commit; a private or gated repository needs HF_TOKEN"
        ) from error


def _exists(source: ForeignSource) -> bool:
    from huggingface_hub import try_to_load_from_cache

    assert source.repo is not None
    known = try_to_load_from_cache(source.repo, source.name, revision=source.revision)
    if known is not None:
        return isinstance(known, str)  # else a marker: the repository was seen not to have it
    try:
        _fetched(source)
    except ForeignFileError:
        return False
    return True


def _verify(path: Path, source: ForeignSource) -> None:
    """The cache calls a file by its hash: SHA-256 of a large one, git's of another. Raises `ForeignFileError`."""
    wanted = path.readlink().name if path.is_symlink() else _hash_at_the_hub(source)
    found = _git_hash(path) if len(wanted) == 40 else sha256_of(path)
    if found != wanted:
        raise ForeignFileError(
            f"{source.text}: {path} has the hash {found}, the Hub says {wanted}: it was damaged or changed\n"
            f"hint: delete {path.resolve()} and run the command again"
        )


def _hash_at_the_hub(source: ForeignSource) -> str:
    """Where the file system knows no links the cache does not keep the hash."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    assert source.repo is not None
    try:
        url = hf_hub_url(source.repo, source.name, revision=source.revision)
        return get_hf_file_metadata(url).etag or ""
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise ForeignFileError(
            f"{source.text}: its hash cannot be checked: {_first_line(error)}\n"
            "hint: allow the network once, or give the path of the file"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
