"""Tests of `<seat>.wait`: a server that is still starting is given time, and one that is not awaited is not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from servers import Server, free_port
from support import instances

from harness_ext.backends import http_client, waiting
from harness_ext.backends.waiting import Awaited
from harness_ext.errors import LoadError, RunFailed
from harness_ext.models.baseline import BaselineLM
from harness_ext.records.run_directory import read_transcripts

ASKED = {"until": [], "max_gen_toks": 8}
QUESTIONS = instances((f"q{n}" for n in range(8)), ASKED)
ANSWERS = [f"re: q{n}" for n in range(8)]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(waiting, "ASK_EVERY", 0.02)


def make(folder: Path, url: str, **options: Any) -> BaselineLM:
    given = {"store": "off", "run_dir": folder / "run", "progress": "off", "student": f"openai:m@{url}"}
    return BaselineLM(**{**given, **options})


def faults(folder: Path) -> list[str]:
    turns = [turn for transcript in read_transcripts(folder / "run") for turn in transcript.turns]
    return [fault for turn in turns for fault in turn.result.faults]


@pytest.mark.parametrize("status", ["http_503", "http_502", "connection"])
def test_a_server_that_is_loading_its_model_is_awaited(
    tmp_path: Path, status: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It fails more often than requests are retried, and no failure is counted."""
    left = iter([status] * 100)
    with Server(plan=lambda text: next(left, None)) as server:
        lm = make(tmp_path, server.url, **{"student.wait": 600, "student.max_retries": 1})
        assert lm.generate_until(QUESTIONS) == ANSWERS
        assert server.faults[status] == 100
    assert faults(tmp_path) == []
    said = capfd.readouterr().err
    assert said.count("does not answer yet") == 1
    assert "waiting for up to 600 s" in said
    assert said.count(" answers after ") == 1


def test_a_port_where_nobody_listens_yet_is_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, started = free_port(), threading.Event()
    server = Server()

    def say(line: str) -> None:
        if "does not answer yet" in line and not started.is_set():
            started.set()
            monkeypatch.setattr("aiohttp.web.TCPSite", _site_at(port))
            server.__enter__()

    monkeypatch.setattr(waiting, "note", say)
    try:
        lm = make(tmp_path, f"http://127.0.0.1:{port}/v1", **{"student.wait": 600})
        assert lm.generate_until(QUESTIONS) == ANSWERS
    finally:
        server.__exit__()
    assert started.is_set()
    assert faults(tmp_path) == []


def _site_at(port: int) -> Any:
    from aiohttp.web_runner import TCPSite

    return lambda runner, host, _: TCPSite(runner, host, port)


def test_a_server_that_is_not_awaited_is_given_up_soon(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(LoadError, match="no server answers at"):
        make(tmp_path, url).generate_until(QUESTIONS)
    with Server(plan=lambda text: "http_503") as server, pytest.raises(RunFailed):
        make(tmp_path / "2", server.url, **{"student.max_retries": 2}).generate_until(QUESTIONS)


def test_a_wait_ends(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(LoadError, match="no server answers at"):
        make(tmp_path, url, **{"student.wait": 0.1}).generate_until(QUESTIONS)


def test_once_started_a_server_is_not_awaited_again(tmp_path: Path) -> None:
    count = iter(range(10**6))
    with Server(plan=lambda text: None if next(count) == 0 else "http_503") as server:
        options = {"student.wait": 600, "student.max_retries": 2, "student.num_concurrent": 1}
        with pytest.raises(RunFailed, match="7 questions have no answer"):
            make(tmp_path, server.url, **options).generate_until(QUESTIONS)


def test_what_is_waited_for_and_what_is_said() -> None:
    now, said = [0.0], list[str]()
    server = Awaited("m", 40, lambda: now[0], said.append)
    assert server.pause("http_400", "no", False) is None
    assert server.pause("http_503", "loading", False) == 0.02
    for second in range(40):
        now[0] = float(second)
        assert server.pause("http_503", "loading", False) is not None
    assert [line.partition(";")[0] for line in said] == [
        "m does not answer yet (loading)",
        "m does not answer yet (loading), after 15 s of 40 s",
        "m does not answer yet (loading), after 30 s of 40 s",
    ]
    now[0] = 40.0
    assert server.pause("http_503", "loading", False) is None
    server.answered()
    assert said[-1] == "m answers after 40 s"
    assert server.pause("connection", "gone", True) is None
    assert server.pause("connection", "gone", False) == 0.02
