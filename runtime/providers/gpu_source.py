"""Makes `Generated` inputs in GPU memory with the kernels of `data/source.cu`, compiled when a voice is opened.

Only what fixes them is sent: 16 bytes a frame.
"""

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conversion.generated import Generated, GeneratedRow, Normals, Shape, Sines
from ..conversion.source import NormalStream, pulse_band_hz, sine_phases
from ..errors import ProviderError
from .gpu import Device

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parents[1] / "data" / "source.cu"
_KERNELS = ("normals", "sines", "pulses")


class _Stream(ctypes.Structure):
    """`Stream` of `source.cu`."""

    _fields_ = (("key", ctypes.c_uint64 * 2), ("counter", ctypes.c_uint64 * 2), ("skip", ctypes.c_uint64))

    @classmethod
    def of(cls, stream: NormalStream) -> "_Stream":
        return cls(stream.key, stream.counter, stream.skip)


@dataclass(frozen=True)
class Wanted:
    """Input `name`, to be made at `address` and padded with zeros to `shape`."""

    name: str
    drawn: Generated
    address: int
    shape: Shape


class SourceMaker:
    """The kernels, and memory for what they read. Raises `ProviderError` where they cannot be compiled.

    Whoever uses it holds the device's lock.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        with device.lock, device.current():
            self._kernels = device.load_kernels(SOURCE.read_bytes(), SOURCE.name, _KERNELS)
        self._address, self._host = 0, np.zeros(0, np.uint8)

    def make(self, wanted: Sequence[Wanted]) -> tuple[dict[str, int], dict[str, int]]:
        """Queue it; returns the bytes that are sent for it and those that are made, by name.

        Nothing of an earlier call may be under way any more.
        """
        launches: list[tuple[GeneratedRow | None, int, int, int]] = []
        sent, made = dict[str, int](), dict[str, int]()
        fixing = np.zeros(0, np.uint64)
        for want in wanted:
            total, before = int(np.prod(want.shape[1:])), fixing.nbytes
            rows = [*want.drawn.rows, *[None] * (want.shape[0] - len(want.drawn))]
            for place, row in enumerate(rows):
                launches.append((row, want.address + 4 * total * place, total, fixing.nbytes))
                fixing = fixing if row is None else np.concatenate((fixing, _parameters(row)))
            made[want.name] = 4 * total * len(rows)
            if fixing.nbytes > before:
                sent[f"frames of {want.name}"] = fixing.nbytes - before
        if fixing.nbytes > len(self._host):
            self._grow(2 * fixing.nbytes)  # calls a little longer then allocate nothing
        if fixing.nbytes:
            staged = self._host[: fixing.nbytes]
            staged[:] = fixing.view(np.uint8)
            self.device.upload(self._address, staged)
        for row, out, total, offset in launches:
            self._launch(row, out, total, self._address + offset)
        return sent, made

    def _grow(self, n_bytes: int) -> None:
        if self._address:
            self.device.free(self._address)
        self._address, self._host = self.device.allocate(n_bytes), self.device.pinned(n_bytes)

    def _launch(self, row: GeneratedRow | None, out: int, total: int, parameters: int) -> None:
        u64, pointer = ctypes.c_uint64, ctypes.c_void_p
        count = 0 if row is None else int(np.prod(row.shape))
        first: list[Any] = [pointer(out), u64(count), u64(total)]
        if row is None or isinstance(row, Normals):
            stream = NormalStream((0, 0), (0, 0)) if row is None else row.stream
            self.device.launch_kernel(self._kernels["normals"], total // 4 + 2, [*first, _Stream.of(stream)])
        elif isinstance(row, Sines):
            places = pointer(parameters), pointer(parameters + row.frames.nbytes)
            arguments = [*first, _Stream.of(row.noise), *places, u64(row.spec.hop_length)]
            self.device.launch_kernel(self._kernels["sines"], total // 4 + 2, arguments)
        else:
            spec = row.spec
            numbers = ctypes.c_double(spec.sample_rate), ctypes.c_double(pulse_band_hz(spec))
            arguments = [*first, u64(row.shape[1]), pointer(parameters), u64(spec.hop_length), *numbers]
            self.device.launch_kernel(self._kernels["pulses"], total, arguments)


def _parameters(row: GeneratedRow) -> NDArray[np.uint64]:
    """What a kernel reads from memory, (n,)."""
    if isinstance(row, Normals):
        return np.zeros(0, np.uint64)
    frames = row.frames.reshape(-1).view(np.uint64)
    return np.concatenate((frames, sine_phases(row.seed).view(np.uint64))) if isinstance(row, Sines) else frames


def make_source_maker(device: Device) -> SourceMaker | None:
    """One, or None, and why in the log, where the kernels cannot be compiled: the host makes everything then."""
    try:
        return SourceMaker(device)
    except ProviderError as error:
        log.warning("the vocoder's source and all noise are made on the host, and sent: %s", error)
        return None
