"""Tests of budgets: a run ends before it spends more, and keeps everything that is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import instances, run_engine, scripted_pair

from harness_ext.backends.base import GenerateRequest, ScoreRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.budget import Budget, Cap, open_budget, total_spending
from harness_ext.engine.engine import Engine
from harness_ext.errors import BudgetSpent, ConfigurationError
from harness_ext.models.baseline import Baseline, BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.protocol import Question, SeatSetup
from harness_ext.records import Completion, SeatCost
from harness_ext.records.run_directory import read_transcripts

ASKED = {"until": [], "max_gen_toks": 8}


def make(tmp_path: Path, backend: ScriptedBackend, budget: str | None, **more: Any) -> BaselineLM:
    given = {"store": str(tmp_path / "s"), "run_dir": tmp_path / "r", "progress": "off", **more}
    return BaselineLM(student=backend, **given, **({"budget": budget} if budget else {}))


def calls(backend: ScriptedBackend) -> int:
    return sum(len(batch) for batch in backend.calls)


def summary(lm: BaselineLM) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((lm.session.run.path / "summary.json").read_text())
    return written


def test_a_run_stops_at_its_cap_and_continues_from_there(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda p: f"re: {p}")
    asked = instances((f"q{i}" for i in range(10)), ASKED)
    for done in (4, 8):
        lm = make(tmp_path, backend, "calls:4")
        with pytest.raises(BudgetSpent, match=r"4 of calls:4(?s:.*)run the same command again"):
            lm.generate_until(asked)
        assert calls(backend) == done
        assert len(list(read_transcripts(tmp_path / "r"))) == done
        assert summary(lm)["budget"] == {"cap": "calls:4", "spent": 4, "reached": True}
        assert (summary(lm)["answered"], summary(lm)["failed"], summary(lm)["unfinished"]) == (done, 0, 10 - done)
    lm = make(tmp_path, backend, "calls:4")
    assert lm.generate_until(asked) == [f"re: q{i}" for i in range(10)]
    assert calls(backend) == 10
    assert summary(lm)["budget"] == {"cap": "calls:4", "spent": 2, "reached": False}
    assert summary(lm)["unfinished"] == 0


def test_stored_calls_cost_nothing(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda p: f"re: {p}")
    asked = instances((f"q{i}" for i in range(6)), ASKED)
    make(tmp_path, backend, None).generate_until(asked)
    lm = make(tmp_path, backend, "calls:0", run_dir=tmp_path / "other")
    assert lm.generate_until(asked) == [f"re: q{i}" for i in range(6)]
    assert summary(lm)["budget"] == {"cap": "calls:0", "spent": 0, "reached": False}


def test_questions_that_the_store_answers_are_finished_after_the_cap(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda p: f"re: {p}")
    make(tmp_path, backend, None, window=1).generate_until(instances(["q8", "q9"], ASKED))
    lm = make(tmp_path, backend, "calls:1", run_dir=tmp_path / "other", window=1)
    with pytest.raises(BudgetSpent):
        lm.generate_until(instances((f"q{i}" for i in range(10)), ASKED))
    assert sorted(t.context for t in read_transcripts(lm.session.run.path)) == ["q0", "q8", "q9"]


@pytest.mark.parametrize("budget", ["tokens:2000", "price:0.002"])
def test_the_cap_is_never_exceeded(tmp_path: Path, budget: str) -> None:
    """Each call takes 6 tokens, a prompt of one word and a reply of five, though it could take more."""
    backend = ScriptedBackend(lambda p: "one two three four five")
    prices = {"student.price_in": 1, "student.price_out": 1}
    lm = make(tmp_path, backend, budget, **prices)
    asked = instances((f"q{i}" for i in range(1000)), ASKED)
    with pytest.raises(BudgetSpent):
        lm.generate_until(asked)
    total = summary(lm)["usage"]["student"]["total"]
    spent = total["prompt_tokens"] + total["completion_tokens"]
    largest = len("q999") + 64 + 8  # the prompt's bytes, what a template may add, and the reply's length limit
    assert 2000 - largest - 6 <= spent <= 2000
    assert total["calls"] == calls(backend) == summary(lm)["answered"]
    assert summary(lm)["budget"]["spent"] == pytest.approx(spent if "tokens" in budget else total["price"])


def test_an_unfinished_question_is_neither_answered_nor_failed(tmp_path: Path) -> None:
    student, teacher = scripted_pair(lambda p: "x", lambda p: "Correct.")
    asked = instances(["a", "b", "c"], ASKED)

    def run(budget: str) -> FeedbackPairLM:
        return FeedbackPairLM(
            student=student, teacher=teacher, store=str(tmp_path / "s"), run_dir=tmp_path / "r", progress="off",
            window=1, budget=budget,
        )  # fmt: skip

    lm = run("calls:3")
    with pytest.raises(BudgetSpent):
        lm.generate_until(asked)
    (whole,) = read_transcripts(lm.session.run.path)
    assert (whole.context, len(whole.turns)) == ("a", 2)
    assert run("calls:3").generate_until(asked) == ["x"] * 3
    assert calls(student) + calls(teacher) == 6, "the draft of the second question is reused"


def test_a_budget_for_half_of_the_questions_finishes_about_half(tmp_path: Path) -> None:
    """The window allows all questions to be open at once, but then none would be finished."""
    student, teacher = scripted_pair(lambda p: "x", lambda p: "Correct.")
    lm = FeedbackPairLM(
        student=student, teacher=teacher, store=str(tmp_path / "s"), run_dir=tmp_path / "r", progress="off",
        budget="calls:200",
    )  # fmt: skip
    with pytest.raises(BudgetSpent):
        lm.generate_until(instances((f"q{i}" for i in range(200)), ASKED))
    assert 90 <= len(list(read_transcripts(lm.session.run.path))) <= 100
    assert max(len(batch) for batch in student.calls) >= 10, "many questions still advance together"


def test_on_failure_score_does_not_apply_to_unpaid_questions(tmp_path: Path) -> None:
    lm = make(tmp_path, ScriptedBackend(lambda p: "x"), "calls:1", on_failure="score")
    with pytest.raises(BudgetSpent):
        lm.generate_until(instances(["a", "b"], ASKED))


def test_a_failed_call_counts_as_one(tmp_path: Path) -> None:
    def moody(prompt: str) -> str:
        raise ValueError("no")

    lm = make(tmp_path, ScriptedBackend(moody), "calls:2", on_failure="score")
    with pytest.raises(BudgetSpent):
        lm.generate_until(instances((f"q{i}" for i in range(5)), ASKED))
    assert summary(lm)["budget"]["spent"] == 2
    assert (summary(lm)["failed"], summary(lm)["unfinished"]) == (2, 3)


def test_a_model_that_reports_no_tokens_ends_the_run_cleanly(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda p: Completion("x", "stop"))
    lm = make(tmp_path, backend, "tokens:1000")
    with pytest.raises(BudgetSpent, match="scripted does not report how many tokens"):
        lm.generate_until(instances((f"q{i}" for i in range(50)), ASKED))
    assert summary(lm)["budget"]["spent"] is None
    assert 0 < summary(lm)["answered"] < 50


@pytest.mark.parametrize("budget", ["5", "dollars:5", "calls:many", "calls:-1", "price:nan", "tokens:inf", "calls:"])
def test_wrong_budgets_are_refused(tmp_path: Path, budget: str) -> None:
    with pytest.raises(ConfigurationError, match="expected `calls:`, `tokens:` or `price:` and a number"):
        make(tmp_path, ScriptedBackend(lambda p: p), budget)


def test_what_a_cap_needs_is_checked_before_anything_runs(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda p: p)
    with pytest.raises(ConfigurationError, match=r"`student.price_in` and `student.price_out`"):
        make(tmp_path, backend, "price:5")
    backend.token_counts = "none"
    with pytest.raises(ConfigurationError, match="reports no token counts: use `budget=calls:<number>` instead"):
        make(tmp_path, backend, "tokens:5")


@given(
    limit=st.integers(0, 300),
    lengths=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=20),
    window=st.integers(1, 20),
)
@settings(max_examples=40, deadline=None)
def test_no_cap_is_exceeded_and_no_run_hangs(limit: int, lengths: list[tuple[int, int]], window: int) -> None:
    backend = ScriptedBackend(
        lambda p: Completion("x", "stop", prompt_tokens=len(p), cached_tokens=0, completion_tokens=1 + len(p) % 7)
    )
    budget = Budget(Cap("tokens", limit), {backend: SeatCost()})
    engine = Engine(None, window, budget=budget)
    questions = [Question(f"{i}" * size, {"max_gen_toks": new}) for i, (size, new) in enumerate(lengths) if size]
    try:
        done = run_engine(engine, Baseline(), {"student": backend}, questions)
    except BudgetSpent:
        assert budget.reached
    else:
        assert len(done) == len(questions)
    assert budget.spent <= limit
    assert budget.reserved == {}


def test_what_a_call_may_cost_covers_prompt_continuation_and_reply() -> None:
    backend = ScriptedBackend(lambda p: p)
    budget = Budget(Cap("tokens", 200), {backend: SeatCost()})
    assert not budget.take("a", backend, GenerateRequest("é" * 30, {"max_gen_toks": 100}))
    budget = Budget(Cap("tokens", 230), {backend: SeatCost()})
    assert budget.take("a", backend, GenerateRequest("é" * 30, {"max_gen_toks": 100}))
    assert not budget.take("b", backend, ScoreRequest("p", "c"))
    assert not budget.reached, "reservations may be released"
    budget.settle("a", backend, Completion("x", "stop", prompt_tokens=10, cached_tokens=0, completion_tokens=1))
    assert budget.spent == 11
    assert budget.take("b", backend, ScoreRequest("p", "c"))


def test_processes_share_a_cap_and_their_spending_adds_up() -> None:
    backend = ScriptedBackend(lambda p: p)
    half = open_budget("calls:5", {"student": SeatSetup(backend)}, 2)
    assert half is not None
    assert half.cap == Cap("calls", 2.5)
    assert [half.take(name, backend, ScoreRequest("p", "c")) for name in "abc"] == [True, True, False]
    assert open_budget(None, {}) is None
    assert total_spending([(2.0, False), (1.5, True)]) == {"spent": 3.5, "reached": True}
    assert total_spending([(2.0, False), (None, False)]) == {"spent": None, "reached": False}


def test_seats_that_share_a_model_are_charged_at_the_higher_price() -> None:
    backend = ScriptedBackend(lambda p: p)
    seats = {"student": SeatSetup(backend, "auto", 1, 2), "teacher": SeatSetup(backend, "auto", 3, 4)}
    budget = open_budget("price:1", seats)
    assert budget is not None
    assert budget.costs[backend].price(10**6, 10**6) == 7
