"""Pickles that would make the file `stolen` in the current directory, and the containers that torch puts pickles in."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

STOLEN = "stolen"
_COMMAND = f"touch {STOLEN}".encode()


def _text(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


def _called(module: bytes, name: bytes, *arguments: bytes) -> bytes:
    return b"c" + module + b"\n" + name + b"\n(" + b"".join(arguments) + b"tR"


PAYLOADS = {  # opcodes that leave one value on the stack
    "os.system": _called(b"posix", b"system", _text(_COMMAND)),
    "exec": _called(b"builtins", b"exec", _text(f"open('{STOLEN}', 'w').close()".encode())),
    "open": _called(b"builtins", b"open", _text(STOLEN.encode()), _text(b"w")),
    "subprocess": _called(b"subprocess", b"check_call", b"](" + _text(b"touch") + _text(STOLEN.encode()) + b"e"),
    "getattr of an import": (
        b"cbuiltins\ngetattr\n("
        + _called(b"builtins", b"__import__", _text(b"os"))
        + _text(b"system")
        + b"tR("
        + _text(_COMMAND)
        + b"tR"
    ),
    "inst": b"(" + _text(_COMMAND) + b"iposix\nsystem\n",
    "stack global": _text(b"posix") + _text(b"system") + b"\x93(" + _text(_COMMAND) + b"tR",
    "in a state": (
        b"ccollections\nCounter\n)\x81}" + _text(b"x") + _called(b"posix", b"system", _text(_COMMAND)) + b"sb"
    ),
    "through torch.load's helpers": _called(
        b"torch._utils", b"_rebuild_parameter", _called(b"posix", b"system", _text(_COMMAND)), b"\x89", b"N"
    ),
}
_INNER = b"cposix\nsystem\n(V" + _COMMAND + b"\ntR."
PAYLOADS["nested pickle"] = _called(b"pickle", b"loads", b"B" + struct.pack("<I", len(_INNER)) + _INNER)


class Stealing:
    """An object whose unpickling runs a command."""

    def __reduce__(self) -> tuple:
        return os.system, (_COMMAND.decode(),)


def pickled(payload: bytes) -> bytes:
    """`{"model": {}, "x": <payload>}`."""
    return b"\x80\x04}(" + _text(b"model") + b"}" + _text(b"x") + payload + b"u."


def in_zip(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


def in_stream(path: Path, data: bytes) -> None:
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + data + pickle.dumps([], 2))


CONTAINERS: dict[str, Callable[[Path, bytes], None]] = {"zip": in_zip, "stream": in_stream}
