"""A voice and other processes: forked ones that inherit it, others that it is sent to, users without a home folder."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from comosvc.runtime import COMOSVC_24K, CancelledError, ComosvcError, Converter, LiveStream, OptionError, OutputError
from comosvc.runtime.errors import NoEnginesError
from comosvc.runtime.providers.tensorrt.cache import engine_folders
from comosvc.runtime.voice.bundle import cache_folder, comosvc_home, open_bundle

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

# --- forked children

IN_A_CHILD = """
import gc, os, sys, threading, time
import numpy as np
from comosvc.runtime import ComosvcError, Converter, LiveStream
path, provider, threads, busy = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "busy"
clip = (0.1 * np.sin(np.arange(24_000) / 20.0)).astype(np.float32)
converter = Converter(path, provider=provider, precision="fp32", threads=threads)
wanted = converter.convert(clip, 24_000).audio
if busy:
    working = threading.Thread(target=lambda: [converter.convert(clip, 24_000) for _ in range(8)])
    working.start()
    time.sleep(0.1)
{before}

def child():
    try:
        {code}
    except ComosvcError as error:
        print(error, flush=True)

if (process := os.fork()) == 0:
    child()
    sys.exit(0)  # as a worker of gunicorn ends: by the interpreter, not by os._exit
print("ended with", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def in_a_child(path, code, provider="cpu", threads=2, busy=False, before=""):
    """What a process and its forked child, which inherits a voice and runs `code`, write; both end within a minute."""
    script = IN_A_CHILD.format(code=code, before=before)
    done = subprocess.run(
        [sys.executable, "-c", script, path, provider, str(threads), "busy" if busy else ""],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@FORK
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("code", ["pass", "converter.close(); gc.collect()"])
def test_a_child_that_inherits_a_voice_ends(bundle_path, provider, code):
    if provider == "openvino":
        pytest.importorskip("openvino")
    assert in_a_child(bundle_path, code, provider) == "ended with 0\n"


@FORK
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_child_converts_as_its_parent_does(bundle_path, busy):
    code = "print(np.array_equal(converter.convert(clip, 24_000).audio, wanted), flush=True)"
    assert in_a_child(bundle_path, code, busy=busy) == "True\nended with 0\n"


@FORK
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_a_child_converts_on_threads_of_its_own(bundle_path):
    """ONNX Runtime computes without its lost threads too, on one core, but a lock that one held stays locked."""
    count = "print(len(os.listdir('/proc/self/task')) > 1, flush=True)"
    said = in_a_child(bundle_path, f"{count}; converter.convert(clip, 24_000); {count}")
    assert said == "False\nTrue\nended with 0\n"


@FORK
def test_a_stream_that_a_child_makes_of_an_inherited_voice_runs(bundle_path):
    code = "print(len(converter.stream(24_000).process(clip)), flush=True)"
    assert in_a_child(bundle_path, code, threads=1) == "24000\nended with 0\n"


@FORK
@pytest.mark.parametrize("code", ["converter.convert(clip, 24_000)", "Converter(path, provider=provider)"])
def test_openvino_is_refused_in_a_child_of_a_process_that_used_it(bundle_path, code):
    pytest.importorskip("openvino")
    said = in_a_child(bundle_path, code, "openvino", busy=True)
    assert "of which this one is a fork" in said
    assert "hint: " in said
    assert said.endswith("ended with 0\n")


@FORK
def test_a_gpu_is_refused_in_a_child(bundle_path):
    code = "Converter.provider = 'cuda'; converter.convert(clip, 24_000)"
    assert "cuda does not work in a forked process" in in_a_child(bundle_path, code)


@FORK
def test_a_live_stream_is_refused_in_a_child(bundle_path):
    code = "live.exchange(clip[:live.block_samples])"
    said = in_a_child(bundle_path, code, threads=1, before="live = LiveStream(converter.stream(24_000)); live.start()")
    assert "was started in another process" in said
    assert said.endswith("ended with 0\n")


# --- daemon threads, which the end of the interpreter overtakes

AT_WORK = """
def forever():
    while True:
        Converter(path, provider=provider, threads=threads).convert(clip, 24_000)

for _ in range(4):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.3)
"""


@FORK
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_process_and_its_fork_end_while_a_daemon_thread_computes(bundle_path, provider):
    if provider == "openvino":
        pytest.importorskip("openvino")
    assert in_a_child(bundle_path, "pass", provider, before=AT_WORK) == "ended with 0\n"


# --- other processes


def converted(converter, clip):
    return converter.convert(clip, 24_000, singer="bass", seed=3)


@pytest.mark.parametrize("serialiser", ["pickle", "cloudpickle"])
def test_a_voice_is_sent_as_its_path_and_its_options(bundle_path, song, serialiser, tmp_path, monkeypatch):
    library = pytest.importorskip(serialiser)
    monkeypatch.chdir(bundle_path.parent)
    with Converter(bundle_path.name, provider="cpu", threads=1, cache_dir="cache") as converter:
        sent, wanted = library.dumps(converter), converted(converter, song)
    assert len(sent) < 1_000, "the graphs were sent along"
    monkeypatch.chdir(tmp_path)  # where the other process works
    with pickle.loads(sent) as arrived:
        assert repr(arrived) == repr(converter).replace(bundle_path.name, str(bundle_path)).replace(", closed", "")
        np.testing.assert_array_equal(converted(arrived, song).audio, wanted.audio)
        assert pickle.dumps(arrived) == pickle.dumps(pickle.loads(pickle.dumps(arrived)))


def test_a_voice_and_results_go_to_a_new_process_and_back(bundle_path, song):
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(converted, (converter, song))
        wanted = converted(converter, song)
    np.testing.assert_array_equal(found.audio, wanted.audio)
    assert (found.options, found.warnings) == (wanted.options, wanted.warnings)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_voice_of_its_own(bundle_path, song, copied):
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        other = copied(converter)
    with other:
        assert len(other.convert(song, 24_000).audio) == len(song)


def test_a_closed_voice_is_not_sent(bundle_path):
    with Converter(bundle_path, threads=1) as converter:
        pass
    with pytest.raises(ComosvcError, match="closed"):
        pickle.dumps(converter)


def test_a_voice_that_is_not_there_is_an_error_there(bundle_path, files, tmp_path):
    moved = tmp_path / "moved.comosvc"
    moved.write_bytes(bundle_path.read_bytes())
    with Converter(moved, threads=1) as converter:
        sent = pickle.dumps(converter)
    moved.unlink()
    with pytest.raises(ComosvcError, match=r"moved\.comosvc"):
        pickle.loads(sent)


def test_streams_say_what_to_send_instead(converter):
    stream = converter.stream(24_000)
    for live in (stream, LiveStream(stream)):
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                way(live)


def test_what_a_voice_gives_can_be_sent(converter, song, tmp_path):
    soundfile.write(tmp_path / "a.wav", song, 24_000)
    results = converter.convert_many([tmp_path / "a.wav", tmp_path / "gone.wav"], tmp_path / "out")
    values = [*results, converter.convert(song, 24_000), converter.singers["alto"], converter.spec, converter.manifest]
    values += [COMOSVC_24K, converter.self_test()]
    for value in values:
        back = pickle.loads(pickle.dumps(value))
        assert type(back) is type(value)
        assert repr(back) == repr(value)


@pytest.mark.parametrize("kind", [ComosvcError, OptionError, OutputError, CancelledError, NoEnginesError])
def test_errors_can_be_sent(kind):
    error = kind("what happened\nhint: what to do")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.args) == (kind, str(error), error.args)


# --- the working folder and the home folder


def test_a_voice_is_read_after_the_process_went_elsewhere(bundle_path, song, tmp_path, monkeypatch):
    monkeypatch.chdir(bundle_path.parent)
    with Converter(bundle_path.name, provider="cpu", threads=2) as converter:
        monkeypatch.chdir(tmp_path)
        converter.self_test()
        assert len(converter.convert(np.tile(song, 12), 24_000).audio) == 12 * len(song)  # opens graphs again


NOBODY = """
import pwd, sys
def none(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = none
"""


@pytest.fixture
def homeless(tmp_path):
    """The environment of a user whose id has no entry, and without HOME."""
    (tmp_path / "sitecustomize.py").write_text(NOBODY, "utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    return {**environment, "PYTHONPATH": str(tmp_path)}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such users")
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_user_without_a_home_folder_converts(bundle_path, homeless, tmp_path, provider):
    pytest.importorskip({"cpu": "onnxruntime"}.get(provider, provider))
    soundfile.write(tmp_path / "a.wav", np.zeros(24_000), 24_000)
    code = "from comosvc.runtime.cli.convert import main; main()"
    options = ["--provider", provider, *(["--plot", tmp_path / "a.png"] if provider == "cpu" else [])]
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.wav", "-o", tmp_path / "b.wav", "-m", bundle_path, *options],
        capture_output=True,
        text=True,
        env=homeless,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.wav").exists()


def test_the_home_folder_is_named_when_it_is_needed(bundle_path, monkeypatch):
    for name in ("COMOSVC_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    bundle = open_bundle(bundle_path)
    assert engine_folders(bundle, into_bundle=False) == []
    with pytest.raises(ComosvcError, match=r"(?s)no home folder.*hint: set COMOSVC_HOME"):
        _ = bundle.home


def test_where_things_are_kept(monkeypatch, tmp_path):
    for name in ("COMOSVC_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert comosvc_home() == tmp_path / ".cache" / "comosvc"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert comosvc_home() == cache_folder() == tmp_path / "xdg" / "comosvc"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert comosvc_home() == tmp_path / ".cache" / "comosvc"
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path / "own"))
    assert comosvc_home() == tmp_path / "own"
