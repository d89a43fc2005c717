"""Servers that the cells of a study share: the job that runs one, and the runs that find its address in a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_support import fake_model, fake_server, is_running, spec_of, starts
from servers import wait_until
from support import instances

from harness_ext.errors import LoadError
from harness_ext.models.baseline import BaselineLM
from harness_ext.serving.shared import Address, SharedServer, servers_shared

# `suite serve`, which looks at the queue often.
SERVE = """
import sys
from harness_ext.suite import slurm_servers
from harness_ext.suite.command import main
slurm_servers.LOOK_EVERY = 0.1
sys.exit(main(["serve", sys.argv[1]]))
"""
QUESTIONS = instances(["one", "two"], {"until": ["\n\n"], "max_gen_toks": 8})


def queue(folder: Path, *lines: str) -> None:
    """Put a stand-in for squeue into a folder that prints these lines."""
    program = folder / "squeue"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}|'\n" for line in lines))
    program.chmod(0o755)


class Job:
    """A job that serves a model, and the folder of its submission.

    address: the file that says where the server is.
    model: the model file.
    process: the process of the job.
    """

    def __init__(self, folder: Path, **behaviour: Any) -> None:
        self.model = fake_model(folder, **behaviour)
        self.arguments = {"serve.binary": str(fake_server(folder))}
        self.address = folder / "server-1.address.json"
        queue(folder, "42|0|RUNNING|None|0|42")
        content = {"model": f"serve:{self.model}", "arguments": self.arguments, "users": ["cells-1"]}
        (folder / "server-1.json").write_text(json.dumps({**content, "address": str(self.address)}))
        (folder / "jobs.json").write_text(json.dumps({"server-1": "41", "cells-1": "42"}))
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURMD_NODENAME": "127.0.0.1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(folder / "server-1.json")],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def starts_serving(self) -> Address:
        """Wait until the address is known, and return it."""
        wait_until(lambda: self.address.exists() or self.process.poll() is not None, 240)
        found = Address.read(self.address)
        assert found is not None, self.process.communicate()
        return found

    def run(self, folder: Path) -> list[str]:
        """Answer two questions in a run that uses the server, and return the answers."""
        arguments = {"student": f"serve:{self.model}", "student.max_retries": 1, "store": "off", "progress": "off"}
        arguments |= {f"student.{name}": value for name, value in self.arguments.items()}
        with servers_shared({"student": self.address}):
            return BaselineLM(**arguments, run_dir=folder).generate_until(QUESTIONS)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    found = Job(tmp_path)
    yield found
    found.process.kill()
    found.process.communicate()
    wait_until(lambda: not any(is_running(start["pid"]) for start in starts(found.model)), 60)


def test_runs_share_a_server_that_ends_with_the_last_job(job: Job, tmp_path: Path) -> None:
    address = job.starts_serving()
    assert job.address.stat().st_mode & 0o077 == 0, "it contains the key"
    assert len(address.key) > 30
    for number in (1, 2):
        assert job.run(tmp_path / f"run-{number}") == ["re: one", "re: two"]
        written = "".join(path.read_text(errors="replace") for path in (tmp_path / f"run-{number}").glob("*.json*"))
        assert address.key not in written
        assert address.url not in written, "records do not depend on where it was"
    (start,) = starts(job.model)
    assert start["arguments"][start["arguments"].index("--host") + 1] == "0.0.0.0"
    assert address.key not in start["arguments"]
    assert job.process.poll() is None
    queue(tmp_path)
    out, err = job.process.communicate(timeout=240)
    assert job.process.returncode == 0, err
    assert address.key not in out + err + (tmp_path / "server-1.log").read_text()
    assert not job.address.exists()
    assert not is_running(start["pid"])


def test_a_job_that_is_asked_to_end_takes_its_address_back(job: Job) -> None:
    job.starts_serving()
    job.process.send_signal(signal.SIGTERM)
    _, err = job.process.communicate(timeout=240)
    assert job.process.returncode == 143, err
    assert not job.address.exists()


def test_a_server_that_ends_by_itself_ends_its_job_and_its_runs(job: Job, tmp_path: Path) -> None:
    address = job.starts_serving()
    shared = SharedServer(spec_of(tmp_path, job.model), job.address)
    assert shared.ready() == (address.url, address.name)
    assert shared.ended() is None
    os.kill(starts(job.model)[0]["pid"], signal.SIGKILL)
    _, err = job.process.communicate(timeout=240)
    assert job.process.returncode == 1
    assert "although the run still needs it" in err
    assert "although the run still needs it" in (shared.ended() or "")
    with pytest.raises(LoadError, match="although the run still needs it"):
        shared.ready()


def test_a_run_waits_for_a_server_that_is_still_starting(tmp_path: Path) -> None:
    path = tmp_path / "address.json"
    shared = SharedServer(spec_of(tmp_path, fake_model(tmp_path), deadline=0.5), path)
    with pytest.raises(LoadError, match="has not made it answer within"):
        shared.ready()
    Address("http://127.0.0.1:9/v1", "name").write(path)  # of a job that has ended without taking it back
    with pytest.raises(LoadError, match="has not made it answer within"):
        shared.ready()


def test_a_server_is_not_waited_for_any_longer_once_the_run_is_interrupted(tmp_path: Path) -> None:
    from harness_ext.errors import RunAborted

    (cancelled := threading.Event()).set()
    with pytest.raises(RunAborted):
        SharedServer(spec_of(tmp_path, fake_model(tmp_path)), tmp_path / "address.json").ready(cancelled)


def test_a_server_that_was_not_described_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness_ext.suite.command import main

    assert main(["serve", str(tmp_path / "nothing.json")]) == 1
    assert "describes no server" in capsys.readouterr().err


FAILS = """
import sys
from harness_ext.errors import LoadError
from harness_ext.suite import evaluating
from harness_ext.suite.command import main

class Evaluator:
    def run(self, cell, folders):
        raise LoadError("nobody answers")

evaluating.Evaluator = Evaluator
sys.exit(main(sys.argv[1:]))
"""


def test_a_cell_whose_server_is_gone_is_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm may preempt the server and not the cell. A server that was cancelled does not come back."""
    from test_suite_slurm import write

    study = {"tasks": ["a"], "settings": {"pair": {"model": "feedback_pair"}}}
    path, (cell,), folders = write(tmp_path, study)
    address = tmp_path / "server-1.address.json"
    content = {"study": str(path), "tasks": [[cell.digest]], "servers": {cell.digest: {"teacher": str(address)}}}
    (tmp_path / "cells-1.json").write_text(json.dumps(content))
    command = [sys.executable, "-c", FAILS, "task", str(tmp_path / "cells-1.json"), "0"]
    (tmp_path / "jobs.json").write_text('{"server-1": "41"}')
    queue(tmp_path, "41|N/A|PENDING|BeginTime|1|41")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def status() -> int:
        return subprocess.run(command, check=False, capture_output=True, env=environment).returncode

    assert status() == 143
    queue(tmp_path)
    assert status() == 1
    queue(tmp_path, "41|N/A|RUNNING|None|1|41")
    Address("http://127.0.0.1:9/v1", "name").write(address)
    assert status() == 1
    attempt = folders.of(cell).attempt
    assert attempt is not None
    assert attempt.number == 3
