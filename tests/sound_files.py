"""Sound files as bytes, and how a test reads one."""

import io
import struct

import numpy as np
import soundfile

from comosvc.runtime.audio.files import AudioReader

RATE = 44_100
SONG = (0.2 * np.random.default_rng(1).standard_normal(3 * RATE)).astype(np.float32)


def encoded(form, subtype="PCM_16", audio=SONG, **options):
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format=form, subtype=subtype, **options)
    return file.getvalue()


def with_size(data, name, size, layout):
    """`data` with another size in its chunk `name`."""
    at = data.index(name) + len(name)
    return data[:at] + struct.pack(layout, size) + data[at + struct.calcsize(layout) :]


def without_xing(data):
    """An MP3 whose first frame, with the header that counts the others, is gone."""
    at = data.find(b"\xff\xfb")
    kbps = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[data[at + 2] >> 4]
    return data[at + 144_000 * kbps // RATE + (data[at + 2] >> 1 & 1) :]


def read(source, length=10_000, channel="mid"):
    with AudioReader(source, channel) as reader:
        return np.concatenate([block for block, _ in reader.blocks(length)]), reader.warnings


def write_bytes(path, data):
    path.write_bytes(data)
    return path
