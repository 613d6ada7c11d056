"""What is used of `sounddevice`, driven by an array: blocks of it go in, what comes out is kept."""

import threading

import numpy as np


class PortAudioError(Exception):
    pass


class FileDevice:
    """Stands in for the module. `pace` is called before each block: it waits as a device does.

    `at_end` is called with the number of times that it was opened so far when the audio is over; then it stops.
    """

    PortAudioError = PortAudioError

    def __init__(self, audio, rate, pace=lambda: None, at_end=lambda times: None):
        self.audio, self.rate, self.pace, self.at_end = audio, rate, pace, at_end
        self.played, self.asked, self.times = [], {}, 0

    def query_devices(self, device=None, kind=None):
        if device == "missing":
            raise ValueError("No output device matching 'missing'")
        if kind is None:
            return "> 0 A microphone (1 in, 0 out)\n< 1 A loudspeaker (0 in, 2 out)"
        return {"default_samplerate": float(self.rate)}

    def Stream(self, **asked):
        self.asked, self.times = asked, self.times + 1
        return _Running(self, **asked)


class _Running:
    def __init__(self, owner, *, samplerate, blocksize, channels, dtype, callback, **_):
        assert (samplerate, channels, dtype) == (owner.rate, 1, "float32")
        self._device, self._size, self._callback = owner, blocksize, callback
        self.active, self.latency = True, (0.004, 0.006)
        self._thread = threading.Thread(target=self._play)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()

    def _play(self):
        try:
            for at in range(0, len(self._device.audio) - self._size + 1, self._size):
                self._device.pace()
                out = np.full((self._size, 1), np.nan, np.float32)
                self._callback(self._device.audio[at : at + self._size, None], out, self._size, None, None)
                self._device.played.append(out[:, 0])
            self._device.at_end(self._device.times)
        finally:
            self.active = False
