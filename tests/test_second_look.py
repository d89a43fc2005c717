"""Tests of the second look: what the student is asked, how often, and when a question ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support import instance, run_engine

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.config.run_plan import plan_run
from harness_ext.embedded import model_path
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.engine.engine import Engine
from harness_ext.errors import ConfigurationError
from harness_ext.models.second_look import LOOK_USER, SecondLook, SecondLookLM
from harness_ext.options import PromptText
from harness_ext.protocol import Question
from harness_ext.records import Transcript
from harness_ext.records.run_directory import read_transcripts
from harness_ext.tasks.babi_stories.rows import draw

TASK = "A story.\n\nHow many apples are left?"
LOOK = PromptText(LOOK_USER).fill(demand="How many apples are left?")
SAMPLED = {"do_sample": True, "temperature": 0.9}


def replies(*texts: str) -> Callable[[str], str]:
    """Return a function that replies with one text after another."""
    left: Iterator[str] = iter(texts)
    return lambda prompt: next(left)


def look(
    reply: Callable[[str], str], gen_kwargs: dict[str, Any] | None = None, **options: Any
) -> tuple[Transcript, list[str]]:
    """Return the transcript of one question, and the prompts that the student got."""
    student = ScriptedBackend(reply)
    question = Question(TASK, gen_kwargs or {"until": ["Q"]}, "t")
    done = run_engine(Engine(), SecondLook(**options), {"student": student}, [question])[0]
    return done, [prompt for batch in student.calls for prompt in batch]


def test_the_student_sees_its_draft_and_nothing_about_it() -> None:
    done, asked = look(replies("5", "6", "7"), rounds=2)
    assert asked == [
        TASK,
        f"User: {TASK}\n\nAssistant: 5\n\nUser: {LOOK}\n\nAssistant:",
        f"User: {TASK}\n\nAssistant: 6\n\nUser: {LOOK}\n\nAssistant:",
    ]
    assert (done.text, done.stop) == ("7", "rounds")
    assert [(turn.seat, turn.kind) for turn in done.turns] == [
        ("student", "draft"), ("student", "refine"), ("student", "refine"),
    ]  # fmt: skip
    assert [turn.verdict for turn in done.turns] == [None] * 3


@pytest.mark.parametrize("first", ["5", "Correct.", "Incorrect.\nHint: Count again.", "I am not sure."])
def test_the_request_is_the_same_whatever_the_student_wrote(first: str) -> None:
    _, asked = look(replies(first, "6"))
    assert asked[1].replace(first, "5") == look(replies("5", "6"))[1][1]


def test_the_default_prompt_suggests_neither_verdict() -> None:
    assert re.search(r"right or wrong", LOOK_USER)
    assert not re.search(r"\b(teacher|feedback|hint|mistake|problem|incorrect|review)", LOOK_USER, re.IGNORECASE)


@pytest.mark.parametrize("rounds", [0, 1, 2, 7])
def test_a_question_ends_after_the_given_number_of_rounds(rounds: int) -> None:
    done, asked = look(replies(*map(str, range(99))), rounds=rounds)
    assert (done.text, done.stop, len(asked)) == (str(rounds), "rounds", rounds + 1)


def test_by_default_the_student_looks_again_once() -> None:
    assert len(look(replies("5", "6", "7"))[1]) == 2


def test_a_greedy_student_that_repeats_itself_is_not_asked_further() -> None:
    done, asked = look(replies("5", "6", "6"), rounds=9)
    assert (done.text, done.stop, len(asked)) == ("6", "unchanged", 3)
    done, asked = look(replies("5", "6", "7", "6"), rounds=9)
    assert (done.text, done.stop, len(asked)) == ("6", "cycle", 4)


def test_a_student_that_samples_is_asked_further() -> None:
    done, asked = look(replies("5", "5", "6", "5"), SAMPLED, rounds=3)
    assert (done.text, done.stop, len(asked)) == ("5", "rounds", 4)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_reply_keeps_the_draft(empty: str) -> None:
    done, asked = look(replies("5", "6", empty), rounds=9)
    assert (done.text, done.stop, len(asked)) == ("6", "empty_refinement", 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=12, max_size=12), st.integers(0, 9), st.booleans())
def test_calls_and_answers_for_any_student(texts: list[str], rounds: int, sampled: bool) -> None:
    """The answer is the last text asked for, and the looks end at the bound or, when greedy, at the first repeat."""
    done, asked = look(replies(*texts), SAMPLED if sampled else None, rounds=rounds)
    repeat = next((i for i in range(1, len(texts)) if texts[i] in texts[:i]), len(texts))
    looks = rounds if sampled else min(rounds, repeat)
    assert len(asked) == len(done.turns) == 1 + looks
    assert done.text == texts[looks]
    assert (done.stop == "rounds") == (sampled or rounds < repeat)


def test_prompts_come_from_the_run_or_else_from_the_model(tmp_path: Path) -> None:
    assert look(replies("5", "6"), look_user=PromptText("Again: {demand}"))[1][1].endswith(
        "User: Again: How many apples are left?\n\nAssistant:"
    )
    student = ScriptedBackend(replies("5", "6"))
    student.prompts = {"look_user": "As in training."}
    run_engine(Engine(), SecondLook(), {"student": student}, [Question(TASK, {}, "t")])
    assert student.calls[1][0].endswith("User: As in training.\n\nAssistant:")


@pytest.mark.parametrize(("rounds", "said"), [(-1, "0 or more"), (20_000, "at most 10,000"), ("x", "a whole number")])
def test_invalid_options_are_reported_before_anything_loads(rounds: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        plan_run(SecondLook, {"student": ScriptedBackend(str), "rounds": rounds})


def test_looks_are_counted_per_seat_and_kind(tmp_path: Path) -> None:
    lm = SecondLookLM(
        student=ScriptedBackend(replies("a b", "a b c")), store="off", run_dir=tmp_path / "run", progress="off"
    )
    assert lm.generate_until([instance(TASK)]) == ["a b c"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    usage = summary["usage"]["student"]
    assert {kind: (usage[kind]["calls"], usage[kind]["completion_tokens"]) for kind in usage} == {
        "total": (2, 5), "draft": (1, 2), "refine": (1, 3),
    }  # fmt: skip
    assert summary["stops"] == {"rounds": 1}


def test_choices_are_scored_after_the_last_look(tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    (tmp_path / "rows.jsonl").write_text(json.dumps({"q": "Where is John?", "choices": ["hall", "garden"], "gold": 1}))
    task = {
        "task": "picks", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "output_type": "multiple_choice", "doc_to_text": "Question: {{q}}\nAnswer:",
        "doc_to_target": "gold", "doc_to_choice": "choices", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "picks.yaml").write_text(yaml.safe_dump(task))
    student = ScriptedBackend(
        lambda prompt: "He left the hall." if "Check it" in prompt else "He is in the hall.",
        score_reply=lambda prompt, choice: -1.0 if ("left" in prompt) == ("garden" in choice) else -2.0,
    )
    lm = SecondLookLM(student=student, store="off", run_dir=tmp_path / "run", progress="off")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = simple_evaluate(model=lm, tasks=["picks"], task_manager=manager, bootstrap_iters=0)
    assert results is not None
    assert results["results"]["picks"]["acc,none"] == 1.0
    (done,) = read_transcripts(tmp_path / "run")
    assert [turn.kind for turn in done.turns] == ["draft", "refine", "choice", "choice"]
    assert all("He left the hall." in prompt for prompt in student.calls[-1])


@pytest.mark.parametrize("name", ["student", "small_student"])
def test_the_embedded_students_understand_the_request(name: str, tmp_path: Path) -> None:
    rows = draw(9_000_000, 24, (2, 6))
    stories = [INSTRUCTION + story_text(row["passage"].splitlines(), row["question"]) for row in rows]
    lm = SecondLookLM(
        student=str(model_path(name)),
        store="off",
        run_dir=tmp_path / "run",
        progress="off",
        device="cpu",
        batch_size=24,
    )
    lm.generate_until(
        [instance(story, {"until": [], "max_gen_toks": 200}, doc_id=i) for i, story in enumerate(stories)]
    )
    looks = [turn.text for done in read_transcripts(tmp_path / "run") for turn in done.turns if turn.kind == "refine"]
    assert len(looks) == 24
    assert sum(re.search(r"^Reasoning: .+\nAnswer: \S+$", text) is not None for text in looks) >= 18
