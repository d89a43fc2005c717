"""Tests of decisions in debates, speculative pairs and tournaments."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import instance

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.enhance.tournament import Contest, JudgeReply, Tournament, winner_of
from harness_ext.errors import ConfigurationError
from harness_ext.models.debate import DebateLM
from harness_ext.models.speculative_pair import SpeculativePairLM
from harness_ext.records import Decision, Transcript
from harness_ext.records.run_directory import read_transcripts

GEN = {"until": [], "max_gen_toks": 64}


def decider(reply: Callable[[DecideRequest], Sequence[float] | Decision], **more: Any) -> ScriptedBackend:
    return ScriptedBackend(more.pop("write", lambda prompt: "?"), decide_reply=reply, name="judge", **more)


def by_state(wanted: str) -> Callable[[DecideRequest], Sequence[float]]:
    """Return a judge that gives 0.8 to the answer that contains a text, wherever it is shown."""

    def reply(request: DecideRequest) -> Sequence[float]:
        state = json.loads(request.state)
        shares = [0.8 if wanted in state[option] else 0.2 for option in request.options]
        return [share / sum(shares) for share in shares]

    return reply


def debate(tmp_path: Path, judge: Any, *answers: str, **options: Any) -> Transcript:
    agents = [ScriptedBackend(lambda p, a=a: a, name=f"a{i}") for i, a in enumerate(answers)]  # type: ignore[misc]
    given = {"store": "off", "run_dir": tmp_path / "run", "progress": "off", "topology": "all", "max_rounds": 1}
    lm = DebateLM(agents=agents, judge=judge, judge_by="choice", **{**given, **options})
    lm.generate_until([instance("Q", GEN)])
    (transcript,) = read_transcripts(lm.session.run.path)
    return transcript


def test_a_judge_picks_an_answer_that_it_sees_in_both_orders(tmp_path: Path) -> None:
    judge = decider(by_state("7"))
    transcript = debate(tmp_path, judge, "#### 5", "#### 7", "#### 5", decision="judge")
    assert (transcript.text, transcript.stop) == ("#### 7", "judge")
    shown = [json.loads(r) for batch in judge.calls for r in [b.split("User: ")[1].split("\n\n")[0] for b in batch]]
    assert [(s["answer 1"], s["answer 2"]) for s in shown] == [("#### 5", "#### 7"), ("#### 7", "#### 5")]
    assert (transcript.details or {})["author"] == "agent2"


@pytest.mark.parametrize(("settled", "rounds"), [(0.9, 0), (0.1, 1)])
def test_a_judge_ends_a_debate_that_is_settled(tmp_path: Path, settled: float, rounds: int) -> None:
    def reply(request: DecideRequest) -> Sequence[float]:
        return (settled, 1 - settled) if request.options == ("true", "false") else by_state("5")(request)

    transcript = debate(tmp_path, decider(reply), "#### 5", "#### 7", topology="judge")
    assert (transcript.text, transcript.stop) == ("#### 5", "judge" if rounds else "settled")
    assert sum(turn.kind == "reply" for turn in transcript.turns) == 2 * rounds


def test_a_judge_that_cannot_decide_leaves_the_vote(tmp_path: Path) -> None:
    def reply(request: DecideRequest) -> Decision:
        return Decision(request.options, (), None, "endpoint", refused=True)

    transcript = debate(tmp_path, decider(reply), "#### 5", "#### 7", "#### 5", decision="judge")
    assert transcript.text == "#### 5"
    assert (transcript.details or {})["totals"]["silent_judge"] == 1


def test_picking_needs_a_judge(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`judge_by=choice` needs a judge"):
        DebateLM(judge_by="choice", run_dir=tmp_path, store="off")


# -- the rating of a step ------------------------------------------------------------------------------------------


def speculative(tmp_path: Path, teacher: Any) -> Transcript:
    student = ScriptedBackend(lambda prompt: "First step.\nSecond step.", name="student")
    given = {"store": "off", "run_dir": tmp_path / "run", "progress": "off", "unit": "step", "accept": "judge"}
    lm = SpeculativePairLM(student=student, teacher=teacher, **given)
    lm.generate_until([instance("Q", GEN)])
    (transcript,) = read_transcripts(lm.session.run.path)
    return transcript


def digits(**shares: float) -> list[float]:
    return [shares.get(f"n{digit}", 0.0) for digit in range(10)]


@pytest.mark.parametrize(("shares", "accepted"), [({"n6": 0.5, "n9": 0.5}, True), ({"n6": 0.9, "n9": 0.1}, False)])
def test_the_rating_is_the_expected_digit(tmp_path: Path, shares: dict[str, float], accepted: bool) -> None:
    teacher = decider(lambda request: digits(**shares), write=lambda prompt: "A step.")
    transcript = speculative(tmp_path, teacher)
    judged = [turn for turn in transcript.turns if turn.kind == "judge"]
    expected = 6 * shares["n6"] + 9 * shares["n9"]
    assert all((turn.verdict or {})["rating"] == pytest.approx(expected) for turn in judged)
    assert (judged[0].verdict or {})["accepted"] is accepted
    assert all(turn.result.completion_tokens == 0 for turn in judged)


def test_a_teacher_with_an_endpoint_only_answers_a_score_question(tmp_path: Path) -> None:
    seen: list[DecideRequest] = []

    def reply(request: DecideRequest) -> Sequence[float]:
        seen.append(request)
        return digits(n8=1.0)

    teacher = decider(reply)
    teacher.decision_sources = ("endpoint",)
    transcript = speculative(tmp_path, teacher)
    assert [(turn.verdict or {})["rating"] for turn in transcript.turns if turn.kind == "judge"] == [8.0, 8.0]
    assert {request.question.type for request in seen if request.question} == {"score"}
    assert "First step." in json.loads(seen[0].state)["step"]


# -- preferences ---------------------------------------------------------------------------------------------------


def test_a_match_is_won_by_the_mean_over_both_orders(tmp_path: Path) -> None:
    from support import run_engine

    from harness_ext.engine.engine import Engine

    judge = decider(by_state("good"))
    contest = Contest("Q", candidates=("a bad one", "a good one"))
    found = run_engine(Engine(), Tournament(style="choice"), {"judge": judge}, [contest])
    record = json.loads(found[0].text)
    assert sorted((reply["first"], reply["preference"]) for reply in record["replies"]) == [
        (0, pytest.approx(0.2)), (1, pytest.approx(0.8)),
    ]  # fmt: skip
    replies = [JudgeReply(**{**reply, "match": tuple(reply["match"])}) for reply in record["replies"]]
    assert winner_of(replies[0].match, replies, "none") == 1


@pytest.mark.parametrize(("first", "second", "winner"), [(0.9, 0.8, 0), (0.9, 0.95, 1), (0.7, 0.7, None)])
def test_a_judge_that_prefers_a_place_is_averaged_out(first: float, second: float, winner: int | None) -> None:
    """`first` is the probability of candidate 0 shown first, `second` that of candidate 1 shown first."""
    replies = [JudgeReply(1, (0, 1), 0, 1, "", first), JudgeReply(1, (0, 1), 1, 0, "", second)]
    assert winner_of((0, 1), replies, "none") == winner


def test_a_review_of_a_candidate_is_decided_not_written() -> None:
    from support import run_engine

    from harness_ext.engine.engine import Engine

    def reply(request: DecideRequest) -> Sequence[float]:
        assert request.labels == ("Correct.", "Incorrect.")
        return (0.8, 0.2) if "a good one" in request.prompt else (0.3, 0.7)

    contest = Contest("Q", candidates=("a bad one", "a good one"))
    found = run_engine(Engine(), Tournament(style="review"), {"judge": decider(reply)}, [contest])
    assert [turn.result.completion_tokens for turn in found[0].turns] == [0, 0]
    replies = [JudgeReply(**{**r, "match": tuple(r["match"])}) for r in json.loads(found[0].text)["replies"]]
    assert winner_of((0, 1), replies, "none") == 1
