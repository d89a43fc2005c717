"""Tests of equal_budget: when a model goes on, how, what it has spent in the end, and what its answer is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_runs import said, transcript, write_run
from servers import Server, completion
from support import instances, run_engine, watch

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.errors import CallFailed, ConfigurationError
from harness_ext.models.equal_budget import WAIT_USER, EqualBudget, EqualBudgetLM
from harness_ext.protocol import Question, SeatSetup
from harness_ext.records import Completion, Transcript
from harness_ext.records.run_directory import read_transcripts

TASK = "A story.\n\nHow many apples are left?"


def student(*texts: str | Completion, **more: Any) -> ScriptedBackend:
    left = iter(texts)
    return ScriptedBackend(lambda prompt: next(left), name="student", **more)


def answered(protocol: EqualBudget, backend: ScriptedBackend, task: str = TASK) -> tuple[Transcript, list[str]]:
    question = Question(task, {"until": ["Q"], "max_gen_toks": 50}, "t")
    done = run_engine(Engine(), protocol, {"student": backend}, [question])[0]
    return done, [prompt for batch in backend.calls for prompt in batch]


def totals(done: Transcript) -> dict[str, Any]:
    assert done.details is not None
    return dict(done.details["totals"])


def test_a_model_goes_on_after_a_word_until_the_budget_is_spent() -> None:
    done, asked = answered(EqualBudget(spend=10), student("Answer: 5\n", ", let me see. Answer: 6", ": it is 6."))
    first = f"{TASK}Answer: 5\n\nWait"
    assert asked == [TASK, first, f"{first}, let me see. Answer: 6\n\nWait"]
    assert totals(done) == {"waits": 2, "unparsable": 0, "cost": 12, "target_cost": 10.0}
    assert (done.text, done.stop) == (", let me see. Answer: 6", "spent")
    assert [turn.kind for turn in done.turns] == ["draft", "continue", "continue"]
    assert [(turn.verdict or {}).get("kept") for turn in done.turns] == [None, 6, None]


def test_a_piece_is_no_longer_than_what_is_left() -> None:
    seen: list[Any] = []
    backend = student("one two three four", "five six", "seven")
    watch(backend, seen.extend)
    answered(EqualBudget(spend=8), backend)
    assert [request.gen_kwargs["max_gen_toks"] for request in seen] == [50, 4, 2]
    backend = student("one two three four", "five six", "seven", "eight")
    seen.clear()
    watch(backend, seen.extend)
    answered(EqualBudget(spend=52, max_waits=2), backend)
    assert [request.gen_kwargs["max_gen_toks"] for request in seen] == [50, 48, 46]
    seen.clear()
    backend = student("one two three four", "five six")
    watch(backend, seen.extend)
    answered(EqualBudget(spend=60, max_waits=1), backend)
    assert [request.gen_kwargs["max_gen_toks"] for request in seen] == [50, 50]


def test_what_only_confirms_the_answer_does_not_replace_it() -> None:
    done, _ = answered(EqualBudget(spend=14), student("So 2 + 3 = 5. #### 5", " yes, it is 5."))
    assert done.text == "So 2 + 3 = 5. #### 5"


def test_a_piece_that_was_cut_off_goes_on_without_the_word() -> None:
    cut = Completion("I count the", "length", prompt_tokens=9, completion_tokens=3)
    done, asked = answered(EqualBudget(spend=8), student(cut, " apples. Answer: 5", "no"))
    assert asked == [TASK, f"{TASK}I count the", f"{TASK}I count the apples. Answer: 5\n\nWait"]
    assert done.text == " apples. Answer: 5"


def test_an_answer_of_another_kind_is_no_revision() -> None:
    texts = ("Answer: 5", ", yes, that is right.", ". Is it? Yes. So the answer is yes.")
    done, _ = answered(EqualBudget(spend=16), student(*texts))
    assert (done.text, totals(done)["waits"]) == ("Answer: 5", 2)
    yes_or_no = "Is the ball red?"
    done, _ = answered(
        EqualBudget(spend=12), student("Answer: no", ", I made a mistake. The answer is yes."), yes_or_no
    )
    assert done.text == ", I made a mistake. The answer is yes."


def test_a_model_that_cannot_continue_a_reply_is_asked_in_a_message() -> None:
    backend = student("Answer: 5", "Answer: 6", "Answer: 6")
    backend.capabilities = frozenset({"generate"})
    done, asked = answered(EqualBudget(spend=6), backend)
    assert asked[1] == f"User: {TASK}\n\nAssistant: Answer: 5\n\nUser: {WAIT_USER}\n\nAssistant:"
    assert asked[2].count(WAIT_USER) == 2
    assert done.text == "Answer: 6"


def test_a_reasoning_model_goes_on_within_its_thought() -> None:
    backend = student("<think>\nfive?\n</think>\n\nAnswer: 5", " no, six\n</think>\n\nAnswer: 6")
    done, asked = answered(EqualBudget(spend=8, wait="Hmm"), backend)
    assert asked[1] == f"{TASK}<think>\nfive?\n\nHmm"
    assert (done.text, totals(done)["waits"]) == ("Answer: 6", 1)
    assert done.turns[1].result.thought == "no, six"  # type: ignore[union-attr]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_model_goes_on_while_half_a_piece_of_average_size_is_left(sizes: list[int], spend: int) -> None:
    texts = [" ".join(["word"] * size) for size in sizes] + ["end"] * 60
    done, _ = answered(EqualBudget(spend=spend, max_waits=100), student(*texts))
    found, pieces = totals(done)["cost"], totals(done)["waits"] + 1
    counts = [len(text.split()) for text in texts]
    assert found == sum(counts[:pieces])
    assert found + found / pieces / 2 > spend
    before = sum(counts[: pieces - 1])
    assert pieces == 1 or before + before / (pieces - 1) / 2 <= spend


@pytest.mark.parametrize(
    ("texts", "options", "text", "stop", "waits"),
    [
        (["Answer: 5", ""], {}, "Answer: 5", "silent", 1),
        ([" "], {}, " ", "silent", 0),
        (["", "no"], {}, "", "silent", 0),
        (["Answer: 5", " a", ", b"], {"max_waits": 2}, "Answer: 5", "max_waits", 2),
        (["Answer: 5"], {"max_waits": 0}, "Answer: 5", "max_waits", 0),
        (["Let me see what there is.", " Hm."], {"max_waits": 1}, "Let me see what there is.", "max_waits", 1),
        ([" ", ""], {"how": "thinking"}, " ", "answered", 0),
    ],
)
def test_how_a_question_ends(texts: list[str], options: dict[str, Any], text: str, stop: str, waits: int) -> None:
    done, _ = answered(EqualBudget(**{"spend": 100, **options}), student(*texts))
    assert (done.text, done.stop, totals(done)["waits"]) == (text, stop, waits)


@pytest.mark.parametrize(("code", "fails"), [("overflow", False), ("backend", True)])
def test_a_full_context_ends_a_question_with_what_there_is(code: Any, fails: bool) -> None:
    backend = student("Answer: 5")
    backend.check = lambda request: CallFailed(code, "no") if "Wait" in request.prompt else None  # type: ignore
    done, _ = answered(EqualBudget(spend=100), backend)
    assert (done.failure is not None) == fails
    assert fails or (done.text, done.stop) == ("Answer: 5", "context_full")


def test_unknown_costs_fail_the_question_with_the_remedy() -> None:
    done, _ = answered(EqualBudget(by="price"), student("Answer: 5"))
    assert done.failure is not None
    assert "choose another `by`" in done.failure.message


def test_the_budget_is_what_another_run_spent(tmp_path: Path) -> None:
    turns = (said("student", "draft", "5"), said("teacher", "review", "Wrong"), said("student", "refine", "6"))
    run = write_run(tmp_path / "run", transcript(0, *turns), transcript(1, *turns[:1]))
    setups = {"student": SeatSetup(student())}
    assert EqualBudget(spend=f"auto:{run}").resolved(setups).spend == 20  # 10 tokens per turn, two turns on average
    assert EqualBudget(spend=f"auto:{run}", by="tokens").resolved(setups).spend == 40
    with pytest.raises(ValueError, match="not a run directory"):
        EqualBudget(spend=f"auto:{tmp_path}").resolved(setups)


def test_a_thinking_budget_is_sent_to_a_server(tmp_path: Path) -> None:
    with Server(lambda text: "Answer: 5") as server:
        lm = EqualBudgetLM(
            student=f"openai:m@{server.url}", spend=700, how="thinking", store="off", run_dir=tmp_path / "run",
            progress="off",
        )  # fmt: skip
        assert lm.generate_until(instances([TASK], {"until": ["Q"], "max_gen_toks": 50})) == ["Answer: 5"]
    (sent,) = server.requests
    assert sent["max_tokens"] == 750, "there is room for the answer"
    assert (sent["thinking_token_budget"], sent["thinking_budget_tokens"]) == (700, 700)
    assert (sent["custom_params"], sent["stop"]) == ({"thinking_budget": 700}, ["Q"])


@pytest.mark.parametrize(("written", "stop"), [(60, "answered"), (400, "thinking_over_budget")])
def test_a_budget_that_a_server_ignores_is_in_the_records(tmp_path: Path, written: int, stop: str) -> None:
    reply = completion("Answer: 5", {"messages": [{"content": TASK}]}, completion_tokens=written)
    reply["choices"][0]["message"]["reasoning_content"] = "hm " * 200
    with Server(lambda text: reply) as server:
        seat = f"openai:m@{server.url}"
        options = {"store": "off", "run_dir": tmp_path / "run", "progress": "off"}
        lm = EqualBudgetLM(student=seat, spend=50, how="thinking", **options)
        lm.generate_until(instances([TASK], {"until": ["Q"], "max_gen_toks": 50}))
    assert [done.stop for done in read_transcripts(tmp_path / "run")] == [stop]


def test_a_chat_server_is_asked_to_think_on(tmp_path: Path) -> None:
    with Server(
        lambda text: completion("Answer: 5", {"messages": [{"content": TASK}]}, completion_tokens=20)
    ) as server:
        lm = EqualBudgetLM(
            student=f"openai:m@{server.url}", spend=45, store="off", run_dir=tmp_path / "run", progress="off"
        )
        assert lm.generate_until(instances([TASK], {"until": ["Q"], "max_gen_toks": 50})) == ["Answer: 5"]
    first, second = server.requests
    assert [message["content"] for message in second["messages"]] == [TASK, "Answer: 5", WAIT_USER]
    assert (first["max_tokens"], second["max_tokens"]) == (50, 25)


def test_a_local_model_has_no_thinking_budget() -> None:
    with pytest.raises(ConfigurationError, match="no thinking budget"):
        EqualBudgetLM(student=student(), how="thinking", store="off", progress="off")


@pytest.mark.parametrize(
    "options",
    [{"spend": 0}, {"spend": "all"}, {"wait": " "}, {"max_waits": -1}, {"how": "thinking", "by": "flops"}],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"spend|wait|thinking"):
        EqualBudget(**options)
