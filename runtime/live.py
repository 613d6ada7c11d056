"""comosvc-convert --live: from a microphone to a loudspeaker, through `sounddevice`."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .converter import Converter
from .errors import ComosvcError, OptionError
from .extras import install
from .live_stream import DeadlinePolicy, LiveStream
from .request import Key
from .stream import SingerChoice

_READ_OUT_S = 0.5
_PORTAUDIO = "PortAudio (Debian and Ubuntu: apt install libportaudio2)"


@dataclass(frozen=True)
class LiveOptions:
    """What the command line asks for. `rate` None: that of the output device. Devices by number or part of a name."""

    singer: SingerChoice = None
    key: Key = 0.0
    seed: int = 0
    steps: int | None = None
    input_device: int | str | None = None
    output_device: int | str | None = None
    rate: int | None = None
    block_ms: float = 20.0
    policy: DeadlinePolicy = "hold"
    gate_db: float | None = None
    monitor: float = 0.0
    """Share of the dry input that is mixed in, undelayed."""


def sound_devices() -> Any:
    """The `sounddevice` module, imported when first needed. Raises `ComosvcError` where it or PortAudio is missing."""
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise ComosvcError(
            f"live audio needs sounddevice ({error})\nhint: {install('live')}; on Linux also {_PORTAUDIO}"
        ) from error
    except OSError as error:
        raise ComosvcError(
            f"sounddevice is installed, the library that it calls is not: {error}\nhint: install {_PORTAUDIO}"
        ) from error


def list_devices() -> str:
    """The audio devices, a line each: number, name, channels; > and < mark the defaults."""
    return str(sound_devices().query_devices())


def run_live(converter: Converter, options: LiveOptions, say: Callable[[str], None]) -> None:
    """Convert until the device stops or the user interrupts. `say` is told the latency, again and again."""
    if not 0.0 <= options.monitor <= 1.0:
        raise OptionError(f"monitor is {options.monitor}; it must be 0 to 1")
    sound = sound_devices()
    try:
        rate = options.rate
        if rate is None:
            rate = round(sound.query_devices(options.output_device, "output")["default_samplerate"])
        with converter.stream(
            rate,
            singer=options.singer,
            key=options.key,  # pyright: ignore[reportArgumentType] - "auto" is refused there, in words
            seed=options.seed,
            steps=options.steps,
            block_ms=options.block_ms,
        ) as stream:
            live = LiveStream(stream, options.block_ms, options.policy, options.gate_db)
            live.start()
            try:
                _play(sound, live, rate, options, say)
            finally:
                live.stop()
    except (sound.PortAudioError, ValueError) as error:
        raise ComosvcError(
            f"the audio device refuses: {error}\nhint: --list-devices shows what there is; --rate takes another rate"
        ) from error


def _play(sound: Any, live: LiveStream, rate: int, options: LiveOptions, say: Callable[[str], None]) -> None:
    def callback(heard: NDArray[np.float32], out: NDArray[np.float32], *_: object) -> None:
        out[:, 0] = live.exchange(heard[:, 0])
        if options.monitor:
            out[:, 0] += options.monitor * heard[:, 0]

    devices = options.input_device, options.output_device
    with sound.Stream(
        samplerate=rate, blocksize=live.block_samples, device=devices, channels=1, dtype="float32", callback=callback
    ) as device:
        try:
            while device.active and live.error is None:
                say(_read_out(live, rate, sum(device.latency)))
                time.sleep(_READ_OUT_S)
        except KeyboardInterrupt:
            pass
    say(_read_out(live, rate, sum(device.latency)))
    if live.error is not None:
        raise live.error


def _read_out(live: LiveStream, rate: int, device_s: float) -> str:
    voice_ms, device_ms = 1e3 * live.latency_samples / rate, 1e3 * device_s
    lost = f", {live.restarts} restarts" if live.restarts else ""
    return (
        f"latency {voice_ms + device_ms:.0f} ms (voice {voice_ms:.0f}, device {device_ms:.0f}), "
        f"{live.underruns} under-runs{lost}"
    )
