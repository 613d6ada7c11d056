"""One-step singing voice conversion for applications.

    from comosvc import Converter

    converter = Converter("demo")
    out = converter.convert(audio, sample_rate, singer="alto", key="auto")

The names are those of `comosvc.runtime`, which is imported when the first of them is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime import (
        COMOSVC_24K,
        AudioError,
        AudioSpec,
        BundleError,
        CancelledError,
        ComosvcError,
        Conversion,
        Converter,
        FileConversion,
        LiveStream,
        OptionError,
        Options,
        OutputError,
        ProviderError,
        SelfTest,
        Singer,
        Stream,
        __version__,
    )

__all__ = [
    "COMOSVC_24K",
    "AudioError",
    "AudioSpec",
    "BundleError",
    "CancelledError",
    "ComosvcError",
    "Conversion",
    "Converter",
    "FileConversion",
    "LiveStream",
    "OptionError",
    "Options",
    "OutputError",
    "ProviderError",
    "SelfTest",
    "Singer",
    "Stream",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import comosvc.runtime

    return getattr(comosvc.runtime, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
