"""Files that appear whole or not at all, also where a process was killed."""

import signal
import subprocess
import sys
from contextlib import suppress

from comosvc.runtime.storage import Aside, remove_stale, replacing

CLEANS = """
import sys
from pathlib import Path
from comosvc.runtime.storage import remove_stale
print("ready", flush=True)
while True:
    remove_stale(Path(sys.argv[1]))
"""

HOLDS = """
import sys
from pathlib import Path
from comosvc.runtime.storage import Aside
aside = Aside(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), names(tmp_path)) == ("new", ["a.txt"])


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with suppress(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("new")
        raise ZeroDivisionError
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])


def test_the_longest_name_that_a_file_may_have_can_be_written(tmp_path):
    with replacing(tmp_path / ("x" * 255)) as partial:
        partial.write_text("new")
    assert names(tmp_path) == ["x" * 255]


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    (tmp_path / ".theirs.partial").write_text("of another program")
    live = Aside(tmp_path / "live.wav")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "a.wav")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        remove_stale(tmp_path)
        assert len(names(tmp_path)) == 3
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(names(tmp_path)) == 3
    remove_stale(tmp_path)
    assert names(tmp_path) == sorted([".theirs.partial", live.partial.name])
    live.discard()
    assert names(tmp_path) == [".theirs.partial"]


def test_files_are_not_taken_for_stale_before_they_are_locked_and_while_they_get_their_name(tmp_path):
    """Where many processes write into one folder, each of which removes what is stale when it starts."""
    with subprocess.Popen([sys.executable, "-c", CLEANS, str(tmp_path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(50):
                with replacing(tmp_path / "a.txt") as partial:
                    partial.write_text("new")
        finally:
            process.kill()
    assert names(tmp_path) == ["a.txt"]
