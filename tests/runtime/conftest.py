"""A tiny voice, loaded once, and something to sing."""

import numpy as np
import pytest
from tiny_bundle import SPEC, tiny_files, write_zip

from comosvc.runtime import Converter
from comosvc.runtime.audio.frames import Track
from comosvc.runtime.providers.self_test import vowel


@pytest.fixture(scope="session")
def files():
    """The tiny bundle's files by name."""
    return tiny_files()


@pytest.fixture(scope="session")
def bundle_path(files, tmp_path_factory):
    return write_zip(tmp_path_factory.mktemp("voice") / "tiny.comosvc", files)


@pytest.fixture(scope="session")
def converter(bundle_path):
    return Converter(bundle_path, threads=1)


@pytest.fixture(scope="session")
def song():
    """2.7 s at 24 kHz: a glide, breath, half a second of digital silence, the glide again, softer."""
    glide, _ = vowel(SPEC)
    breath = 0.02 * np.random.default_rng(0).standard_normal(4_000)
    glide = glide[:24_000]
    return np.concatenate((glide, breath, np.zeros(12_000), 0.3 * glide)).astype(np.float32)


@pytest.fixture(scope="session")
def tracks_of():
    """All tracks that an object holds, in its parts too."""

    def found(part, seen):
        if id(part) in seen:
            return
        seen.add(id(part))
        if isinstance(part, Track):
            yield part
        elif type(part).__module__.startswith("comosvc.runtime."):
            for value in vars(part).values():
                yield from found(value, seen)

    return lambda part: list(found(part, set()))
