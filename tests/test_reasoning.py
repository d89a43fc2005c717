"""How much reasoning models think: what is sent, what a server does about it, and what thoughts cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from servers import Server, completion
from support import instances
from tiny_chat import TEMPLATE, tiny_chat_model

from harness_ext.backends.hf import make_hf_backend
from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.openai_wire import usage_of
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.errors import ConfigurationError, LoadError
from harness_ext.models.baseline import BaselineLM
from harness_ext.records import Completion, Message
from harness_ext.records.run_directory import read_transcripts

GEN = {"until": [], "max_gen_toks": 64}
BUDGET = {
    "thinking_token_budget": 9,  # vLLM
    "thinking_budget_tokens": 9,  # llama.cpp
    "custom_params": {"thinking_budget": 9},  # SGLang
}
ON, OFF = ({"chat_template_kwargs": {"enable_thinking": on, "thinking": on}} for on in (True, False))


def replied(text: str = "42", thought: str = "", **usage: Any) -> dict[str, Any]:
    """Return a reply's JSON, with a thought in a field of its own."""
    data = completion(text, {"messages": [{"content": "6*7?"}]}, **usage)
    if thought:
        data["choices"][0]["message"]["reasoning_content"] = thought
    return data


def asked(server: Server, tmp_path: Path, count: int = 2, on_failure: str = "stop", **given: Any) -> Any:
    options = {"on_failure": on_failure, **{f"student.{name}": value for name, value in given.items()}}
    lm = BaselineLM(student=f"openai:m@{server.url}", **options, store="off", run_dir=tmp_path / "run", progress="off")
    lm.generate_until(instances([f"{n}*7?" for n in range(count)], GEN))
    return lm


def summary(lm: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((lm.session.run.path / "summary.json").read_text())
    return found


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({}, {}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": None}, {"reasoning_effort": "none"}),  # as lm-eval reads `none`
        ({"thinking": "on"}, ON),
        ({"thinking": False}, OFF),  # as YAML reads `off`
        ({"thinking_tokens": 9}, BUDGET),
        ({"thinking_tokens": 9, "omit": "custom_params+thinking_budget_tokens"}, {"thinking_token_budget": 9}),
        ({"thinking": "on", "reasoning_effort": "low"}, {**ON, "reasoning_effort": "low"}),
    ],
)
def test_what_is_sent(tmp_path: Path, given: dict[str, Any], fields: dict[str, Any]) -> None:
    with Server(lambda text: replied(thought="" if fields in ({}, OFF) else "hm")) as server:
        asked(server, tmp_path, 1, **given)
    (sent,) = server.requests
    names = {"reasoning_effort", "chat_template_kwargs", *BUDGET}
    assert {name: value for name, value in sent.items() if name in names} == fields


def test_other_thinking_is_another_model_in_the_call_store() -> None:
    given: list[dict[str, Any]] = [
        {}, {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {"thinking": "on"}, {"thinking": "off"},
        {"thinking_tokens": 9}, {"thinking_tokens": 10},
    ]  # fmt: skip
    prints = [make_openai_backend("m@http://h/v1", one).fingerprint for one in given]
    assert len(set(prints)) == len(given)
    assert prints[0] == make_openai_backend("m@http://h/v1", {"reasoning_effort": "auto"}).fingerprint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reasoning_effort": "minimal"}, "Unsupported value: 'reasoning_effort' does not support 'minimal'"),
        ({"thinking": "off"}, "Unrecognized request argument supplied: chat_template_kwargs"),
        ({"thinking": "on"}, "unknown template argument enable_thinking"),
        ({"thinking_tokens": 9}, "thinking_token_budget is set but reasoning_config is not configured"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_ends_the_run_with_the_option_and_what_the_server_said(
    tmp_path: Path, given: dict[str, Any], said: str, status: int
) -> None:
    (name,) = given
    with Server(refuses=lambda body: (status, said)) as server, pytest.raises(LoadError) as raised:
        asked(server, tmp_path, **given)
    assert f"does not take {name} (HTTP {status}: " in str(raised.value)
    assert said[-20:] in str(raised.value)
    assert "leave that out" in str(raised.value)


def test_other_refusals_are_about_the_question_alone(tmp_path: Path) -> None:
    def refuses(body: Mapping[str, Any]) -> tuple[int, str] | None:
        return (400, "content is not allowed") if "0*7" in str(body["messages"]) else None

    with Server(lambda text: replied(thought="hm"), refuses=refuses) as server:
        lm = asked(server, tmp_path, 3, "score", thinking="on")
    assert summary(lm)["failures"] == {"backend": 1}


def test_a_thought_that_leaves_no_room_for_an_answer_is_not_paid_for(tmp_path: Path) -> None:
    with Server() as server:
        lm = asked(server, tmp_path, 2, "score", thinking_tokens=64)
        assert summary(lm)["failures"] == {"backend": 2}
        assert server.requests == []
    (failed, _) = read_transcripts(tmp_path / "run")
    assert failed.failure is not None
    assert "`thinking_tokens=64` leaves no room for an answer in the 64 tokens of a reply" in failed.failure.message


@pytest.mark.parametrize(
    ("given", "reply", "note"),
    [
        ({"thinking": "off"}, replied(thought="hm"), "thinking_not_off"),
        ({"thinking": "off"}, replied("<think>hm</think>42"), "thinking_not_off"),
        ({"thinking": "off"}, replied("<think>\n\n</think>\n\n42"), None),
        ({"thinking": "off"}, replied("42"), None),
        ({"reasoning_effort": None}, replied(completion_tokens_details={"reasoning_tokens": 5}), "thinking_not_off"),
        ({"reasoning_effort": "low"}, replied("42"), None),
        ({"thinking": "on"}, replied("42"), "no_thought"),
        ({"thinking": "on"}, replied(thought="hm"), None),
        ({"thinking": "on"}, replied("hm</think>42"), None),
        ({"thinking_tokens": 9}, replied(completion_tokens_details={"reasoning_tokens": 400}), "thinking_over_budget"),
        ({"thinking_tokens": 9}, replied(completion_tokens_details={"reasoning_tokens": 11}), None),
        # A server that does not count thoughts, as llama.cpp: most of the reply's tokens are its thought.
        ({"thinking_tokens": 9}, replied(thought="hm " * 200, completion_tokens=300), "thinking_over_budget"),
        ({"thinking_tokens": 9}, replied(thought="hm", completion_tokens=30), None),
    ],
)
def test_a_server_that_does_otherwise_is_counted(
    tmp_path: Path, given: dict[str, Any], reply: dict[str, Any], note: str | None
) -> None:
    with Server(lambda text: reply) as server:
        lm = asked(server, tmp_path, 3, **given)
    events = {name: count for name, count in summary(lm)["events"].items() if "think" in name or name == "no_thought"}
    assert events == ({} if note is None else {note: 3})


# -- what thoughts cost ---------

THOUGHT = {"completion_tokens_details": {"reasoning_tokens": 60}}


@pytest.mark.parametrize(
    ("usage", "written", "thought"),
    [
        ({"completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": 60}}, 100, 60),
        # As OpenAI reports them, with the total.
        (
            {"completion_tokens": 100, "total_tokens": 110, "completion_tokens_details": {"reasoning_tokens": 60}},
            100,
            60,
        ),
        # As xAI and Gemini do.
        (
            {"completion_tokens": 40, "total_tokens": 110, "completion_tokens_details": {"reasoning_tokens": 60}},
            100,
            60,
        ),
        ({"completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": None}}, 100, 0),
        ({"completion_tokens": 100, "completion_tokens_details": None}, 100, 0),
        ({"completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": "many"}}, 100, 0),
        ({"completion_tokens": 100, "completion_tokens_details": [7]}, 100, 0),
    ],
)
def test_thoughts_are_counted_apart_and_paid_for(
    tmp_path: Path, usage: dict[str, Any], written: int, thought: int
) -> None:
    with Server(lambda text: replied(**{"prompt_tokens": 10, **usage})) as server:
        lm = asked(server, tmp_path, 2, price_in=1, price_out=10)
    total = summary(lm)["usage"]["student"]["total"]
    assert total["completion_tokens"] == 2 * written
    assert total["thinking_tokens"] == 2 * thought
    assert total["price"] == pytest.approx(2 * (10 + 10 * written) / 1e6)


def test_a_server_that_reports_no_tokens_of_a_thought_in_the_text_has_not_counted_them(tmp_path: Path) -> None:
    reply = replied(
        "<think>abcdefgh</think>ij", completion_tokens=20, completion_tokens_details={"reasoning_tokens": 0}
    )
    with Server(lambda text: reply) as server:
        lm = asked(server, tmp_path, 1)
    assert summary(lm)["usage"]["student"]["total"]["thinking_tokens"] == pytest.approx(16)  # by its characters


def test_usage_without_a_prompt_is_read() -> None:
    counts = usage_of({"usage": {"completion_tokens": 3, "total_tokens": 7, "completion_tokens_details": {}}})
    assert counts == {"prompt_tokens": None, "cached_tokens": None, "completion_tokens": 3}


def test_thinking_tokens_are_stored(tmp_path: Path) -> None:
    with Server(lambda text: replied(completion_tokens_details={"reasoning_tokens": 1})) as server:
        given = {"store": str(tmp_path / "store"), "progress": "off"}
        for run in ("a", "b"):
            lm = BaselineLM(student=f"openai:m@{server.url}", run_dir=tmp_path / run, **given)
            lm.generate_until(instances(["6*7?"], GEN))
            (turn,) = next(iter(read_transcripts(tmp_path / run))).turns
            assert isinstance(turn.result, Completion)
            assert turn.result.thinking_tokens == 1
    assert len(server.requests) == 1


# -- local models --------

SWITCH = TEMPLATE.replace("<|assistant|>", "<|assistant|>{% if enable_thinking is false %}<think></think>{% endif %}")
OTHER_SWITCH = SWITCH.replace("enable_thinking is false", "thinking")
EFFORT = TEMPLATE.replace("<|assistant|>", "{{ 'effort ' + (reasoning_effort or 'medium') }}<|assistant|>")


def rendered(template: str, tmp_path: Path, **given: Any) -> str:
    backend = make_hf_backend(tiny_chat_model(tmp_path / "m", template=template), {"device": "cpu", **given})
    return backend.render([Message("user", "6*7?")]).text


def test_a_template_is_told_to_switch_thinking_off(tmp_path: Path) -> None:
    assert rendered(SWITCH, tmp_path).endswith("<|assistant|>")
    assert rendered(SWITCH, tmp_path, thinking="on").endswith("<|assistant|>")
    assert rendered(SWITCH, tmp_path, thinking="off").endswith("<|assistant|><think></think>")
    assert rendered(OTHER_SWITCH, tmp_path, thinking=True).endswith("<|assistant|><think></think>")
    assert "effort low" in rendered(EFFORT, tmp_path, reasoning_effort="low")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"thinking": "off"}, "does not know `thinking`: leave that out"),
        ({"thinking": "on"}, "does not know `thinking`"),
        ({"reasoning_effort": "low"}, "does not know `reasoning_effort`"),
        ({"reasoning_effort": "hihg"}, "expected one of auto, none, minimal, low, medium"),
        ({"thinking_tokens": 9}, "`thinking_tokens` needs a server that ends thoughts"),
    ],
)
def test_a_template_that_reads_no_such_argument_is_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    folder = tiny_chat_model(tmp_path / "m")
    with pytest.raises(ConfigurationError, match=words):
        BaselineLM(student=folder, device="cpu", progress="off", **{f"student.{k}": v for k, v in given.items()})


def test_decisions_are_made_without_thinking_whatever_the_seat_does_otherwise(tmp_path: Path) -> None:
    backend = make_hf_backend(tiny_chat_model(tmp_path / "m", template=SWITCH), {"device": "cpu", "thinking": "on"})
    message = [Message("user", "6*7?")]
    assert backend.render_decision(message).text.endswith("<think></think>")
    assert backend.render(message).text.endswith("<|assistant|>")


def test_the_tokens_of_a_local_thought_are_counted(tmp_path: Path) -> None:
    from harness_ext.backends.base import GenerateRequest
    from harness_ext.backends.hf_thinking import with_thinking_tokens

    backend = make_hf_backend(tiny_chat_model(tmp_path / "m"), {"device": "cpu"})
    count = len(backend.lm.tok_encode("Yes, No", add_special_tokens=False))
    reply = Completion("<think>Yes, No</think>In", "stop", completion_tokens=50)
    request = GenerateRequest("x", {})
    found = with_thinking_tokens(backend.lm, request, reply)
    assert isinstance(found, Completion)
    assert found.thinking_tokens == count > 1
    assert with_thinking_tokens(backend.lm, request, Completion("In", "stop", completion_tokens=1)).to_json() == {
        "text": "In", "finish": "stop", "completion_tokens": 1, "seconds": 0.0,
    }  # fmt: skip


# -- wrong options ------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reasoning_effort": "a lot"}, "expected one of auto, none, minimal, low, medium, high, xhigh, max"),
        ({"thinking": "yes"}, "expected one of auto, on, off"),
        ({"thinking_tokens": -1}, "`thinking_tokens` must be 0 or more"),
        ({"thinking_tokens": "some"}, "expected a whole number"),
        ({"endpoint": "completions", "thinking": "on"}, "are read by chat templates: use `endpoint=chat`"),
        ({"endpoint": "completions", "reasoning_effort": "low"}, "are read by chat templates"),
        ({"thinking": "off", "thinking_tokens": 100}, "`thinking=off` contradicts"),
        ({"thinking": "off", "reasoning_effort": "high"}, "`thinking=off` contradicts"),
    ],
)
def test_wrong_options(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_openai_backend("m@http://h/v1", given)


def test_openai_has_an_effort_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for name, value in (("thinking", "on"), ("thinking_tokens", 9)):
        with pytest.raises(ValueError, match="OpenAI has no `thinking` and no `thinking_tokens`"):
            make_openai_backend("gpt@https://api.openai.com/v1", {name: value})
    assert make_openai_backend("gpt@https://api.openai.com/v1", {"reasoning_effort": "low"}).model == "gpt"


def test_a_scripted_model_has_no_such_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        BaselineLM(student=ScriptedBackend(lambda p: p), thinking="on", run_dir=tmp_path / "run")
