"""Tests of runs that end early (Ctrl-C, SIGTERM, errors) and of runs inside a notebook's event loop."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from servers import wait_until
from support import instances

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.endings import COMMAND, again, ends_by_signal, same_command
from harness_ext.errors import Interrupted, RunFailed, Terminated
from harness_ext.models.baseline import BaselineLM


def test_ctrl_c_ends_the_run_at_once_and_keeps_finished_calls(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def slow(prompt: str) -> str:
        if prompt == "q20":
            wait_until(lambda: len(lm.session.store or ()) >= 20)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return f"re: {prompt}"

    # A test run in the background of a shell inherits "ignore" for SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    backend = ScriptedBackend(slow)
    lm = BaselineLM(student=backend, store=str(tmp_path / "s"), run_dir=tmp_path / "r", progress="off")
    asked = instances(f"q{i}" for i in range(400))
    with pytest.raises(KeyboardInterrupt):
        lm.generate_until(asked)
    assert lm.session.store is not None
    kept = len(lm.session.store)
    assert 20 <= kept < 400
    time.sleep(0.3)
    assert len(lm.session.store) == kept, "the interrupted run still makes calls"
    backend.reply = lambda prompt: f"re: {prompt}"
    sent = sum(len(batch) for batch in backend.calls)
    assert lm.generate_until(asked) == [f"re: q{i}" for i in range(400)]
    assert sum(len(batch) for batch in backend.calls) - sent == 400 - kept


def test_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    lm = BaselineLM(student=ScriptedBackend(lambda p: f"re: {p}"), store="off", run_dir=tmp_path / "r", progress="off")

    async def cell() -> list[str]:
        return lm.generate_until(instances(["a", "b"]))

    assert asyncio.run(cell()) == ["re: a", "re: b"]


def test_an_error_leaves_no_process_behind(tmp_path: Path) -> None:
    """If an error ends the run during a long call on another device, the process still ends, with that error."""
    script = textwrap.dedent("""
        import sys, time
        from support import instances, scripted_pair
        from harness_ext.models.feedback_pair import FeedbackPairLM

        def endless(prompt):
            time.sleep(3600)

        student, teacher = scripted_pair(lambda p: "draft" if "1" in p else endless(p), endless)
        def missing():
            raise OSError("no weights")
        teacher.load = missing
        lm = FeedbackPairLM(student=student, teacher=teacher, store="off", run_dir=sys.argv[1], progress="off")
        lm.generate_until(instances(["q1", "q2"]))
    """)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "r")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "LoadError: teacher could not be loaded: no weights" in ended.stderr


ENDING = """
    import os, signal, sys, time
    from pathlib import Path
    from support import instances
    from harness_ext.backends.scripted import ScriptedBackend
    from harness_ext.models.baseline import BaselineLM

    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def reply(prompt):
        if prompt == "q3" and number:
            for _ in range(2000):
                if len(lm.session.store) >= 3:
                    break
                time.sleep(0.01)
            os.kill(os.getpid(), number)
            for _ in range(6000):
                if student.cancelled():
                    break
                time.sleep(0.01)
        return f"re: {prompt}"

    student = ScriptedBackend(reply)
    lm = BaselineLM(student=student, store=str(folder / "s"), run_dir=folder / "r", budget="calls:99")
    print(lm.generate_until(instances(f"q{i}" for i in range(6))))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""


def end_by(number: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run six questions in a process that sends itself a signal (0: none) while it answers the fourth."""
    script = folder / "ending.py"
    script.write_text(textwrap.dedent(ENDING))
    return subprocess.run(
        [sys.executable, str(script), str(folder), str(int(number))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 143, "ended by SIGTERM"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_the_run_with_summary_and_one_line(tmp_path: Path, number: int, status: int, said: str) -> None:
    ended = end_by(number, tmp_path)
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if "the same command again" in line)
    advice, _, command = line.rpartition(": ")
    assert advice == (
        f"[harness-ext] {said}; everything finished is stored. Run the same command again to continue from here"
    )
    assert shlex.split(command) == ["python", str(tmp_path / "ending.py"), str(tmp_path), str(int(number))]
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    answered = summary["questions"]
    assert 3 <= answered < 6
    assert summary["unfinished"] == 6 - answered
    assert summary["budget"]["spent"] == answered

    resumed = end_by(0, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip() == str([f"re: q{i}" for i in range(6)])
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["questions"], summary["unfinished"]) == (6, 0)


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    class Dropped:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def drop() -> None:
        Dropped()
        time.sleep(60)  # which the signal ends

    with pytest.raises(Terminated), ends_by_signal():
        drop()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/venv/bin/lm_eval", "run", "--model", "a b"], "lm_eval run --model 'a b'"),
        (["lm-eval", "run"], "harness-ext lm-eval run"),  # as `harness-ext lm-eval` sets it
        (["/venv/lib/lm_eval/__main__.py", "run"], "lm_eval run"),
        (["/venv/bin/harness-ext", "enhance", "annotate"], "harness-ext enhance annotate"),
        (["/venv/lib/harness_ext/__main__.py", "enhance", "annotate"], "harness-ext enhance annotate"),
        (["/checkout/enhance/__main__.py", "annotate"], "harness-ext enhance annotate"),
        (["run_all.py", "7"], "python run_all.py 7"),
        (["-c", "7"], None),
    ],
)
def test_the_command_to_run_again(arguments: list[str], command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", *arguments])
    assert same_command() == command
    assert again("to go on") == "Run the same command again to go on" + (f": {command}" if command else "")


@pytest.mark.parametrize("command", ["harness-ext suite run study.yaml", None])
def test_a_process_that_does_a_part_names_the_command_of_the_whole(
    command: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/bin/harness-ext", "suite", "cell", "study.yaml", "0", "--parent", "7"])
    monkeypatch.setenv(COMMAND, command or "")
    assert same_command() == command


def test_in_a_notebook_there_is_no_command_to_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/lib/ipykernel_launcher.py", "-f", "/run/kernel.json"])
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    assert same_command() is None


@pytest.mark.parametrize(
    ("options", "needed"),
    [({"store": "off"}, True), ({"store": "off", "run_dir": "r"}, False), ({"store": "s"}, False)],
)
def test_without_a_store_the_run_directory_must_be_named(
    options: dict[str, str], needed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(prompt: str) -> str:
        raise ValueError("no")

    monkeypatch.chdir(tmp_path)
    lm = BaselineLM(student=ScriptedBackend(failing), progress="off", **options)
    with pytest.raises(RunFailed, match=r"Run the same command again .*to retry only these") as raised:
        lm.generate_until(instances(["q"]))
    assert (f"again with `run_dir={lm.session.run.path}` to retry" in str(raised.value)) == needed
    if needed:  # the advice is good
        answered = BaselineLM(
            student=ScriptedBackend(lambda prompt: "a"), progress="off", store="off", run_dir=lm.session.run.path
        )
        assert answered.generate_until(instances(["q"])) == ["a"]


def test_the_users_own_signal_handler_stays(request: pytest.FixtureRequest) -> None:
    def own(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))
    with ends_by_signal():
        assert signal.getsignal(signal.SIGTERM) is own
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(Terminated), ends_by_signal():  # noqa: PT012
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_sigterm_does_not_interrupt_the_end() -> None:
    """Below `srun torchrun`, a process gets the signal of Slurm, and then the same one from torchrun."""
    finished = False
    with pytest.raises(Terminated), ends_by_signal():  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            finished = True
    assert finished
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_signals_are_left_alone_in_other_threads_and_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def look() -> None:
        with ends_by_signal():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    look()
    assert seen == [signal.getsignal(signal.SIGTERM)] * 2
    with pytest.raises(KeyboardInterrupt) as raised, ends_by_signal():
        raise KeyboardInterrupt
    assert not isinstance(raised.value, Interrupted), "it would end the notebook's process"
