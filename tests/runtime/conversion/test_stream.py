"""A stream is the low-latency conversion of all that goes in, a constant time later, whatever blocks it comes in."""

import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from opened import graphs_of, recorded, wrap
from tiny_bundle import SPEC, tiny_files, write_zip

from comosvc.runtime import AudioError, ComosvcError, Converter, OptionError
from comosvc.runtime.audio.resampling import resample
from comosvc.runtime.audio.spec import AUTHORS_FRONT_END
from comosvc.runtime.conversion.low_latency import latency_samples

LEAST_SNR_DB = 90.0
"""Blocks of other lengths add in another order: 110 to 130 dB seen."""


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """A voice whose content encoder has no finite context, and that wants F0 without gaps, as the authors' do."""
    files = tiny_files(SPEC, front_end=AUTHORS_FRONT_END)
    return Converter(write_zip(tmp_path_factory.mktemp("voice") / "windowed.comosvc", files), threads=1)


def fed(stream, audio, sizes):
    """All that comes out for `audio`, in blocks of the sizes that `sizes` repeats."""
    return np.concatenate((fed_blocks(stream, audio, sizes), stream.flush()))


def fed_blocks(stream, audio, sizes):
    """The same before the end."""
    out, at, number = [], 0, 0
    while at < len(audio):
        block = audio[at : at + sizes[number % len(sizes)]]
        out.append(stream.process(block))
        assert out[-1].shape == block.shape
        at, number = at + len(block), number + 1
    return np.concatenate(out)


def snr_db(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0.01
    return 10 * np.log10(np.square(wanted).sum() / max(np.square(found - wanted).sum(), 1e-20))


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000, 44_099])
@pytest.mark.parametrize("sizes", [(960,), (1, 257, 4_001), (60_000,)])
def test_a_stream_is_the_low_latency_conversion(converter, song, rate, sizes):
    audio = resample(song, 24_000, rate)
    wanted = converter.convert(audio, rate, "bass", key=-2, seed=5, latency="low")
    assert wanted.options.latency == "low"
    with converter.stream(rate, singer="bass", key=-2, seed=5) as stream:
        found, delay = fed(stream, audio, sizes), stream.latency_samples
    np.testing.assert_array_equal(found[:delay], 0.0)
    assert snr_db(found[delay:], wanted.audio) > LEAST_SNR_DB


@pytest.mark.parametrize("steps", [1, 4])
def test_every_kind_of_voice_streams(windowed, converter, song, steps):
    for voice in (windowed, converter):
        wanted = voice.convert(song, 24_000, steps=steps, latency="low").audio
        with voice.stream(24_000, steps=steps) as stream:
            found, delay = fed(stream, song, (480,)), stream.latency_samples
        assert snr_db(found[delay:], wanted) > LEAST_SNR_DB
    assert latency_samples(windowed.manifest, 24_000) > latency_samples(converter.manifest, 24_000) + 0.2 * 24_000


def test_one_sample_at_a_time(converter, song):
    wanted = converter.convert(song[:6_000], 24_000, latency="low").audio
    with converter.stream(24_000) as stream:
        assert snr_db(fed(stream, song[:6_000], (1,))[stream.latency_samples :], wanted) > LEAST_SNR_DB


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_the_latency_is_what_is_needed_and_no_more(converter, song, rate, monkeypatch):
    """Five samples less, and in some place what is due is not there yet."""
    audio = resample(song[:24_000], 24_000, rate)
    monkeypatch.setattr("comosvc.runtime.conversion.stream.latency_samples", lambda *args: latency_samples(*args) - 5)
    with converter.stream(rate) as stream, pytest.raises(AssertionError):
        fed(stream, audio, (3,))


def test_the_future_beyond_the_latency_changes_nothing(converter, song):
    other = np.concatenate((song[:20_000], -song[20_000:]))
    outs = []
    for audio in (song, other):
        with converter.stream(24_000) as stream:
            outs.append(fed(stream, audio, (480,)))
    changed = np.flatnonzero(outs[0] != outs[1])
    assert changed[0] >= 20_000
    assert changed[0] < 20_000 + 2_000


def test_low_latency_is_near_the_default(converter, song):
    """Tiny, random weights, but the same framing: a slip of a frame would be plain to see."""
    rows = {latency: converter.convert(song, 24_000, latency=latency) for latency in ("default", "low")}
    mels = [row.mel for row in rows.values()]
    sung = (mels[0] != 0).any(axis=1) & (mels[1] != 0).any(axis=1)
    assert sung.mean() > 0.5
    same = np.abs(mels[0] - mels[1])[sung].mean()
    slipped = np.abs(mels[0][1:] - mels[1][:-1])[sung[1:]].mean()
    assert same < 0.5 * slipped
    both = (rows["default"].f0_hz > 0) & (rows["low"].f0_hz > 0)
    cents = 1_200 * np.abs(np.log2(rows["low"].f0_hz[both] / rows["default"].f0_hz[both]))
    assert np.median(cents) < 30


def test_given_f0_and_noise_hold_for_low_latency_too(converter, song):
    n_frames = converter.frames(len(song), 24_000)
    f0_hz, noise = np.full(n_frames, 200.0), np.zeros((n_frames, SPEC.n_mels))
    plain = converter.convert(song, 24_000, latency="low", key=12)
    given = converter.convert(song, 24_000, latency="low", key=12, f0_hz=f0_hz, noise=noise)
    assert set(np.round(given.f0_hz, 3)) == {0.0, 400.0}
    assert np.abs(given.mel - plain.mel).max() > 0.1


@pytest.fixture
def melody():
    """F0 of one's own, with gaps, for longer than `song` lasts."""
    frames = np.arange(550)
    return np.where(frames % 50 < 40, 220.0 + frames, 0.0)


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
@pytest.mark.parametrize("sizes", [(960,), (1, 257, 4_001), (60_000,)])
def test_a_stream_with_given_f0_is_the_conversion_with_it(bundle_path, song, melody, rate, sizes):
    converter, audio = Converter(bundle_path, threads=1), resample(song, 24_000, rate)
    options = {"singer": "bass", "key": -2, "seed": 5}
    f0_hz = melody[: converter.frames(len(audio), rate)]
    wanted = converter.convert(audio, rate, **options, latency="low", f0_hz=f0_hz)
    other = converter.convert(audio, rate, **options, latency="low", f0_hz=1.01 * f0_hz)
    calls = recorded(converter)
    # It may be longer than the audio in the end is; that changes nothing.
    with converter.stream(rate, **options, f0_hz=melody) as stream:
        for _ in range(2):
            found, delay = fed(stream, audio, sizes), stream.latency_samples
            assert snr_db(found[delay:], wanted.audio) > LEAST_SNR_DB
            stream.reset()
    assert snr_db(found[delay:], other.audio) < 20
    assert {name for name, _ in calls} == {"content", "acoustic", "vocoder"}


def test_given_f0_goes_on_through_a_change_of_singer(windowed, converter, song, melody):
    """Source and noise depend on neither singer nor the past, so that each side is that singer's conversion."""
    f0_hz = melody[: converter.frames(len(song), 24_000)]
    for voice in (converter, windowed):
        alto, bass = (voice.convert(song, 24_000, who, latency="low", f0_hz=f0_hz).audio for who in ("alto", "bass"))
        change, between = 12_000, 4_000
        with voice.stream(24_000, singer="alto", f0_hz=f0_hz) as stream:
            delay = stream.latency_samples
            first = fed_blocks(stream, song[: change + delay], (480, 77))
            stream.singer = "bass"
            out = np.concatenate((first, fed(stream, song[change + delay :], (480, 77))))[delay:]
        assert snr_db(out[:change], alto[:change]) > LEAST_SNR_DB
        assert snr_db(out[change + between :], bass[change + between :]) > LEAST_SNR_DB
        assert snr_db(alto[change + between :], bass[change + between :]) < 30


def test_a_stream_ends_with_the_f0_that_was_given(converter, song, melody):
    n_frames = converter.frames(4_800, 24_000)
    wanted = converter.convert(song[:4_800], 24_000, latency="low", f0_hz=melody[:n_frames]).audio
    with converter.stream(24_000, f0_hz=melody[:n_frames]) as stream:
        found = [stream.process(song[:4_000])]
        with pytest.raises(AudioError, match=rf"sample 5000.*frame {n_frames + 2}.*f0_hz ends after {n_frames}"):
            stream.process(song[4_000:5_000])
        found += [stream.process(song[4_000:4_800]), stream.flush()]
        assert snr_db(np.concatenate(found)[stream.latency_samples :], wanted) > LEAST_SNR_DB


def test_given_f0_is_checked(converter):
    for wrong in (np.zeros((3, 2)), np.zeros(0), np.zeros(9, bool), np.array([np.nan]), np.float64(100.0)):
        with pytest.raises(OptionError, match=r"f0_hz .*; it must be"):
            converter.stream(24_000, f0_hz=wrong)
    with pytest.raises(OptionError, match=r"f0_hz goes from 3000\.0 to 3000\.0 Hz"):
        converter.stream(24_000, f0_hz=np.full(9, 3_000.0), key=24)
    with converter.stream(24_000, f0_hz=np.full(9, 3_000.0)) as stream:
        with pytest.raises(OptionError, match="at this key"):
            stream.key = 24
        assert stream.key == 0


def test_files_take_low_latency_one_by_one_and_in_batches(converter, song, tmp_path):
    for name, clip in (("a", song), ("b", song[10_000:])):
        soundfile.write(tmp_path / f"{name}.wav", clip, 24_000, "FLOAT")
        wanted = converter.convert(clip, 24_000, latency="low").audio
        result = converter.convert_file(tmp_path / f"{name}.wav", tmp_path / f"{name}.flac", latency="low")
        assert result.options.latency == "low"
        assert snr_db(soundfile.read(result.output, dtype="float32")[0], wanted) > LEAST_SNR_DB
    together = converter.convert_many(sorted(tmp_path.glob("*.wav")), tmp_path / "out", batch=2, latency="low")
    for result in together:
        alone, _ = soundfile.read(tmp_path / f"{result.source.stem}.flac", dtype="float32")
        assert snr_db(soundfile.read(result.output, dtype="float32")[0], alone) > LEAST_SNR_DB


def test_every_graph_has_run_before_the_first_block(bundle_path):
    """First runs take longer. None of it is heard."""
    converter = Converter(bundle_path, threads=1)
    calls = recorded(converter)
    with converter.stream(24_000, block_ms=20) as stream:
        assert {name for name, _ in calls} == {"content", "pitch", "acoustic", "vocoder"}
        assert not stream.process(np.zeros(24_000, np.float32)).any()


def test_silence_costs_no_graph_and_an_onset_after_it_is_exact(bundle_path, song):
    converter = Converter(bundle_path, threads=1)
    quiet = np.concatenate((song[:12_000], np.zeros(72_000, np.float32), song[:12_000]))
    wanted = converter.convert(quiet, 24_000, latency="low").audio
    calls = recorded(converter)
    with converter.stream(24_000, block_ms=20) as stream:
        out = []
        for at in range(0, len(quiet), 480):
            del calls[:]
            out.append(stream.process(quiet[at : at + 480]))
            if 20_000 <= at < 83_000:
                assert not calls, at
                assert not out[-1].any()
        found = np.concatenate((*out, stream.flush()))[stream.latency_samples :]
    assert snr_db(found[84_000:], wanted[84_000:]) > LEAST_SNR_DB


def test_a_minute_does_not_make_it_slower_or_larger(bundle_path, song, tracks_of):
    """Work by the shapes of the graphs' inputs, memory by what the tracks hold and by what Python and NumPy hold."""
    converter = Converter(bundle_path, threads=1)
    loud = np.tile(song[:24_000], 2)
    calls = recorded(converter)
    with converter.stream(24_000, block_ms=50) as stream:
        work, held, allocated = [], [], []
        for turn in range(30):
            del calls[:]
            if turn == 20:
                tracemalloc.start()
            for at in range(0, len(loud), 1_200):
                stream.process(loud[at : at + 1_200])
            work.append(max(np.prod(shape) for _, shapes in calls for shape in shapes.values() if shape))
            tracks = tracks_of(stream)
            held.append(sum(track.end - track.start for track in tracks))
            allocated.append(tracemalloc.get_traced_memory()[0])  # of what was made since turn 20
    tracemalloc.stop()
    assert len(tracks) > 10
    assert max(work[5:]) <= max(work[1:5])
    assert max(held[5:]) <= max(held[1:5])
    assert allocated[-1] - allocated[22] < 5e5  # a track that forgot nothing would hold 1.1 MB more


def test_singer_and_key_change_between_blocks_without_a_click(converter, song):
    """The step from one sample to the next at a change is no larger than elsewhere."""
    loud = np.tile(song[:24_000], 3)
    with converter.stream(24_000, singer="alto") as stream:
        first = stream.process(loud[:36_000])
        stream.singer, stream.key = {"bass": 1.0}, -5.0
        assert (dict(stream.singer), stream.key) == ({"bass": 1.0}, -5.0)
        out = np.concatenate((first, stream.process(loud[36_000:])))
    with converter.stream(24_000, singer="alto") as stream:
        steady = stream.process(loud)
    assert np.abs(out - steady)[:36_000].max() < 1e-5
    assert np.abs(out - steady)[36_000:].max() > 1e-2
    steps = np.abs(np.diff(out))
    assert steps[35_000:38_000].max() <= max(steps[:35_000].max(), steps[38_000:].max())
    with converter.stream(24_000, singer="bass", key=-5) as stream:
        wanted = stream.process(loud)
    # The source's phase goes on from where it was; spectra agree where waveforms cannot.
    assert np.abs(np.square(out[48_000:]).mean() / np.square(wanted[48_000:]).mean() - 1) < 0.05


def test_reset_is_a_new_beginning(converter, song):
    with converter.stream(24_000, key=3) as stream:
        once = fed(stream, song, (700,))
        stream.reset()
        np.testing.assert_array_equal(fed(stream, song, (700,)), once)
        stream.reset()
        np.testing.assert_array_equal(stream.flush(), np.zeros(stream.latency_samples))


def test_types_and_channels(converter, song):
    block = song[:960]
    kinds = (block, block.astype(np.float64), np.stack((block, block), axis=1))
    outs = []
    for kind in kinds:
        with converter.stream(24_000) as stream:
            outs.append(np.concatenate((stream.process(kind), stream.flush())))
    assert outs[0].dtype == np.float32
    for out in outs[1:]:
        np.testing.assert_allclose(out, outs[0], atol=1e-6)
    with converter.stream(24_000) as stream:
        assert stream.process(np.zeros(0, np.float32)).shape == (0,)


def test_channels_that_cancel_each_other_are_said(converter, song):
    block = song[:9_600]
    stereo = np.stack((block, -block), axis=1)
    for channel, heard in (("left", block), ("right", -block), ("mid", 0.0 * block)):
        with converter.stream(24_000, channel=channel) as stream:
            out = np.concatenate((stream.process(stereo[:100]), stream.process(stereo[100:]), stream.flush()))
            assert any("opposite phase" in text for text in stream.warnings) == (channel == "mid")
            stream.reset()
            assert not stream.warnings
        with converter.stream(24_000) as mono:
            np.testing.assert_allclose(out, np.concatenate((mono.process(heard), mono.flush())), atol=2e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channel": "both"}, "channel is 'both'; known: mid, left, right"),
        ({"key": "auto"}, r"(?s)key is 'auto', which needs the whole song.*convert\(\.\.\., key='auto'\)"),
        ({"key": 50}, "key is 50; it must be -36 to 36 semitones$"),
        ({"singer": "nobody"}, "no singer 'nobody'"),
        ({"sample_rate": 7_000}, "7000 Hz"),
        ({"sample_rate": 44.1}, "whole number of Hz"),
        ({"block_ms": 0}, "block_ms is 0"),
        ({"block_ms": np.complex128(1)}, "block_ms is np.complex128"),
        ({"block_ms": 10**5000}, "block_ms is a number of thousands of digits"),
        ({"steps": 3}, "steps is 3"),
    ],
)
def test_a_wrong_option_is_one_clear_error(converter, options, words):
    with pytest.raises(OptionError, match=words):
        converter.stream(**{"sample_rate": 24_000, **options})


def test_wrong_use_is_one_clear_error(bundle_path, song):
    converter = Converter(bundle_path, threads=1)
    stream = converter.stream(24_000)
    with pytest.raises(AudioError, match="the block is int64"):
        stream.process(np.zeros(10, int))
    with pytest.raises(AudioError, match=r"shape \(2, 2, 2\)"):
        stream.process(np.zeros((2, 2, 2)))
    stream.process(song[:100])
    with pytest.raises(AudioError, match="the first at sample 103"):
        stream.process(np.array([0, 0, 0, np.nan]))
    with pytest.raises(OptionError, match="needs the whole song"):
        stream.key = "auto"
    with pytest.raises(OptionError, match=r"key is 99; it must be -36 to 36 semitones$"):
        stream.key = 99
    with pytest.raises(OptionError, match="no singer"):
        stream.singer = "nobody"
    stream.flush()
    with pytest.raises(ComosvcError, match="was flushed"):
        stream.process(song[:100])
    with pytest.raises(ComosvcError, match="flushed already"):
        stream.flush()
    stream.close()
    for use in (lambda: stream.process(song), stream.flush, stream.reset):
        with pytest.raises(ComosvcError, match="this stream is closed"):
            use()
    other = converter.stream(24_000)
    converter.close()
    with pytest.raises(ComosvcError, match="this converter is closed"):
        other.process(song)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_bad_block_is_refused_and_the_next_ones_are_right(converter, song, bad):
    """Nothing of it is taken: the stream is the one that never saw it."""
    with converter.stream(24_000) as stream:
        wanted = fed(stream, song[:24_000], (480,))
        stream.reset()
        before = fed_blocks(stream, song[:12_000], (480,))
        block = song[12_000:12_480].copy()
        block[7] = bad
        with pytest.raises(AudioError, match="the first at sample 12007"):
            stream.process(block)
        after = fed_blocks(stream, song[12_000:24_000], (480,))
        np.testing.assert_array_equal(np.concatenate((before, after, stream.flush())), wanted)


@pytest.mark.parametrize("error", [RuntimeError("the GPU is gone"), MemoryError(), KeyboardInterrupt()])
def test_after_an_error_of_a_graph_the_stream_begins_anew(bundle_path, song, error):
    converter = Converter(bundle_path, threads=1)
    graph, run = graphs_of(converter)["vocoder"], graphs_of(converter)["vocoder"].run

    def fail(inputs):
        graph.run = run
        raise error

    with converter.stream(24_000) as stream:
        wanted = fed(stream, song[12_480:24_000], (480,))
        stream.reset()
        fed_blocks(stream, song[:12_000], (480,))
        graph.run = fail
        with pytest.raises(type(error)):
            stream.process(song[12_000:12_480])
        np.testing.assert_array_equal(fed(stream, song[12_480:24_000], (480,)), wanted)


def test_given_f0_goes_on_after_an_error(bundle_path, song):
    converter = Converter(bundle_path, threads=1)
    graph, run = graphs_of(converter)["vocoder"], graphs_of(converter)["vocoder"].run
    melody = np.linspace(200.0, 400.0, converter.frames(25_600, 24_000)).astype(np.float32)

    def fail(inputs):
        graph.run = run
        raise RuntimeError

    loud = np.tile(song[:6_400], 4)
    with converter.stream(24_000, f0_hz=melody[100:]) as stream:
        wanted = fed(stream, loud[12_800:], (640,))
    with converter.stream(24_000, f0_hz=melody) as stream:
        fed_blocks(stream, loud[:12_160], (640,))
        graph.run = fail
        with pytest.raises(RuntimeError):
            stream.process(loud[12_160:12_800])
        np.testing.assert_allclose(fed(stream, loud[12_800:], (640,)), wanted, atol=1e-6)
        with pytest.raises(ComosvcError, match="was flushed"):
            stream.process(loud[:10])
        stream.reset()
        stream.process(loud)
        with pytest.raises(AudioError, match="f0_hz ends after 200"):
            stream.process(loud[:10])


def test_two_threads_on_one_stream_are_refused(bundle_path, song):
    converter = Converter(bundle_path, threads=1)
    stream = converter.stream(24_000)
    entered, go_on = threading.Event(), threading.Event()

    def slow(inputs, run):
        entered.set()
        go_on.wait(10)
        return run(inputs)

    wrap(converter, "vocoder", slow)
    worker = threading.Thread(target=stream.process, args=(song,))
    worker.start()
    assert entered.wait(10)
    with pytest.raises(ComosvcError, match="in use by another thread"):
        stream.process(song)
    go_on.set()
    worker.join()


def test_frames_of_any_length(song, tmp_path):
    spec = replace(SPEC, sample_rate=44_100, hop_length=512)
    converter = Converter(write_zip(tmp_path / "other.comosvc", tiny_files(spec)), threads=1)
    wanted = converter.convert(song, 32_000, latency="low").audio
    with converter.stream(32_000) as stream:
        assert snr_db(fed(stream, song, (333,))[stream.latency_samples :], wanted) > LEAST_SNR_DB
