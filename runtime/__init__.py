"""Convert singing voices: numpy, ONNX Runtime and little else. No torch.

from comosvc.runtime import Converter

converter = Converter("demo")
out = converter.convert(audio, sample_rate, singer="alto", key="auto")
"""

__version__ = "0.1.0"

from .audio.spec import COMOSVC_24K, AudioSpec
from .conversion.live_stream import LiveStream
from .conversion.request import Conversion, FileConversion, Options
from .conversion.stream import Stream
from .converter import Converter
from .errors import AudioError, BundleError, CancelledError, ComosvcError, OptionError, OutputError, ProviderError
from .providers.self_test import SelfTest
from .voice.singers import Singer

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
