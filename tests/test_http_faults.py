"""Tests with a server that misbehaves: every question finishes exactly once, and each fault is counted."""

from __future__ import annotations

import email.utils
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from servers import FAULTS, Server, chances, completion, free_port
from support import instances

from harness_ext.backends import http_client as http
from harness_ext.errors import LoadError, RunFailed
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records.run_directory import read_transcripts

ASKED = {"until": [], "max_gen_toks": 8}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT", 0.01)


def make(tmp_path: Path, url: str, **options: Any) -> BaselineLM:
    given: dict[str, Any] = {"store": "off", "run_dir": tmp_path / "r", "progress": "off", "student": f"openai:m@{url}"}
    return BaselineLM(**{**given, **options})


def summary(path: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return written


def test_a_fifth_of_all_requests_of_each_seat_fails(tmp_path: Path) -> None:
    """60 questions with draft, review, refinement and second review get all 240 replies despite all kinds of faults."""

    def reply(text: str) -> str:
        if "student" not in text:
            return f"better {len(text)}" if "found a mistake" in text else f"draft {text}"
        return "Correct." if "better" in text else "Incorrect.\nHint: Look again."

    with Server(reply, chances(0.2, seed=3)) as server:
        spec = f"openai:m@{server.url}"
        lm = FeedbackPairLM(
            student=spec, teacher=spec, store=str(tmp_path / "s"), run_dir=tmp_path / "r", progress="off",
            verdict="text",
            **{f"{seat}.{n}": v for seat in ("student", "teacher") for n, v in (("timeout", 5), ("max_retries", 30))},
        )  # fmt: skip
        answers = lm.generate_until(instances((f"q{i}" for i in range(60)), ASKED))
    assert all(answer.startswith("better") for answer in answers)
    transcripts = list(read_transcripts(tmp_path / "r"))
    assert len(transcripts) == 60
    assert [[t.kind for t in transcript.turns] for transcript in transcripts] == [
        ["draft", "review", "refine", "review"]
    ] * 60
    found = summary(tmp_path / "r")
    assert set(server.faults) == set(FAULTS)
    # On a busy machine, a good reply may also come too late, and is asked for again.
    late = found["faults"]["timeout"] - server.faults["timeout"]
    assert late >= 0
    assert {**found["faults"], "timeout": server.faults["timeout"]} == dict(server.faults)
    assert (found["answered"], found["failed"], found["unfinished"]) == (60, 0, 0)
    assert len(server.requests) == 240 + server.faults.total() + late
    assert 240 <= sum(server.answered.values()) <= 240 + late


def test_faults_count_once_even_if_replies_are_reused(tmp_path: Path) -> None:
    with Server(plan=chances(0.5, ("http_500", "bad_json"), seed=1)) as server:
        for run in "12":
            lm = make(tmp_path, server.url, store=str(tmp_path / "s"), run_dir=tmp_path / run)
            lm.generate_until(instances((f"q{i}" for i in range(20)), ASKED))
        assert summary(tmp_path / "1")["faults"] == dict(server.faults)
        assert summary(tmp_path / "2")["faults"] == {}


def test_only_a_question_whose_attempts_all_fail_is_lost_and_it_is_asked_again(tmp_path: Path) -> None:
    with Server(plan=lambda text: "http_503" if text == "q3" else None) as server:
        options = {"student.max_retries": 2, "store": str(tmp_path / "s")}
        with pytest.raises(RunFailed, match=r"document 3: .*HTTP 503: .*failed attempts: http_503 3×"):
            make(tmp_path, server.url, **options).generate_until(instances((f"q{i}" for i in range(6)), ASKED))
        assert summary(tmp_path / "r")["faults"] == {"http_503": 3}
        assert summary(tmp_path / "r")["answered"] == 5
        server.plan = lambda text: None
        asked = len(server.requests)
        again = make(tmp_path, server.url, **options)
        assert again.generate_until(instances((f"q{i}" for i in range(6)), ASKED)) == [f"re: q{i}" for i in range(6)]
        assert len(server.requests) == asked + 1
        assert summary(tmp_path / "r")["failed"] == 0


def test_the_server_decides_how_long_to_wait(tmp_path: Path) -> None:
    times: list[float] = []

    def plan(text: str) -> str | None:
        times.append(time.monotonic())
        return "http_429" if len(times) == 1 else None

    with Server(plan=plan, headers={"Retry-After": "0.5"}) as server:
        make(tmp_path, server.url).generate_until(instances(["a"], ASKED))
    assert times[1] - times[0] >= 0.5


def test_an_unreasonable_wait_fails_the_call(tmp_path: Path) -> None:
    with Server(plan=lambda _: "http_429", headers={"Retry-After": "86400"}) as server:
        lm = make(tmp_path, server.url)
        with pytest.raises(RunFailed, match="asks to wait 86400 s"):
            lm.generate_until(instances(["a"], ASKED))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({}, None, None),
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": " 2.5 "}, 2.5, 2.5),
        ({"Retry-After": "-3"}, None, None),
        ({"Retry-After": "soon"}, None, None),
        ({"Retry-After": "nan"}, None, None),
        ({"retry-after-ms": "250"}, 0.25, 0.25),
        ({"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)}, 0, 101),
        ({"Retry-After": email.utils.formatdate(0, usegmt=True)}, 0, 0),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], least: float | None, most: float | None) -> None:
    found = http.retry_after(headers)
    assert found is None if least is None or most is None else found is not None and least <= found <= most


def test_waits_grow_to_a_minute_and_differ() -> None:
    for attempts in range(1, 40):
        waits = {http.backoff(attempts) for _ in range(20)}
        limit = min(60.0, 0.01 * 2.0 ** (attempts - 1))
        assert all(limit / 2 <= wait <= limit for wait in waits)
        assert len(waits) > 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"error": {"message": "Incorrect API key"}}, "is the key in the environment the right one"),
        (404, {"error": {"message": "The model `m` does not exist"}}, "does not exist"),
        (402, {}, "refuses every request"),
        (429, {"error": {"code": "insufficient_quota"}}, "insufficient_quota"),
        (307, {}, "has moved to elsewhere"),
    ],
)
def test_errors_that_concern_every_request_end_the_run_at_once(
    tmp_path: Path, status: int, body: dict[str, Any], words: str
) -> None:
    with Server(lambda _: body, status=status, headers={"Location": "elsewhere"}) as server:
        lm = make(tmp_path, server.url, **{"student.num_concurrent": 1})
        with pytest.raises(LoadError, match=words):
            lm.generate_until(instances((f"q{i}" for i in range(50)), ASKED))
    assert len(server.requests) < 5
    assert summary(tmp_path / "r")["unfinished"] == 50


def test_an_address_without_a_server_ends_the_run(tmp_path: Path) -> None:
    lm = make(tmp_path, f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(
        LoadError, match=r"no server answers at http://127.0.0.1:\d+/v1/chat/completions.*Is it running"
    ):
        lm.generate_until(instances((f"q{i}" for i in range(50)), ASKED))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("This model's maximum context length is 8 tokens", "overflow"),
        ("the request exceeds the available context size, try increasing it", "overflow"),
        ("unknown field `stop`", "backend"),
    ],
)
def test_a_refused_request_fails_alone_and_is_not_retried(tmp_path: Path, message: str, code: str) -> None:
    with Server(lambda _: {"error": {"message": f"{message}\x1b[2J\n\x07"}}, status=400) as server:
        lm = make(tmp_path, server.url)
        with pytest.raises(RunFailed, match=message) as raised:
            lm.generate_until(instances(["a", "b"], ASKED))
    assert len(server.requests) == 2
    assert summary(tmp_path / "r")["failures"] == {code: 2}
    assert "\x1b" not in str(raised.value)
    assert "\x07" not in str(raised.value)


HOSTILE: list[Any] = [
    [], 7, None, True, {}, {"choices": None}, {"choices": {}}, {"choices": [None]}, {"choices": [[]]},
    {"choices": [{}]}, {"choices": [{"message": None}]}, {"choices": [{"message": {"content": 7}}]},
    {"choices": [{"message": {"content": [None]}}]}, {"choices": "abc"}, {"error": {"message": "overloaded"}},
]  # fmt: skip


def test_malformed_replies_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question gets every one of them once, and then a reply."""
    monkeypatch.setattr(http, "LONGEST_WAIT", 0.02)
    met: Counter[str] = Counter()

    def reply(text: str) -> Any:
        met[text] += 1
        return (
            HOSTILE[met[text] - 1] if met[text] <= len(HOSTILE) else completion("fine", {"messages": [{"content": ""}]})
        )

    with Server(reply) as server:
        lm = make(tmp_path, server.url, **{"student.max_retries": len(HOSTILE)})
        assert lm.generate_until(instances(["a", "b"], ASKED)) == ["fine", "fine"]
    assert sum(summary(tmp_path / "r")["faults"].values()) == 2 * len(HOSTILE)
    assert len(server.requests) == 2 * (len(HOSTILE) + 1)


def test_malformed_usage_is_unknown(tmp_path: Path) -> None:
    def reply(text: str) -> dict[str, Any]:
        usage: dict[str, Any] = {"a": None, "b": {}, "c": {"prompt_tokens": "many", "completion_tokens": -1}}
        return {"choices": [{"message": {"content": "x"}}], "usage": usage[text]}

    with Server(reply) as server:
        lm = make(tmp_path, server.url)
        assert lm.generate_until(instances("abc", ASKED)) == ["x"] * 3
    assert summary(tmp_path / "r")["usage"]["student"]["total"]["prompt_tokens"] is None


def test_an_error_cancels_requests_in_flight(tmp_path: Path) -> None:
    """An error that ends the run (here a full disk) does not wait for a server that hangs."""
    with Server(plan=lambda text: "timeout" if text != "q0" else None) as server:
        lm = make(tmp_path, server.url)

        def full(transcript: Any) -> None:
            raise OSError("disk full")

        lm.session.run.add = full  # type: ignore[method-assign]
        # If the run waited for its requests, pytest's own time limit of 300 s would end the test.
        with pytest.raises(OSError, match="disk full"):
            lm.generate_until(instances((f"q{i}" for i in range(9)), ASKED))
