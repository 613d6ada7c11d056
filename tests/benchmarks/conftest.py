"""A tiny voice and a tiny held-out set."""

import pytest
from tiny_bundle import tiny_files, write_zip

from comosvc.benchmarks.held_out import load_held_out
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.training.corpus import CorpusConfig


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    return write_zip(tmp_path_factory.mktemp("voice") / "tiny.comosvc", tiny_files())


@pytest.fixture(scope="session")
def tiny_bundle(tiny_path):
    return open_bundle(tiny_path)


@pytest.fixture(scope="session")
def held_out_config():
    return CorpusConfig(demo_singers=2, held_out_singers=2, held_out_songs=1, held_out_seconds=2.0)


@pytest.fixture(scope="session")
def songs(held_out_config, tmp_path_factory):
    return load_held_out(held_out_config, tmp_path_factory.mktemp("cache"))
