"""Pieces, blocks, batches and files give what the whole clip gives."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import soundfile
from opened import assert_same, converted, recorded
from tiny_bundle import CONTEXT, SPEC, tiny_files, write_zip

from comosvc.runtime import Converter
from comosvc.runtime.audio.features import loudness
from comosvc.runtime.audio.frames import content_index
from comosvc.runtime.audio.gate import Gate, gains
from comosvc.runtime.audio.pitch import f0_at_frames
from comosvc.runtime.audio.resampling import resample
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.conversion.generated import make_source_track
from comosvc.runtime.conversion.source import noise_frames, noise_samples, pulse_source

TOLERANCE = 1e-5
"""Relative to the largest sample: float32 sums in another order; 4e-7 seen."""


@pytest.mark.parametrize(("rate", "steps"), [(24_000, 1), (24_000, 4), (44_100, 1), (16_000, 2)])
def test_pieces_are_the_whole(converter, song, rate, steps):
    whole = converted(converter, song, rate, 100.0, len(song), steps)
    assert len(whole[0]) == len(song)
    assert np.abs(whole[0]).max() > 0.05
    for piece_s, block in ((0.1, 12_345), (0.33, 4_000), (1.0, 100_000)):
        assert_same(converted(converter, song, rate, piece_s, block, steps), whole)


@pytest.mark.parametrize("spec", [replace(SPEC, sample_rate=44_100, hop_length=512), replace(SPEC, sample_rate=22_050)])
def test_pieces_are_the_whole_in_frames_of_any_length(song, spec, tmp_path):
    """Mel frames that share no common instant with pitch and content frames."""
    converter = Converter(write_zip(tmp_path / "other.comosvc", tiny_files(spec)), threads=1)
    whole = converted(converter, song, 32_000, 100.0, len(song))
    assert len(whole[1]) == converter.frames(len(song), 32_000)
    for piece_s, block in ((0.17, 5_000), (0.5, len(song))):
        assert_same(converted(converter, song, 32_000, piece_s, block), whole)


def test_blocks_change_not_even_a_bit(converter, song):
    whole = converted(converter, song, 44_100, 0.5, len(song), key="auto")
    for block in (1_000, 31_111):
        for a, b in zip(converted(converter, song, 44_100, 0.5, block, key="auto"), whole, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_test_above_would_notice_a_missing_context(converter, song, monkeypatch):
    """One frame less than a graph needs, on either side of any of them, is far outside the tolerance."""
    whole = converted(converter, song, 24_000, 100.0, len(song))[0]
    for graph, side in (("content", "past"), ("acoustic", "past"), ("acoustic", "future"), ("vocoder", "future")):
        context = getattr(CONTEXT, graph)
        short = replace(CONTEXT, **{graph: replace(context, **{side: getattr(context, side) - 1})})
        monkeypatch.setattr(
            converter, "_bundle", replace(converter._bundle, manifest=replace(converter.manifest, context=short))
        )
        pieces = converted(converter, song, 24_000, 0.1, len(song))[0]
        monkeypatch.undo()
        assert np.abs(pieces - whole).max() > 5 * TOLERANCE, (graph, side)


def test_the_chain_is_the_graphs_one_after_the_other(converter, song, files):
    """An independent account: each graph once on the whole clip, which is followed by a second of silence."""
    sessions = {name: onnxruntime.InferenceSession(files[f"{name}.onnx"]) for name in converter.manifest.graphs}
    run_graph = lambda name, **inputs: sessions[name].run(None, {key: value[None] for key, value in inputs.items()})  # noqa: E731
    n_frames = -(-len(song) // 128)
    long = np.concatenate((song, np.zeros(n_frames * 128 - len(song) + 24_000, np.float32)))
    # The resampler sees the end of the clip; what follows it is silence without its ringing.
    at_16k = resample(song, 24_000, 16_000)
    at_16k = np.concatenate((at_16k, np.zeros(len(long) * 2 // 3 - len(at_16k), np.float32)))
    total = len(long) // 128
    content = run_graph("content", audio=at_16k)[0][0]
    f0_hz = f0_at_frames(*(output[0] for output in run_graph("pitch", audio=at_16k)), total, SPEC)
    level = loudness(long, SPEC)
    is_open = Gate(SPEC).push(level, True)
    f0_hz = np.where(is_open, f0_hz, 0.0).astype(np.float32) * np.float32(2 ** (3 / 12))
    singer = converter._bundle.embeddings[converter.manifest.singers["alto"].index]
    index = np.minimum(content_index(0, total, SPEC), len(content) - 1).astype(np.int32)
    mel = run_graph(
        "acoustic",
        **{"content": content, "content_index": index, "f0_hz": f0_hz, "loudness": level, "singer": singer},
        noise=noise_frames(5, 0, total, SPEC.n_mels),
    )[0][0]
    source, noise = pulse_source(f0_hz, SPEC)[0], noise_samples(5, 0, total * 128)
    audio = run_graph("vocoder", mel=mel, f0_hz=f0_hz, source=source, noise=noise)[0][0]
    audio = (audio * gains(is_open, 0, 0, len(audio), 24_000, SPEC))[: len(song)]

    found = converter.convert(song, 24_000, "alto", key=3.0, seed=5)
    assert_same((found.audio, found.mel, found.f0_hz), (audio, mel[:n_frames], f0_hz[:n_frames]))


def test_a_file_is_its_array_and_a_batch_is_its_files(converter, song, tmp_path):
    """Files of other lengths beside it change nothing, and 24 bits are all that is lost."""
    clips = {"a": song, "b": song[:50_000], "c": 0.5 * song[5_000:], "d": song[:300]}
    for name, clip in clips.items():
        soundfile.write(tmp_path / f"{name}.wav", clip, 44_100, "FLOAT")
    sources = [tmp_path / f"{name}.wav" for name in clips]
    results = {
        r.source.stem: r for r in converter.convert_many(sources, tmp_path / "out", singer="bass", key=-2, batch=3)
    }
    for name, clip in clips.items():
        alone = converter.convert(clip, 44_100, "bass", key=-2)
        converter.convert_file(tmp_path / f"{name}.wav", tmp_path / "one.flac", singer="bass", key=-2, overwrite=True)
        for path in (results[name].output, tmp_path / "one.flac"):
            audio, rate = soundfile.read(path, dtype="float32")
            assert rate == 44_100
            np.testing.assert_allclose(audio, alone.audio, atol=2.0**-23 + TOLERANCE)
        assert results[name].options == alone.options
        assert results[name].warnings == alone.warnings


def test_batches_are_really_batches(bundle_path, song, tmp_path):
    converter = Converter(bundle_path, threads=1)
    calls = recorded(converter)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", song, 24_000)
    list(converter.convert_many(sorted(tmp_path.glob("*.wav")), tmp_path / "out", batch=8))
    assert {name for name, _ in calls} == {"pitch", "content", "acoustic", "vocoder"}
    assert {next(iter(shapes.values()))[0] for _, shapes in calls} == {3}


@pytest.mark.parametrize(("kind", "channels"), [("sine", 9), ("pulse", 1)])
def test_the_source_of_a_piece_does_not_depend_on_what_was_made_before(kind, channels):
    """Pieces are made in several threads: in any order, and each begins with frames of the one before it."""
    track = make_source_track(kind, channels, COMOSVC_24K, seed=3)
    track.extend(np.linspace(100.0, 400.0, 90, dtype=np.float32))
    whole = np.asarray(track.read(0, 90))
    for first, last in ((60, 90), (0, 30), (20, 50), (45, 60), (40, 70), (10, 40), (20, 30)):
        piece = whole[:, first * 128 : last * 128]
        np.testing.assert_array_equal(np.asarray(track.read(first, last)), piece)
