"""Tests of what servers do otherwise than their API says: it is seen in a probe, once, before it matters."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from decisions_server import DecisionsServer
from hypothesis import given
from hypothesis import strategies as st
from servers import Server, completion
from support import instance, instances

from harness_ext.backends import http_client as http
from harness_ext.backends.base import Request, ScoreRequest
from harness_ext.backends.http_client import Client
from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.openai_known import Known, Served
from harness_ext.backends.openai_probe import Prober, merged, other_limit
from harness_ext.backends.openai_score import read_score
from harness_ext.backends.openai_wire import WirePrompt
from harness_ext.cli import doctor
from harness_ext.errors import LoadError, RunFailed
from harness_ext.models.baseline import BaselineLM
from harness_ext.records import CallResult, Message
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts

GREEDY = {"until": [], "max_gen_toks": 8}
TALK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
MERGED = [{"role": "user", "content": "Be kind.\n\nHi"}]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT", 0.01)


def make(folder: Path, server: Server, **options: Any) -> BaselineLM:
    given = {"store": "off", "run_dir": folder, "progress": "off", "student": f"openai:m@{server.url}"}
    return BaselineLM(**{**given, **options})


def talks(count: int) -> list[Any]:
    return instances([ChatContext.of([TALK[0], {"role": "user", "content": f"Hi {n}"}]) for n in range(count)], GREEDY)


def summary(folder: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return written


def without_system(status: int, text: str) -> Any:
    """Return what a server does whose template refuses system messages."""

    def refuses(body: Mapping[str, Any]) -> tuple[int, str] | None:
        return (status, text) if any(m["role"] == "system" for m in body.get("messages", ())) else None

    return refuses


# -- beginnings of replies ---------------------------------------------------------------------------------------------

OPENED = ChatContext.of([{"role": "user", "content": "Count."}, {"role": "assistant", "content": " 1, 2,\n"}])


@pytest.mark.parametrize("counts", [True, False])
def test_a_server_that_continues_replies_is_asked_once(
    tmp_path: Path, counts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(lambda text: " 3", counts=counts) as server:
        lm = make(tmp_path / "r", server, **{"student.continue_final": True})
        assert lm.generate_until(instances([OPENED] * 5, GREEDY)) == [" 3"] * 5
    assert [body["continue_final_message"] for body in server.probes] == [True, False]
    assert ("reports no token counts" in caplog.text) == (not counts)


def test_a_beginning_that_is_ignored_ends_the_run_before_it_is_sent(tmp_path: Path) -> None:
    """The server answers 200, as a new turn after a reply that is complete."""
    with Server(continues="no") as server:
        lm = make(tmp_path / "r", server, **{"student.continue_final": True})
        with pytest.raises(LoadError, match=r"does not continue a reply that the task begins .*`endpoint=completions`"):
            lm.generate_until(instances([OPENED] * 5, GREEDY))
    assert server.requests == []


def test_a_beginning_that_is_refused_is_told_in_the_servers_words(tmp_path: Path) -> None:
    def refuses(body: Mapping[str, Any]) -> tuple[int, str] | None:
        return (400, "unknown field continue_final_message") if "continue_final_message" in body else None

    with Server(refuses=refuses) as server:
        lm = make(tmp_path / "r", server, **{"student.continue_final": True})
        with pytest.raises(LoadError, match="unknown field continue_final_message"):
            lm.generate_until([instance(OPENED, GREEDY)])


@pytest.mark.parametrize("before", [" 1, 2,\n", "1, 2,"])
def test_a_beginning_that_is_repeated_is_removed(tmp_path: Path, before: str) -> None:
    """llama.cpp replies with it, sometimes trimmed. A stop sequence within it does not end the reply."""
    with Server(lambda text: f"{before} 3\n4", continues="repeats") as server:
        lm = make(tmp_path / "r", server, **{"student.continue_final": True})
        settings = {"until": ["\n"], "max_gen_toks": 8}
        assert lm.generate_until([instance(OPENED, settings), instance("plain", settings, doc_id=1)]) == [
            " 3", before.partition("\n")[0] if "\n" in before else f"{before} 3",
        ]  # fmt: skip


# -- system messages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "System role not supported"),  # vLLM
        (500, "Internal Server Error"),  # transformers serve
        (422, "Only user and assistant roles are supported!"),
    ],
)
def test_system_messages_that_a_template_refuses_are_merged(tmp_path: Path, status: int, text: str) -> None:
    with Server(refuses=without_system(status, text)) as server:
        lm = make(tmp_path / "r", server)
        answers = lm.generate_until([*talks(20), instance("plain", GREEDY, doc_id=20)])
    assert answers == [*(f"re: Be kind.\n\nHi {n}" for n in range(20)), "re: plain"]
    probes = [[m["role"] for m in body["messages"]] for body in server.probes]
    assert probes == [["system", "user"]] * (2 if status == 500 else 1) + [["user"]], "once per server and model"
    assert [body["max_tokens"] for body in server.probes] == [1] * len(probes)
    notes = Counter(note for t in read_transcripts(tmp_path / "r") for turn in t.turns for note in turn.notes)
    assert notes == {"system_merged": 20}
    found = summary(tmp_path / "r")
    assert found["events"]["system_merged"] == 20
    assert (found["faults"], found["answered"]) == ({}, 21)
    assert found["usage"]["student"]["total"]["calls"] == 21, "probes are no calls"


def test_system_messages_that_a_template_drops_are_merged(tmp_path: Path) -> None:
    """The server answers 200. Only the count of the prompt's tokens shows that the message did not reach the model."""
    with Server(drops_system=True) as server:
        make(tmp_path / "r", server).generate_until([instance(ChatContext.of(TALK), GREEDY)])
    assert server.requests[0]["messages"] == MERGED
    assert summary(tmp_path / "r")["events"]["system_merged"] == 1


@pytest.mark.parametrize("words", [1, 11, 12, 30])
def test_a_system_message_of_the_templates_own_is_no_sign_that_others_are_dropped(tmp_path: Path, words: int) -> None:
    """Qwen2.5's template puts in a message that is longer than the one of the probe."""
    with Server(own_system="word " * words) as server:
        make(tmp_path / "r", server).generate_until([instance(ChatContext.of(TALK), GREEDY)])
    assert server.requests[0]["messages"] == TALK
    assert summary(tmp_path / "r")["events"] == {}


def test_system_messages_that_are_read_stay(tmp_path: Path) -> None:
    with Server() as server:
        lm = make(tmp_path / "r", server)
        lm.generate_until(talks(9))
        lm.generate_until([instance(ChatContext.of(TALK), GREEDY, doc_id=9)])
    assert all(body["messages"][0] == TALK[0] for body in server.requests)
    assert len(server.probes) == 2
    assert "system_merged" not in summary(tmp_path / "r").get("events", {})


def test_without_system_messages_nothing_is_probed(tmp_path: Path) -> None:
    with Server(refuses=without_system(400, "no")) as server:
        make(tmp_path / "r", server).generate_until(instances("ab", GREEDY))
    assert server.probes == []


def test_openais_own_servers_are_not_probed() -> None:
    async def answer(request: Request) -> CallResult:
        raise AssertionError("it is not called")

    served = Served("gpt", "gpt", True, True, frozenset(), Known("max_completion_tokens"))
    prober = Prober(served, cast(Client, None), answer)
    assert asyncio.run(prober.merges_system()) is False


def test_a_server_that_refuses_everything_is_not_blamed_on_system_messages(tmp_path: Path) -> None:
    with (
        Server(refuses=lambda body: (400, "adapter not loaded")) as server,
        pytest.raises(RunFailed, match="adapter not loaded"),
    ):
        make(tmp_path / "r", server).generate_until(talks(2))
    assert all(body["messages"][0] == TALK[0] for body in server.requests)


def test_one_error_of_a_server_does_not_merge_system_messages(tmp_path: Path) -> None:
    left = iter([(500, "out of memory")])
    with Server(refuses=lambda body: next(left, None)) as server:
        make(tmp_path / "r", server).generate_until(talks(2))
    assert all(body["messages"][0] == TALK[0] for body in server.requests)


def test_decisions_are_asked_with_merged_system_messages() -> None:
    from deciding_support import decisions_of, run, without

    with DecisionsServer(
        lacks=without("systemone", "decisions"),
        tokens=lambda text: {"Yes": 0.75, "No": 0.25},
        refuses=without_system(400, "System role not supported"),
    ) as server:
        (transcript,) = run(make_openai_backend(f"m@{server.url}", {}), ["the state"], system="Be strict.")
    (decision,) = decisions_of([transcript])
    assert decision.probabilities == pytest.approx((0.75, 0.25))
    assert decision.notes == ("system_merged",)
    (asked,) = {json.dumps(body["messages"]) for body in server.requests if "messages" in body}
    assert "Be strict.\\n\\n" in asked
    assert "system" not in {m["role"] for m in json.loads(asked)}


ROLES = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(st.tuples(ROLES, st.text(min_size=1, max_size=9)), max_size=6))
def test_merging_keeps_every_word_and_every_other_message(talk: list[tuple[str, str]]) -> None:
    prompt = WirePrompt([Message(role, content) for role, content in talk])  # type: ignore[arg-type]
    found = json.loads(merged(prompt))
    assert not merged(prompt).has_system
    others = [m for m in talk if m[0] == "assistant"]
    assert [(m["role"], m["content"]) for m in found if m["role"] == "assistant"] == others
    assert all(any(content in m["content"] for m in found) for _, content in talk)


# -- the length limit --------------------------------------------------------------------------------------------------


def wants(field: str, text: str) -> Any:
    """Return what a server does that takes the length limit in one field alone."""
    return lambda body: None if field in body else (400, text)


UNSUPPORTED = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)


@pytest.mark.parametrize("system", [False, True])
def test_a_server_that_wants_another_field_for_the_limit_gets_it(tmp_path: Path, system: bool) -> None:
    with Server(refuses=wants("max_completion_tokens", UNSUPPORTED)) as server:
        asked = talks(30) if system else instances((f"q{n}" for n in range(30)), GREEDY)
        answers = make(tmp_path / "r", server, **{"student.num_concurrent": 4}).generate_until(asked)
    assert len(set(answers)) == 30
    refused = [body for body in (*server.requests, *server.probes) if "max_tokens" in body]
    assert 1 <= len(refused) <= 4, "only those in flight meet it"
    assert all("max_tokens" not in body for body in server.requests[4:])
    assert summary(tmp_path / "r")["failures"] == {}


def test_a_server_that_takes_neither_field_fails_its_questions(tmp_path: Path) -> None:
    def refuses(body: Mapping[str, Any]) -> tuple[int, str]:
        (name,) = {"max_tokens", "max_completion_tokens"} & set(body)
        return 400, f"Unrecognized request argument: {name}"

    with (
        Server(refuses=refuses) as server,
        pytest.raises(RunFailed, match="Unrecognized request argument"),
    ):
        make(tmp_path / "r", server).generate_until(instances("abc", GREEDY))
    assert len(server.requests) <= 6


def test_a_limit_that_is_too_large_is_another_matter() -> None:
    known = Known("max_tokens")
    assert not other_limit(known, "max_tokens", "max_tokens is too large: 9999. This model supports at most 4096")
    assert known.limit == "max_tokens"
    assert other_limit(known, "max_tokens", UNSUPPORTED)
    assert known.limit == "max_completion_tokens"
    assert other_limit(known, "max_tokens", UNSUPPORTED), "a request that was sent before"
    assert not other_limit(known, "max_completion_tokens", "Unknown field max_completion_tokens")


# -- log-probabilities -------------------------------------------------------------------------------------------------


def llama_completion(text: str) -> dict[str, Any]:
    """Return llama.cpp's reply (version 11434) to a completion with `echo` and `logprobs=1`: it has a shape of its own.

    Stock lm-eval ends with KeyError: 'token_logprobs'.
    """
    entry = {"id": 9, "token": " a", "bytes": [32, 97], "logprob": -0.5, "top_logprobs": []}
    reply = completion(" a", {"prompt": text}, "length", prompt_tokens=4, completion_tokens=1)
    reply["choices"][0]["logprobs"] = {"content": [entry]}
    return reply


def new_tokens_only(text: str) -> dict[str, Any]:
    """Return the reply of a server that reports `logprobs` and ignores `echo`."""
    reply = completion(" a", {"prompt": text}, "length", prompt_tokens=4, completion_tokens=1)
    reply["choices"][0]["logprobs"] = {"tokens": [" a"], "token_logprobs": [-0.5], "text_offset": [0]}
    return reply


@pytest.mark.parametrize("reply", [llama_completion, new_tokens_only, lambda text: "ignored"])
def test_a_server_that_ignores_echo_is_found_out_by_one_short_request(reply: Any) -> None:
    with Server(reply) as server:
        backend = make_openai_backend(f"m@{server.url}", {"endpoint": "completions"})
        with pytest.raises(ExceptionGroup) as raised:
            backend.score([ScoreRequest(f"a long question {n}", " a") for n in range(30)], lambda i, found: None)
    assert raised.group_contains(LoadError, match="returns no log-probabilities of a prompt")
    assert 1 <= len(server.requests) <= 30
    assert {body["prompt"] for body in server.requests} == {"The sky is blue"}, "no question was sent"


# -- prompts that are too long -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",  # vLLM, OpenAI
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",  # llama.cpp
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",  # SGLang
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",  # TGI
        "The input token count (50000) exceeds the maximum number of tokens allowed (32768).",  # Gemini
        "Please reduce the length of the messages or completion.",  # Groq
    ],
)
def test_prompts_that_are_too_long_are_known_as_such(tmp_path: Path, text: str) -> None:
    with Server(refuses=lambda body: (400, text)) as server, pytest.raises(RunFailed):
        make(tmp_path / "r", server).generate_until(instances("a", GREEDY))
    assert summary(tmp_path / "r")["failures"] == {"overflow": 1}


# -- scoring -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(codec="ascii"), min_size=1, max_size=4), min_size=1, max_size=5), st.booleans())
def test_log_probabilities_are_read_without_offsets(continued: list[str], counts: bool) -> None:
    """SGLang reports -1 for every offset."""
    tokens = ["The", " sky", " is", *continued, " new"]
    values = [None, *(-float(n) for n in range(1, len(tokens)))]
    logprobs = {"tokens": tokens, "token_logprobs": values, "text_offset": [-1] * len(tokens)}
    usage = {"prompt_tokens": len(tokens) - 1, "completion_tokens": 1} if counts else None
    data = {"choices": [{"text": "", "logprobs": logprobs}], "usage": usage}
    found = read_score("m", data, ScoreRequest("The sky is", "".join(continued)))
    assert found.logprob == -float(sum(range(3, 3 + len(continued))))


# -- the report --------------------------------------------------------------------------------------------------------


def report(capsys: pytest.CaptureFixture[str], spec: str, status: int = 0) -> list[str]:
    assert doctor.main(["--seat", spec]) == status
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_doctor_says_what_the_server_of_a_seat_does(capsys: pytest.CaptureFixture[str]) -> None:
    with DecisionsServer(
        tokens=lambda text: {"Yes": 0.75, "No": 0.25},
        lacks={"systemone": (501, "This model is not a decision model"), "decisions": (404, "File Not Found")},
        obeys=["response_format"],
        refuses=without_system(400, "System role not supported"),
    ) as server:
        said = report(capsys, f"teacher=openai:m@{server.url},teacher.chat=on,teacher.timeout=60")
    assert said[1] == f"ok       teacher: openai:m@{server.url}"
    assert said[2:10] == [
        "ok       chat: answers",
        "ok       token counts: reported, without cached tokens",
        "ok       length of replies: limited by `max_tokens`",
        "note     model names: ignored, so check that the server runs m",
        "note     system messages: merged into the first user message "
        '(HTTP 400: {"error": {"message": "System role not supported"}})',
        "ok       beginnings of replies: continued",
        "ok       thoughts: none apart from the answer",
        "note     decisions endpoint: not offered (`/systemone`: HTTP 501: "
        '{"error": {"message": "This model is not a decision model", "code": 501}}; `/decisions`: HTTP 404: '
        '{"error": {"message": "File Not Found", "code": 404}})',
    ]
    assert said[10:13] == [
        "ok       probabilities of the first token: the probabilities of the first token",
        "ok       forced choice: `response_format`",
        "ok       completions: answers",
    ]
    assert said[13].startswith("note     log-probabilities of a prompt: not offered (")


def test_doctor_looks_at_every_server_of_a_pool(capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as a, Server(drops_system=True) as b:
        said = report(capsys, f"teacher=openai:m@{a.url}+{b.url},teacher.revision=w")
    accepted, dropped = [line for line in said if "system messages" in line]
    assert accepted == "ok       system messages: accepted"
    assert dropped.endswith("(its template drops them: 2 tokens, however long they are)")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("openai:m@http://h/v1", "names no seat: write `--seat <seat>=openai:<model>@<base url>`"),
        ("teacher=hf:gpt2", "`teacher` is no served seat"),
        ("teacher=openai:m@http://h/v1,student.timeout=3", "`student.timeout` is no option of `teacher`"),
        ("teacher=openai:m@http://h/v1,teacher.timeut=3", "did you mean `timeout`"),
        ("teacher=openai:m@http://a/v1+http://b/v1", "several servers need `revision="),
    ],
)
def test_doctor_says_what_is_wrong_with_a_seat(capsys: pytest.CaptureFixture[str], spec: str, problem: str) -> None:
    assert problem in " ".join(report(capsys, spec, status=1))


def test_doctor_says_that_no_server_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        url = server.url
    said = report(capsys, f"teacher=openai:m@{url}", status=1)
    assert any(line.startswith("problem  `endpoint=chat`: ") and "connection 2×" in line for line in said)
