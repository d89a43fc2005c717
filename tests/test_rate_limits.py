"""Servers that limit their rate fail no question, and limits that the user sets are kept."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Server
from support import instances
from virtual_time import run

from harness_ext.backends import http_client as http
from harness_ext.backends.http_client import Client
from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.pacing import MOST_JITTER, Pace
from harness_ext.backends.pool import Pool, PoolServer
from harness_ext.engine.progress import Progress
from harness_ext.errors import CallFailed
from harness_ext.models.baseline import BaselineLM
from harness_ext.records import CallResult, Completion

PATH = "chat/completions"
LATENCY = 0.1
Answer = tuple[int, dict[str, str]]


class Session:
    """In place of an aiohttp session: a server that takes `LATENCY` seconds of virtual time.

    answer: called with the time and the request's body; returns status and headers.
    """

    def __init__(self, answer: Callable[[float, Any], Answer]) -> None:
        self.answer = answer
        self.sent: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.now = self.together = 0

    def post(self, url: str, data: bytes, allow_redirects: bool) -> Response:
        return Response(self, json.loads(data))


class Response:
    """One of its responses."""

    def __init__(self, session: Session, body: Any) -> None:
        self.session, self.body = session, body

    async def __aenter__(self) -> Response:
        session = self.session
        now = asyncio.get_running_loop().time()
        session.sent.append(now)
        self.status, self.headers = session.answer(now, self.body)
        session.statuses[self.status] += 1
        session.now += 1
        session.together = max(session.together, session.now)
        await asyncio.sleep(LATENCY)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.session.now -= 1

    async def read(self) -> bytes:
        return b'{"text": "good", "tokens": 30}' if self.status == 200 else b"slow down"


def limited(per_second: int, headers: Mapping[str, str], status: int = 429) -> Callable[[float, Any], Answer]:
    """Return a server that answers so many requests in each second."""
    answered: Counter[int] = Counter()

    def answer(now: float, body: Any) -> Answer:
        if answered[int(now)] >= per_second:
            return status, dict(headers)
        answered[int(now)] += 1
        return 200, {}

    return answer


def read(data: Any) -> CallResult:
    return Completion(data["text"], prompt_tokens=0, completion_tokens=data["tokens"])


def client(session: Session, pace: Pace, **options: Any) -> Client:
    server = PoolServer("http://server/v1", "model", pace, reached=options.pop("reached", False))
    given: dict[str, Any] = {"max_retries": 0, "timeout": 600.0, **options}
    return Client(session, pool=Pool([server]), **given)  # type: ignore[arg-type]


def ask(session: Session, count: int, pace: Pace | None = None, **options: Any) -> list[CallResult | BaseException]:
    """Return what becomes of so many requests at once; request `i` has the body `i`."""

    async def main() -> list[CallResult | BaseException]:
        made = client(session, pace or Pace(64), **options)
        calls = (made.post(PATH, json.dumps(i).encode(), read) for i in range(count))
        return await asyncio.gather(*calls, return_exceptions=True)

    return run(main())


@pytest.mark.parametrize("status", [429, 503])
def test_a_limit_of_two_requests_a_second_fails_no_question(status: int) -> None:
    session = Session(limited(2, {"Retry-After": "1"}, status))
    results = ask(session, 30)
    assert [r.text for r in results if isinstance(r, Completion)] == ["good"] * 30, "without a single retry"
    assert sum(len(r.faults) for r in results if isinstance(r, Completion)) == session.statuses[status]
    # 30 requests need 15 s at least; the client may take twice as long, and must not keep asking in vain.
    assert 14 <= session.sent[-1] <= 30
    # The first volley is refused as a whole. After that, no more than one request per answer is sent in vain.
    assert session.statuses[status] <= 28 + 30


def test_a_limit_without_retry_after_fails_no_question_either() -> None:
    session = Session(limited(2, {}))
    assert all(isinstance(result, Completion) for result in ask(session, 30))


def test_a_503_without_retry_after_is_a_fault() -> None:
    session = Session(lambda now, body: (503, {}))
    (failed,) = ask(session, 1, max_retries=2)
    assert isinstance(failed, CallFailed)
    assert failed.faults == ("http_503",) * 3


def test_a_server_that_refuses_everybody_is_given_up_after_max_wait() -> None:
    session = Session(lambda now, body: (429, {"Retry-After": "10"}))
    failures = ask(session, 5, max_wait=100.0)
    assert all(isinstance(f, CallFailed) and "`max_wait`, now 100 s" in str(f) for f in failures)
    assert session.sent[-1] <= 100 * (1 + MOST_JITTER)


def test_a_server_that_answers_somebody_is_waited_for() -> None:
    """One request a minute: the last of 20 waits for longer than `max_wait`, but the server goes on answering."""
    answered: set[int] = set()

    def answer(now: float, body: Any) -> Answer:
        if int(now // 60) in answered:
            return 429, {"Retry-After": "60"}
        answered.add(int(now // 60))
        return 200, {}

    session = Session(answer)
    assert all(isinstance(result, Completion) for result in ask(session, 20, max_wait=900.0))
    assert session.sent[-1] > 900


def test_a_server_that_turns_some_requests_down_for_another_reason_does_answer() -> None:
    """One 400 a minute and nothing else: that is no server that answers nobody."""
    seen: Counter[int] = Counter()

    def answer(now: float, body: Any) -> Answer:
        seen[int(now // 60)] += 1
        return (400, {}) if seen[int(now // 60)] == 1 else (429, {"Retry-After": "60"})

    failures = ask(Session(answer), 20, max_wait=900.0)
    assert all("refuses this request (HTTP 400" in str(failure) for failure in failures)


def test_a_request_that_alone_is_refused_for_ever_fails_alone() -> None:
    """OpenAI answers 429 also to a request with more tokens than it allows per minute."""
    session = Session(lambda now, body: (429, {"Retry-After": "20"}) if body == 3 else (200, {}))
    results = ask(session, 9, pace=Pace(2), max_wait=90.0)
    assert [isinstance(result, CallFailed) for result in results] == [i == 3 for i in range(9)]


def test_while_the_server_wants_to_be_left_alone_nothing_is_sent() -> None:
    session = Session(lambda now, body: (429, {"Retry-After": "7"}) if now == 0 else (200, {}))
    ask(session, 8, pace=Pace(4))
    refused = [sent for sent in session.sent if sent == 0]
    assert len(refused) == 4
    assert min(sent for sent in session.sent if sent > 0) >= 7
    assert max(session.sent) <= 7 * (1 + MOST_JITTER) + 4 * LATENCY + 1


def test_fewer_requests_are_sent_at_once_and_later_more_again() -> None:
    seen: list[int] = []

    async def main() -> None:
        pace = Pace(16)

        async def one() -> None:
            async with pace.turn(1):
                await asyncio.sleep(LATENCY)

        together = [asyncio.create_task(one()) for _ in range(16)]
        await asyncio.sleep(LATENCY / 2)
        loop = asyncio.get_running_loop()
        for _ in range(16):  # all of one volley are refused: one decrease
            pace.refused(sent=0.0, wait=1.0)
        seen.append(pace.allowed)
        await asyncio.gather(*together)
        async with pace.turn(1):
            pace.refused(sent=loop.time(), wait=1.0)
        seen.append(pace.allowed)
        answers = 0
        while pace.allowed < 16:
            pace.answered(1, 1)
            answers += 1
        seen.append(answers)

    run(main())
    assert seen[0] == 8
    assert seen[1] < 8
    assert 16 < seen[2] <= 16 * 17 / 2, "the number grows by one per volley"


@given(st.lists(st.sampled_from(["answered", "refused"]), max_size=60), st.integers(1, 100))
def test_there_is_always_room_for_one_and_never_for_more_than_the_most(events: list[str], most: int) -> None:
    async def main() -> None:
        pace = Pace(most)
        for event in events:
            if event == "answered":
                pace.answered(1, None)
            else:
                pace.refused(sent=asyncio.get_running_loop().time(), wait=0)
            assert 1 <= pace.allowed <= most

    run(main())


def test_requests_per_minute() -> None:
    async def main() -> Session:
        session = Session(lambda now, body: (200, {}))
        made = client(session, Pace(64, requests_per_minute=30))
        await asyncio.gather(*(made.post(PATH, b"0", read) for _ in range(20)))
        return session

    session = run(main())
    assert len(session.sent) == 20
    assert all(after - before >= 1.99 for before, after in pairwise(session.sent))


def test_tokens_per_minute() -> None:
    """Each request spends 30 tokens where 300 were estimated: what is left over is used."""

    async def main() -> Session:
        session = Session(lambda now, body: (200, {}))
        made = client(session, Pace(4, tokens_per_minute=600))
        await asyncio.gather(*(made.post(PATH, b"0", read, tokens=300) for _ in range(60)))
        return session

    session = run(main())
    minutes = session.sent[-1] / 60
    assert 60 * 30 / 600 - 1 <= minutes <= 2 * 60 * 30 / 600
    # What was estimated for those in flight comes on top of what is spent.
    for start in session.sent:
        spent = 30 * sum(start <= sent < start + 60 for sent in session.sent)
        assert spent <= 600 * 1.4 + 4 * 300


# -- the whole way -----------------------------------------------------------------------------------------------------


def make(tmp_path: Path, url: str, **options: Any) -> BaselineLM:
    given: dict[str, Any] = {"store": "off", "run_dir": tmp_path / "r", "progress": "off", "student": f"openai:m@{url}"}
    return BaselineLM(**{**given, **options})


def test_a_run_against_a_server_that_refuses_two_of_three_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT", 0.001)
    count = iter(range(10**6))
    with Server(plan=lambda text: None if next(count) % 3 == 0 else "http_429", headers={"retry-after-ms": "1"}) as s:
        lm = make(tmp_path, s.url, **{"student.max_retries": 0})
        answers = lm.generate_until(instances((f"q{i}" for i in range(30)), {"until": [], "max_gen_toks": 8}))
    assert answers == [f"re: q{i}" for i in range(30)]
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["faults"] == dict(s.faults)


def test_the_progress_line_shows_how_many_requests_are_sent_at_once() -> None:
    backend = make_openai_backend("m@http://h/v1", {"num_concurrent": 8})
    progress = Progress(1, {backend: "student"}, terminal=False, stream=io.StringIO())
    assert "at once" not in progress.status()

    async def main() -> None:
        (pace,) = backend._paces
        async with pace.turn(1):
            pace.refused(sent=0.0, wait=1.0)

    run(main())
    assert "student limited to 1 of 8 requests at once" in progress.status()


def test_a_connection_has_a_time_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import aiohttp

    made: list[aiohttp.ClientTimeout] = []
    init = aiohttp.ClientSession.__init__

    def spy(self: aiohttp.ClientSession, **options: Any) -> None:
        made.append(options["timeout"])
        init(self, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", spy)

    async def main() -> None:
        async with make_openai_backend("m@http://h/v1", {"connect_timeout": 3, "timeout": 90}).connect():
            pass

    asyncio.run(main())
    assert [(timeout.connect, timeout.total) for timeout in made] == [(3.0, 90.0)]


def test_a_connection_that_takes_too_long_is_no_slow_reply() -> None:
    import aiohttp

    def answer(now: float, body: Any) -> Answer:
        raise aiohttp.ConnectionTimeoutError

    session = Session(answer)
    (failed,) = ask(session, 1, connect_timeout=3.0, reached=True)
    assert isinstance(failed, CallFailed)
    assert failed.faults == ("connection",)
    assert "no connection within 3 s" in str(failed)
