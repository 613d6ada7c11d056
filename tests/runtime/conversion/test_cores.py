"""Calls side by side: really at once, each conversion unharmed, and the results those of one core."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
import soundfile

from comosvc.runtime import Converter, OptionError
from comosvc.runtime.conversion import cores as cores_module
from comosvc.runtime.conversion.calls import Call
from comosvc.runtime.conversion.cores import CorePool, check_threads, cpu_quota, threads_within_quota, usable_cores
from comosvc.runtime.conversion.stages import Clip, run, run_clips


class Meeting:
    """A graph whose calls return when two are under way, and fail when the other does not come."""

    def __init__(self):
        self.barrier = threading.Barrier(2)

    def run(self, inputs):
        if inputs["x"].min() < 0:
            raise ArithmeticError("negative")
        self.barrier.wait(timeout=10)
        return (2.0 * inputs["x"],)


class Alone:
    def run(self, inputs):
        return (3.0 * inputs["x"],)


def call(value, whole=False):
    return Call("graph", {"x": np.full((1, 2), value, np.float32)}, whole)


class Values:
    """A stage of calls that do not need each other."""

    def __init__(self, *values, whole=()):
        self.calls = [call(value, value in whole) for value in values]
        self.open, self.found = list(self.calls), {}

    def pending(self):
        return list(self.open)

    def take(self, call, reply):
        self.open.remove(call)
        self.found[call] = float(reply.outputs[0][0, 0])


def values_of(*values, **options):
    stage = Values(*values, **options)
    yield stage
    return [stage.found[call] for call in stage.calls]


def found(runner, *values, **options):
    return run(Clip(values_of(*values, **options)), runner)


@pytest.fixture
def cores():
    return CorePool({"graph": Alone()}, lambda _: Meeting(), cores=2)


def test_two_calls_run_at_once(cores):
    assert found(cores, 1, 2) == [2.0, 4.0]
    clips = run_clips([Clip(values_of(3)), Clip(values_of(4))], cores, 2)
    assert [clip.result for clip in clips] == [[6.0], [8.0]]


def test_one_call_has_all_cores_and_so_has_what_is_heard_as_a_whole(cores):
    assert found(cores, 1) == [3.0]
    assert found(cores, 1, 2, 3, whole=(1, 2)) == [3.0, 6.0, 9.0]


def test_less_than_half_of_the_cores_are_not_worth_it():
    cores = CorePool({"graph": Alone()}, lambda _: pytest.fail("opened"), cores=8)
    assert found(cores, 1, 2, 3) == [3.0, 6.0, 9.0]


def test_an_error_reaches_its_own_conversion_only():
    class Picky(Alone):
        def run(self, inputs):
            if inputs["x"].min() < 0:
                raise ArithmeticError("negative")
            return super().run(inputs)

    cores = CorePool({}, lambda _: Picky(), cores=2)
    good, bad = run_clips([Clip(values_of(1)), Clip(values_of(-1))], cores, 2)
    assert good.result == [3.0]
    for fails in (lambda: bad.result, lambda: found(cores, 1, -1)):
        with pytest.raises(ArithmeticError):
            fails()


def test_a_graph_is_opened_once_and_when_it_is_needed():
    opened = []
    cores = CorePool({"graph": Alone()}, lambda name: opened.append(name) or Alone(), cores=2)
    found(cores, 1)
    assert not opened
    for _ in range(2):
        found(cores, 1, 2)
    assert opened == ["graph"]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal can be sent to a thread here")
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_waits_for_the_calls_that_run_and_begins_no_other(times):
    """The interpreter, which ends next, would abort under a graph that runs."""
    begun, ended = [], []

    class Slow:
        def run(self, inputs):
            begun.append(number := len(begun))
            for _ in range(0 if number else times):
                time.sleep(0.1)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.2)
            ended.append(number)
            return (inputs["x"],)

    with pytest.raises(KeyboardInterrupt):
        found(CorePool({}, lambda _: Slow(), cores=2), *range(8))
    assert 1 <= len(begun) == len(ended) <= 2


LAST_THREAD = """
import sys, threading, time
import numpy as np
from comosvc.runtime import Converter, OptionError
from comosvc.runtime.conversion import cores as cores_module
converter = Converter(sys.argv[1], provider="cpu", threads=2)
clip = np.sin(np.arange(40 * 24_000) / 20.0).astype(np.float32)

def convert():
    threading.main_thread().join()
    print(len(converter.convert(clip, 24_000).audio))

threading.Thread(target=convert).start()
"""


def test_a_thread_that_outlives_the_main_one_converts_to_the_end(bundle_path):
    done = subprocess.run([sys.executable, "-c", LAST_THREAD, str(bundle_path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{40 * 24_000}\n", "")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pieces_run_side_by_side_in_a_forked_process_too():
    cores = CorePool({}, lambda _: Meeting(), cores=2)
    assert found(cores, 1, 2) == [2.0, 4.0]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(found(cores, 1, 2)), daemon=True)
    child.start()
    child.join(timeout=20)
    assert child.exitcode == 0
    assert queue.get() == [2.0, 4.0]


def test_a_voice_that_has_changed_since_is_an_error_of_each_file(bundle_path, song, tmp_path):
    voice, files = tmp_path / "voice", [tmp_path / "a.wav", tmp_path / "b.wav"]
    zipfile.ZipFile(bundle_path).extractall(voice)
    for file in files:
        soundfile.write(file, song, 24_000)
    with Converter(voice, provider="cpu", threads=2) as converter:
        (voice / "content.onnx").unlink()
        errors = [str(result.error) for result in converter.convert_many(files, tmp_path / "out")]
    assert len(errors) == 2
    assert all("content.onnx is missing" in error for error in errors)
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture
def opened(monkeypatch):
    """The names of graphs that were opened for single cores."""
    names = []
    real = CorePool.__init__
    monkeypatch.setattr(
        CorePool,
        "__init__",
        lambda self, graphs, open_graph, cores: real(self, graphs, lambda n: names.append(n) or open_graph(n), cores),
    )
    return names


@pytest.mark.parametrize("steps", [1, 4])
def test_a_long_clip_on_two_cores_is_that_of_one(bundle_path, song, opened, steps):
    clip = np.tile(song, 12)  # 32 s, with rests: not every piece has a call
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        wanted = converter.convert(clip, 24_000, steps=steps)
    assert not opened
    with Converter(bundle_path, provider="cpu", threads=2) as converter:
        found = converter.convert(clip, 24_000, steps=steps)
        again = converter.convert(clip, 24_000, steps=steps)
    assert set(opened) == {"content", "pitch", "acoustic", "vocoder", *(["acoustic_n"] if steps > 1 else [])}
    np.testing.assert_array_equal(found.audio, again.audio)
    for name in ("audio", "mel", "f0_hz"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-5)


def test_a_short_clip_does_not_open_graphs_again(bundle_path, song, opened):
    with Converter(bundle_path, provider="cpu", threads=2) as converter:
        converter.convert(np.tile(song, 10), 24_000)
    assert not opened


def test_files_share_the_cores(bundle_path, song, opened, tmp_path):
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, file in enumerate(files):
        soundfile.write(file, np.roll(song, 1_000 * number), 24_000, subtype="FLOAT")
    with Converter(bundle_path, provider="cpu", threads=2) as converter:
        for result in converter.convert_many(files, tmp_path / "out"):
            wanted = converter.convert(soundfile.read(result.source, dtype="float32")[0], 24_000).audio
            np.testing.assert_allclose(soundfile.read(result.output)[0], wanted, atol=1e-5)
    assert "vocoder" in opened


# --- how many


def groups(root, membership, **files):
    """A tree of control groups, and what the process is told of its own."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_max", ".max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    own = root / "membership"
    own.write_text(membership, "utf-8")
    return cpu_quota(own, root)


def test_the_quota_of_a_container_counts(tmp_path):
    assert groups(tmp_path, "0::/a/b\n", a__cpu_max="150000 100000\n", a__b__cpu_max="max 100000\n") == 1.5
    assert groups(tmp_path, "0::/c\n", c__cpu_max="max 100000\n") > 1_000
    assert groups(tmp_path, "0::/../outside\n", cpu_max="50000 100000\n") == 0.5  # a container's own is the root
    assert cpu_quota(tmp_path / "none", tmp_path) > 1_000  # another system


def test_the_quota_of_an_older_system_counts(tmp_path):
    for name, text in (("cpu.cfs_quota_us", "300000\n"), ("cpu.cfs_period_us", "100000\n")):
        path = tmp_path / "cpu" / "docker" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assert groups(tmp_path, "9:name=systemd:/\n4:cpu,cpuacct:/docker\n2:cpuset:/\n") == 3.0
    (tmp_path / "cpu" / "docker" / "cpu.cfs_quota_us").write_text("-1\n", "utf-8")
    assert groups(tmp_path, "4:cpu,cpuacct:/docker\n") > 1_000


def test_no_more_cores_are_used_than_the_quota_grants(monkeypatch):
    monkeypatch.setattr(cores_module, "cpu_quota", lambda: 0.5)
    assert usable_cores() == 1
    assert threads_within_quota(None) == 1
    assert threads_within_quota(3) == 3
    monkeypatch.setattr(cores_module, "cpu_quota", lambda: 1e9)
    assert threads_within_quota(None) is None
    assert 1 <= usable_cores() <= os.cpu_count()


@pytest.mark.parametrize(("quota", "wanted"), [(1e9, 3), (2.5, 3), (1.5, 2), (8.0, 3)])
def test_no_more_cores_are_used_than_the_affinity_allows(monkeypatch, quota, wanted):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 9}, raising=False)
    monkeypatch.setattr(cores_module, "cpu_quota", lambda: quota)
    assert usable_cores() == wanted


@pytest.mark.parametrize("threads", [5_000, 10**9, 0, -1, True, 1.5, "2", np.int64(5_000)])
def test_threads_have_an_upper_end(bundle_path, threads):
    with pytest.raises(OptionError, match=r"threads is .*; it must be a whole number from 1 to \d+, or None\nhint: "):
        Converter(bundle_path, threads=threads)


def test_as_many_threads_as_the_machine_has_cores_are_never_too_many(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 640)
    assert check_threads(np.int32(640)) == 640


@pytest.mark.parametrize("batch", [0, -1, 10**9, 2.5, True, "8"])
def test_batches_have_an_upper_end(converter, tmp_path, batch):
    with pytest.raises(OptionError, match=r"batch is .*; it must be a whole number from 1 to 256"):
        converter.convert_many([], tmp_path / "out", batch=batch)
    assert not (tmp_path / "out").exists()
