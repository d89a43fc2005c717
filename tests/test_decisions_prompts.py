"""Tests of the decisions of servers without an endpoint for them: first tokens and forced choices."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
from deciding_support import (
    ALL,
    CHOICE,
    NONE,
    PREDICATE,
    Deciding,
    ask,
    backend_of,
    decisions_of,
    request_of,
    run,
)
from decisions_server import DecisionsServer
from servers import completion

from harness_ext.backends import http_client as http
from harness_ext.backends.base import CANNOT_DECIDE, DecideRequest
from harness_ext.backends.openai import make_openai_backend
from harness_ext.engine.engine import Engine
from harness_ext.errors import CallFailed
from harness_ext.protocol import Question, SeatSetup
from harness_ext.records import Message
from harness_ext.records.images import Image


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT", 0.01)


# -- the first token ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_the_request_for_the_first_token(endpoint: str) -> None:
    lead = "" if endpoint == "chat" else " "
    tokens = {f"{lead}Yes": 0.5, f"{lead}No": 0.25, "Well": 0.2}
    with DecisionsServer(lacks=NONE, tokens=lambda text: tokens) as server:
        backend = backend_of(server, endpoint=endpoint, omit="temperature")
        (decision,) = decisions_of(run(backend, ["x"]))
    assert decision.probabilities == pytest.approx([2 / 3, 1 / 3])
    assert decision.label_mass == pytest.approx(0.75)
    assert (decision.choice, decision.source, decision.at_most) == ("true", "logprobs", 0.0)
    assert decision.completion_tokens == 0
    assert decision.prompt_tokens
    sent = server.requests[-1]
    if endpoint == "chat":
        (message,) = sent.pop("messages")
        assert message["content"].startswith("x\n\nIs it right?")
        thinking = {"chat_template_kwargs": {"enable_thinking": False}}
        assert sent == {"model": "m", "max_tokens": 1, "logprobs": True, "top_logprobs": 20, **thinking}
    else:
        assert sent.pop("prompt").endswith("\n\nAssistant:")
        assert sent == {"model": "m", "max_tokens": 1, "logprobs": 20}


def test_a_seats_own_system_message_reaches_the_model_and_no_endpoint() -> None:
    with DecisionsServer(tokens=lambda text: {"Yes": 0.9, "No": 0.1}) as server:
        (decision,) = decisions_of(run(backend_of(server), ["x"], system="Be strict."))
    assert decision.source == "logprobs"
    assert server.paths == ["/v1/chat/completions"]
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Be strict."}


def test_the_images_of_a_question_are_shown_to_the_model_and_to_no_endpoint() -> None:
    picture = Image.of(pytest.importorskip("PIL.Image").new("RGB", (2, 2), "red"))
    question = Question("<image> What is it?", {"max_gen_toks": 8}, images=(picture,))
    done: dict[int, Any] = {}
    with DecisionsServer(tokens=lambda text: {"Yes": 0.9, "No": 0.1}) as server:
        seats = {"judge": SeatSetup(backend_of(server))}
        Engine().run(Deciding(PREDICATE), seats, [question], done.__setitem__)
    assert decisions_of([done[0]])[0].choice == "true"
    assert server.paths == ["/v1/chat/completions"]
    parts = server.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]
    assert parts[0]["image_url"]["url"] == picture.data_url


def test_only_what_a_server_can_do_is_offered() -> None:
    chat, text = (make_openai_backend("m@http://h/v1", {"endpoint": e}) for e in ("chat", "completions"))
    assert chat.decision_sources == ALL
    assert text.decision_sources == ("endpoint", "logprobs")


def test_a_choice_is_forced_where_no_label_is_reported() -> None:
    tokens = {"Well": 0.9, "Hm": 0.1}
    with DecisionsServer(lacks=NONE, tokens=lambda text: tokens, obeys=("response_format",)) as server:
        (decision,) = decisions_of(run(backend_of(server), ["x"]))
    assert (decision.source, decision.probabilities, decision.label_mass) == ("constrained", (), 0.0)
    assert decision.choice in decision.options
    assert "logprobs" in server.requests[-2]
    assert "response_format" in server.requests[-1]


def test_labels_that_a_server_does_not_report_are_unknown() -> None:
    tokens = {"B": 0.5, "The": 0.3, "A": 0.1, "I": 0.02}
    with DecisionsServer(lacks=NONE, tokens=lambda text: tokens) as server:
        backend = backend_of(server)
        (decision,) = ask(backend, request_of(backend, CHOICE))
        server.tokens = lambda text: {"The": 0.9, "I": 0.05}
        (none,) = ask(backend, request_of(backend, CHOICE, "another"))
    assert decision.probabilities == (pytest.approx(1 / 6), pytest.approx(5 / 6), None)
    assert decision.at_most == pytest.approx(0.02 / 0.62)
    assert decision.fault is None
    assert (none.choice, none.probabilities, none.label_mass) == (None, (), 0.0)


@pytest.mark.parametrize("where", ["llama.cpp", "chat"])
def test_both_forms_of_log_probabilities(where: str) -> None:
    """llama.cpp reports those of `/completions` in the form of a chat."""

    def edit(path: str, data: Any) -> Any:
        entries = [{"token": t, "logprob": v} for t, v in (("Yes", -0.5), ("No", -1.5), ("", -3.0))]
        data["choices"][0]["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
        return data

    with DecisionsServer(lacks=NONE, edit=edit) as server:
        backend = backend_of(server, endpoint="completions" if where == "llama.cpp" else "chat")
        request = DecideRequest(backend.render_decision([Message("user", "?")]).text, ("a", "b"), ("Yes", "No"))
        (decision,) = ask(backend, request)
    assert decision.probabilities == pytest.approx([0.7310586, 0.2689414])


@pytest.mark.parametrize(
    "logprob", [float("nan"), "-1", None, True, 3.0], ids=["nan", "text", "none", "boolean", "above 0"]
)
def test_malformed_log_probabilities_are_faults(logprob: Any) -> None:
    def edit(path: str, data: Any) -> Any:
        data["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = logprob
        return data

    with DecisionsServer(lacks=NONE, tokens=lambda text: {"Yes": 0.5, "No": 0.1}, edit=edit) as server:
        backend = backend_of(server)
        with pytest.raises(CallFailed) as raised:
            ask(backend, request_of(backend, PREDICATE))
    assert raised.value.code == "backend"
    assert len(raised.value.faults) == 4


def test_first_tokens_that_are_more_probable_than_certain_are_a_fault() -> None:
    with DecisionsServer(lacks=NONE, tokens=lambda text: {"Yes": 0.9, "No": 0.9}) as server:
        backend = backend_of(server)
        with pytest.raises(CallFailed, match=r"sum to 1\.8"):
            ask(backend, request_of(backend, PREDICATE))


@pytest.mark.parametrize("content", [[], None])
def test_a_reply_without_a_first_token(content: Any) -> None:
    """A model that ends its reply at once has written no label. Without a list, the server reports nothing at all."""

    def edit(path: str, data: Any) -> Any:
        return {"choices": [{"message": {"content": ""}, "finish_reason": "stop", "logprobs": {"content": content}}]}

    with DecisionsServer(lacks=NONE, edit=edit) as server:
        backend = backend_of(server)
        if content is None:
            with pytest.raises(CallFailed, match="no log-probabilities"):
                ask(backend, request_of(backend, PREDICATE, sources=("logprobs",)))
        else:
            (decision,) = ask(backend, request_of(backend, PREDICATE))
            assert (decision.choice, decision.probabilities, decision.source) == (None, (), "logprobs")


@pytest.mark.parametrize("hidden", [1, 4, 5])
def test_a_first_token_that_is_a_part_of_a_character(hidden: int) -> None:
    """llama.cpp does not report such a token, nor those beside it. Another one that is drawn has the same list."""
    met: Counter[str] = Counter()

    def edit(path: str, data: Any) -> Any:
        met[path] += 1
        if met[path] <= hidden:
            return {**data, "choices": [{"message": {"content": "\ufffd"}, "finish_reason": "length"}]}
        return data

    with DecisionsServer(lacks=NONE, tokens=lambda text: {"Yes": 0.4, "No": 0.1, "T": 0.1}, edit=edit) as server:
        backend = backend_of(server)
        asked = [request_of(backend, PREDICATE, f"state {i}", ("logprobs",)) for i in range(2)]
        if hidden == 5:
            with pytest.raises(CallFailed, match="a part of a character"):
                ask(backend, asked[0])
        else:
            (decision,) = ask(backend, asked[0])
            assert decision.probabilities == pytest.approx([0.8, 0.2])
            assert decision.prompt_tokens == (hidden + 1) * len(server.requests[0]["messages"][0]["content"].split())
        sent = list(server.requests)
        (other,) = ask(backend, asked[1])
    assert other.source == "logprobs", "the server has not lost its log-probabilities"
    assert len({body.get("seed") for body in sent}) == len(sent) == min(hidden + 1, 5)
    assert [body["temperature"] for body in sent] == [0.0, *[1.0] * (len(sent) - 1)]


def test_one_reply_without_log_probabilities_does_not_disprove_earlier_ones() -> None:
    with DecisionsServer(lacks=NONE, tokens=lambda text: {"Yes": 0.4, "No": 0.1}) as server:
        backend = backend_of(server)
        ask(backend, request_of(backend, PREDICATE, "one"))
        server.tokens, kept = None, server.tokens
        with pytest.raises(CallFailed, match="no log-probabilities"):
            ask(backend, request_of(backend, PREDICATE, "two", ("logprobs",)))
        server.tokens = kept
        (decision,) = ask(backend, request_of(backend, PREDICATE, "three", ("logprobs",)))
    assert decision.source == "logprobs"


def test_a_chat_model_may_refuse() -> None:
    reply = {"choices": [{"message": {"content": None, "refusal": "I will not."}, "finish_reason": "stop"}]}
    with DecisionsServer(lacks=NONE, reply=lambda text: dict(reply)) as server:
        backend = backend_of(server)
        (decision,) = ask(backend, request_of(backend, PREDICATE))
    assert decision.refused
    assert decision.choice is None


@pytest.mark.parametrize("most", [20, 5])
def test_as_many_tokens_as_the_server_reports(most: int) -> None:
    tokens = {"Yes": 0.4, "No": 0.3, "The": 0.1, "I": 0.1, "It": 0.05, "A": 0.01}
    with DecisionsServer(lacks=NONE, tokens=lambda text: tokens, most_tokens=most) as server:
        backend = backend_of(server)
        found = [ask(backend, request_of(backend, PREDICATE, f"state {i}"))[0] for i in range(3)]
    assert [d.source for d in found] == ["logprobs"] * 3
    counts = [body["top_logprobs"] for body in server.requests if "top_logprobs" in body]
    assert counts[-2:] == [most] * 2
    assert len(counts) == (3 if most == 20 else 4)


def test_the_field_against_thinking_is_dropped_once_it_is_rejected() -> None:
    tokens = {"Yes": 0.4, "No": 0.3}
    with DecisionsServer(lacks=NONE, tokens=lambda text: tokens, rejects=["chat_template_kwargs"]) as server:
        backend = backend_of(server)
        found = ask(backend, *(request_of(backend, PREDICATE, f"state {i}") for i in range(8)))
    assert [d.source for d in found] == ["logprobs"] * 8
    sent = ["chat_template_kwargs" in body for body in server.requests if "messages" in body]
    assert sorted(sent) == [False] * 8 + [True]
    with DecisionsServer(lacks=NONE, tokens=lambda text: tokens, rejects=["chat_template_kwargs"]) as server:
        backend = backend_of(server, omit="chat_template_kwargs")
        ask(backend, request_of(backend, PREDICATE))
    assert ["chat_template_kwargs" in body for body in server.requests if "messages" in body] == [False]


def test_a_prompt_that_ends_with_an_open_reply_is_continued() -> None:
    with DecisionsServer(lacks=NONE, tokens=lambda text: {"Yes": 0.4, "No": 0.3}) as server:
        backend = backend_of(server, continue_final=True)
        prompt = backend.render_decision([Message("user", "Is it?"), Message("assistant", "<think>\nno\n</think>\n\n")])
        ask(backend, DecideRequest(prompt.text, ("a", "b"), ("Yes", "No")))
    (sent,) = server.requests
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


def test_labels_that_begin_alike_are_asked_for_in_another_way() -> None:
    tokens = {"Option": 0.9, "The": 0.1}
    with DecisionsServer(tokens=lambda text: tokens, obeys=["response_format"]) as server:
        backend = backend_of(server)
        prompt = backend.render_decision([Message("user", "Which?")]).text
        request = DecideRequest(prompt, ("a", "b"), ("Option A", "Option B"), ("logprobs", "constrained"))
        (decision,) = ask(backend, request)
        assert decision.source == "constrained"
        with pytest.raises(CallFailed, match=r"does not tell the labels .* apart"):
            ask(backend, DecideRequest(prompt, ("a", "b"), ("Option A", "Option B"), ("logprobs",)))
    assert len(server.requests) == 2


# -- forced choices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["response_format", "structured_outputs"])
def test_a_forced_choice_has_no_probabilities(field: str) -> None:
    with DecisionsServer(lacks=NONE, obeys=[field]) as server:
        backend = backend_of(server)
        found = [ask(backend, request_of(backend, CHOICE, f"state {i}"))[0] for i in range(3)]
    for decision in found:
        assert (decision.source, decision.probabilities) == ("constrained", ())
        assert decision.choice in CHOICE.options
    assert found[1].completion_tokens == 1, "it is written"
    assert sum(field in body for body in server.requests) == 3
    assert all(body["temperature"] == 0.0 for body in server.requests if field in body)


def test_openais_schemas_describe_objects() -> None:
    from harness_ext.backends.forced_choice import OBJECT, TEXT, VLLM, read_forced

    hosted = make_openai_backend("gpt@https://api.openai.com/v1", {"api_key_env": "PATH"})
    assert [way.detail for way in hosted._served.ways if way.source == "constrained"] == [OBJECT]
    request = DecideRequest("p", ("a", "b"), ("Yes", "No"), ("constrained",))
    schema = OBJECT.value(request.labels)["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["type"] == "object"
    assert schema["schema"]["additionalProperties"] is False

    def read(text: str, constraint: Any) -> str | None:
        return read_forced(completion(text, {"messages": [{"content": ""}]}), request, constraint).choice

    assert read('{"label": "No"}', OBJECT) == "b"
    assert read('"Yes"', TEXT) == "a"
    assert read("Yes", VLLM) == "a"
    for text, constraint in (("No", OBJECT), ('"No"', OBJECT), ("Yes", TEXT), ("Yes.", VLLM), ('"Maybe"', TEXT)):
        with pytest.raises(http.NotOffered, match="ignores"):
            read(text, constraint)


@pytest.mark.parametrize("draws", [1, 7])
def test_frequencies_of_draws(draws: int) -> None:
    results = []
    for _ in range(2):
        with DecisionsServer(lacks=NONE, obeys=["response_format"]) as server:
            backend = backend_of(server, revision="w")
            results.append(ask(backend, request_of(backend, CHOICE, draws=draws))[0])
        sent = [body for body in server.requests if "response_format" in body]
        assert len({body["seed"] for body in sent}) == len(sent) == draws
        assert {body["temperature"] for body in sent} == {1.0}
        assert all(0 <= body["seed"] < 2**31 for body in sent)
    first = results[0]
    assert first.probabilities == results[1].probabilities, "the seeds are the same in every run"
    assert first.fault is None
    assert all(p is not None and (p * draws) == pytest.approx(round(p * draws)) for p in first.probabilities)
    assert first.choice is not None
    assert first.probability(first.choice) == max(first.probabilities)  # type: ignore[type-var]
    assert first.completion_tokens == draws
    counted = [len(body["messages"][0]["content"].split()) for body in sent]
    # The reply that was asked for its log-probabilities had none, but was paid for all the same.
    assert first.prompt_tokens == sum(counted) + counted[0]


def test_a_server_that_ignores_a_constraint_does_not_offer_it(caplog: pytest.LogCaptureFixture) -> None:
    fields = ["response_format", "structured_outputs"]
    with DecisionsServer(lacks=NONE, ignores=fields, reply=lambda text: "Yes, it is.") as server:
        backend = backend_of(server)
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(CallFailed, match="ignores `structured_outputs`") as raised,
        ):
            ask(backend, request_of(backend, PREDICATE))
    assert raised.value.code == CANNOT_DECIDE
    assert len(caplog.records) == 1
