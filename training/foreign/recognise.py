"""Parts of a system, recognised by the keys of their checkpoints."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from ..errors import ForeignFileError

_SHOWN = 8
_TABLES = ("model", "state_dict", "weight", "generator")


class Part(StrEnum):
    """Parts; the values are the words for messages."""

    MODEL = "CoMoSVC checkpoint"
    VOCODER = "vocoder checkpoint"
    CONTENT = "content encoder"
    TRAINED = "checkpoint of comosvc-train"
    OTHER = "model of so-vits-svc or RVC"


_KEYS = {  # beginnings of keys, in the checkpoint or in one of `_TABLES`; the first match counts
    Part.TRAINED: ("ema.", "optimizer."),
    Part.VOCODER: ("model_gen", "generator", "m_source."),
    Part.MODEL: ("decoder.denoise_fn.",),
    Part.CONTENT: ("feature_extractor.conv_layers.", "hubert.feature_extractor.conv_layers."),
    Part.OTHER: ("enc_p.", "emb_g."),
}
_HINTS = {
    Part.MODEL: "a CoMoSVC model is --como of comosvc-export import",
    Part.VOCODER: "a vocoder is --vocoder of comosvc-export import, and --from of comosvc-train vocoder",
    Part.CONTENT: "a content encoder is --content of comosvc-export import, and --from of comosvc-train content",
    Part.TRAINED: "comosvc-export bundle RUN -o voice.comosvc makes a voice of a run folder",
    Part.OTHER: "CoMoSVC's own models can be imported: logs/como/model_<step>.pt",
}


def require_part(content: Any, wanted: Part, path: object) -> None:
    """Raise `ForeignFileError`, with the right option, if `content` of the file `path` is another part than `wanted`.

    Unknown contents pass.
    """
    keys = [str(key) for table in _tables(content) for key in table]
    found = next((part for part, starts in _KEYS.items() if any(key.startswith(starts) for key in keys)), None)
    if found in (None, wanted):
        return
    shown = ", ".join(keys[:_SHOWN])
    raise ForeignFileError(f"{path} is no {wanted}: it has {shown}; it is a {found}\nhint: {_HINTS[found]}")


def _tables(content: Any) -> Iterator[dict[Any, Any]]:
    if isinstance(content, dict):
        yield content
        yield from (content[key] for key in _TABLES if isinstance(content.get(key), dict))
