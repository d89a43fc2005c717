"""The tasks in lm-eval itself: the requests that a model gets and the scores of its replies, on rows of the tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

import harness_ext.tasks
from harness_ext.data import DataError
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text

TASKS = Path(harness_ext.tasks.__file__).parent
LM_EVAL_TASKS = Path(lm_eval.tasks.__file__).parent


class ScriptedLM(LM):
    """Replies with `reply(context)` and records the requests. Its chat template is JSON."""

    tokenizer_name = "scripted"

    def __init__(self, reply: Callable[[str], str]) -> None:
        super().__init__()
        self.reply = reply
        self.asked: list[Instance] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.asked += requests
        return [self.reply(request.args[0]) for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise AssertionError("these tasks only generate")

    loglikelihood_rolling = loglikelihood  # type: ignore[assignment]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        assert add_generation_prompt
        return json.dumps(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "json"


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    """Return a manager of lm-eval's gsm8k and our tasks. Loading lm-eval's whole index would take seconds."""
    return TaskManager(include_path=[LM_EVAL_TASKS / "gsm8k", TASKS], include_defaults=False)


def babi_row(task: int, place: str, answer: str | None = None) -> dict[str, Any]:
    """Return a row about people who are not in bAbI, so that the tests contain no row of the data set."""
    passage = f"Zoe hurried to the {place}.\nOtto stayed in the attic.\n"
    return {"passage": passage, "question": "Where is Zoe?", "answer": answer or place, "task": task}


def write(folder: Path, name: str, **splits: Sequence[dict[str, Any]]) -> None:
    (folder / name).mkdir()
    for split, rows in splits.items():
        (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def babi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with all 20 tasks: one training row and one test row each, but three test rows for task 1."""
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    test = [babi_row(task, f"cellar{task}") for task in range(1, 21)] + [babi_row(1, "roof"), babi_row(1, "loft")]
    write(tmp_path, "babi", train=[babi_row(task, f"barn{task}") for task in range(1, 21)], test=test)
    return tmp_path


def run(lm: LM, manager: TaskManager, *names: str, **options: Any) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(lm, tasks=list(names), task_manager=manager, bootstrap_iters=0, **options)
    assert results is not None
    return results


def asked(manager: TaskManager, name: str, **options: Any) -> list[str]:
    lm = ScriptedLM(lambda context: "Answer: x")
    run(lm, manager, name, **options)
    return [request.args[0] for request in lm.asked]


FIRST_LINES = "Here are the context sentences:\n1 Zoe hurried to the {}.\n2 Otto stayed in the attic.\n\n"
QUESTION = "Now, answer the following question:\nWhere is Zoe?\n"
USER = FIRST_LINES.format("cellar7") + QUESTION
SHOT = FIRST_LINES.format("barn7") + QUESTION + "Answer: barn7"


def test_a_plain_context_consists_of_instruction_and_question(babi: Path, manager: TaskManager) -> None:
    assert asked(manager, "babi_reasoning_7") == [INSTRUCTION + USER]


def test_a_system_instruction_comes_first(babi: Path, manager: TaskManager) -> None:
    contexts = asked(manager, "babi_reasoning_7", system_instruction="Be kind.")
    assert contexts == ["Be kind.\n\n" + INSTRUCTION + USER]


def test_few_shot_examples_are_rows_of_the_same_task(babi: Path, manager: TaskManager) -> None:
    contexts = asked(manager, "babi_reasoning_7", num_fewshot=1)
    assert contexts == [INSTRUCTION + SHOT + "\n\n" + USER]


def test_with_a_chat_template_the_instruction_is_the_system_message(babi: Path, manager: TaskManager) -> None:
    (context,) = asked(manager, "babi_reasoning_7", apply_chat_template=True)
    assert json.loads(context) == [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": USER},
    ]


def test_with_a_chat_template_few_shot_examples_are_turns(babi: Path, manager: TaskManager) -> None:
    options: dict[str, Any] = {"num_fewshot": 1, "apply_chat_template": True, "system_instruction": "Be kind."}
    (context,) = asked(manager, "babi_reasoning_7", fewshot_as_multiturn=True, **options)
    assert json.loads(context) == [
        {"role": "system", "content": "Be kind.\n\n" + INSTRUCTION},
        {"role": "user", "content": FIRST_LINES.format("barn7") + QUESTION},
        {"role": "assistant", "content": "Answer: barn7"},
        {"role": "user", "content": USER},
    ]
    (context,) = asked(manager, "babi_reasoning_7", fewshot_as_multiturn=False, **options)
    assert json.loads(context)[1:] == [{"role": "user", "content": SHOT + "\n\n" + USER}]


def test_generation_is_greedy_and_stops_at_a_question_of_the_model(babi: Path, manager: TaskManager) -> None:
    lm = ScriptedLM(lambda context: "")
    run(lm, manager, "babi_reasoning_7")
    (until,) = lm.asked[0].args[1]["until"]
    assert lm.asked[0].args[1] == {"until": [until], "max_gen_toks": 300, "do_sample": False}
    assert ("\n" + story_text(["A line."], "Why?")).startswith(until)


def test_row_text_is_not_a_template(babi: Path, manager: TaskManager) -> None:
    row = {"passage": "{{question}} {% raw %}\n", "question": "{{answer}}?", "answer": "{{task}}", "task": 7}
    (babi / "babi" / "test.jsonl").write_text(json.dumps(row))
    lm = ScriptedLM(lambda context: "Answer: {{task}}")
    results = run(lm, manager, "babi_reasoning_7")
    assert lm.asked[0].args[0] == INSTRUCTION + story_text(["{{question}} {% raw %}"], "{{answer}}?")
    assert results["results"]["babi_reasoning_7"]["exact_match,none"] == 1.0
    assert results["samples"]["babi_reasoning_7"][0]["target"] == "Answer: {{task}}"


def test_the_group_has_20_tasks_with_equal_weights(babi: Path, manager: TaskManager) -> None:
    def reply(context: str) -> str:
        if "roof" in context or "loft" in context:
            return "Reasoning: guess.\n\nAnswer: attic"
        return "Reasoning: line 1.\n\nAnswer: cellar2" if "cellar2." in context else "Answer: the cellar1"

    results = run(ScriptedLM(reply), manager, "babi_reasoning")
    scores = results["results"]
    assert results["n-samples"]["babi_reasoning_1"]["effective"] == 3
    # Task 1: "the cellar1" contains the gold answer of one row in three. Tasks 10 to 19 expect "cellar10" and so on.
    assert scores["babi_reasoning_1"]["exact_match,none"] == 0
    assert scores["babi_reasoning_1"]["soft_match,none"] == pytest.approx(0.25)
    assert scores["babi_reasoning_2"]["exact_match,none"] == 1
    assert results["group_subtasks"]["babi_reasoning"] == [f"babi_reasoning_{n}" for n in range(1, 21)]
    assert scores["babi_reasoning"]["exact_match,none"] == pytest.approx(1 / 20)
    alone = [scores[f"babi_reasoning_{n}"]["soft_match,none"] for n in range(1, 21)]
    assert scores["babi_reasoning"]["soft_match,none"] == pytest.approx(sum(alone) / 20)


def test_the_limit_applies_to_each_task_of_the_group(babi: Path, manager: TaskManager) -> None:
    lm = ScriptedLM(lambda context: "")
    run(lm, manager, "babi_reasoning", limit=1)
    assert [request.task_name for request in lm.asked] == [f"babi_reasoning_{n}" for n in range(1, 21)]
    assert [request.doc["task"] for request in lm.asked] == list(range(1, 21))


def test_model_arguments_do_not_affect_the_rows(babi: Path) -> None:
    arguments = {"model": "x", "student": "hf:a", "source": 1, "where": 2, "split": "train", "folder": "other"}
    manager = TaskManager(include_path=TASKS, include_defaults=False, metadata=arguments)
    assert [doc["answer"] for doc in manager.load("babi_reasoning_7")["tasks"]["babi_reasoning_7"].test_docs()] == [
        "cellar7"
    ]


def test_an_invalid_row_ends_the_run_before_a_question_is_asked(babi: Path, manager: TaskManager) -> None:
    (babi / "babi" / "test.jsonl").write_text('{"passage": "A.", "question": "Who?", "answer": "Zoe", "task": "7"}')
    lm = ScriptedLM(lambda context: "")
    with pytest.raises(DataError, match=r"test\.jsonl line 1: field 'task' must be a whole number, found '7'"):
        run(lm, manager, "babi_reasoning_7")
    assert not lm.asked


@pytest.fixture
def gsm8k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))

    def row(n: int) -> dict[str, str]:
        solution = f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}"
        return {"question": f"Ida has {n} kites and buys {n}. How many?", "answer": solution}

    write(tmp_path, "gsm8k", train=[row(n) for n in range(1, 30)], test=[row(n) for n in range(500, 506)])
    return tmp_path


def sum_of(context: str) -> str:
    """Reply correctly in the requested form, correctly in another form, and wrongly, in turn."""
    n = int(context.rsplit("Ida has ", 1)[1].split()[0])
    return [f"#### {2 * n}", f"It is ${2 * n}.", "#### 7"][n % 3]


def test_gsm8k_local_equals_lm_evals_gsm8k_row_by_row(gsm8k: Path, manager: TaskManager, tmp_path: Path) -> None:
    files = {split: str(gsm8k / "gsm8k" / f"{split}.jsonl") for split in ("train", "test")}
    kwargs = {"data_files": files, "cache_dir": str(tmp_path / "cache")}
    stock = {"task": "gsm8k", "dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
    runs = []
    for spec in ("gsm8k_local", {"group": "stock", "task": [stock]}):
        lm = ScriptedLM(sum_of)
        results = lm_eval.simple_evaluate(lm, tasks=[spec], task_manager=manager, bootstrap_iters=0)
        assert results is not None
        runs.append((lm, results))
    (ours, our_results), (theirs, their_results) = runs
    assert [request.args for request in ours.asked] == [request.args for request in theirs.asked]
    assert ours.asked[0].args[0].count("Question:") == 6
    assert our_results["samples"]["gsm8k"] == their_results["samples"]["gsm8k"]
    for key in ("results", "versions", "n-shot", "n-samples", "higher_is_better"):
        assert our_results[key]["gsm8k"] == their_results[key]["gsm8k"]
    scores = our_results["results"]["gsm8k"]
    assert scores["exact_match,strict-match"] == pytest.approx(2 / 6)
    assert scores["exact_match,flexible-extract"] == pytest.approx(4 / 6)
    for name in ("exact_match,strict-match", "exact_match,flexible-extract"):
        assert our_results["results"]["gsm8k_local"][name] == scores[name]


def real_rows(data_dir: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data_dir / name / "test.jsonl").read_bytes().splitlines()]


@pytest.mark.data
def test_the_own_answer_of_every_real_babi_row_is_correct(data_dir: Path, manager: TaskManager) -> None:
    golds = {}
    for row in real_rows(data_dir, "babi"):
        golds[INSTRUCTION + story_text(row["passage"].splitlines(), row["question"])] = row["answer"]
    lm = ScriptedLM(lambda context: f"Reasoning: as told.\nAnswer: {golds[context]}.")
    scores = run(lm, manager, "babi_reasoning", log_samples=False)["results"]
    assert {scores[f"babi_reasoning_{n}"]["exact_match,none"] for n in range(1, 21)} == {1.0}
    assert len(lm.asked) >= 20 * 100


@pytest.mark.data
def test_real_gsm8k_rows_run(data_dir: Path, manager: TaskManager) -> None:
    golds = {row["question"]: row["answer"].rsplit("#### ")[-1] for row in real_rows(data_dir, "gsm8k")}

    def reply(context: str) -> str:
        question = context.rsplit("Question: ", 1)[1].removesuffix("\nAnswer:")
        return f"#### {golds[question]}"

    lm = ScriptedLM(reply)
    results = run(lm, manager, "gsm8k_local", limit=20)
    assert len(lm.asked) == 20
    assert results["results"]["gsm8k"]["exact_match,strict-match"] == 1
