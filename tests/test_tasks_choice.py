"""TeacherLM's evaluation sets: contexts, compared letters and scores, mostly on rows written for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from tasks_support import TASKS, RuleLM, evaluate, real_rows, task_manager, write_rows

from harness_ext.data import DataError
from harness_ext.tasks.teacherlm.rows import facts_of

SUBJECTS = sorted(p.stem.removeprefix("teacherlm_mmlu_") for p in (TASKS / "teacherlm/mmlu").glob("teacherlm_mmlu_*"))
CREAK = [
    {"sentence": "A violin has strings.", "label": "true", "explanation": "It has four."},
    {"sentence": "Snails outrun horses. ", "label": "false"},
    {"sentence": "Ice floats.", "label": " True", "explanation": None},
]
ECQA: list[dict[str, str]] = [
    {"q_text": "Where do bees live?", **{f"q_op{n}": c for n, c in enumerate("sea hive bus moon hive".split(), 1)}},
    {"q_text": "What is cold?", **{f"q_op{n}": c for n, c in enumerate("fire ice sun lamp oven".split(), 1)}},
]
ECQA[0]["q_ans"], ECQA[1]["q_ans"] = "hive", "ice"
STRATEGY: list[dict[str, Any]] = [
    {"question": "Can a Snail win a race? ", "answer": False, "facts": ["Snails are  slow.", "Races need speed."]},
    {"question": "Is Ice cold?", "answer": True, "facts": ["Ice is frozen."]},
]


def mmlu_row(subject: str, answer: int = 2) -> dict[str, Any]:
    choices = [f"first of {subject}", "second", "third\nline", "fourth"]
    return {"question": f"In {subject},\nwhich holds", "subject": subject, "choices": choices, "answer": answer}


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return task_manager()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    write_rows(tmp_path / "creak", validation=CREAK)
    write_rows(tmp_path / "ecqa", test=ECQA)
    write_rows(tmp_path / "strategyqa", test=STRATEGY)
    write_rows(tmp_path / "mmlu", validation=[mmlu_row(s, n % 4) for n, s in enumerate(SUBJECTS)])
    return tmp_path


def asked(manager: TaskManager, name: str, **options: Any) -> list[tuple[str, str]]:
    """Return the context and continuation of every request of a task."""
    lm = RuleLM()
    evaluate(lm, manager, name, **options)
    assert {request.request_type for request in lm.asked} == {"loglikelihood"}
    return [request.args for request in lm.asked]


CHECK = "Q: Determine the correctness of the following sentence. "
CONTEXTS = {
    "creak": [
        (CHECK + "A violin has strings. (A) True (B) False A: The answer is (", 0),
        (CHECK + "Snails outrun horses. (A) True (B) False A: The answer is (", 1),
        (CHECK + "Ice floats. (A) True (B) False A: The answer is (", 0),
    ],
    "ecqa": [
        ("Q: Where do bees live? (A) sea (B) hive (C) bus (D) moon (E) hive A: The answer is (", 4),
        ("Q: What is cold? (A) fire (B) ice (C) sun (D) lamp (E) oven A: The answer is (", 1),
    ],
    "strategyqa_facts": [
        (
            "Q: Fact 1: Snails are slow. Fact 2: Races need speed. Given these facts above, can a snail win a race? "
            "(A) True (B) False A: The answer is (",
            1,
        ),
        ("Q: Fact 1: Ice is frozen. Given these facts above, is ice cold? (A) True (B) False A: The answer is (", 0),
    ],
    "strategyqa_no_facts": [
        ("Q: Can a Snail win a race? (A) True (B) False A: The answer is (", 1),
        ("Q: Is Ice cold? (A) True (B) False A: The answer is (", 0),
    ],
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts_choices_and_scores(folder: Path, manager: TaskManager, name: str) -> None:
    letters = "ABCDE" if name == "ecqa" else "AB"
    assert asked(manager, name) == [(context, letter) for context, _ in CONTEXTS[name] for letter in letters]
    golds = {context: letters[gold] for context, gold in CONTEXTS[name]}
    right = evaluate(RuleLM(prefer=lambda r: r.args[1] == golds[r.args[0]]), manager, name)
    assert right["results"][name]["acc,none"] == 1.0
    wrong = evaluate(RuleLM(prefer=lambda r: r.args[1] != golds[r.args[0]]), manager, name)
    assert wrong["results"][name]["acc,none"] == 0.0


def test_strategyqa_has_both_variants_without_a_common_score(folder: Path, manager: TaskManager) -> None:
    results = evaluate(RuleLM(prefer=lambda r: r.args[1] == "B"), manager, "strategyqa")["results"]
    assert {name: row.get("acc,none") for name, row in results.items()} == {
        "strategyqa": None,
        "strategyqa_facts": 0.5,
        "strategyqa_no_facts": 0.5,
    }


def test_mmlu_has_57_subjects_and_names_each_in_its_questions(folder: Path, manager: TaskManager) -> None:
    lm = RuleLM(prefer=lambda r: r.args[1] == "C")
    results = evaluate(lm, manager, "teacherlm_mmlu")
    assert len(SUBJECTS) == 57
    assert len(lm.asked) == 57 * 4
    for number, subject in enumerate(SUBJECTS):
        requests = [r.args for r in lm.asked if r.task_name == f"teacherlm_mmlu_{subject}"]
        context = (
            f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}. "
            f"Q: In {subject}, which holds. (A) first of {subject} (B) second (C) third line (D) fourth "
            "A: The answer is ("
        )
        assert requests == [(context, letter) for letter in "ABCD"]
        assert results["results"][f"teacherlm_mmlu_{subject}"]["acc,none"] == float(number % 4 == 2)
    assert results["results"]["teacherlm_mmlu"]["acc,none"] == pytest.approx(14 / 57)


def test_mmlu_can_load_another_split_and_says_so_if_one_is_missing(folder: Path) -> None:
    write_rows(folder / "mmlu", test=[mmlu_row("anatomy", 1)] * 3)
    (folder / "mmlu" / "validation.jsonl").unlink()
    name = "teacherlm_mmlu_anatomy"
    with pytest.raises(DataError, match=r"validation.jsonl is missing(.|\n)*--metadata '\{\"mmlu_split\": \"test\"\}'"):
        task_manager().load(name)
    results = evaluate(RuleLM(prefer=lambda r: r.args[1] == "B"), task_manager(mmlu_split="test"), name)
    assert results["n-samples"][name]["original"] == 3
    assert results["results"][name]["acc,none"] == 1.0


@pytest.mark.parametrize("end", [".", ",", "?", "!", '"'])
def test_mmlu_adds_a_full_stop_only_to_questions_without_final_punctuation(
    folder: Path, manager: TaskManager, end: str
) -> None:
    write_rows(folder / "mmlu", validation=[mmlu_row("virology") | {"question": f"Which{end}"}])
    assert f" Q: Which{end} (A) first" in asked(manager, "teacherlm_mmlu_virology")[0][0]


def test_few_shot_examples_end_with_the_answer(folder: Path, manager: TaskManager) -> None:
    context = asked(manager, "creak", num_fewshot=2)[0][0]
    first, second, question = context.split("\n\n")
    assert first.endswith("(A) True (B) False A: The answer is (B).")
    assert second.endswith("(E) freezer A: The answer is (A).")
    assert question == CONTEXTS["creak"][0][0]


@pytest.mark.parametrize(
    ("facts", "read"),
    [
        (["One.", " Two. "], ["One.", "Two."]),
        ("One. Two.", ["One. Two."]),
        ("One.\nTwo.\n\n", ["One.", "Two."]),
        ('["One.", "Two."]', ["One.", "Two."]),
        ("[1] is a fact.", ["[1] is a fact."]),
        ("", []),
        ([], []),
        ([" "], []),
        (None, []),
    ],
)
def test_facts_can_be_a_list_or_text(facts: Any, read: list[str]) -> None:
    assert facts_of(facts) == read


def test_facts_as_text_are_part_of_the_question(folder: Path, manager: TaskManager) -> None:
    write_rows(folder / "strategyqa", test=[{**STRATEGY[0], "facts": "Snails are slow."}])
    assert asked(manager, "strategyqa_facts")[0][0].startswith("Q: Fact 1: Snails are slow. Given these facts above, ")


@pytest.mark.parametrize("without", [[], None, ""])
def test_rows_without_facts_are_reported_with_the_task_to_use_instead(folder: Path, without: Any) -> None:
    write_rows(folder / "strategyqa", test=[{**row, "facts": without} for row in STRATEGY * 4])
    with pytest.raises(DataError) as caught:
        task_manager().load("strategyqa_facts")
    said = str(caught.value)
    assert "strategyqa, split 'test', row 1: the row has no `facts`" in said
    assert "`strategyqa_no_facts`" in said
    assert "and 3 more" in said
    assert len(asked(task_manager(), "strategyqa_no_facts")) == 16


@pytest.mark.parametrize(
    ("name", "split", "row", "cause"),
    [
        ("creak", "validation", {"sentence": "x", "label": "maybe"}, "`label` must be true or false, found 'maybe'"),
        ("ecqa", "test", {**ECQA[0], "q_ans": "tree"}, "`q_ans` 'tree' is not one of the five choices"),
        ("mmlu", "validation", mmlu_row("anatomy", 4), "an `answer` from 0 to 3 are required, found 4"),
    ],
)
def test_invalid_rows_are_reported(folder: Path, name: str, split: str, row: dict[str, Any], cause: str) -> None:
    write_rows(folder / name, **{split: [row]})
    with pytest.raises(DataError, match="row 1") as caught:
        task_manager().load({"mmlu": "teacherlm_mmlu_anatomy"}.get(name, name))
    assert cause in str(caught.value)


def test_row_text_is_not_a_template(folder: Path, manager: TaskManager) -> None:
    write_rows(folder / "creak", validation=[{"sentence": "{{gold}} {% raw %}", "label": "true"}])
    assert "sentence. {{gold}} {% raw %} (A) True" in asked(manager, "creak")[0][0]


@pytest.mark.data
def test_real_rows_are_asked_as_teacherlm_asks_them(data_dir: Path) -> None:
    """The expected contexts and gold answers of real rows are assembled here independently."""
    manager = task_manager(mmlu_split="test")
    answer = "A: The answer is ("
    expected: dict[str, list[tuple[str, int]]] = {"creak": [], "ecqa": [], "strategyqa_no_facts": []}
    for row in real_rows(data_dir, "creak", "validation"):
        context = (
            f"Q: Determine the correctness of the following sentence. {row['sentence']} (A) True (B) False {answer}"
        )
        expected["creak"].append((context, 0 if row["label"] == "true" else 1))
    for row in real_rows(data_dir, "ecqa"):
        a, b, c, d, e = (row[f"q_op{n}"] for n in range(1, 6))
        context = f"Q: {row['q_text']} (A) {a} (B) {b} (C) {c} (D) {d} (E) {e} {answer}"
        expected["ecqa"].append((context, 4 - [e, d, c, b, a].index(row["q_ans"])))
    for row in real_rows(data_dir, "strategyqa"):
        context = f"Q: {row['question'].strip()} (A) True (B) False {answer}"
        expected["strategyqa_no_facts"].append((context, int(not row["answer"])))
    for name, wanted in expected.items():
        golds = dict(wanted)
        lm = RuleLM(prefer=lambda r, golds=golds: r.args[1] == "ABCDE"[golds[r.args[0]]])
        results = evaluate(lm, manager, name, log_samples=False)
        assert list(dict.fromkeys(r.args[0] for r in lm.asked)) == list(golds)
        assert results["n-samples"][name]["original"] == len(wanted)
        assert results["results"][name]["acc,none"] == 1.0


@pytest.mark.data
def test_the_local_mmlu_subjects_are_complete(data_dir: Path) -> None:
    counts: dict[str, int] = {}
    for row in real_rows(data_dir, "mmlu"):
        counts[row["subject"]] = counts.get(row["subject"], 0) + 1
    manager = task_manager(mmlu_split="test")
    for subject, count in counts.items():
        lm = RuleLM(prefer=lambda r: r.args[1] == r.doc["letters"][r.doc["gold"]])
        results = evaluate(lm, manager, f"teacherlm_mmlu_{subject}", log_samples=False)
        assert len(lm.asked) == 4 * count
        assert results["results"][f"teacherlm_mmlu_{subject}"]["acc,none"] == 1.0
        assert json.dumps(subject.replace("_", " "))[1:-1] in lm.asked[0].args[0]


def test_task_files_are_short() -> None:
    files = [p for p in TASKS.rglob("*.yaml") if p.name != "babi_reasoning.yaml"]
    assert len(files) > 80
    assert {str(p): n for p in files if (n := len(p.read_text().splitlines())) > 25} == {}
