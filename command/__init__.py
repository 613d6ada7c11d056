"""One-step singing voice conversion for applications.

    from comosvc import Converter

    converter = Converter("demo")
    out = converter.convert(audio, sample_rate, singer="alto", key="auto")

The names are those of `comosvc.runtime`, which is imported when the first of them is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime import *  # noqa: F403


def __getattr__(name: str) -> Any:
    runtime = importlib.import_module("comosvc.runtime")
    if name == "__all__":
        return runtime.__all__
    if name not in runtime.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(runtime, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
