"""Seats that are never asked need no model: without rounds of feedback, and where choices are scored directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import instance, instances

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.errors import ConfigurationError
from harness_ext.models.debate import DebateLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.speculative_pair import SpeculativePairLM
from harness_ext.records.run_directory import read_transcripts


def make(folder: Path, cls: type[ProtocolLM], **arguments: Any) -> ProtocolLM:
    return cls(store=str(folder / "calls"), run_dir=folder / "run", progress="off", device="cpu", **arguments)


def model(name: str = "alone") -> ScriptedBackend:
    return ScriptedBackend(lambda prompt: f"re {prompt}", name=name, score_reply=lambda p, c: -float(len(c)))


def scored(context: str, *choices: str) -> list[Any]:
    asked = [instance(context, idx=i) for i in range(len(choices))]
    for request, choice in zip(asked, choices, strict=True):
        request.request_type, request.arguments = "loglikelihood", (context, choice)
    return asked


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (FeedbackPairLM, {"max_rounds": 0}),
        (FeedbackPairLM, {"max_rounds": 0, "verdict": "decision"}),
        (FeedbackPairLM, {"max_rounds": 0, "verdict": "text"}),
        (FeedbackPairLM, {"max_rounds": 0, "accept_at": "auto"}),
        (SpeculativePairLM, {"max_corrections": 0}),
        (SpeculativePairLM, {"max_corrections": 0, "accept": "judge", "unit": "step"}),
    ],
)
def test_without_rounds_the_student_needs_no_other_seat(tmp_path: Path, cls: type[ProtocolLM], options: Any) -> None:
    lm = make(tmp_path, cls, student=model(), **options)
    assert lm.generate_until(instances(["a", "b"])) == ["re a", "re b"]
    assert not lm.plan.demonstration
    assert list(lm.plan.seats) == ["student"]


def test_a_teacher_that_is_named_all_the_same_is_accepted_and_not_asked(tmp_path: Path) -> None:
    teacher = model("teacher")
    lm = make(tmp_path, FeedbackPairLM, student=model(), teacher=teacher, max_rounds=0)
    assert lm.generate_until(instances(["a"])) == ["re a"]
    assert (teacher.calls, teacher.loads) == ([], 0)


@pytest.mark.parametrize(
    ("cls", "options"),
    [(FeedbackPairLM, {"max_rounds": 1}), (SpeculativePairLM, {"accept": "greedy", "max_corrections": 0})],
)
def test_a_seat_that_is_asked_is_required(tmp_path: Path, cls: type[ProtocolLM], options: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"the seat `teacher` .* has no model"):
        make(tmp_path, cls, student=model(), **options)


@pytest.mark.parametrize(
    ("cls", "seat"), [(FeedbackPairLM, "student"), (SpeculativePairLM, "student"), (DebateLM, "agent")]
)
def test_scoring_choices_directly_needs_one_seat(tmp_path: Path, cls: type[ProtocolLM], seat: str) -> None:
    options = {"topology": "judge"} if cls is DebateLM else {}
    lm = make(tmp_path, cls, reason="off", **{seat: model()}, **options)
    assert [score for score, _ in lm.loglikelihood(scored("Q", " no", " perhaps"))] == [-3.0, -8.0]
    (done,) = read_transcripts(lm.session.run.path)
    assert {turn.kind for turn in done.turns} == {"choice"}
    missing = "judge" if cls is DebateLM else "teacher"
    with pytest.raises(ConfigurationError, match=f"task asks for written answers.*`{missing}=<backend>:<model>`"):
        lm.generate_until(instances(["a"]))


def test_the_seat_that_scores_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"the seat `student` .* has no model"):
        make(tmp_path, FeedbackPairLM, teacher=model(), reason="off")


def test_the_built_in_pair_takes_all_seats_whatever_they_are_asked(tmp_path: Path) -> None:
    lm = make(tmp_path, FeedbackPairLM, reason="off", max_rounds=0)
    assert list(lm.plan.seats) == ["student", "teacher"]
    assert lm.plan.unnamed == ()
