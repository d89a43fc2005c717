"""Tests of the run directory's lock: one writer at a time, freed by death, on every kind of file system."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from servers import wait_until

from harness_ext.enhance.row_files import Output
from harness_ext.errors import StoreError
from harness_ext.records import run_lock
from harness_ext.records.run_directory import RunDirectory
from harness_ext.records.run_lock import Holder, lock_run

CONFIG = {"identity": {"protocol": "P"}}
WRITER = """
import sys
from pathlib import Path
from harness_ext.records.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]), {"identity": {"protocol": "P"}}, int(sys.argv[2]), int(sys.argv[3]))
print("open", flush=True)
sys.stdin.read()
"""


class Writer:
    """Another process that has a run directory open."""

    def __init__(self, folder: Path, rank: int = 0, world: int = 1) -> None:
        self.program = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(rank), str(world)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.program.stdout is not None
        assert self.program.stdout.readline() == "open\n"

    def end(self, number: int | None = None) -> None:
        if number is not None:
            self.program.send_signal(number)
        self.program.communicate("")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    started = Writer(tmp_path)
    yield started
    started.end()


def test_a_second_process_is_refused_with_the_holders_host_and_number(tmp_path: Path, writer: Writer) -> None:
    with pytest.raises(StoreError, match=r"in use by process \d+ on .*run_dir=<folder>") as refused:
        RunDirectory(tmp_path, CONFIG)
    assert f"process {writer.program.pid} on {os.uname().nodename} " in str(refused.value)


@pytest.mark.parametrize("number", [None, signal.SIGKILL])
def test_the_end_of_a_process_frees_its_run_at_once(tmp_path: Path, writer: Writer, number: int | None) -> None:
    writer.end(number)
    RunDirectory(tmp_path, CONFIG)


def test_a_process_of_an_earlier_distributed_run_keeps_its_run(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path, CONFIG, 0, 2)
    second = Writer(tmp_path, 1, 2)  # a rank of the same run
    del first
    gc.collect()
    with pytest.raises(StoreError, match=f"process {second.program.pid} on"):
        RunDirectory(tmp_path, CONFIG)
    second.end(signal.SIGKILL)
    RunDirectory(tmp_path, CONFIG)


def test_a_run_is_freed_once_nothing_refers_to_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, CONFIG)
    again = RunDirectory(tmp_path, CONFIG)  # the same process
    del run
    gc.collect()
    lock = lock_run(tmp_path)
    assert lock.held
    del again, lock
    gc.collect()
    other = Writer(tmp_path)
    other.end()


def test_a_run_may_be_freed_by_the_thread_that_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector runs in any thread."""
    runs: list[RunDirectory] = []
    go, gone = threading.Event(), threading.Event()

    def drop(descriptor: int, over: threading.Event) -> None:
        go.wait()
        runs.clear()
        gone.set()

    with monkeypatch.context() as patched:
        patched.setattr(run_lock, "_renew", drop)
        runs.append(RunDirectory(tmp_path, CONFIG))
    go.set()
    gone.wait()
    Writer(tmp_path).end()


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom harness_ext.records.run_lock import lock_run\n"
        "lock = lock_run(Path(sys.argv[1]))\nchild = os.fork()\n"
        "if child: print(child, flush=True); os.kill(os.getpid(), 9)\n"
        "os.close(1); sys.stdin.read(); os._exit(0)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.wait()
    os.kill(child, 0)  # it still runs
    wait_until(lambda: _free(tmp_path))  # the fork's copy is closed as soon as it first runs
    parent.communicate("")


def _free(folder: Path) -> bool:
    try:
        lock_run(folder).release()
    except StoreError:
        return False
    return True


ELSEWHERE = Holder("other-host", 4711, "2026-01-01 00:00:00 +0000", "another machine", "t")


def held_elsewhere(folder: Path, holder: Holder = ELSEWHERE, age: float = 0.0) -> Path:
    """Write the lock's file of another host, on a network file system whose locks do not reach this host."""
    path = folder / ".writer.lock"
    path.write_text(json.dumps(asdict(holder)))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def as_time_passes(monkeypatch: pytest.MonkeyPatch, path: Path, event: Callable[[], None]) -> list[float]:
    """Let time pass by the file system's clock instead of sleeping, and call `event` after each step."""
    slept: list[float] = []
    monkeypatch.setattr(run_lock, "_age", lambda path: sum(slept))

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        event()

    monkeypatch.setattr(run_lock.time, "sleep", sleep)
    return slept


def test_a_run_on_another_host_is_refused_while_it_renews_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = held_elsewhere(tmp_path, replace(ELSEWHERE, host="other-host\x1b[2J"))
    as_time_passes(monkeypatch, path, lambda: os.utime(path, (1, 1)))
    with pytest.raises(StoreError, match="process 4711 on other-host"):
        RunDirectory(tmp_path, CONFIG)
    assert "was in use by process 4711 on other-host" in caplog.text
    assert "\x1b" not in caplog.text, "what another process has written does not control the terminal"


def test_a_run_that_was_killed_on_another_host_is_free_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = held_elsewhere(tmp_path)
    slept = as_time_passes(monkeypatch, path, lambda: None)
    RunDirectory(tmp_path, CONFIG)
    assert run_lock.STALE_AFTER <= sum(slept) <= run_lock.STALE_AFTER + run_lock.LOOK_EVERY


def test_a_run_that_ended_on_another_host_meanwhile_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = held_elsewhere(tmp_path)
    slept = as_time_passes(monkeypatch, path, lambda: os.truncate(path, 0))
    RunDirectory(tmp_path, CONFIG)
    assert len(slept) == 1


def test_an_old_lock_of_another_host_is_free_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_elsewhere(tmp_path, age=3600)
    monkeypatch.setattr(run_lock.time, "sleep", lambda seconds: pytest.fail("there is nothing to wait for"))
    RunDirectory(tmp_path, CONFIG)


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a file system that offers no locks."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_renewed_file_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = held_elsewhere(tmp_path, replace(Holder.current(), pid=4711))  # the same host
    as_time_passes(monkeypatch, path, lambda: os.utime(path, (1, 1)))
    with pytest.raises(StoreError, match="process 4711 on"):
        RunDirectory(tmp_path, CONFIG)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_one_of_two_that_start_together_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".writer.lock"
    monkeypatch.setattr(run_lock.time, "sleep", lambda seconds: path.write_text(json.dumps(asdict(ELSEWHERE))))
    with pytest.raises(StoreError, match="process 4711 on other-host"):
        RunDirectory(tmp_path, CONFIG)


def test_a_held_lock_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "RENEW_EVERY", 0.01)
    run = RunDirectory(tmp_path, CONFIG)
    path = tmp_path / ".writer.lock"
    os.utime(path, (1, 1))
    wait_until(lambda: path.stat().st_mtime > 1)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    del run


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}', "\xff", "[" * 4000])
def test_a_lock_file_with_other_content_is_free(tmp_path: Path, content: str) -> None:
    (tmp_path / ".writer.lock").write_bytes(content.encode("latin-1"))
    RunDirectory(tmp_path, CONFIG)


def test_the_lock_file_is_not_opened_through_a_symlink(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".writer.lock").symlink_to(target)
    with pytest.raises(StoreError, match="cannot be used"):
        RunDirectory(run, CONFIG)
    assert target.read_text() == "precious"


def test_an_output_of_rows_has_one_writer(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    script = (
        "import sys\nfrom pathlib import Path\nfrom harness_ext.enhance.row_files import Output\n"
        "with Output(Path(sys.argv[1]), {}): print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    with pytest.raises(StoreError, match=f"rows.jsonl in .* is in use by process {other.pid} "), Output(target, {}):
        pass
    other.kill()
    other.communicate()
    with Output(target, {}) as output:
        output.finish({})
    assert target.exists()
