"""Seats that are asked through a batch API: few batches, each paid for once, and what becomes of those that fail."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer
from servers import completion
from support import instances, scripted_pair

from harness_ext.analysis.estimate import make_report, render
from harness_ext.analysis.sampling import Sampler
from harness_ext.backends import batch_api, batch_client, batch_lines
from harness_ext.backends.batch_lines import custom_id, read_lines, request_line, split
from harness_ext.backends.batch_records import Records
from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.errors import ConfigurationError, HarnessExtError, LoadError, StoreError
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.debate import DebateLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.self_consistency import SelfConsistencyLM
from harness_ext.records.run_directory import read_transcripts

GEN = {"until": ["\n\n"], "max_gen_toks": 64}
SEAT = {"teacher.batch": "on", "teacher.batch_poll": 0.02, "teacher.price_in": 1, "teacher.price_out": 10}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "SETTLE", 0.0)


def options(tmp_path: Path, run: str = "run", **more: Any) -> dict[str, Any]:
    return {"store": str(tmp_path / "store"), "run_dir": tmp_path / run, "progress": "off", **more}


def student(prompt: str) -> str:
    return f"It is {'two' if 'Incorrect' in prompt else 'one'} of {prompt.split()[0]}"


def teacher(text: str) -> str:
    return "Correct." if "two of" in text else "Incorrect.\nHint: count again."


def questions(count: int) -> list[Any]:
    return instances([f"q{i} has how many?" for i in range(count)], GEN)


def pair(server: BatchServer, tmp_path: Path, count: int = 12, run: str = "run", **more: Any) -> tuple[Any, list[str]]:
    """Run feedback_pair with a teacher that is asked in batches; return the model and its answers."""
    mine, _ = scripted_pair(student, teacher)
    given = {**SEAT, **options(tmp_path, run), **more}
    given = {"verdict": "text", "max_rounds": 3, **given}
    lm = FeedbackPairLM(student=mine, teacher=f"openai:m@{server.url}", **given)
    return lm, lm.generate_until(questions(count))


def summary(lm: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((lm.session.run.path / "summary.json").read_text())
    return found


def records(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "store" / "batches").glob("*.json"))


def alone(server: BatchServer, tmp_path: Path, count: int = 8, run: str = "run", **more: Any) -> Any:
    given = {"student.batch": "on", "student.batch_poll": 0.02, **options(tmp_path, run), **more}
    lm = BaselineLM(student=f"openai:m@{server.url}", **given)
    lm.answers = lm.generate_until(questions(count))
    return lm


def test_there_are_as_many_batches_as_turns(tmp_path: Path) -> None:
    with BatchServer(teacher) as server:
        lm, answers = pair(server, tmp_path)
    assert server.problems == []
    assert [batch["request_counts"]["total"] for batch in server.batches] == [12, 12]
    assert server.direct == 0
    assert set(server.paid.values()) == {1}
    assert all("two of" in answer for answer in answers)
    usage = summary(lm)["usage"]["teacher"]["total"]
    assert usage["batched_completion_tokens"] == usage["completion_tokens"] > 0
    full = (usage["prompt_tokens"] + 10 * usage["completion_tokens"]) / 1e6
    assert usage["price"] == pytest.approx(full / 2)
    assert summary(lm)["events"]["batched"] == 24
    assert summary(lm)["usage"]["student"]["total"]["batched_prompt_tokens"] == 0
    assert records(tmp_path) == []


def test_a_window_is_a_batch(tmp_path: Path) -> None:
    with BatchServer(teacher) as server:
        pair(server, tmp_path, 12, window=4)
    assert all(batch["request_counts"]["total"] == 4 for batch in server.batches)
    assert len(server.batches) == 6


def test_replies_are_those_of_single_requests(tmp_path: Path) -> None:
    with BatchServer(teacher) as server:
        _, batched = pair(server, tmp_path / "a")
        _, single = pair(server, tmp_path / "b", **{"teacher.batch": "off"})
    assert batched == single
    assert server.direct == 24


def decided(text: str) -> dict[str, Any]:
    """Return the teacher's reply with the probabilities of its first token."""
    data = completion(teacher(text), {"messages": [{"content": text}]})
    yes = 0.9 if "two of" in text else 0.2
    tops = [{"token": token, "logprob": math.log(p)} for token, p in (("Yes", yes), ("No", 1 - yes))]
    data["choices"][0]["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops}]}
    return data


def test_decisions_are_in_batches_once_one_of_them_has_succeeded(tmp_path: Path) -> None:
    with BatchServer(decided) as server:
        lm, batched = pair(server, tmp_path / "a", verdict="decision")
        sizes = [batch["request_counts"]["total"] for batch in server.batches]
        assert server.direct == 1
        _, single = pair(server, tmp_path / "b", verdict="decision", **{"teacher.batch": "off"})
    assert server.problems == []
    assert sizes[0] == 12  # eleven decisions, and the review of the question that was decided first
    turns = [turn for one in read_transcripts(lm.session.run.path) for turn in one.turns if turn.seat == "teacher"]
    assert sum(sizes) == len(turns) - 1
    assert sum("batched" in turn.notes for turn in turns) == sum(sizes)
    cost = lm.plan.seats["teacher"].cost
    assert sum(cost.usage(turn).batched_prompt_tokens == cost.usage(turn).prompt_tokens for turn in turns) == sum(sizes)
    assert batched == single
    assert all("two of" in answer for answer in batched)


def test_two_seats_in_batches_do_not_wait_for_each_other(tmp_path: Path) -> None:
    def reply(text: str) -> str:
        return "Answer: 1"

    with BatchServer(reply) as server:
        agents = {f"agent{n}": f"openai:m{n}@{server.url}" for n in (1, 2)}
        batch = {f"agent{n}.{k}": v for n in (1, 2) for k, v in {"batch": "on", "batch_poll": 0.02}.items()}
        lm = DebateLM(**agents, **batch, topology="all", max_rounds=1, **options(tmp_path))
        assert len(lm.generate_until(questions(5))) == 5
    assert server.problems == []
    assert {batch["request_counts"]["total"] for batch in server.batches} == {5}


def test_draws_of_one_prompt_are_told_apart_without_seeds(tmp_path: Path) -> None:
    rng = random.Random(1)
    with BatchServer(lambda text: f"Answer: {rng.random()}") as server:
        given = {"student.batch": "on", "student.batch_poll": 0.02, "student.omit": "seed"}
        lm = SelfConsistencyLM(student=f"openai:m@{server.url}", k=5, **given, **options(tmp_path))
        lm.generate_until(questions(3))
    assert server.problems == []
    assert [batch["request_counts"]["total"] for batch in server.batches] == [15]
    found = [t.text for one in read_transcripts(lm.session.run.path) for t in one.turns]
    assert len(set(found)) == 15


def test_a_budget_counts_half_the_price(tmp_path: Path) -> None:
    with BatchServer(teacher) as server:
        lm, _ = pair(server, tmp_path, 2, **{"student.price_in": 0, "student.price_out": 0}, budget="price:5")
    total = summary(lm)["usage"]["teacher"]["total"]
    assert summary(lm)["budget"]["spent"] == pytest.approx(total["price"])


def test_a_discount_of_its_own(tmp_path: Path) -> None:
    with BatchServer(teacher) as server:
        lm, _ = pair(server, tmp_path, 2, **{"teacher.batch_discount": 0.25})
    usage = summary(lm)["usage"]["teacher"]["total"]
    assert usage["price"] == pytest.approx(0.75 * (usage["prompt_tokens"] + 10 * usage["completion_tokens"]) / 1e6)


def test_an_estimate_asks_without_batches_and_reckons_with_them(tmp_path: Path) -> None:
    with BatchServer(teacher) as server:
        mine, _ = scripted_pair(student, teacher)
        seat = {**SEAT, "student.price_in": 0, "student.price_out": 0}
        lm = FeedbackPairLM(
            student=mine, teacher=f"openai:m@{server.url}", verdict="text", max_rounds=3, **seat, **options(tmp_path)
        )
        sampler = Sampler(lm, 3)
        sampler.install()
        lm.generate_until(questions(12))
    report = make_report(sampler)
    assert server.batches == []
    assert server.direct == 6
    costs = report["seats"]["teacher"]
    full = costs["prompt_tokens"]["value"] + 10 * costs["completion_tokens"]["value"]
    assert costs["price"]["value"] == pytest.approx(full / 2 / 1e6)
    assert report["batches"] == {"teacher": 2}
    assert "`teacher` is asked in batches, each within 24 hours, which are not counted: up to 2 one" in render(report)


# -- limits -------


def test_large_windows_are_divided_among_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "MOST_REQUESTS", 5)
    with BatchServer() as server:
        lm = alone(server, tmp_path, 12)
    assert sorted(batch["request_counts"]["total"] for batch in server.batches) == [2, 5, 5]
    assert list(lm.answers) == [f"re: q{i} has how many?" for i in range(12)]


def test_files_are_no_larger_than_allowed() -> None:
    rng = random.Random(2)
    for most_bytes in (400, 1000, 5000):
        lines = {str(i): b"x" * rng.randint(1, 400) for i in range(200)}
        parts = list(split(lines, 7, most_bytes))
        assert [name for part in parts for name in part] == list(lines)
        assert all(len(part) <= 7 and sum(len(lines[n]) for n in part) <= most_bytes for part in parts)
        full = [sum(len(lines[n]) for n in part) + len(lines[rest[0]]) for part, rest in itertools.pairwise(parts)]
        assert all(len(part) == 7 or size > most_bytes for part, size in zip(parts, full, strict=False))


def test_a_request_that_fits_into_no_file_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "MOST_BYTES", 2000)
    with BatchServer() as server:
        given = {"student.batch": "on", "student.batch_poll": 0.02, "on_failure": "score", **options(tmp_path)}
        lm = BaselineLM(student=f"openai:m@{server.url}", **given)
        found = lm.generate_until(instances(["short", "x" * 3000], GEN))
    assert found[0] == "re: short"
    assert summary(lm)["failures"] == {"backend": 1}


def test_batches_shrink_until_the_server_begins_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with BatchServer(ending=lambda number: "token_limit_exceeded" if number < 2 else "completed") as server:
        lm = alone(server, tmp_path, 8)
    assert len(lm.answers) == 8
    assert set(server.paid.values()) == {1}
    sizes = [batch["request_counts"]["total"] for batch in server.batches if batch["end"] == "completed"]
    assert sum(sizes) == 8
    assert max(sizes) <= 4
    assert "holds too many tokens at once: batches of 4 requests follow" in capsys.readouterr().err
    assert summary(lm)["faults"].keys() == {"batch_failed"}


# -- what goes wrong ------


def test_requests_of_an_expired_batch_are_in_the_next_one(tmp_path: Path) -> None:
    with BatchServer(ending=lambda number: "expired" if number == 0 else "completed") as server:
        lm = alone(server, tmp_path, 8)
    assert [batch["request_counts"]["total"] for batch in server.batches] == [8, 4]
    assert set(server.paid.values()) == {1}
    assert summary(lm)["faults"] == {"batch_expired": 4}
    assert records(tmp_path) == []


def test_a_cancelled_batch_ends_the_run_and_the_next_one_sends_the_rest(tmp_path: Path) -> None:
    with BatchServer(ending=lambda number: "cancelled" if number == 0 else "completed") as server:
        with pytest.raises(HarnessExtError, match="batch_0 was cancelled at"):
            alone(server, tmp_path, 8)
        assert len(server.batches) == 1
        lm = alone(server, tmp_path, 8, "again")
        assert [batch["request_counts"]["total"] for batch in server.batches] == [8, 4]
        alone(server, tmp_path, 8, "third")
    assert len(server.batches) == 2
    assert set(server.paid.values()) == {1}
    assert lm.answers == [f"re: q{i} has how many?" for i in range(8)]


def test_a_batch_that_cannot_begin_ends_the_run(tmp_path: Path) -> None:
    said = r"refuses the batch batch_0 \(invalid_model: no\): leave out `batch=on`"
    with BatchServer(ending=lambda number: "invalid_model") as server, pytest.raises(LoadError, match=said):
        alone(server, tmp_path)
    assert records(tmp_path) == []


def _changed(what: str) -> Callable[[int, str, dict[str, Any]], list[Any]]:
    """Return lines that are wrong in one way, for every second request of the first batch."""

    def line(number: int, text: str, line: dict[str, Any]) -> list[Any]:
        if number or int(text.split()[0][1:]) % 2:
            return [line]
        forged = completion("forged", {"messages": [{"content": ""}]})
        other = {**line, "response": {**line["response"], "body": forged}}
        return {
            "missing": [],
            "500": [{**line, "response": {"status_code": 500, "body": {"error": {"message": "oops"}}}}],
            "429": [{**line, "response": {"status_code": 429, "body": {"error": {"message": "slow"}}}}],
            "malformed": [{**line, "response": {"status_code": 200, "body": {"choices": [{}]}}}],
            "nothing": [{**line, "response": {"status_code": 200, "body": None}}],
            "no json": [b"\xff{not json\n"],
            "hostile code": [{**line, "response": None, "error": {"code": "\x1b[31m'; DROP", "message": "x\ny"}}],
            "twice": [line, other],
            "strange": [{**other, "custom_id": "../../etc/passwd"}, {**other, "custom_id": 7}, [], line],
        }[what]

    return line


@pytest.mark.parametrize(
    ("what", "faults"),
    [
        ("missing", {"batch_missing": 4}),
        ("500", {"http_500": 4}),
        ("429", {"http_429": 4}),
        ("malformed", {"bad_reply": 4}),
        ("nothing", {"bad_reply": 4}),
        ("no json", {"batch_missing": 4}),
        ("hostile code", {"batch_error": 4}),
        ("twice", {}),
        ("strange", {}),
    ],
)
def test_lines_that_are_no_replies(
    tmp_path: Path, what: str, faults: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    with BatchServer(line=_changed(what)) as server:
        lm = alone(server, tmp_path, 8)
    assert lm.answers == [f"re: q{i} has how many?" for i in range(8)]
    assert summary(lm)["faults"] == faults
    assert [batch["request_counts"]["total"] for batch in server.batches][1:] == ([4] if faults else [])
    said = capsys.readouterr().err
    assert ("of which the first reply counts" in said) == (what in ("twice", "strange", "no json"))


def test_a_request_that_the_server_refuses_fails_alone(tmp_path: Path) -> None:
    def line(number: int, text: str, line: dict[str, Any]) -> list[Any]:
        if not text.startswith("q3"):
            return [line]
        return [{**line, "response": {"status_code": 400, "body": {"error": {"message": "context length exceeded"}}}}]

    with BatchServer(line=line) as server:
        lm = alone(server, tmp_path, 8, on_failure="score")
    assert summary(lm)["failures"] == {"overflow": 1}
    assert len(server.batches) == 1


def test_a_request_that_never_succeeds_is_given_up(tmp_path: Path) -> None:
    with BatchServer(line=lambda number, text, line: [line] if text[1] != "3" else []) as server:
        lm = alone(server, tmp_path, 5, on_failure="score", **{"student.max_retries": 2})
    assert summary(lm)["failures"] == {"backend": 1}
    assert summary(lm)["faults"] == {"batch_missing": 3}
    assert [batch["request_counts"]["total"] for batch in server.batches] == [5, 1, 1]


def test_outages_are_waited_for_and_make_no_second_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second request to the batch API fails, some of those that make a batch after it was made."""
    from harness_ext.backends import http_client

    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    rng = random.Random(3)
    with BatchServer(teacher) as server:
        server.plan = lambda point: rng.choice([None, None, 500, 503, 429])
        create, made = server._create, Counter[str]()

        async def created(request: Any) -> Any:
            response = await create(request)
            made["batches"] += 1
            if made["batches"] == 1:
                request.transport.abort()
            return response

        server._create = created  # type: ignore[method-assign]
        _, answers = pair(server, tmp_path)
    assert sum(server.faults.values()) > 3
    assert [batch["request_counts"]["total"] for batch in server.batches] == [12, 12]
    assert set(server.paid.values()) == {1}
    assert all("two of" in answer for answer in answers)


def test_a_server_without_a_batch_api_is_named(tmp_path: Path) -> None:
    for status, words in ((404, "refuses every request"), (500, "HTTP 500: .* 1 times")):
        with BatchServer() as server:
            server.plan = lambda point, status=status: status  # type: ignore[misc]
            with pytest.raises(LoadError, match=f"{words}.*leave out `batch=on`"):
                alone(server, tmp_path, run=str(status), **{"student.max_retries": 0})


@pytest.mark.parametrize("name", ["..", "../models", "a/b", "a?b", "x\n", "", None, 7])
def test_names_that_a_server_gives_cannot_change_an_address(name: Any) -> None:
    with pytest.raises(ValueError, match="which is no name"):
        batch_api.name_in({"id": name}, "id")


# -- records ------


def test_what_an_earlier_run_was_refused_is_sent_again(tmp_path: Path) -> None:
    """Its cause, such as an empty account, may have been put right since."""
    refused = {"response": {"status_code": 402, "body": {"error": {"message": "insufficient_quota"}}}}
    with BatchServer(
        line=lambda number, text, line: [line if number or text[1] == "0" else {**line, **refused}]
    ) as server:
        with pytest.raises(LoadError, match="refuses every request"):
            alone(server, tmp_path, 4)
        lm = alone(server, tmp_path, 4, "again")
    assert lm.answers == [f"re: q{i} has how many?" for i in range(4)]
    assert set(server.paid.values()) == {1}
    assert len(server.batches) == 2


def test_the_latest_of_several_batches_counts(tmp_path: Path) -> None:
    with BatchServer(ending=lambda number: "cancelled" if number < 2 else "completed") as server:
        for run in ("a", "b"):
            with pytest.raises(HarnessExtError, match="was cancelled"):
                alone(server, tmp_path, 8, run)
        lm = alone(server, tmp_path, 8, "c")
    assert [batch["request_counts"]["total"] for batch in server.batches] == [8, 4, 2]
    assert set(server.paid.values()) == {1}
    assert lm.answers == [f"re: q{i} has how many?" for i in range(8)]


def test_a_batch_that_the_server_has_forgotten_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with BatchServer(ending=lambda number: "cancelled") as server:
        with pytest.raises(HarnessExtError):
            alone(server, tmp_path)
        server.batches.clear()
        with pytest.raises(
            LoadError, match=r"does not know the batch batch_0 .* or delete .*json to send its 8 requests"
        ):
            alone(server, tmp_path, run="again")
        records(tmp_path)[0].unlink()
        assert len(alone_completed(server, tmp_path).answers) == 8


def alone_completed(server: BatchServer, tmp_path: Path) -> Any:
    server.ending = lambda number: "completed"
    return alone(server, tmp_path, run="third")


def test_a_damaged_record_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "store" / "batches").mkdir(parents=True)
    (tmp_path / "store" / "batches" / "a.json").write_text('{"id": "a"')
    with BatchServer() as server, pytest.raises(StoreError, match=r"a\.json cannot be read .* or delete it"):
        alone(server, tmp_path)
    assert server.batches == []


def test_a_batch_belongs_to_one_running_process(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from harness_ext.backends.batch_records import Records\n"
        "mine = Records(pathlib.Path(sys.argv[1]), 'u', 'm'); print(mine.add('/v1/x', ['a']).id, flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        mine = Records(tmp_path, "u", "m")
        (record,) = mine.left()
        assert record.id == name
        assert mine.take(record) is None
        other.kill()
    assert mine.take(record) == record
    assert mine.left() == []  # it is this process's own now
    assert Records(tmp_path, "u", "another").left() == Records(tmp_path, "v", "m").left() == []
    mine.remove(record)
    assert list(tmp_path.iterdir()) == []


def test_old_batches_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchServer(ending=lambda number: "cancelled" if number == 0 else "completed") as server:
        with pytest.raises(HarnessExtError):
            alone(server, tmp_path, 4)
        monkeypatch.setattr(batch_client, "FORGOTTEN_AFTER", -1.0)
        alone(server, tmp_path, 4, "again")
    assert records(tmp_path) == []


def test_without_a_store_records_are_in_the_run_directory(tmp_path: Path) -> None:
    with BatchServer(ending=lambda number: "cancelled" if number == 0 else "completed") as server:
        for _ in range(2):
            try:
                lm = alone(server, tmp_path, 8, store="off")
            except HarnessExtError:
                assert len(list((tmp_path / "run" / "batches").glob("*.json"))) == 1
    assert len(lm.answers) == 8
    assert set(server.paid.values()) == {1}


# -- lines --------


def test_custom_ids_are_those_of_other_runs_and_fit() -> None:
    names = {custom_id(p, b, d) for p in ("a", "b") for b in (b"", b"0", b"00") for d in (0, 1, 10)}
    assert len(names) == 18
    assert custom_id("a", b"x", 1) == custom_id("a", b"x", 1)
    assert all(len(name) <= 64 and name.isalnum() for name in names)


def test_a_line_contains_the_body_as_it_is() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a\u2028b\n\x00"}]}).encode()
    line = request_line("x", "/v1/chat/completions", body)
    assert line.count(b"\n") == 1
    assert json.loads(line)["body"] == json.loads(body)


def test_arbitrary_files_are_read_without_an_error() -> None:
    rng = random.Random(4)
    good = json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": None}).encode()
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        found = read_lines([bytes(data), b"[" * 100_000], ["a"])
        assert set(found.lines) <= {"a"}


# -- options -----


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"student.batch": "maybe"}, "expected one of off, on"),
        ({"student.batch": "on", "student.batch_poll": 0}, "`batch_poll` must be above 0"),
        ({"student.batch_discount": 1.5}, "`batch_discount` is a share of the price, from 0 to 1"),
    ],
)
def test_wrong_options(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        BaselineLM(student="openai:m@http://h/v1", **given, **options(tmp_path))


def test_batches_need_a_single_server_that_is_running() -> None:
    with pytest.raises(ValueError, match="`batch=on` needs a single server"):
        make_openai_backend("m@http://a/v1+http://b/v1", {"batch": "on", "revision": "r"})
    backend = make_openai_backend("m@http://a/v1", {"batch": "on", "endpoint": "completions"})
    assert not {"score", "verify"} & backend.capabilities


def test_the_fingerprint_does_not_depend_on_batches() -> None:
    plain, batched = (make_openai_backend("m@http://a/v1", {"batch": value}) for value in ("off", "on"))
    assert plain.fingerprint == batched.fingerprint
    assert isinstance(ScriptedBackend(lambda p: p).kept_in, Path)


def test_the_official_client_reads_what_the_server_of_these_tests_writes() -> None:
    """So the shapes that these tests rely on are OpenAI's."""
    openai = pytest.importorskip("openai")
    with BatchServer(looks=0, ending=lambda number: ["completed", "invalid_model"][number]) as server:
        client = openai.OpenAI(api_key="none", base_url=server.url, max_retries=0)
        line = request_line(
            "a", "/v1/chat/completions", b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
        )
        for _ in range(2):
            file = client.files.create(file=("a.jsonl", line), purpose="batch")
            client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
            )
        failed, done = list(client.batches.list(limit=1))
        assert (failed.status, failed.errors.data[0].code) == ("failed", "invalid_model")
        assert (done.status, done.metadata, done.request_counts.total) == ("completed", {"a": "b"}, 1)
        text = client.files.content(done.output_file_id).text
        assert read_lines([text.encode()], ["a"]).lines["a"].is_good
        for call in (
            lambda: client.files.create(file=("a.jsonl", line), purpose="fine-tune"),
            lambda: client.batches.create(input_file_id="x", endpoint="/v1/embeddings", completion_window="24h"),
        ):
            with pytest.raises(openai.BadRequestError):
                call()
