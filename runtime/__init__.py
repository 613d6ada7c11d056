"""Convert singing voices: numpy, ONNX Runtime and little else. No torch.

from comosvc.runtime import Converter

converter = Converter("demo")
out = converter.convert(audio, sample_rate, singer="alto", key="auto")
"""

from .converter import Converter
from .errors import (
    AudioError,
    BundleError,
    CancelledError,
    ComosvcError,
    OptionError,
    OutputError,
    ProviderError,
)
from .live_stream import LiveStream
from .results import Conversion, FileConversion, Options, Singer
from .self_test import SelfTest
from .spec import COMOSVC_24K, AudioSpec
from .stream import Stream
from .version import __version__

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
