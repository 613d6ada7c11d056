"""The audio callback's side of a stream, and the command, with a device that plays an array."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from sound_device import FileDevice, PortAudioError
from typer.testing import CliRunner

from comosvc.runtime import AudioError, ComosvcError, Converter, LiveStream, OptionError, Stream
from comosvc.runtime.cli import live as live_module
from comosvc.runtime.cli.convert import _app
from comosvc.runtime.errors import install

BLOCK_MS, BLOCK = 20, 480
PATIENCE_S = 20.0


@pytest.fixture
def own(bundle_path):
    """A converter whose graphs a test may tamper with."""
    return Converter(bundle_path, threads=1)


@pytest.fixture
def late(own):
    """Its vocoder waits until this is set."""
    go_on = threading.Event()
    inner = own._graphs["vocoder"].run

    def slow(inputs):
        assert go_on.wait(PATIENCE_S)
        return inner(inputs)

    go_on.set()
    own._graphs["vocoder"].run = slow
    return go_on


def caught_up(live):
    """Wait until all that came in is converted."""
    end = time.monotonic() + PATIENCE_S
    while live._sung_end < live._heard_end - live._stream.latency_samples and live.error is None:
        assert time.monotonic() < end
        time.sleep(0.001)


def played(live, audio, wait=True):
    out = []
    for at in range(0, len(audio) - BLOCK + 1, BLOCK):
        out.append(live.exchange(audio[at : at + BLOCK]))
        if wait:
            caught_up(live)
    return np.concatenate(out)


@contextmanager
def running(converter, policy="hold", gate_db=None, **options):
    """A live stream that has been started."""
    with converter.stream(24_000, **options) as stream:
        live = LiveStream(stream, BLOCK_MS, policy, gate_db)
        live.start()
        yield live
        live.stop()


def block_later(converter, song, **options):
    """The output of a live stream that is never late."""
    with converter.stream(24_000, **options) as stream:
        return np.concatenate((np.zeros(BLOCK), stream.process(song)))


def test_in_time_it_is_the_stream_a_block_later(converter, song):
    wanted = block_later(converter, song, key=2)
    with running(converter, key=2) as live:
        found = played(live, song)
        assert live.latency_samples == live._stream.latency_samples + BLOCK
    assert live.underruns == 0
    np.testing.assert_array_equal(found[:BLOCK], 0.0)
    np.testing.assert_allclose(found, wanted[: len(found)], atol=1e-5)


@pytest.mark.parametrize("policy", ["hold", "dry", "silence"])
def test_what_is_late_is_filled_in_counted_and_left_out(own, late, song, policy):
    """Four blocks are late; before and after them all is as if nothing had been."""
    wanted = block_later(own, song)
    with running(own, policy) as live:
        before = played(live, song[: 30 * BLOCK])
        late.clear()
        during = played(live, song[30 * BLOCK : 35 * BLOCK], wait=False)
        late.set()
        caught_up(live)
        after = played(live, song[35 * BLOCK : 50 * BLOCK])
    assert (live.underruns, live.restarts) == (4, 0)
    np.testing.assert_allclose(before, wanted[: 30 * BLOCK], atol=1e-5)
    np.testing.assert_allclose(during[:BLOCK], wanted[30 * BLOCK : 31 * BLOCK], atol=1e-5)  # it was there already
    np.testing.assert_allclose(after, wanted[35 * BLOCK : 50 * BLOCK], atol=1e-5)
    start = 31 * BLOCK - live.latency_samples
    filled = {"hold": np.tile(during[:BLOCK], 4), "dry": song[start : start + 4 * BLOCK], "silence": 0.0}[policy]
    np.testing.assert_array_equal(during[BLOCK:], filled)


def test_far_behind_it_starts_anew_at_the_present(own, late, song):
    """Three seconds without a result: memory does not grow, and the voice comes back with the latency it had."""
    loud, at = np.tile(song[:24_000], 6), 180 * BLOCK
    with running(own, "silence") as live:
        played(live, loud[: 20 * BLOCK])
        late.clear()
        played(live, loud[20 * BLOCK : at], wait=False)
        late.set()
        end = time.monotonic() + PATIENCE_S
        while not live.restarts and time.monotonic() < end:
            time.sleep(0.001)
        out = played(live, loud[at : at + 60 * BLOCK])
    wanted = block_later(own, loud[live._sung_from :])
    assert live.restarts == 1
    assert 155 <= live.underruns <= 165
    assert np.abs(out[10 * BLOCK :]).max() > 0.01
    first = at + 10 * BLOCK - live._sung_from
    np.testing.assert_allclose(out[10 * BLOCK :], wanted[first : first + 50 * BLOCK], atol=1e-5)


def test_the_callback_never_waits_for_a_graph(own, late, song):
    """All of it returns while no graph is allowed to end."""
    with running(own) as live:
        late.clear()
        assert len(played(live, song[: 40 * BLOCK], wait=False)) == 40 * BLOCK
        late.set()


def test_input_below_the_gate_is_silence(own, song):
    soft = 0.3 * song[:24_000]
    level_db = 10.0 * np.log10(np.square(soft).mean())
    for gate_db, heard in ((None, True), (level_db - 6.0, True), (level_db + 6.0, False)):
        with running(own, gate_db=gate_db) as live:
            assert played(live, soft).any() == heard
            assert played(live, song[:24_000]).any()


def test_an_offset_does_not_open_the_input_gate(own, song):
    with running(own, "silence", gate_db=-50.0) as live:
        out = played(live, song[: 20 * BLOCK] * np.float32(1e-3) + np.float32(0.2))
    np.testing.assert_array_equal(out, 0.0)


def test_singer_and_key_change_while_it_runs(own, song):
    with running(own) as live:
        played(live, song[:12_000])
        live.change(singer="bass", key=-3)
        assert (dict(live._stream.singer), live._stream.key) == ({"bass": 1.0}, -3.0)
        with pytest.raises(OptionError, match="no singer"):
            live.change(singer="nobody")
        played(live, song[12_000:24_000])
    assert live.error is None


def test_wrong_use_is_one_clear_error(own, song):
    stream = own.stream(24_000)
    with pytest.raises(OptionError, match="the deadline policy is 'wait'"):
        LiveStream(stream, policy="wait")
    with pytest.raises(OptionError, match="input gate is 3"):
        LiveStream(stream, gate_db=3.0)
    for gate_db in ("-60", True, np.zeros(2), 10**5000, float("nan")):
        with pytest.raises(OptionError, match=r"the input gate is .* dB; it must be -120 to 0 dB, or None"):
            LiveStream(stream, gate_db=gate_db)
    for block_ms in (0.0, -20.0, float("nan"), 2_000.0, "20", True, None, [20], 10**5000):
        with pytest.raises(OptionError, match="it must be more than 0 and at most 1000 ms"):
            LiveStream(stream, block_ms)
    live = LiveStream(stream, BLOCK_MS)
    with pytest.raises(ComosvcError, match="has not been started"):
        live.exchange(song[:BLOCK])
    live.start()
    with pytest.raises(ComosvcError, match="started already"):
        live.start()
    assert live.exchange(song[:0]).shape == (0,)
    with pytest.raises(ComosvcError, match="a block of 481 samples; this live stream takes 480"):
        live.exchange(song[:481])
    with pytest.raises(AudioError, match=r"the block has shape \(480, 2\)"):
        live.exchange(np.zeros((BLOCK, 2), np.float32))
    live.stop()
    with pytest.raises(ComosvcError, match="was stopped"):
        live.exchange(song[:BLOCK])


def test_an_error_of_the_voice_is_kept_and_the_callback_goes_on(own, song, caplog):
    with running(own, "silence") as live:
        played(live, song[:12_000])
        own._graphs["vocoder"].run = lambda inputs: (np.full((1, inputs["mel"].shape[1] * 128), np.nan, np.float32),)
        out = played(live, song[12_000:24_000])
    assert "NaN" in str(live.error)
    assert live.underruns > 10
    assert not out[-BLOCK:].any()
    assert "the live conversion ended" in caplog.text


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_bad_block_is_silence_and_the_next_ones_are_right(own, song, bad):
    """As if the device had given zeros."""
    silenced, broken = song[: 40 * BLOCK].copy(), song[: 40 * BLOCK].copy()
    silenced[20 * BLOCK : 21 * BLOCK] = 0.0
    broken[20 * BLOCK + 7] = bad
    wanted = block_later(own, silenced)
    with running(own) as live:
        found = played(live, broken)
    np.testing.assert_allclose(found, wanted[: len(found)], atol=1e-5)
    assert (live.bad_blocks, live.underruns, live.error) == (1, 0, None)
    assert f"the first at sample {20 * BLOCK + 7}" in str(live.bad_block)


def test_after_one_error_of_a_graph_live_goes_on(own, song, caplog):
    loud = np.tile(song[:24_000], 3)
    graph, run = own._graphs["vocoder"], own._graphs["vocoder"].run

    def fail_once(inputs):
        graph.run = run
        raise RuntimeError("the GPU hiccuped")

    with running(own, "silence") as live:
        played(live, loud[:24_000])
        graph.run = fail_once
        out = played(live, loud[24_000:])
    assert (live.error, live.restarts) == (None, 1)
    assert "starts anew: the GPU hiccuped" in caplog.text
    assert np.abs(out[-12_000:]).max() > 0.05


def test_a_held_block_does_not_drone(own, late, song):
    with running(own) as live:
        played(live, song[: 30 * BLOCK])
        late.clear()
        out = played(live, song[30 * BLOCK : 70 * BLOCK], wait=False)
        late.set()
    assert np.abs(out[20 * BLOCK : 24 * BLOCK]).max() > 0.01
    np.testing.assert_array_equal(out[30 * BLOCK :], 0.0)


LEFT_RUNNING = """
import sys, threading
import numpy as np
from comosvc.runtime import Converter, LiveStream
from comosvc.runtime.conversion.stream import Stream

converter = Converter(sys.argv[1], provider="cpu", threads=1)
live = LiveStream(converter.stream(24_000), 20.0)
inside, graph = threading.Event(), converter._graphs["vocoder"]

class Slow:
    def run(self, inputs):
        inside.set()
        for _ in range(200):
            found = graph.run(inputs)
        print("ended")
        return found

converter._graphs["vocoder"] = Slow()
live.start()
while not inside.is_set():
    live.exchange(np.sin(np.arange(480) / 20.0).astype(np.float32))
"""


def test_an_interpreter_that_ends_ends_what_runs(bundle_path):
    done = subprocess.run([sys.executable, "-c", LEFT_RUNNING, str(bundle_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ended" in done.stdout


def invoke_convert(*arguments):
    result = CliRunner().invoke(_app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def sing(bundle_path):
    """Runs the command with --live and the tiny voice: exit code and standard error."""

    def run(*arguments):
        code, _, err = invoke_convert("--live", "-m", bundle_path, "--threads", "1", *arguments)
        return code, err

    return run


@pytest.fixture
def device(monkeypatch, song):
    fake = FileDevice(song, 24_000, lambda: time.sleep(0.03), lambda times: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr(live_module, "_READ_OUT_S", 0.05)
    return fake


def test_the_command_plays_what_the_device_hears(device, sing, song):
    code, err = sing(
        *("-s", "bass", "-k", "3", "--input-device", "0", "--output-device", "loud"),
        *("--monitor", "0.5", "--late", "silence"),
    )
    assert code == 0, err
    assert device.asked["device"] == (0, "loud")
    assert device.asked["blocksize"] == BLOCK
    out = np.concatenate(device.played)
    wet = out - 0.5 * song[: len(out)]
    assert len(out) == len(song) // BLOCK * BLOCK
    np.testing.assert_allclose(wet[:1_000], 0.0, atol=1e-6)
    assert np.abs(wet).max() > 0.01
    assert err.index("; Ctrl-C ends it") < err.index("under-runs")
    assert "device 10" in err


def test_a_device_that_stops_is_opened_again_and_then_an_error(device, sing, song, monkeypatch):
    monkeypatch.setattr(live_module, "_REOPEN_S", 0.3)
    device.audio, device.at_end = song[: 20 * BLOCK], lambda times: None
    code, err = sing()
    assert code == 1
    assert "the audio device stopped; it did not come back within 0.3 s" in err
    assert device.times > 1

    def refuse(times):
        device.Stream = refused

    def refused(**_):
        raise PortAudioError("Device unavailable")

    device.at_end = refuse
    code, err = sing()
    assert code == 1
    assert "the audio device stopped: Device unavailable" in err


def test_a_device_that_comes_back_goes_on(device, sing, song):
    device.audio = song[: 20 * BLOCK]
    device.at_end = lambda times: times == 2 and os.kill(os.getpid(), signal.SIGINT)
    code, err = sing()
    assert code == 0, err
    assert device.times == 2
    assert len(device.played) == 40


def test_a_device_that_asks_for_nothing_has_stopped(device, sing, monkeypatch):
    monkeypatch.setattr(live_module, "_STALLED_S", 0.1)
    monkeypatch.setattr(live_module, "_REOPEN_S", 0.1)
    device.audio, device.at_end = np.zeros(2 * BLOCK, np.float32), lambda times: time.sleep(0.3)
    code, err = sing()
    assert code == 1
    assert "the audio device stopped" in err


def test_bad_blocks_of_the_device_are_said(device, sing, song):
    device.audio = song[: 20 * BLOCK].copy()
    device.audio[3 * BLOCK + 5] = np.nan
    code, err = sing("--monitor", "0.5")
    assert code == 0, err
    assert "1 bad blocks from the device (the block has 1 samples that are NaN or infinite, the first at" in err
    assert f"the first at sample {3 * BLOCK + 5})" in err
    assert np.isfinite(np.concatenate(device.played)).all()


def test_warnings_of_the_stream_are_said_once_each(device, bundle_path, monkeypatch):
    """Also those whose seconds grow meanwhile."""
    seconds = iter(range(1, 1000))
    monkeypatch.setattr(
        Stream, "warnings", property(lambda _: ("a mix", f"the pitch of {next(seconds)}.5 s was unsure"))
    )
    code, _, err = invoke_convert("--live", "-m", bundle_path, "--threads", "1")
    assert code == 0, err
    assert next(seconds) > 3
    assert err.count("note: ") == 2
    assert "note: a mix" in err
    assert "note: the pitch of 1.5 s was unsure" in err


def test_no_devices_are_said(device, monkeypatch):
    monkeypatch.setattr(device, "query_devices", lambda *_: "")
    assert invoke_convert("--list-devices")[:2] == (0, "there are no audio devices\n")

    def refuse(*_):
        raise PortAudioError("Error querying host API 0")

    monkeypatch.setattr(device, "query_devices", refuse)
    code, _, err = invoke_convert("--list-devices")
    assert code == 1
    assert "error: the audio devices cannot be listed: Error querying host API 0" in err


def test_devices_are_listed(device):
    code, out, _ = invoke_convert("--list-devices")
    assert code == 0
    assert "A loudspeaker" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--output-device", "missing"), "No output device matching 'missing'"),
        (("song.wav",), "--live converts a microphone, not song.wav"),
        (("-k", "auto"), "needs the whole song"),
        (("--late", "never"), "the deadline policy is 'never'"),
        (("--monitor", "2"), "monitor is 2.0"),
        (("--rate", "99"), "99 Hz"),
        (("--rate", "0"), "0 Hz"),
    ],
)
def test_wrong_arguments(device, sing, arguments, words):
    code, err = sing(*arguments)
    assert code == 1
    assert words in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("No module named 'sounddevice'"), f"{install('live')}; on Linux also PortAudio"),
        (OSError("PortAudio library not found"), "install PortAudio"),
    ],
)
def test_without_sounddevice_or_portaudio(monkeypatch, sing, error, words):
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)

    class Finder:
        def find_spec(self, name, *_):
            if name == "sounddevice":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    code, err = sing()
    assert code == 1
    assert words in err
    assert "Ctrl-C" not in err
    assert words in invoke_convert("--live", "-m", "no voice")[2], "before the voice is loaded"
