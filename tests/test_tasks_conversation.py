"""bAbI as conversations: stories, parts, histories, scores before and after feedback, tables, supported models."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import run_engine, scripted_pair
from tasks_support import RuleLM, evaluate, real_rows, task_manager, write_rows

from harness_ext.analysis.scoring.rounds import trajectory_of
from harness_ext.analysis.scoring.score import score_run
from harness_ext.embedded.story_prompt import INSTRUCTION
from harness_ext.engine.engine import Engine
from harness_ext.errors import ConfigurationError
from harness_ext.models.baseline import Baseline, BaselineLM
from harness_ext.models.feedback_pair import FeedbackPair, FeedbackPairLM
from harness_ext.protocol import Question
from harness_ext.protocol.conversation import Answered, read_answers
from harness_ext.records import Completion, SeatCost, Transcript
from harness_ext.records.chat import ChatContext
from harness_ext.records.summary import Summary
from harness_ext.tasks.babi_conversation.export import COLUMNS, metrics
from harness_ext.tasks.babi_conversation.rows import part_text, stories
from harness_ext.tasks.babi_conversation.task import process_results


def row(passage: list[str], question: str, answer: str, task: int = 1) -> dict[str, Any]:
    return {"passage": "".join(f"{line}\n" for line in passage), "question": question, "answer": answer, "task": task}


FIRST, SECOND, THIRD = "Zoe went to the attic.", "Otto slept.", "Zoe went to the barn."
ROWS = [
    row([FIRST, SECOND], "Where is Zoe?", "attic"),
    row([FIRST, SECOND, THIRD], "Where is Zoe?", "barn"),
    row([FIRST, SECOND, THIRD], "Where was Zoe?", "attic"),
    row(["Ida sang."], "Who sang?", "Ida"),
    row(["Ida sang.", "Bo sang."], "Who sang last?", "Bo", task=2),
]


def test_rows_with_a_growing_passage_form_a_story() -> None:
    first, second, third = stories(ROWS)
    assert [(s["task"], s["story"], len(s["parts"])) for s in (first, second, third)] == [
        (1, 1, 3),
        (1, 2, 1),
        (2, 3, 1),
    ]
    assert [part["lines"] for part in first["parts"]] == [[FIRST, SECOND], [THIRD], []]
    assert [part["number"] for part in first["parts"]] == [1, 4, 6]
    assert list(stories([])) == []


def test_a_part_consists_of_its_new_numbered_lines_and_its_question() -> None:
    first, second, third = (part_text(part) for part in next(iter(stories(ROWS)))["parts"])
    assert first == (
        f"Here are the context sentences:\n1 {FIRST}\n2 {SECOND}\n\n"
        "Now, answer the following question:\nWhere is Zoe?\n"
    )
    assert second.startswith(f"Here are the context sentences:\n4 {THIRD}\n\n")
    assert third == "Now, answer the following question:\nWhere was Zoe?\n"


def conversation(*parts: str) -> Question:
    return Question(
        ChatContext.of([{"role": "system", "content": "SYS"}, *({"role": "part", "content": p} for p in parts)]),
        {"until": [], "max_gen_toks": 20},
        task="babi_conversation_1",
    )


def run(
    student: Callable[[str], str | Completion],
    teacher: Callable[[str], str | Completion],
    question: Question,
    **more: Any,
) -> tuple[Transcript, list[str], list[str]]:
    prompts: dict[str, list[str]] = {"student": [], "teacher": []}

    def heard(who: str, say: Callable[[str], str | Completion]) -> Callable[[str], str | Completion]:
        return lambda prompt: prompts[who].append(prompt) or say(prompt)  # type: ignore[func-returns-value]

    pair = scripted_pair(heard("student", student), heard("teacher", teacher))
    backends = dict(zip(("student", "teacher"), pair, strict=True))
    (transcript,) = run_engine(Engine(), FeedbackPair(**more), backends, [question]).values()
    return transcript, prompts["student"], prompts["teacher"]


def test_the_history_contains_refined_replies_but_no_reviews() -> None:
    def student(prompt: str) -> str:
        if "found a mistake" in prompt.rsplit("User:", 1)[1]:
            return "better one"
        return "poor one" if "TWO" not in prompt else "second"

    def teacher(prompt: str) -> str:
        return "Correct." if "better one" in prompt or "second" in prompt else "Incorrect.\nHint: no."

    transcript, asked, reviewed = run(student, teacher, conversation("ONE", "TWO"))
    assert read_answers(transcript.text) == [
        Answered("poor one", "better one", 1, "accepted"),
        Answered("second", "second", 0, "accepted"),
    ]
    assert transcript.stop == "accepted"
    second = asked[2]
    assert second.index("SYS") < second.index("ONE") < second.index("better one") < second.index("TWO")
    assert "poor one" not in second
    assert "found a mistake" not in second
    # The teacher sees all user messages so far, but only the latest of the student's replies.
    assert "ONE" in reviewed[-1]
    assert "TWO" in reviewed[-1]
    assert "better one" not in reviewed[-1]


def test_the_first_part_makes_the_same_call_as_a_single_question() -> None:
    _, parts, _ = run(lambda p: "x", lambda p: "Correct.", conversation("ONE"))
    alone = Question(
        ChatContext.of([{"role": "system", "content": "SYS"}, {"role": "user", "content": "ONE"}]), {"until": []}
    )
    _, single, _ = run(lambda p: "x", lambda p: "Correct.", alone)
    assert parts == single


def test_the_tokens_of_every_answer_count_as_kept() -> None:
    student, _ = scripted_pair(
        lambda p: Completion("same", "stop", prompt_tokens=1, cached_tokens=0, completion_tokens=3),
        lambda p: "Correct.",
    )
    (transcript,) = run_engine(Engine(), Baseline(), {"student": student}, [conversation("A", "B", "C")]).values()
    summary = Summary(lambda seat: SeatCost())
    summary.add(transcript)
    assert summary.to_json()["completion_tokens"] == {"kept": 9, "discarded": 0, "verification": 0}


def test_a_failed_part_fails_the_conversation() -> None:
    def student(prompt: str) -> str:
        if "TWO" in prompt:
            raise ValueError("broken")
        return "fine"

    transcript, _, _ = run(student, lambda p: "Correct.", conversation("ONE", "TWO"))
    assert transcript.failure is not None
    assert read_answers(transcript.text) == []


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", "[1]", "null", '[{"before": "a"}]'])
def test_a_text_that_is_not_a_conversation_has_no_answers(text: str) -> None:
    assert read_answers(text) == []


def answers(*pairs: tuple[str | None, str]) -> str:
    return json.dumps([vars(Answered(before, after, 2, "accepted")) for before, after in pairs])


def test_scores_are_means_over_the_questions_of_a_story() -> None:
    doc = next(iter(stories(ROWS)))
    reply = answers(("Answer: barn", "Answer: attic"), ("Answer: barn", "Answer: the barn"), (None, "Answer: cellar"))
    scores = process_results(doc, [reply])
    assert scores["exact_match_before"] == pytest.approx(1 / 3)
    assert scores["exact_match"] == pytest.approx(1 / 3)
    assert scores["soft_match"] == pytest.approx(1.75 / 3)
    assert scores["rounds"] == 2
    missing = process_results(doc, [answers(("Answer: attic", "Answer: attic"))])
    assert missing["exact_match"] == pytest.approx(1 / 3)
    assert set(process_results(doc, [""]).values()) == {0.0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "babi", train=ROWS, test=ROWS)
    return tmp_path


def test_other_models_and_plain_contexts_are_refused_with_the_remedy(folder: Path) -> None:
    manager = task_manager()
    lm = RuleLM()
    for options in ({}, {"apply_chat_template": True}):
        with pytest.raises(ConfigurationError, match=r"--apply_chat_template and use a model of harness-ext"):
            evaluate(lm, manager, "babi_conversation_1", **options)
    assert lm.asked == []


@pytest.mark.parametrize("model", [BaselineLM, FeedbackPairLM])
def test_our_models_run_the_task_and_write_the_tables(folder: Path, model: Any) -> None:
    options = {"max_rounds": 1, "review_max_tokens": 8} if model is FeedbackPairLM else {}
    run_dir = folder / "run"
    for _ in range(2):  # the second run reuses all calls and must not write a row twice
        lm = model(batch_size=8, run_dir=run_dir, model="a/b", **options)
        names = ("babi_conversation_1", "babi_conversation_2")
        results = evaluate(lm, task_manager(), *names, apply_chat_template=True, max_gen_toks=8)
    samples = results["samples"]["babi_conversation_1"]
    assert json.loads(samples[0]["arguments"][0][0])[0] == {"role": "system", "content": INSTRUCTION}
    said = {s["doc"]["story"]: read_answers(s["resps"][0][0]) for s in samples}
    assert [len(a) for a in said.values()] == [3, 1]
    with (run_dir / "test_a_b_results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == list(COLUMNS)
    assert sorted(r["id_"] for r in rows) == ["1-1-1", "1-1-2", "1-1-3", "1-2-1", "2-1-1"]
    for r in rows:
        if r["task_id"] == "1":
            answer = said[int(r["sample_id"])][int(r["part_id"]) - 1]
            assert (r["model_output_before"], r["model_output_after"]) == (answer.before, answer.after)
            assert int(r["iterations"]) == answer.rounds
    with (run_dir / "test_a_b_metrics.csv").open(newline="") as file:
        assert [r["task_id"] for r in csv.DictReader(file, delimiter="\t")] == ["1", "2", "mean", "std"]
    # `harness-ext score` distinguishes two states of a story: all first drafts, and all final replies.
    for task in score_run(run_dir, manager=task_manager())["tasks"].values():
        of = {name.partition(",")[0]: values for name, values in task["metrics"].items()}
        assert of["exact_match"]["first_draft"] == of["exact_match_before"]["final"]
        assert of["exact_match"]["final"] == of["exact_match"]["lm_eval"]


def test_a_story_has_two_states_first_drafts_and_final_replies() -> None:
    transcript, _, _ = run(
        lambda prompt: "good" if "found a mistake" in prompt else "bad",
        lambda prompt: "Correct." if "good" in prompt else "Incorrect.\nHint: no.",
        conversation("ONE", "TWO"),
    )
    drafts, final = trajectory_of(transcript).answers
    assert final == transcript.text
    assert [(a.before, a.after, a.rounds) for a in read_answers(drafts)] == [("bad", "bad", 0)] * 2
    alone, _, _ = run(lambda p: transcript.text, lambda p: "Correct.", Question("[]", {"until": []}))
    assert trajectory_of(alone).answers == (transcript.text,)


def test_the_metrics_table_has_means_and_deviations_over_stories() -> None:
    def line(task: int, story: int, after: float) -> dict[str, str]:
        zero = {f"{m}_match_accuracy_{w}": "0.0" for m in ("exact", "soft") for w in ("before", "after")}
        return {**zero, "task_id": str(task), "sample_id": str(story), "exact_match_accuracy_after": str(after)}

    first, second, mean, std = metrics([line(1, 1, 1.0), line(1, 1, 0.0), line(1, 2, 1.0), line(10, 1, 0.0)])
    assert (first["task_id"], first["exact_match_accuracy_after"], first["exact_match_std_after"]) == (1, 0.75, 0.35)
    assert (second["task_id"], second["exact_match_std_after"]) == (10, "")
    assert (mean["exact_match_accuracy_after"], std["exact_match_accuracy_after"]) == (0.38, 0.53)
    assert metrics([]) == []


@pytest.mark.data
def test_real_stories_contain_every_real_question_once(data_dir: Path) -> None:
    rows = real_rows(data_dir, "babi")
    found = list(stories(rows))
    assert sum(len(story["parts"]) for story in found) == len(rows)
    told: list[str] = []
    for story in found:
        lines: list[str] = []
        for part in story["parts"]:
            lines += part["lines"]
            told.append("".join(f"{line}\n" for line in lines) + part["question"])
    assert told == [r["passage"] + r["question"] for r in rows]
    # Counted by hand: the first story of task 1 has five questions, each after two lines; bAbI numbers questions, too.
    assert [part["number"] for part in found[0]["parts"]] == [1, 4, 7, 10, 13]
