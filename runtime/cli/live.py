"""comosvc-convert --live: from a microphone to a loudspeaker, through `sounddevice`."""

import importlib
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conversion.live_stream import DeadlinePolicy, LiveStream
from ..conversion.request import Key
from ..conversion.stream import SingerChoice
from ..converter import Converter
from ..errors import ComosvcError, OptionError, abridged, finite, install

_READ_OUT_S = 0.5
_REOPEN_S = 5.0
"""Seconds in which a stopped device is reopened repeatedly before the stop is an error."""
_STEADY_S = 10.0
"""Seconds of running after which a reopened device counts as recovered."""
_STALLED_S = 2.0
"""Seconds without a request for a block after which a device counts as stopped."""
_NUMBER = re.compile(r"\d+(\.\d+)?")
"""Seconds in a warning, which grow while a stream runs."""
_PORTAUDIO = "PortAudio (Debian and Ubuntu: apt install libportaudio2)"


@dataclass(frozen=True)
class LiveOptions:
    """Options of a live conversion. `rate` None: that of the output device. Devices by number or part of a name."""

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
    """The audio devices, a line each: number, name, channels; > and < mark the defaults. Raises `ComosvcError`."""
    sound = sound_devices()
    try:
        listed = str(sound.query_devices())
    except sound.PortAudioError as error:
        raise ComosvcError(f"the audio devices cannot be listed: {error}") from error
    return listed if listed.strip() else "there are no audio devices"


def run_live(
    converter: Converter, options: LiveOptions, say: Callable[[str], None], warn: Callable[[str], None]
) -> None:
    """Convert until the user interrupts. Calls `say` repeatedly with a line about latency and faults, and `warn` once
    with each warning of the stream.

    Reopens a device that stops, for some seconds. Raises `ComosvcError` if it does not come back.
    """
    if not 0.0 <= finite(options.monitor) <= 1.0:
        raise OptionError(f"monitor is {abridged(options.monitor)}; it must be 0 to 1")
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
            warned = set[str]()

            def report(line: str) -> None:
                say(line)
                for warning in stream.warnings:
                    if (kind := _NUMBER.sub("", warning)) not in warned:
                        warned.add(kind)
                        warn(warning)

            live.start()
            try:
                _play_on(sound, live, rate, options, report)
            finally:
                live.stop()
    except (sound.PortAudioError, ValueError) as error:
        raise ComosvcError(
            f"the audio device refuses: {error}\nhint: --list-devices lists the devices; --rate takes another rate"
        ) from error


def _play_on(sound: Any, live: LiveStream, rate: int, options: LiveOptions, say: Callable[[str], None]) -> None:
    """Play through the device until Ctrl-C; reopen it when it stops."""
    stopped_at: float | None = None  # start of the time in which it did not run for `_STEADY_S`
    reason = ""
    while True:
        opened_at = time.monotonic()
        try:
            _play(sound, live, rate, options, say)
        except KeyboardInterrupt:
            return
        except (sound.PortAudioError, ValueError) as error:
            if not live.n_samples:  # it never ran
                raise
            reason = f": {error}"
        now = time.monotonic()
        if live.error is not None:
            raise live.error
        if stopped_at is None or now - opened_at >= _STEADY_S:
            stopped_at = now
        if now - stopped_at >= _REOPEN_S:
            raise ComosvcError(
                f"the audio device stopped{reason}; it did not come back within {_REOPEN_S:g} s\n"
                "hint: is it still plugged in? --list-devices lists the devices"
            )
        say("the audio device stopped; opening it again")
        try:
            time.sleep(_READ_OUT_S)
            for name in ("_terminate", "_initialize"):  # PortAudio looks for devices only then
                with suppress(AttributeError, sound.PortAudioError):
                    getattr(sound, name)()
        except KeyboardInterrupt:
            return


def _play(sound: Any, live: LiveStream, rate: int, options: LiveOptions, say: Callable[[str], None]) -> None:
    """Play until the device stops, an error or Ctrl-C."""
    failed: list[Exception] = []
    asked_at = time.monotonic()

    def callback(recorded: NDArray[np.float32], out: NDArray[np.float32], *_: object) -> None:
        nonlocal asked_at
        asked_at = time.monotonic()
        try:
            out[:, 0] = live.exchange(recorded[:, 0])
        except Exception as error:  # in PortAudio's thread it would be printed and lost
            failed.append(error)
            out[:] = 0.0
            return
        if options.monitor:
            out[:, 0] += options.monitor * np.clip(np.nan_to_num(recorded[:, 0]), -1.0, 1.0)

    devices = options.input_device, options.output_device
    with sound.Stream(
        samplerate=rate, blocksize=live.block_samples, device=devices, channels=1, dtype="float32", callback=callback
    ) as device:
        device_s = sum(device.latency)
        try:
            while device.active and live.error is None and not failed:
                say(_read_out(live, rate, device_s))
                if time.monotonic() - asked_at > _STALLED_S:
                    break
                time.sleep(_READ_OUT_S)
        finally:
            say(_read_out(live, rate, device_s))
    if failed:
        raise failed[0]


def _read_out(live: LiveStream, rate: int, device_s: float) -> str:
    voice_ms, device_ms = 1e3 * live.latency_samples / rate, 1e3 * device_s
    lost = f", {live.restarts} restarts" if live.restarts else ""
    if live.bad_block is not None:
        lost += f", {live.bad_blocks} bad blocks from the device ({str(live.bad_block).splitlines()[0]})"
    return (
        f"latency {voice_ms + device_ms:.0f} ms (voice {voice_ms:.0f}, device {device_ms:.0f}), "
        f"{live.underruns} under-runs{lost}"
    )
