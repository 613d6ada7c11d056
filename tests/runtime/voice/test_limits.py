"""Every number and text of a manifest has a limit; whatever stands there instead is one clear error."""

import dataclasses
import json
import math
import time
import types
import typing

import numpy as np
import pytest
from tiny_bundle import edited, tiny_files, write_folder

from comosvc.runtime import BundleError
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.manifest import Manifest, from_json, to_json
from comosvc.runtime.voice.manifest_rules import FREE_KEYS, RANGES

MISSING = object()
INSTEAD = (
    None, True, False, -1, 0, 1, 0.5, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e308, 1e-300, math.nan, math.inf, "",
    "x", "\ud800", "x" * 30_000, [], {}, [[]], {"x": 1}, [0] * 20_000, MISSING,
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest():
    """The tiny voice as an imported teacher would be described, so that no field is left out."""
    data = json.loads(tiny_files()["bundle.json"])
    del data["digest"]
    data["model"]["ode"] = {"sigmas": [1.0, 0.5, 0.2], "mel_mean": [0.0], "mel_scale": 1.0}
    data["model"]["content_labels"], data["model"]["departures"] = ["a"], ["none"]
    return data


def places(value, path=()):
    """Every place in parsed JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


def put(manifest, place, value):
    """A copy of `manifest` with `value` at `place`."""
    changed = json.loads(json.dumps(manifest))
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    if value is MISSING:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return json.dumps(changed)


def test_anything_anywhere_is_refused_or_read_as_it_stands(manifest):
    rng, found = np.random.default_rng(0), list(places(manifest))
    assert len(found) > 200
    refused = 0
    for number in rng.permutation(len(found) * len(INSTEAD))[:600]:
        text = put(manifest, found[number // len(INSTEAD)], INSTEAD[number % len(INSTEAD)])
        start = time.process_time()
        message = None
        try:
            read = from_json(text, "here")
            assert from_json(to_json(read), "here") == read
        except BundleError as error:
            message = str(error)
        if message is not None:
            refused += 1
            assert message.startswith("here: ")
            assert len(message) < 1_000
        assert time.process_time() - start < 1.0
    assert 400 < refused < 600


def numbers(kind, path=""):
    """Paths of `RANGES` that the fields of a dataclass ask for."""
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            key = "*" if path in FREE_KEYS else field.name
            yield from numbers(typing.get_type_hints(kind)[field.name], f"{path}.{key}" if path else key)
    elif kind in (int, float):
        yield path
    elif typing.get_origin(kind) in (tuple, dict, typing.Union, types.UnionType):
        inside = "" if typing.get_origin(kind) in (typing.Union, types.UnionType) else ".*"
        for argument in typing.get_args(kind):
            if argument is not ...:
                yield from numbers(argument, path + inside)


def test_every_number_has_a_range_with_a_reason():
    assert set(numbers(Manifest)) == set(RANGES)
    assert all(limit.least <= limit.most and len(limit.reason) > 10 for limit in RANGES.values())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m["audio"].update(sample_rate=2**31), r"audio.sample_rate is 2147483648; it must be 8000 to 192000"),
        (lambda m: m["audio"].update(content_hop_length=99_999), r"audio.content_hop_length is 99999"),
        (lambda m: m["audio"].update(f_min_hz=10**400), r"f_min_hz is 1000.*no float holds"),
        (lambda m: m["audio"].update(hop_length=1_000), r"1000, 512 and 512; each must hold the last"),
        (lambda m: m["audio"].update(hop_length=16), r"1500.0 mel frames per second"),
        (lambda m: m["audio"].update(f_min_hz=12_000.0), r"the mel bands lie between them"),
        (lambda m: m["context"]["acoustic"].update(future=10**6), r"context.acoustic.future is 1000000"),
        (lambda m: m["context"]["content"].update(window_ms=math.nan), r"NaN is no number"),
        (lambda m: m["front_end"].update(content_window_s=1e-9), r"content_window_s is 1e-09; 0, or 0.5 and more"),
        (lambda m: m["singers"]["alto"].update(f0_range_hz=[1.0, 300.0]), r"singers.alto.f0_range_hz\[0\] is 1.0"),
        (lambda m: m["singers"]["alto"].update(index=10**9), r"singers.alto.index is 1000000000"),
        (lambda m: m["singers"].update({"\udc80": m["singers"]["alto"]}), r"half of a surrogate pair"),
        (lambda m: m["singers"].update({"x\nhint: y": m["singers"]["alto"]}), r"a name has no line breaks"),
        (
            lambda m: m.update(name="x\nconsent: given"),
            r"^here: name is 'x.nconsent: given': a name has no line breaks",
        ),
        (lambda m: m["singers"].update({" ": m["singers"]["alto"]}), r"a key of singers is empty"),
        (lambda m: m["singers"].update({"x" * 201: m["singers"]["alto"]}), r"has 201 characters; at most 200"),
        (lambda m: m["singers"].update({str(i): m["singers"]["alto"] for i in range(10_001)}), r"10004 entries"),
        (lambda m: m["model"]["schedules"].update({"9" * 5_000: []}), r"has 5000 characters"),
        (lambda m: m["model"]["schedules"].update({"201": [0] * 200}), r"from 2 to 200"),
        (lambda m: m.update(consent="\ud83d"), r"half of a surrogate pair"),
        (lambda m: m.update(provenance={"x": "\ud83d"}), r"provenance.x is .*half of a surrogate pair"),
        (lambda m: m.update(provenance={"files": 3}), r"provenance.files must be an object of texts, got 3"),
        (lambda m: m.update(provenance={"files": {"a": "b"}}), r"provenance.files.a is not a SHA-256"),
        (lambda m: m.update(provenance={"versions": [1]}), r"provenance.versions must be an object of texts"),
    ],
)
def test_a_value_beyond_its_limit_is_named(files, edit, words):
    with pytest.raises(BundleError, match=words):
        from_json(edited(files, edit)["bundle.json"], "here")


@pytest.mark.parametrize("depth", [40, 3_000, 100_000])
def test_deep_json_is_refused(files, depth):
    text = files["bundle.json"].decode().replace('"provenance": {', f'"provenance": {{"x": {"[" * depth}{"]" * depth},')
    with pytest.raises(BundleError, match=r"deep inside each other|recursion"):
        from_json(text, "here")


def test_a_key_that_stands_twice_is_refused(files):
    with pytest.raises(BundleError, match="the same key twice"):
        from_json(files["bundle.json"].replace(b'"consent"', b'"name": "x",\n "consent"'), "here")


def test_every_change_of_the_manifest_is_refused(files, tmp_path):
    """In the folder, where no checksum of a zip does so. White space between the words may change."""
    text, rng = files["bundle.json"], np.random.default_rng(1)
    folder = write_folder(tmp_path / "voice", files)
    open_bundle(folder)
    found_by_digest = 0
    for place in rng.permutation(len(text))[:150]:
        changed = bytearray(text)
        changed[place] ^= 1 << int(rng.integers(0, 7))
        (folder / "bundle.json").write_bytes(changed)
        try:
            open_bundle(folder)
        except BundleError as error:
            found_by_digest += "damaged or changed" in str(error)
        else:
            assert json.loads(bytes(changed)) == json.loads(text)
    assert found_by_digest > 5


def test_a_manifest_without_a_digest_opens_and_says_so(files, tmp_path):
    assert open_bundle(write_folder(tmp_path / "sealed", files)).manifest.digest is not None
    older = open_bundle(write_folder(tmp_path / "older", edited(files, lambda m: None)))
    assert older.manifest.digest is None
    older.verify()
