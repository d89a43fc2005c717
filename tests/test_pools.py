"""Tests of several servers of one model: who gets a request, and what happens when a server fails and comes back."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Server, free_port, wait_until
from support import instances
from virtual_time import run

from harness_ext.backends import http_client, pool
from harness_ext.backends.http_client import Client
from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.openai_options import split_name
from harness_ext.backends.pacing import Pace
from harness_ext.backends.pool import SLACK, Pool, PoolServer
from harness_ext.backends.waiting import Awaited
from harness_ext.errors import CallFailed, ConfigurationError, LoadError
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records import CallResult, Completion

PATH = "chat/completions"
ASKED = {"until": [], "max_gen_toks": 8}


class Farm:
    """In place of an aiohttp session: servers in virtual time.

    latency: seconds that each of them takes.

    Those named in `down` refuse connections and break those that they have. Those in `busy` limit their rate, and
    those in `broken` answer nonsense. `got` lists time, server and body of each request, `answered` counts the replies
    by body.
    """

    def __init__(self, **latency: float) -> None:
        self.latency = latency
        self.down: set[str] = set()
        self.busy: set[str] = set()
        self.broken: set[str] = set()
        self.got: list[tuple[float, str, Any]] = []
        self.answered: Counter[Any] = Counter()
        self.models: dict[str, list[str]] = defaultdict(lambda: ["m"])
        self.looks: Counter[str] = Counter()

    def post(self, url: str, data: bytes, allow_redirects: bool) -> Response:
        name, body = url.split("/")[2], json.loads(data)
        self.got.append((asyncio.get_running_loop().time(), name, body))
        return Response(self, name, body)

    def get(self, url: str, timeout: Any, allow_redirects: bool) -> Response:
        self.looks[url.split("/")[2]] += 1
        return Response(self, url.split("/")[2], None)

    def pool(self, most: int = 100) -> Pool:
        servers = [PoolServer(f"http://{name}/v1", name, Pace(most)) for name in self.latency]
        return Pool(servers, "m", self)  # type: ignore[arg-type]

    def client(self, servers: Pool, **options: Any) -> Client:
        return Client(self, **{"max_retries": 4, "timeout": 600.0, "pool": servers, **options})  # type: ignore[arg-type]

    def to(self, name: str, after: float = -1.0) -> list[Any]:
        """Return the bodies that a server got."""
        return [body for when, server, body in self.got if server == name and when > after]


class Response:
    """One of their responses."""

    def __init__(self, farm: Farm, name: str, body: Any) -> None:
        self.farm, self.name, self.body = farm, name, body

    async def __aenter__(self) -> Response:
        self._check()
        busy = self.name in self.farm.busy and self.body is not None
        self.status, self.headers = (429, {"Retry-After": "60"}) if busy else (200, {})
        await asyncio.sleep(self.farm.latency[self.name])
        self._check()
        return self

    def _check(self) -> None:
        if self.name in self.farm.down:
            raise aiohttp.ServerDisconnectedError

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self) -> bytes:
        if self.body is None:
            return json.dumps({"data": [{"id": model} for model in self.farm.models[self.name]]}).encode()
        if self.name in self.farm.broken:
            return b"{}"
        if self.status == 200:
            self.farm.answered[self.body] += 1
        return b'{"text": "good"}'


def read(data: Any) -> CallResult:
    return Completion(data["text"])


async def ask_all(client: Client, bodies: Sequence[int], every: float = 0.0) -> list[CallResult | BaseException]:
    """Return what becomes of requests that are sent one after the other."""

    async def one(body: int) -> CallResult:
        await asyncio.sleep(every * body)
        return await client.post(PATH, json.dumps(body).encode(), read)

    return await asyncio.gather(*map(one, bodies), return_exceptions=True)


# -- who gets a request ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_the_server_with_the_fewest_requests_gets_the_next(events: list[tuple[bool, int]]) -> None:
    """Requests begin and end in any order; each begins at a server that has no more than any other."""

    async def main() -> None:
        servers = Farm(a=1, b=1, c=1).pool()
        open_ones: list[Any] = []
        for begins, which in events:
            before = {server: server.outstanding for server in servers.servers}
            if begins:
                turn = servers.turn("", 1, ())
                server = await turn.__aenter__()
                open_ones.append(turn)
                assert before[server] == min(before.values())
            elif open_ones:
                await open_ones.pop(which % len(open_ones)).__aexit__(None, None, None)
        for turn in open_ones:
            await turn.__aexit__(None, None, None)
        assert all(server.outstanding == 0 for server in servers.servers)

    run(main())


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 40))
def test_a_question_stays_with_its_server_until_that_is_down(turns: list[int], fails_at: int) -> None:
    async def main() -> None:
        servers = Farm(a=1, b=1, c=1).pool()
        homes: dict[int, PoolServer] = {}
        for number, question in enumerate(turns):
            if number == fails_at:
                servers.servers[0].up = False
            async with servers.turn(str(question), 1, ()) as server:
                if question in homes and homes[question].up:
                    assert server is homes[question]
                assert server.up
                homes[question] = server

    run(main())


def test_a_question_leaves_a_server_that_has_far_more_to_do_than_another() -> None:
    async def main() -> list[str]:
        servers = Farm(a=1, b=1).pool()
        a, b = servers.servers
        asked = []
        for a.outstanding, b.outstanding in ((0, 0), (SLACK, 0), (SLACK + 1, 0), (SLACK, 0), (30, 15), (31, 15)):
            async with servers.turn("q", 1, ()) as server:
                asked.append(server.name)
            if asked == ["a", "a", "b", "b"]:
                servers._homes["q"] = a
        return asked

    assert run(main()) == ["a", "a", "b", "b", "a", "b"]


def test_servers_limit_their_rates_each_for_itself() -> None:
    """One of them wants to be left alone for a minute, and the other one answers everything in the meantime."""
    farm = Farm(a=0.1, b=0.1)
    farm.busy = {"a"}

    async def main() -> list[CallResult | BaseException]:
        async with farm.pool(4) as servers:
            return await ask_all(farm.client(servers), range(40), every=0.05)

    results = run(main())
    assert all(isinstance(result, Completion) for result in results)
    assert sum(len(result.faults) for result in results if isinstance(result, Completion)) == len(farm.to("a"))
    assert farm.got[-1][0] < 60
    assert set(farm.answered.values()) == {1}


# -- when a server fails -----------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_costs_nothing_but_what_it_was_doing(capfd: pytest.CaptureFixture[str]) -> None:
    farm = Farm(a=1.0, b=1.0)

    async def main() -> list[CallResult | BaseException]:
        async with farm.pool(8) as servers:
            asking = asyncio.create_task(ask_all(farm.client(servers), range(600), every=0.1))
            await asyncio.sleep(9.95)
            farm.down = {"b"}
            await asyncio.sleep(10)
            farm.down = set()
            return await asking

    results = run(main())
    found = [result for result in results if isinstance(result, Completion)]
    assert [result.text for result in found] == ["good"] * 600
    assert set(farm.answered.values()) == {1}, "no reply was paid twice"
    faults = [fault for result in found for fault in result.faults]
    assert len(faults) == len(farm.got) - 600, "each failed attempt is counted"
    assert set(faults) == {"connection"}
    assert len(faults) <= 8, "those in flight fail; after that nothing is sent there"
    assert not [when for when, name, _ in farm.got if name == "b" and 11.0 < when < 19.95]
    assert len(farm.to("b", after=30.0)) > 100, "it takes part again"
    said = capfd.readouterr().err
    assert said.count("b does not answer") == said.count("b is there again") == 1


def test_probes_of_a_dead_server_become_rare() -> None:
    farm = Farm(a=0.1, b=0.1)

    async def main() -> None:
        async with farm.pool() as servers:
            farm.down = {"b"}
            await ask_all(farm.client(servers), range(1000), every=1.0)

    run(main())
    assert 1000 / pool.LONGEST_PROBE < farm.looks["b"] < 2 * 1000 / pool.LONGEST_PROBE
    assert len(farm.to("b")) == 1


def test_a_request_that_every_server_fails_is_given_up_and_takes_none_down() -> None:
    farm = Farm(a=0.1, b=0.1)

    async def main() -> tuple[list[CallResult | BaseException], list[bool]]:
        async with farm.pool() as servers:

            def broken(data: Any) -> CallResult:
                raise KeyError("choices")

            failing = farm.client(servers, max_retries=3).post(PATH, b"0", broken)
            return await asyncio.gather(failing, return_exceptions=True), [s.up for s in servers.servers]

    (failure,), up = run(main())
    assert isinstance(failure, CallFailed)
    assert failure.faults == ("bad_reply",) * 4
    assert up == [True, True]
    assert [name for _, name, _ in farm.got] == ["a", "b"] * 2, "each attempt goes to the other server"


def test_a_server_that_answers_nonsense_at_once_does_not_attract_everything() -> None:
    farm = Farm(a=0.01, b=1.0)
    farm.broken = {"a"}

    async def main() -> list[CallResult | BaseException]:
        async with farm.pool() as servers:
            return await ask_all(farm.client(servers), range(1000), every=0.1)

    results = run(main())
    assert all(isinstance(result, Completion) for result in results)
    assert sum(len(result.faults) for result in results if isinstance(result, Completion)) == len(farm.to("a"))
    assert len(farm.to("a")) < 40, "three each time it is taken back, which becomes rare"


def test_servers_that_are_not_there_at_the_start_are_not_asked() -> None:
    farm = Farm(a=0.1, b=0.1)
    farm.down = {"b"}

    async def main() -> list[CallResult | BaseException]:
        async with farm.pool() as servers:
            return await ask_all(farm.client(servers), range(20))

    assert all(isinstance(result, Completion) and not result.faults for result in run(main()))
    assert farm.to("b") == []


def test_if_none_is_there_the_run_ends() -> None:
    farm = Farm(a=0.1, b=0.1)
    farm.down = {"a", "b"}

    async def main() -> list[CallResult | BaseException]:
        async with farm.pool() as servers:
            return await ask_all(farm.client(servers), [0])

    (failure,) = run(main())
    assert isinstance(failure, LoadError)
    assert "no server answers at http://a/v1/chat/completions, http://b/v1/chat/completions" in str(failure)


def test_servers_that_are_still_starting_are_awaited() -> None:
    """With `wait`, nothing is a fault until one of them has answered."""
    farm = Farm(a=0.1, b=0.1)
    farm.down = {"a", "b"}

    async def main() -> list[CallResult | BaseException]:
        servers = farm.pool()
        for server in servers.servers:
            loop = asyncio.get_running_loop()
            server.awaited = Awaited(server.name, 100, clock=loop.time, say=lambda line: None)
        async with servers:
            asking = asyncio.create_task(ask_all(farm.client(servers, max_retries=1), range(20)))
            await asyncio.sleep(40)
            farm.down = {"b"}
            return await asking

    results = run(main())
    assert all(isinstance(result, Completion) and not result.faults for result in results)
    assert farm.got[-1][0] < 60


def test_a_server_with_another_model_is_refused() -> None:
    farm = Farm(a=0.1, b=0.1)
    farm.models["b"] = ["x", "y"]

    async def main() -> None:
        async with farm.pool():
            pytest.fail("it was accepted")

    with pytest.raises(LoadError, match=r"b has no model of this name, only x, y: give all servers .*--alias"):
        run(main())


def test_a_server_that_comes_back_with_another_model_is_not_taken_back() -> None:
    farm = Farm(a=0.1, b=0.1)

    async def main() -> list[CallResult | BaseException]:
        async with farm.pool() as servers:
            farm.down, farm.models["b"] = {"b"}, ["x"]
            await ask_all(farm.client(servers), range(3))
            farm.down = set()
            return await ask_all(farm.client(servers), range(3, 60), every=1.0)

    assert all(isinstance(result, Completion) for result in run(main()))
    assert len(farm.to("b")) == 1
    assert farm.looks["b"] > 2


# -- the whole way -----------------------------------------------------------------------------------------------------


def make(folder: Path, *servers: Server, **options: Any) -> BaselineLM:
    spec = "+".join(server.url for server in servers)
    given = {"store": "off", "run_dir": folder, "progress": "off", "student.revision": "w"}
    return BaselineLM(**{**given, "student": f"openai:m@{spec}", **options})


def test_a_pool_answers_as_one_server_does_and_survives_the_death_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(pool, "FIRST_PROBE", 0.01)
    monkeypatch.setattr(pool, "LONGEST_PROBE", 0.05)
    asked = instances((f"q{n}" for n in range(400)), ASKED)
    with Server() as alone:
        expected = make(tmp_path / "1", alone).generate_until(asked)
    with Server() as a, Server() as b:
        before: list[int] = []

        def plan(text: str) -> None:
            """Kill the other server after 20 replies, and start it again after 40."""
            done = sum(a.answered.values())
            if done == 20 and not before:
                b.__exit__()
                before.append(sum(b.answered.values()))
            if done == 40 and len(before) == 1:
                looks = b.looks
                b.__enter__()
                before.append(looks)
                wait_until(lambda: b.looks > looks, 60)  # the client has noticed that it is there again

        a.plan = plan
        lm = make(tmp_path / "2", a, b, **{"student.num_concurrent": 4})
        assert lm.generate_until(asked) == expected
        assert lm.plan.seats["student"].backend.num_concurrent == 8  # type: ignore[attr-defined]
        assert sum(b.answered.values()) > before[0] + 20, "it takes part again"
    found = json.loads((tmp_path / "2" / "summary.json").read_text())
    assert set(found["faults"]) <= {"connection"}
    assert found["faults"].get("connection", 0) <= 8
    assert sum(a.answered.values()) + sum(b.answered.values()) <= 400 + found["faults"].get("connection", 0)
    assert (found["answered"], found["failed"]) == (400, 0)


def test_all_turns_of_a_question_go_to_one_server(tmp_path: Path) -> None:
    def reply(text: str) -> str:
        return "Incorrect.\nHint: Look again." if "student" in text else f"draft {len(text)}"

    with Server(reply) as a, Server(reply) as b:
        lm = FeedbackPairLM(
            student=f"openai:m@{a.url}+{b.url}", teacher=f"openai:m@{a.url}+{b.url}", max_rounds=3, verdict="text",
            store="off", run_dir=tmp_path / "r", progress="off",
            **{"student.revision": "w", "teacher.revision": "w"},
        )  # fmt: skip
        lm.generate_until(instances((f"<question {n}>" for n in range(SLACK)), ASKED))
        where: dict[int, set[str]] = defaultdict(set)
        for server in (a, b):
            for body in server.requests:
                for n in range(SLACK):
                    if f"<question {n}>" in json.dumps(body["messages"]):
                        where[n].add(server.url)
    assert {len(urls) for urls in where.values()} == {1}
    assert len(where) == SLACK
    assert len({url for urls in where.values() for url in urls}) == 2
    assert len(a.requests) + len(b.requests) >= 3 * SLACK, "drafts, reviews and refinements"


def test_a_pool_with_a_dead_address_works(tmp_path: Path) -> None:
    with Server() as a:
        lm = make(tmp_path / "r", a, student=f"openai:m@{a.url}+http://127.0.0.1:{free_port()}/v1")
        assert lm.generate_until(instances("xy", ASKED)) == ["re: x", "re: y"]
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["faults"] == {}


def test_a_pool_shares_the_store_with_every_server_of_the_same_revision(tmp_path: Path) -> None:
    with Server() as a, Server() as b:
        for number, servers in enumerate(([a], [a, b], [b])):
            make(tmp_path / f"{number}", *servers, store=str(tmp_path / "s")).generate_until(instances("x", ASKED))
        assert len(a.requests) + len(b.requests) == 1


def test_a_pool_needs_a_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="several servers need `revision=<name of the weights>`"):
        BaselineLM(student="openai:m@http://a/v1+http://b/v1", store="off", run_dir=tmp_path / "r", progress="off")


@pytest.mark.parametrize(
    "spec",
    [
        "m@http://a/v1,http://b/v1", "m@[http://a/v1,http://b/v1]", "m@http://a/v1;http://b/v1",
        "m@http://a/v1|http://b/v1", "m@[http://a/v1", "m@http://a/v1+http://b/v1,http://c/v1",
    ],
)  # fmt: skip
def test_several_addresses_in_another_form_are_refused_with_the_remedy(spec: str) -> None:
    with pytest.raises(ValueError, match=rf"^`{re.escape(spec)}` contains .* addresses of several servers by `\+`"):
        make_openai_backend(spec, {"revision": "w"})


def test_addresses_of_a_pool() -> None:
    assert split_name("m@http://a:1/v1+https://b/v1/chat/completions") == ("m", ("http://a:1/v1", "https://b/v1"))
    assert split_name("m@http://a/v1+x") == ("m", ("http://a/v1+x",)), "a path may contain the sign"
    with pytest.raises(ValueError, match="names a server twice"):
        split_name("m@http://a/v1+http://a/v1/")
    with pytest.raises(ValueError, match="is not an address"):
        split_name("m@http://a/v1+http://b:99999/v1")


def test_lm_evals_command_line_passes_a_pool_on() -> None:
    from lm_eval.utils import simple_parse_args_string

    spec = "openai:m@http://a:8000/v1+http://b:8000/v1"
    assert simple_parse_args_string(f"teacher={spec},teacher.revision=w") == {"teacher": spec, "teacher.revision": "w"}


def test_addresses_that_lm_eval_has_divided_at_commas_are_refused_with_the_remedy(tmp_path: Path) -> None:
    from lm_eval.utils import simple_parse_args_string

    divided = simple_parse_args_string("student=openai:m@http://a.x:8000/v1,http://b.x:8000/v1,student.revision=w")
    with pytest.raises(ConfigurationError, match=r"`http://b.x:8000/v1` is an address .* of several servers by `\+`"):
        BaselineLM(**divided, store="off", run_dir=tmp_path / "r", progress="off")
