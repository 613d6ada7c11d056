"""What other systems' voices need: content in windows, stretched indices, bridged F0, hop loudness, sines."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from gpu_double import HostDevice, engine_graph
from onnx import TensorProto, helper, numpy_helper
from opened import assert_same, converted, graphs_of, recorded
from reference import authors
from tiny_bundle import CONTENT, SPEC, _sha256, edited, tiny_files, write_zip

from comosvc.runtime import BundleError, Converter
from comosvc.runtime.audio.features import hop_loudness, loudness
from comosvc.runtime.audio.frames import content_index, stretched_index
from comosvc.runtime.audio.gate import Gate, gains
from comosvc.runtime.audio.pitch import GapBridge, f0_at_frames
from comosvc.runtime.audio.resampling import resample
from comosvc.runtime.conversion.generated import Generated
from comosvc.runtime.conversion.source import noise_frames, noise_samples, sine_source
from comosvc.runtime.providers.gpu_source import SourceMaker

RNG = np.random.default_rng(0)
WINDOW_S, OVERLAP_S = 1.0, 0.25  # short, so that a test's song has several


def windowed_content() -> bytes:
    """A content encoder whose every output depends on all of its input: a convolution, less its mean over the clip."""
    rng, hop = np.random.default_rng(7), SPEC.content_hop_length
    weights = {
        "w": rng.normal(0.0, 0.1, (CONTENT, 1, hop)).astype(np.float32),
        "axis": np.array([1]),
        "time": np.array([2]),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["audio", "axis"], ["x"]),
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[hop], strides=[hop]),
        helper.make_node("ReduceMean", ["y", "time"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["y", "mean"], ["z"]),
        helper.make_node("Transpose", ["z"], ["content"], perm=[0, 2, 1]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("audio", ["B", "N"]), ("content", ["B", "S", CONTENT]))
    ]
    parts = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "content", values[:1], values[1:], parts)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def nine_channel_vocoder(model: bytes) -> bytes:
    """The tiny vocoder behind a mix of nine sines."""
    graph = onnx.load_from_string(model)
    mix = np.linspace(1.0, 0.2, 9, dtype=np.float32)[:, None]
    graph.graph.initializer.append(numpy_helper.from_array(mix, "mix"))
    for node in graph.graph.node:
        node.input[:] = ["mixed" if name == "source" else name for name in node.input]
    graph.graph.node.insert(0, helper.make_node("MatMul", ["source", "mix"], ["mixed"]))
    source = next(value for value in graph.graph.input if value.name == "source")
    source.type.tensor_type.shape.dim[2].dim_value = 9
    onnx.checker.check_model(graph)
    return graph.SerializeToString()


def authors_like(**front_end) -> dict[str, bytes]:
    """The tiny bundle with the authors' front end, its windows shortened."""
    files = tiny_files()
    files |= {"content.onnx": windowed_content(), "vocoder.onnx": nine_channel_vocoder(files["vocoder.onnx"])}

    def edit(manifest):
        manifest["front_end"] = {
            "loudness": "hop",
            "condition_at": "start",
            "unvoiced_f0": "interpolated",
            "content_index": "stretched",
            "content_window_s": WINDOW_S,
            "content_overlap_s": OVERLAP_S,
        } | front_end
        manifest["model"]["source"] = {"kind": "sine", "channels": 9}
        for name in ("content", "vocoder"):
            manifest["graphs"][name]["sha256"] = _sha256(files[f"{name}.onnx"])
        manifest["graphs"]["vocoder"]["inputs"] = [
            [name, dtype, ["B", "L", 9] if name == "source" else dims]
            for name, dtype, dims in manifest["graphs"]["vocoder"]["inputs"]
        ]

    return edited(files, edit)


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    return Converter(write_zip(tmp_path_factory.mktemp("authors") / "authors.comosvc", authors_like()), threads=1)


@pytest.mark.parametrize("front_end", [{}, {"content_index": "time", "condition_at": "centre"}])
def test_pieces_and_blocks_are_the_whole(song, tmp_path, front_end):
    path = write_zip(tmp_path / "voice.comosvc", authors_like(**front_end))
    for rate in (24_000, 44_100):
        with Converter(path, threads=1) as converter:
            whole = converted(converter, song, rate, 100.0, len(song))
            assert np.abs(whole[0]).max() > 0.05
            for piece_s, block in ((0.1, 12_345), (0.33, 4_000)):
                assert_same(converted(converter, song, rate, piece_s, block), whole)


def test_windows_keep_the_audio_that_they_share(song, tmp_path):
    """An overlap longer than what everything else looks back at."""
    song = np.tile(song, 2)
    path = write_zip(tmp_path / "voice.comosvc", authors_like(content_window_s=3.0, content_overlap_s=1.4))
    with Converter(path, threads=1) as converter:
        whole = converted(converter, song, 24_000, 100.0, len(song))
        assert_same(converted(converter, song, 24_000, 0.1, 2_000), whole)


def test_the_chain_is_the_graphs_one_after_the_other(voice, song):
    """An independent account at 24 kHz: three windows of content, everything else on the whole clip and its silence."""
    sessions = {name: graph._session for name, graph in graphs_of(voice).items()}
    run_graph = lambda name, **inputs: sessions[name].run(None, {key: value[None] for key, value in inputs.items()})  # noqa: E731
    song = song[: 128 * (len(song) // 128)]
    n_frames = len(song) // 128
    long = np.concatenate((song, np.zeros(24_064, np.float32)))
    total = len(long) // 128
    clip_16k = resample(song, 24_000, 16_000)
    at_16k = np.concatenate((clip_16k, np.zeros(len(long) * 2 // 3 - len(clip_16k), np.float32)))

    window, overlap = 188, 47  # mel frames of 1 s and of 0.25 s
    rows, start, used = [], 0, 0
    while used < total:
        end = min(start + window, n_frames)
        last = end == n_frames
        samples = clip_16k[start * 128 * 2 // 3 :] if last else clip_16k[start * 128 * 2 // 3 : end * 128 * 2 // 3]
        content = run_graph("content", audio=samples)[0][0]
        stop = total if last else start + window - overlap // 2
        index = [min((i - start) * len(content) // (end - start), len(content) - 1) for i in range(used, stop)]
        rows.append(content[index])
        used, start = stop, start + window - overlap
    assert len(rows) == 4
    content = np.concatenate(rows)

    is_open = Gate(SPEC).push(loudness(long, SPEC), True)
    f0_hz = f0_at_frames(*(out[0] for out in run_graph("pitch", audio=at_16k)), total, SPEC, instant=0.0)
    f0_hz = np.where(is_open, f0_hz, 0.0)
    sung = (authors.interpolated_f0(f0_hz).astype(np.float32) * np.float32(2 ** (3 / 12))).astype(np.float32)
    mel = run_graph(
        "acoustic",
        content=content,
        content_index=np.arange(total, dtype=np.int32),
        f0_hz=sung,
        loudness=authors.loudness(long.astype(np.float64), 128).astype(np.float32),
        singer=voice._bundle.embeddings[voice.manifest.singers["alto"].index],
        noise=noise_frames(5, 0, total, SPEC.n_mels),
    )[0][0]
    source, _ = sine_source(sung, SPEC, 5)
    audio = run_graph("vocoder", mel=mel, f0_hz=sung, source=source, noise=noise_samples(5, 0, total * 128))[0][0]
    audio = (audio * gains(is_open, 0, 0, len(audio), 24_000, SPEC))[: len(song)]

    found = voice.convert(song, 24_000, "alto", key=3.0, seed=5)
    np.testing.assert_allclose(found.mel, mel[:n_frames], atol=2e-5 * np.abs(mel).max())
    np.testing.assert_allclose(found.audio, audio, atol=2e-5 * np.abs(audio).max())
    np.testing.assert_allclose(found.f0_hz, f0_hz[:n_frames] * 2 ** (3 / 12), rtol=1e-6)


@pytest.mark.parametrize("latency", ["default", "low"])
def test_sines_of_a_conversion_are_made_on_the_device(voice, song, monkeypatch, latency):
    device = HostDevice()
    wanted = voice.convert(song, 24_000, latency=latency).audio
    maker = SourceMaker(device)
    made = {name: engine_graph(voice._bundle, name, device, maker=maker)[0] for name in ("acoustic", "vocoder")}
    monkeypatch.setattr(voice, "_graphs", {**graphs_of(voice), **made})
    monkeypatch.setattr(Generated, "__array__", lambda *_, **__: pytest.fail("the host made it"))
    found = voice.convert(song, 24_000, latency=latency).audio
    assert np.abs(found).max() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-4)  # padded: sums in another order
    assert set(voice.transfers["vocoder"].made_bytes) == {"source", "noise"}


def test_a_clip_within_a_window_is_one_piece(tmp_path, song):
    with Converter(write_zip(tmp_path / "voice.comosvc", authors_like()), threads=1) as converter:
        calls = recorded(converter)
        converter.convert(song[:24_000], 24_000)
        assert [shapes for name, shapes in calls if name == "content"] == [{"audio": (1, 16_000)}]
        converter.convert(song[:100], 24_000)  # less than an encoder's first frame, or silence: no error


def test_files_of_other_lengths_are_not_padded_into_one_call(voice, song, tmp_path):
    import soundfile

    clips = {"a": song, "b": song[:50_000], "c": song[5_000:]}
    for name, clip in clips.items():
        soundfile.write(tmp_path / f"{name}.wav", clip, 24_000, "FLOAT")
    sources = [tmp_path / f"{name}.wav" for name in clips]
    for result in voice.convert_many(sources, tmp_path / "out", singer="bass", key=-2, batch=3):
        assert result.error is None
        audio, _ = soundfile.read(result.output, dtype="float32")
        alone = voice.convert(clips[result.source.stem], 24_000, "bass", key=-2)
        np.testing.assert_allclose(audio, alone.audio, atol=2.0**-23 + 1e-5)


@pytest.mark.parametrize(
    ("front_end", "words"),
    [
        ({"content_window_s": 0.0, "content_overlap_s": 0.0}, "stretched"),
        ({"content_overlap_s": 0.6}, "content_overlap_s"),
        ({"loudness": "loud"}, "loudness"),
    ],
)
def test_front_ends_that_cannot_be_are_refused(front_end, words, tmp_path):
    with pytest.raises(BundleError, match=words):
        Converter(write_zip(tmp_path / "voice.comosvc", authors_like(**front_end)))


def test_hop_loudness_is_the_authors():
    for n_samples in (128, 1_280, 1_300):
        audio = RNG.normal(0.0, 0.2, n_samples).astype(np.float32)
        wanted = authors.loudness(audio.astype(np.float64), 128)
        np.testing.assert_allclose(hop_loudness(audio, SPEC), wanted, rtol=1e-6)
    centred = hop_loudness(audio, SPEC, 0.5)
    np.testing.assert_allclose(centred, np.sqrt(np.square(audio[:1_280]).reshape(10, 128).mean(axis=1)), rtol=1e-6)


def gappy(length):
    f0_hz = RNG.uniform(80, 800, length).astype(np.float32)
    f0_hz[np.convolve(RNG.random(length) < 0.02, np.ones(30), "same") > 0] = 0.0
    return f0_hz


@pytest.mark.parametrize("block", [1, 7, 1_000])
def test_bridged_f0_is_interpolation_in_any_blocks(block):
    for f0_hz in (gappy(600), np.zeros(50, np.float32), np.float32([0, 0, 200, 0, 0, 0, 300, 0])):
        bridge, found = GapBridge(SPEC), []
        for start in range(0, len(f0_hz), block):
            found.append(bridge.push(f0_hz[start : start + block], last=start + block >= len(f0_hz)))
        wanted = authors.interpolated_f0(f0_hz.astype(np.float64))
        np.testing.assert_allclose(np.concatenate(found), wanted, rtol=1e-6)


def test_a_very_long_gap_is_held_and_not_waited_for():
    limit = round(20.0 * SPEC.frame_rate_hz)
    bridge = GapBridge(SPEC)
    f0_hz = np.concatenate(([200.0], np.zeros(limit + 1), [300.0, 0.0, 320.0])).astype(np.float32)
    early = bridge.push(f0_hz[: limit + 2], last=False)
    np.testing.assert_array_equal(early, np.full(limit + 2, 200.0))
    np.testing.assert_allclose(bridge.push(f0_hz[limit + 2 :], last=True), [300.0, 310.0, 320.0])
    assert not GapBridge(SPEC).push(np.zeros(limit + 1, np.float32), last=False).any()


def test_sines_in_pieces_are_sines_of_the_whole_to_the_bit():
    f0_hz = np.concatenate((np.geomspace(80, 900, 300), np.zeros(50), np.full(50, 220.0))).astype(np.float32)
    whole, _ = sine_source(f0_hz, SPEC, 3)
    for size in (1, 7, 111):
        pieces, phase = [], 0
        for start in range(0, len(f0_hz), size):
            piece, phase = sine_source(f0_hz[start : start + size], SPEC, 3, start, phase)
            pieces.append(piece)
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert not np.array_equal(sine_source(f0_hz, SPEC, 4)[0], whole)


def test_sine_phase_does_not_drift():
    """After an hour at 220.7 Hz the phase is that of exact arithmetic, as far as a float64 F0 says."""
    from fractions import Fraction

    f0_hz = np.full(187_500, 220.7, np.float32)
    phase = 0
    increment = round(float(f0_hz[0]) / 24_000 * 2.0**64)
    for piece in range(4):
        _, phase = sine_source(f0_hz[:1_875], SPEC, 0, 1_875 * piece, phase)
    assert phase == 4 * 1_875 * 128 * increment % 2**64
    an_hour = Fraction(3_600 * 24_000 * increment, 2**64) - Fraction(float(f0_hz[0])) * 3_600
    assert abs(an_hour) < 1e-9


def test_golden_values_of_the_sine_source():
    found, phase = sine_source(np.float32([220.0, 0.0]), SPEC, 1)
    assert phase == round(220.0 / 24_000 * 2.0**64) * 128 % 2**64
    np.testing.assert_allclose(found[[0, 127, 128, 255]][:, [0, 8]], GOLDEN, atol=1e-7)


GOLDEN = [  # first and last sample of a voiced and of an unvoiced frame; fundamental and highest overtone
    [0.0028952011, 0.0234568138],
    [0.0933334306, -0.0110979583],
    [0.0026235427, 0.0221711379],
    [-0.0038597581, -0.0429942161],
]


def test_stretched_index_is_the_integer_formula():
    for n_content, n_frames in ((1, 1), (3, 11), (499, 1_875), (50, 20)):
        wanted = [i * n_content // n_frames for i in range(n_frames)]
        np.testing.assert_array_equal(stretched_index(n_content, n_frames), wanted)
    assert (stretched_index(49, 187) != content_index(0, 187, replace(SPEC, content_hop_length=320))).any()
