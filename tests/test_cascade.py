"""Tests of cascade: what makes the student confident, when the teacher is asked, and what `score` makes of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import make_task, manager_of, said, transcript, write_run
from support import run_engine

from harness_ext.analysis.scoring.score import score_run
from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.errors import ConfigurationError
from harness_ext.models.asking import IS_RIGHT
from harness_ext.models.cascade import Cascade, CascadeLM
from harness_ext.protocol import Question, SeatSetup
from harness_ext.records import Completion, Inner, Transcript, Turn
from harness_ext.records.confidences import threshold_for
from harness_ext.records.costs import question_cost

TASK = "A story.\n\nHow many apples are left?"


def student(*texts: str, **more: Any) -> ScriptedBackend:
    left = iter(texts)
    return ScriptedBackend(lambda prompt: next(left), name="student", **more)


def answered(protocol: Cascade, **seats: ScriptedBackend) -> tuple[Transcript, list[str]]:
    """Return the transcript of one question, and the prompts that the teacher got."""
    teacher = seats.setdefault("teacher", ScriptedBackend(lambda prompt: "Answer: 9", name="teacher"))
    done = run_engine(Engine(), protocol, seats, [Question(TASK, {"until": ["Q"]}, "t")])[0]
    return done, [prompt for batch in teacher.calls for prompt in batch]


def decides(probability: float, name: str = "gate") -> ScriptedBackend:
    def decide(request: DecideRequest) -> list[float]:
        assert IS_RIGHT in request.prompt
        return [probability, 1 - probability]

    return ScriptedBackend(lambda prompt: "?", name=name, decide_reply=decide)


@pytest.mark.parametrize(
    ("answers", "text", "stop", "confidence"),
    [
        ("55567", "Answer: 5", "accepted", 0.6),  # three of five
        ("56755", "Answer: 5", "accepted", 0.6),
        ("55667", "Answer: 9", "asked", 0.4),
        ("-----", "Answer: 9", "asked", 0.0),  # nothing can be read, so nothing agrees
        ("5----", "Answer: 9", "asked", 0.2),  # what cannot be read does not agree
    ],
)
def test_the_teacher_is_asked_where_the_draws_do_not_agree(
    answers: str, text: str, stop: str, confidence: float
) -> None:
    drafts = ["no idea" if a == "-" else f"Answer: {a}" for a in answers]
    done, asked = answered(Cascade(accept_at=0.6), student=student(*drafts))
    assert (done.text, done.stop) == (text, stop)
    assert done.details is not None
    assert done.details["confidence"] == pytest.approx(confidence)
    assert done.details["totals"] == {"asked": int(stop == "asked"), "undecided": 0}
    assert asked == ([TASK] if stop == "asked" else []), "the teacher gets the task alone"


@pytest.mark.parametrize(("probability", "stop"), [(0.8, "accepted"), (0.79, "asked")])
def test_a_gate_decides_in_the_students_place(probability: float, stop: str) -> None:
    gate = decides(probability)
    done, _ = answered(Cascade(confidence="correct", accept_at=0.8), student=student("Answer: 5"), gate=gate)
    assert done.stop == stop
    assert [(t.seat, t.kind) for t in done.turns][:2] == [("student", "draft"), ("gate", "verdict")]
    prompt = gate.calls[0][0]
    assert '"answer": "Answer: 5"' in prompt
    verdict = done.turns[1].verdict or {}
    assert {n: verdict[n] for n in ("accepted", "probability", "threshold", "malformed")} == {
        "accepted": stop == "accepted", "probability": probability, "threshold": 0.8, "malformed": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "stop", "undecided"), [("Yes", "accepted", 0), ("No", "asked", 0), ("Hm", "asked", 1)]
)
def test_without_probabilities_the_decision_itself_counts(said: str, stop: str, undecided: int) -> None:
    done, _ = answered(Cascade(confidence="correct", accept_at=0.99), student=student("Answer: 5", said))
    assert done.stop == stop
    assert done.details is not None
    assert done.details == {"confidence": None, "totals": {"asked": int(stop == "asked"), "undecided": undecided}}


@pytest.mark.parametrize(("logprob", "stop"), [(-0.2, "accepted"), (-1.5, "asked"), (-1e9, "asked")])
def test_likelihood_is_the_mean_over_the_answers_tokens(logprob: float, stop: str) -> None:
    one = student("Answer: 5", score_reply=lambda prompt, text: logprob)
    done, _ = answered(Cascade(confidence="likelihood"), student=one)
    assert done.stop == stop
    assert done.details is not None
    assert done.details["confidence"] == pytest.approx(math.exp(logprob / 2))  # two words


@pytest.mark.parametrize("accept_at", [0, 0.01])
@pytest.mark.parametrize("confidence", ["agreement", "correct", "likelihood"])
def test_an_empty_answer_is_never_accepted(confidence: Any, accept_at: float) -> None:
    one = student(*[" "] * 5, score_reply=lambda prompt, text: 0.0)
    done, _ = answered(Cascade(confidence=confidence, accept_at=accept_at), student=one)
    assert (done.text, done.stop) == ("Answer: 9", "asked")


def test_a_silent_teacher_leaves_the_students_answer() -> None:
    silent = ScriptedBackend(lambda prompt: "\n", name="teacher")
    done, _ = answered(Cascade(), student=student(*(f"Answer: {n}" for n in range(5))), teacher=silent)
    assert (done.text, done.stop) == ("Answer: 0", "silent_teacher")


def test_only_the_answer_counts_as_kept() -> None:
    done, _ = answered(Cascade(), student=student(*(f"Answer: {n}" for n in range(5))))
    kept = [(turn.kind, (turn.verdict or {}).get("kept", 0)) for turn in done.turns]
    assert kept == [*[("draft", 0)] * 5, ("answer", 2)]


@pytest.mark.parametrize(
    "options",
    [
        {"accept_at": 1.1}, {"accept_at": "auto"}, {"accept_at": "auto:x"}, {"ask_share": 0.2}, {"k": 0},
        {"accept_at": "auto:x", "ask_share": 2.0}, {"temperature": -1.0},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"accept_at|ask_share|must be"):
        Cascade(**options)


def test_seats_must_be_able_to_do_what_the_confidence_needs(tmp_path: Path) -> None:
    seats = {"student": student("?"), "teacher": student("?"), "store": "off", "progress": "off"}
    with pytest.raises(ConfigurationError, match="can score"):
        CascadeLM(**seats, confidence="likelihood")
    with pytest.raises(ConfigurationError, match=r"`gate` .* is not used"):
        CascadeLM(**seats, gate=student("?"))
    classifier = student("?")
    classifier.capabilities = frozenset({"reward"})
    with pytest.raises(ConfigurationError, match="`gate`: this run needs a model that can decide, but student cannot"):
        CascadeLM(**seats, confidence="correct", gate=classifier)
    with pytest.raises(ConfigurationError, match="not a complete run directory"):
        CascadeLM(**seats, accept_at=f"auto:{tmp_path}", ask_share=0.2)


@given(st.lists(st.none() | st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), max_size=30), st.floats(0, 1))
def test_a_threshold_asks_no_more_than_its_share_and_no_higher_one_would_do(
    confidences: list[float | None], share: float
) -> None:
    def asked(threshold: float) -> int:
        return sum(one is None or one < threshold for one in confidences)

    found, known = threshold_for(confidences, share), {one for one in confidences if one is not None}
    allowed = share * len(confidences) + 1e-6
    if any(asked(one) <= allowed for one in known):
        assert asked(found) <= allowed
        assert all(asked(one) > allowed for one in known if one > found)
    else:
        assert found == min(known, default=0.0)


def run_of(path: Path, confidences: list[float], **options: Any) -> Path:
    """Write the run directory of a cascade in which the draws of a student agreed to these shares."""
    protocol = Cascade(**options)
    identity = {"options": dict(vars(protocol)), "seats": {"student": SeatSetup(student()).identity}}
    turns = [
        (
            said(
                "student", "draft", str(2 * i if i % 2 else 0), accepted=share >= 0.5, probability=share, threshold=0.5
            ),
            *([] if share >= 0.5 else [said("teacher", "answer", str(2 * i), tokens=100)]),
        )
        for i, share in enumerate(confidences)
    ]
    done = [
        transcript(i, *one, text=one[-1].text, stop="asked" if one[1:] else "accepted") for i, one in enumerate(turns)
    ]
    return write_run(path, *done, identity=json.loads(json.dumps(identity, default=str)))


def test_a_threshold_is_taken_from_another_run(tmp_path: Path) -> None:
    run = run_of(tmp_path / "train", [0.2, 0.4, 0.6, 0.6, 0.8, 1.0, 1.0, 1.0])
    seats = {"student": SeatSetup(student()), "teacher": SeatSetup(student())}
    for share, expected in ((0.0, 0.2), (0.25, 0.6), (0.49, 0.6), (0.5, 0.8), (1.0, 1.0)):
        found = Cascade(accept_at=f"auto:{run}", ask_share=share).resolved(seats)
        assert found.accept_at == expected
    with pytest.raises(ValueError, match=r"another way \(confidence, k differ\)"):
        Cascade(accept_at=f"auto:{run}", ask_share=0.2, confidence="correct", k=3).resolved(seats)
    other = SeatSetup(ScriptedBackend(lambda prompt: "?", name="other"))
    with pytest.raises(ValueError, match=r"another way \(student differ\)"):
        Cascade(accept_at=f"auto:{run}", ask_share=0.2).resolved({**seats, "student": other})


def test_a_run_whose_decisions_had_no_probabilities_gives_no_threshold(tmp_path: Path) -> None:
    run = run_of(tmp_path / "train", [1.0] * 3)
    lines = (run / "transcripts.jsonl").read_text().replace('"probability": 1.0', '"probability": null')
    (run / "transcripts.jsonl").write_text(lines)
    with pytest.raises(ValueError, match="contains no answers with a confidence"):
        Cascade(accept_at=f"auto:{run}", ask_share=0.2).resolved({"student": SeatSetup(student())})


def test_costs_by_threshold_are_those_of_the_models(tmp_path: Path) -> None:
    """A protocol takes the student's seat, and the size of its model is known only from the summary."""
    draws = Inner(tuple(said("s", "draft", "4", tokens=tokens) for tokens in (10, 20)), "vote")
    whole = Completion("4", "stop", prompt_tokens=30, completion_tokens=30)
    verdict = {"accepted": True, "probability": 0.9, "threshold": 0.5}
    drafts = [Turn("student", "draft", "k", whole, verdict, inner=draws) for _ in range(2)]
    seats = {"student": {}, "student.s": {"price_in": 1.0, "price_out": 2.0}}
    run = write_run(tmp_path / "run", *(transcript(i, one, text="4") for i, one in enumerate(drafts)), seats=seats)
    total = {"prompt_tokens": 60, "completion_tokens": 60, "flops": 2.0 * 700 * 120}
    (run / "summary.json").write_text(json.dumps({"usage": {"student.s": {"total": total}}}))
    metric = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]["metrics"]["exact_match,none"]
    (point,) = {(p["flops"], p["price"]) for p in metric["thresholds"]["points"]}
    assert point == (2 * 700 * 60, pytest.approx((30 * 1 + 30 * 2) / 1e6))
    assert question_cost(run, "flops") == 2 * 700 * 60


def test_score_shows_accuracy_and_cost_by_threshold(tmp_path: Path) -> None:
    # The student is right about row 0 and odd rows; the teacher always is, and was asked about rows 1 and 2.
    run = run_of(tmp_path / "run", [1.0, 0.2, 0.4, 0.6, 0.6, 0.8, 1.0, 1.0])
    metric = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert metric["rounds"] == [5 / 8, 6 / 8]
    assert metric["probabilities"]["rows"] == 8
    points = {point["accept_at"]: point for point in metric["thresholds"]["points"]}
    shown = {at: tuple(p[n] for n in ("accuracy", "accepted", "rounds", "unknown")) for at, p in points.items()}
    assert shown[0.0] == (5 / 8, 8, 0.0, 0)
    assert shown[0.4] == (5 / 8, 7, 1 / 8, 0)
    assert shown[0.6] == (6 / 8, 6, 2 / 8, 0)
    assert shown[0.8][3] == 2, "the teacher was not asked about the two at 0.6"
    # 2 · parameters · tokens: 20 of the student with 1000, and 200 of the teacher with 5000 for a quarter.
    assert points[0.0]["flops"] == 2 * 1000 * 20
    assert points[0.6]["flops"] == 2 * 1000 * 20 + 2 * 5000 * 200 / 4
    assert points[0.6]["price"] is None, "the student has no price"


def test_a_short_final_text_does_not_replace_the_draft_that_contains_it(tmp_path: Path) -> None:
    turns = (
        said("student", "draft", "14", accepted=False, probability=0.2, threshold=0.5),
        said("teacher", "answer", "4"),
    )
    run = write_run(tmp_path / "run", transcript(2, *turns, text="4"))
    metric = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert metric["rounds"] == [0.0, 1.0]


def test_all_draws_count_before_their_agreement_is_known(tmp_path: Path) -> None:
    draws = [said("student", "draft", "4", tokens=10) for _ in range(3)]
    first = Turn("student", "draft", "k", Completion("4", "stop", prompt_tokens=10, completion_tokens=10),
                 {"accepted": True, "probability": 1.0, "threshold": 0.5})  # fmt: skip
    run = write_run(tmp_path / "run", transcript(2, first, *draws, text="4"))
    metric = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert {point["tokens"] for point in metric["thresholds"]["points"]} == {80}
