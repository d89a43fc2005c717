"""Tests of the records: conversion to JSON and back, sums of usage, summaries, and conversations."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.records import (
    CallResult,
    Completion,
    Decision,
    Failure,
    Loglikelihood,
    Message,
    SeatCost,
    Transcript,
    Turn,
    Usage,
    Verification,
)
from harness_ext.records.chat import ChatContext, is_utf8, merge_system, plain_form, repair
from harness_ext.records.results import UnknownFields, read_result
from harness_ext.records.summary import DRAFTS, Summary

texts = st.text(max_size=20)  # any character that can be encoded
counts = st.none() | st.integers(0, 10**6)
usage = {
    "prompt_tokens": counts,
    "cached_tokens": counts,
    "completion_tokens": counts,
    "seconds": st.floats(0, 100).map(lambda x: round(x, 6)),
}
logprobs = st.floats(-1e6, 0)
tokens = st.tuples(st.integers(0, 99), logprobs)
completions = st.builds(Completion, texts, st.sampled_from(["stop", "length", None]), **usage)
loglikelihoods = st.builds(Loglikelihood, logprobs, st.none() | st.booleans(), **usage)
verifications = st.builds(
    Verification,
    logprobs=st.lists(logprobs, max_size=3).map(tuple),
    ranks=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    above=st.lists(st.floats(0, 1), max_size=3).map(tuple),
    best=st.lists(tokens, max_size=4).map(tuple),
    instead=st.dictionaries(st.integers(0, 3), tokens, max_size=2),
    end_rank=st.none() | st.integers(0, 99),
    floors=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    drawn=st.lists(tokens, max_size=2).map(tuple),
    candidates=st.lists(logprobs, max_size=2).map(tuple),
    **usage,
)
results = completions | loglikelihoods | verifications
verdicts = st.none() | st.fixed_dictionaries({"accepted": st.booleans(), "malformed": st.booleans(), "rule": texts})
turns = st.builds(
    Turn,
    st.sampled_from(["student", "teacher"]),
    st.sampled_from(["draft", "review", "refine", "verdict"]),
    texts,
    completions | loglikelihoods,
    verdicts,
    st.lists(texts, max_size=2).map(tuple),
    st.booleans(),
)
transcripts = st.builds(
    Transcript, texts, st.integers(0, 99), texts, st.integers(0, 3), st.integers(0, 3), texts, texts,
    st.lists(turns, max_size=5).map(tuple), texts, texts, st.none() | st.builds(Failure, texts, texts),
)  # fmt: skip


decisions = st.builds(
    Decision,
    options=st.just(("yes", "no")),
    probabilities=st.sampled_from([(), (0.25, 0.75), (1.0, None)]),
    choice=st.sampled_from(["yes", "no", None]),
    source=st.sampled_from(["endpoint", "logprobs", "constrained", "text"]),
    label_mass=st.none() | st.floats(0, 1),
    refused=st.booleans(),
    notes=st.lists(texts, max_size=2).map(tuple),
    **usage,
)
all_turns = st.builds(
    Turn,
    st.sampled_from(["student", "teacher"]),
    st.sampled_from(["draft", "review", "refine", "check"]),
    texts,
    st.builds(Completion, texts, notes=st.lists(texts, max_size=2).map(tuple), thought=texts, **usage)
    | loglikelihoods
    | verifications
    | decisions,
    verdicts,
    st.lists(texts, max_size=2).map(tuple),
    st.booleans(),
)
all_transcripts = st.builds(replace, transcripts, turns=st.lists(all_turns, max_size=5).map(tuple))


@settings(deadline=None)
@given(results | decisions)
def test_results_survive_json(result: CallResult) -> None:
    assert read_result(json.loads(json.dumps(result.to_json()))) == result


def test_a_text_of_a_turn_called_verify_is_kept() -> None:
    turn = Turn("teacher", "verify", "key", Completion("It is right.", "stop"))
    assert Turn.from_json(turn.to_json()) == turn


@pytest.mark.parametrize("field", ["mood", "seconds_alone"])
def test_fields_of_a_newer_version(field: str) -> None:
    """A stored result with one is not used; of a transcript, the rest is read."""
    result = {**Completion("x").to_json(), field: 1}
    with pytest.raises(UnknownFields, match=field):
        read_result(result)
    turn = {**Turn("student", "draft", "key", Completion("x")).to_json(), field: 1}
    assert Turn.from_json(turn).text == "x"


@given(verifications)
def test_a_transcript_keeps_only_the_cost_of_a_verification(verification: Verification) -> None:
    """Its results stay in the call store. A resumed run must not read it as an empty text."""
    written = json.loads(json.dumps(Turn("teacher", "check", "key", verification).to_json()))
    again = Turn.from_json(written).result
    assert isinstance(again, Verification)
    assert (again.prompt_tokens, again.completion_tokens) == (
        verification.prompt_tokens,
        verification.completion_tokens,
    )
    del written["verified"]  # as earlier versions wrote it, with its kind alone
    assert isinstance(Turn.from_json({**written, "kind": "verify"}).result, Verification)


@settings(deadline=None)
@given(transcripts)
def test_transcripts_survive_json(transcript: Transcript) -> None:
    assert Transcript.from_json(json.loads(json.dumps(transcript.to_json()))) == transcript


def test_only_timing_depends_on_the_run() -> None:
    turn = Turn(
        "student",
        "draft",
        "key",
        Completion("x", "stop", prompt_tokens=1, cached_tokens=0, completion_tokens=2, seconds=0.5),
        reused=False,
    )
    again = replace(turn, reused=True, result=replace(turn.result, seconds=0.0))
    one, other = turn.to_json(), again.to_json()
    assert one.pop("timing") != other.pop("timing")
    assert one == other


usages = st.builds(Usage, *[st.integers(0, 99)] * 2, *[counts] * 3, st.just(0.0), *[st.none() | st.just(1.5)] * 2)


@settings(deadline=None)
@given(st.lists(usages, max_size=6))
def test_usage_adds_up_and_unknown_stays_unknown(parts: list[Usage]) -> None:
    total = Usage.total(parts)
    for name in ("calls", "reused", "prompt_tokens", "cached_tokens", "completion_tokens", "flops", "price"):
        values = [getattr(part, name) for part in parts]
        assert getattr(total, name) == (None if None in values else sum(values))


def test_what_a_turn_costs() -> None:
    turn = Turn(
        "student",
        "draft",
        "",
        Completion("x", "stop", prompt_tokens=1000, cached_tokens=0, completion_tokens=500, seconds=2.0),
        reused=True,
    )
    assert SeatCost(7, 1.0, 4.0).usage(turn) == Usage(1, 1, 1000, 0, 500, 2.0, 2.0 * 7 * 1500, 0.003)
    assert SeatCost().usage(turn) == Usage(1, 1, 1000, 0, 500, 2.0, None, None)
    unknown = replace(turn, result=Completion("x"))
    assert SeatCost(7, 1.0, 4.0).usage(unknown) == Usage(1, 1, None, None, None, 0.0, None, None)


@settings(deadline=None, max_examples=60)
@given(st.lists(transcripts, max_size=4))
def test_a_summary_is_a_sum_over_turns(given_: list[Transcript]) -> None:
    costs = {"student": SeatCost(10, 1.0, 2.0), "teacher": SeatCost(None)}
    summary = Summary(costs.__getitem__)
    for transcript in given_:
        summary.add(transcript)
    data = json.loads(json.dumps(summary.to_json()))
    all_turns = [turn for transcript in given_ for turn in transcript.turns]
    assert data["questions"] == len(given_) == data["answered"] + data["failed"]
    assert sum(data["stops"].values()) == data["answered"]
    assert sum(data["failures"].values()) == data["failed"]
    for seat, kinds in data["usage"].items():
        own = [t for t in all_turns if t.seat == seat]
        assert kinds["total"]["calls"] == len(own)
        assert kinds["total"]["reused"] == sum(t.reused for t in own)
        for name in ("prompt_tokens", "completion_tokens"):
            values = [getattr(t.result, name) for t in own]
            assert kinds["total"][name] == (None if None in values else sum(values))
        for name in ("calls", "completion_tokens"):
            values = [kinds[kind][name] for kind in kinds if kind != "total"]
            assert kinds["total"][name] == (None if None in values else sum(values))
        if seat == "teacher":
            assert kinds["total"]["flops"] is None
    refined = [sum(turn.kind == "refine" for turn in t.turns) for t in given_]
    assert data["rounds"]["questions"] == {str(n): refined.count(n) for n in sorted(set(refined))}
    assert data["rounds"]["max"] == max(refined, default=None)
    written = [t for t in all_turns if isinstance(t.result, Completion)]
    cut = sum(t.finish == "length" for t in all_turns)
    assert data["cut_at_limit_rate"] == (cut / len(written) if written else None)
    tokens, said = data["completion_tokens"], [t.result.completion_tokens for t in all_turns]
    if None not in said:
        assert sum(tokens.values()) == sum(n for n in said if n is not None)
    assert data["reviews"].get("total", 0) == sum(t.verdict is not None for t in all_turns)


def without_seconds(data: Any) -> Any:
    """Return a summary without the times, which transcripts round."""
    if isinstance(data, dict):
        return {name: without_seconds(value) for name, value in data.items() if name != "seconds"}
    return data


@settings(deadline=None, max_examples=60)
@given(st.lists(all_transcripts, max_size=4))
def test_the_summary_of_a_resumed_run_is_that_of_an_undisturbed_one(given_: list[Transcript]) -> None:
    """A resumed run reads its first transcripts from the run directory, and may do so before it has loaded a model."""
    costs = {seat: SeatCost() for seat in ("student", "teacher")}
    undisturbed, resumed = Summary(costs.__getitem__), Summary(costs.__getitem__)
    for transcript in given_:
        resumed.add(Transcript.from_json(json.loads(json.dumps(transcript.to_json()))))
    costs["student"] = SeatCost(10, 1.0, 2.0)  # now it is loaded
    for transcript in given_:
        undisturbed.add(transcript)
    assert without_seconds(resumed.to_json()) == without_seconds(undisturbed.to_json())
    assert resumed.warnings() == undisturbed.warnings()


def test_kept_discarded_and_verification_tokens() -> None:
    def turn(kind: str, text: str, tokens: int) -> Turn:
        return Turn(
            "student", kind, "", Completion(text, "stop", prompt_tokens=1, cached_tokens=0, completion_tokens=tokens)
        )

    said = (turn("draft", "a", 1), turn("review", "r", 10), turn("refine", "b", 100), turn("review", "ok", 1000))
    summary = Summary(lambda seat: SeatCost())
    summary.add(Transcript("t", 0, "", 0, 0, "", "", said, "b", "accepted"))
    assert summary.tokens == {"kept": 100, "discarded": 1, "verification": 1010}
    summary.add(Transcript("t", 1, "", 0, 0, "", "", said[:2], "", "failed", Failure("backend", "")))
    assert summary.tokens == {"kept": 100, "discarded": 2, "verification": 1020}
    summary.add(Transcript("t", 2, "", 0, 0, "", "", (Turn("student", "draft", "", Completion("c")),), "c", "done"))
    assert summary.tokens == {"kept": None, "discarded": 2, "verification": 1020}


# -- contexts and conversations --------------------------------------------------------------------------------------

messages = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}))


@settings(deadline=None)
@given(messages)
def test_chat_contexts_carry_their_messages_anywhere(history: list[dict[str, str]]) -> None:
    context = ChatContext.of(history)
    wanted = tuple(Message(m["role"], m["content"]) for m in history)  # type: ignore[arg-type]
    assert context.messages == wanted
    copy = pickle.loads(pickle.dumps(context))
    assert isinstance(copy, ChatContext)
    assert copy.messages == wanted
    assert json.loads(json.dumps(context)) == str(context)
    assert json.loads(context) == history


def test_the_plain_form() -> None:
    talk = [Message("system", "Be kind."), Message("user", " Hi. "), Message("assistant", "Hello.")]
    assert plain_form(talk[:2]) == "Instructions: Be kind.\n\nUser: Hi.\n\nAssistant:"
    assert plain_form(talk) == "Instructions: Be kind.\n\nUser: Hi.\n\nAssistant: Hello."


@pytest.mark.parametrize(
    ("talk", "wanted"),
    [
        (["system:a", "user:b"], ["user:a\n\nb"]),
        (["system:a", "system:b", "user:c", "assistant:d", "user:e"], ["user:a\n\nb\n\nc", "assistant:d", "user:e"]),
        (["user:b"], ["user:b"]),
        (["system:a", "assistant:b"], ["user:a", "assistant:b"]),
    ],
)
def test_system_messages_are_merged_into_the_first_user_message(talk: list[str], wanted: list[str]) -> None:
    def read(lines: list[str]) -> list[Message]:
        return [Message(*line.split(":", 1)) for line in lines]  # type: ignore[arg-type]

    assert merge_system(read(talk)) == read(wanted)


@settings(deadline=None)
@given(st.text(st.characters(categories=["Cs", "L", "So"]), max_size=8))
def test_repair_replaces_lone_surrogates_alone(text: str) -> None:
    repaired = repair(text)
    assert is_utf8(repaired)
    assert repaired == text or not is_utf8(text)
    assert [c for c in text if not "\ud800" <= c <= "\udfff"] == [c for c in repaired if c in text]


def test_repair() -> None:
    assert repair("a\ud800b\udc00\udc00\U0001f600") == "a\ufffdb\ufffd\ufffd\U0001f600"


def test_the_last_of_equal_drafts_is_kept() -> None:
    said = tuple(
        Turn("student", kind, "", Completion("a", "stop", prompt_tokens=1, cached_tokens=0, completion_tokens=n))
        for kind, n in (("draft", 1), ("refine", 9))
    )
    summary = Summary(lambda seat: SeatCost())
    summary.add(Transcript("t", 0, "", 0, 0, "", "", said, "a", "cycle"))
    assert summary.tokens == {"kept": 9, "discarded": 1, "verification": 0}


@pytest.mark.parametrize(
    ("texts", "final", "lost"),
    [
        (["Answer: 5", "Let me check."], "Let me check.", 1),
        (["Answer: 5", ""], "", 1),
        (["Answer: 5", "Answer: 6"], "Answer: 6", 0),
        (["Answer: 5", "Let me check."], "Answer: 5", 0),  # the revision was not taken
        (["I think so.", "Let me check."], "Let me check.", 0),  # there was no answer to lose
        (["Answer: 5", "Answer: 5"], "Answer: 5", 0),
        (["Answer: 5"], "composed of parts", 0),
    ],
)
@pytest.mark.parametrize("totals", [None, {"totals": {"questions_left_out": 0}}])
def test_questions_whose_answer_was_lost_are_counted(
    texts: list[str], final: str, lost: int, totals: dict[str, Any] | None
) -> None:
    said = tuple(
        Turn("student", kind, "", Completion(text, "stop", prompt_tokens=1, cached_tokens=0, completion_tokens=1))
        for kind, text in zip(("draft", "refine"), texts, strict=False)
    )
    summary = Summary(lambda seat: SeatCost())
    summary.add(Transcript("t", 0, "", 0, 0, "", "Q: How many?", said, final, "done", details=totals))
    assert summary.to_json()["answers_lost"] == lost
    assert summary.tokens["kept"] == int(final in texts), "with figures of its own or without"


@pytest.mark.parametrize(("lost", "questions", "warns"), [(1, 5, True), (1, 6, False), (1, 1, True), (0, 9, False)])
def test_a_run_in_which_many_answers_were_lost_warns(lost: int, questions: int, warns: bool) -> None:
    summary = Summary(lambda seat: SeatCost())
    for number in range(questions):
        texts = ("Answer: 5", "Let me check." if number < lost else "Answer: 6")
        said = tuple(Turn("student", kind, "", Completion(text)) for kind, text in zip(DRAFTS, texts, strict=True))
        summary.add(Transcript("t", number, "", 0, 0, "", "Q: How many?", said, texts[1], "done"))
    found = [line.partition(" final texts")[0] for line in summary.warnings() if "lost the answer" in line]
    assert found == ([f"{lost} of {questions}"] if warns else [])


def decided(seat: str, unread: int, total: int, **verdict: Any) -> list[Turn]:
    return [
        Turn(seat, "review", "", Completion("x"), {**verdict, "malformed": number < unread}) for number in range(total)
    ]


@pytest.mark.parametrize(("unread", "total", "warns"), [(46, 46, True), (1, 5, True), (1, 6, False), (4, 4, False)])
def test_a_seat_whose_decisions_are_not_read_is_named_with_the_remedy(unread: int, total: int, warns: bool) -> None:
    summary = Summary(lambda seat: SeatCost())
    turns = tuple(decided("teacher", unread, total))
    summary.add(Transcript("t", 0, "", 0, 0, "", "", turns, "", "done"))
    found = summary.to_json()["warnings"]
    assert len(found) == warns
    if warns:
        assert found[0].startswith(f"`teacher`: {unread} of {total} ")
        assert "teacher.chat" in found[0]


def test_votes_that_are_not_read_have_a_remedy_of_their_own() -> None:
    summary = Summary(lambda seat: SeatCost())
    turns = tuple(Turn("agent1", "draft", "", Completion("x"), {"answer": None}) for _ in range(9))
    summary.add(Transcript("t", 0, "", 0, 0, "", "", turns, "", "done"))
    (warning,) = summary.to_json()["warnings"]
    assert "`agent1`: 9 of 9 (100%) answers could not be read" in warning
    assert "answer_pattern" in warning
