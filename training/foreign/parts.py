"""Content encoder and vocoder of other people by address: the files found, read, and named for the record."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ForeignFileError
from .checkpoints import read_checkpoint
from .content_file import ImportedContent, content_files, read_content
from .recognise import Part, require_part
from .settings import Settings, read_settings
from .sources import Source, sha256_of
from .vocoder_file import CONFIG_NAMES, MEL_LOG_BASE, ImportedVocoder, read_vocoder


@dataclass(frozen=True)
class ForeignFile:
    """A file that was read: what it is called in manifests and checkpoints, and where it lies."""

    name: str
    path: Path

    @classmethod
    def of(cls, source: Source, path: Path) -> "ForeignFile":
        return cls(source.text if source.repo else path.name, path)

    def facts(self, **more: Any) -> dict[str, Any]:
        """For the record of what a voice is made of."""
        return {"file": self.name, "sha256": sha256_of(self.path), **more}


def content_at(address: str) -> tuple[ImportedContent, ForeignFile]:
    """ContentVec at a path or hf:// address: fairseq's .pt, or a Hugging Face folder. Raises `ForeignFileError`."""
    source = Source.parse(address)
    weights, config = content_files(source)
    return read_content(weights, config), ForeignFile.of(source, weights)


def vocoder_at(
    address: str, config: str | None = None, kind: str = "auto", mel_log_base: float = MEL_LOG_BASE
) -> tuple[ImportedVocoder, ForeignFile]:
    """An NSF-HiFi-GAN at a path or hf:// address, for mels of that logarithm; `config` None is looked for beside it.

    Raises `ForeignFileError`.
    """
    source = Source.parse(address)
    path = source.file()
    settings = settings_at(source, config, CONFIG_NAMES, "--vocoder-config", Part.VOCODER)
    return read_vocoder(path, settings, kind, mel_log_base), ForeignFile.of(source, path)


def settings_at(source: Source, given: str | None, names: Sequence[str], option: str, part: Part) -> Settings:
    """The configuration that `option` gives, else the one of `names` that lies beside `source`, a `part`.

    Raises `ForeignFileError`; where there is none, because `source` is no such part, the error says so.
    """
    found = source.beside(*names) if given is None else Source.parse(given)
    if found is None:
        require_part(read_checkpoint(source.file()), part, source.text)
        raise ForeignFileError(
            f"no configuration beside {source.text}: looked for {', '.join(names)}\nhint: name it with {option}"
        )
    return read_settings(found.file())
