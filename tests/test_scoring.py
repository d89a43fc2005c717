"""`harness-ext score`: lm-eval's own numbers from the transcripts, accuracy per round, flips, oracle, votes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scored_runs import ROWS, failed, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.scoring.replay import ScoringError
from harness_ext.analysis.scoring.score import score_run, transcripts_digest
from harness_ext.analysis.scoring.task_documents import TaskSource
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records import Loglikelihood

FILTERS = {
    "filter_list": [
        {"name": "strict", "filter": [{"function": "regex", "regex_pattern": r"^(\d+)$"}, {"function": "take_first"}]},
        {"name": "loose", "filter": [{"function": "regex", "regex_pattern": r"(\d+)"}, {"function": "take_first"}]},
        {
            "name": "maj",
            "filter": [
                {"function": "regex", "regex_pattern": r"(\d+)"},
                {"function": "majority_vote"},
                {"function": "take_first"},
            ],
        },
    ]
}
# A metric whose values are not numbers, so that it exists only for all questions together.
PAIRS = {
    "process_results": lambda doc, results: {"agreement": (doc["a"], results[0]), "exact_match": 0.0},
    "metric_list": [
        {"metric": "agreement", "aggregation": lambda items: sum(a == b for a, b in items) / len(items)},
        {"metric": "exact_match", "aggregation": "mean"},
    ],
}


def student(prompt: str) -> str:
    """Answer even questions wrongly and odd ones with extra words. After a hint, only question 4 is still wrong."""
    number = int(prompt.replace("User: ", "").split("Q: ")[1].split("+")[0])
    if "Hint" in prompt:
        return str(2 * number) if number != 4 else "no idea"
    return "7" if number % 2 == 0 else f"it is {2 * number}"


def teacher(prompt: str) -> str:
    return "Incorrect.\nHint: add" if '"""\n7\n"""' in prompt else "Correct."


@pytest.mark.parametrize(
    "more", [{}, FILTERS, {**FILTERS, "repeats": 3}, PAIRS], ids=["plain", "filters", "repeats", "pairs"]
)
def test_the_final_scores_are_lm_evals_own(tmp_path: Path, more: dict[str, Any]) -> None:
    from lm_eval.evaluator import evaluate

    lm = FeedbackPairLM(
        student=ScriptedBackend(student, name="student"), teacher=ScriptedBackend(teacher, name="teacher"),
        store="off", run_dir=tmp_path / "run", progress="off",
    )  # fmt: skip
    results = evaluate(lm, {"sums": make_task(**more)}, bootstrap_iters=0)
    scored = score_run(tmp_path / "run", manager=manager_of(make_task(**more)))["tasks"]["sums"]["metrics"]
    reported = {k: v for k, v in results["results"]["sums"].items() if "," in k and "_stderr" not in k}
    assert {name: m["lm_eval"] for name, m in scored.items()} == pytest.approx(reported)
    rows = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    ours = {
        (row["doc_hash"], key, m): v
        for row in rows
        for key, e in row["filters"].items()
        for m, v in e["lm_eval"].items()
    }
    theirs = {(s["doc_hash"], s["filter"], m): s[m] for s in results["samples"]["sums"] for m in s["metrics"]}
    assert ours == {k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items()}


def right(i: int) -> str:
    return ROWS[i]["a"]


def run_of_four(path: Path) -> Path:
    """Return a run of four questions: right at once, right after two rounds, right and then wrong, never right."""
    hint = said("teacher", "review", "Incorrect. Hint: look again", accepted=False)
    good = said("teacher", "review", "Correct.", accepted=True)
    return write_run(
        path,
        transcript(0, said("student", "draft", right(0)), good),
        transcript(
            1, said("student", "draft", "x"), hint, said("student", "refine", "y"), hint,
            said("student", "refine", right(1)), good,
        ),
        transcript(2, said("student", "draft", right(2)), hint, said("student", "refine", "z"), good),
        transcript(3, said("student", "draft", "x"), hint, said("student", "refine", "x"), good),
    )  # fmt: skip


def test_finished_questions_keep_their_answer_and_flips_go_both_ways(tmp_path: Path) -> None:
    figures = score_run(run_of_four(tmp_path / "run"), manager=manager_of(make_task()))["tasks"]["sums"]
    m = figures["metrics"]["exact_match,none"]
    assert m["first_draft"] == 0.5
    assert m["rounds"] == [0.5, 0.25, 0.5], "right at once stays right, right to wrong lowers the curve"
    assert m["final"] == m["lm_eval"] == 0.5
    assert m["oracle"] == 0.75
    assert m["flips"] == {"wrong_to_right": 1, "right_to_wrong": 1, "wrong_to_right_after_leak": 0}
    assert m["flips_by_round"] == [
        {"wrong_to_right": 0, "right_to_wrong": 1},
        {"wrong_to_right": 1, "right_to_wrong": 0},
    ]
    assert figures["hints"]["rejecting_reviews"] == 4


def test_a_part_of_an_answer_is_no_round(tmp_path: Path) -> None:
    parts = (said("student", "draft", "it", part=True), said("teacher", "correct", right(0)))
    whole = (said("student", "draft", "x"), said("teacher", "correct", right(1)))
    run = write_run(tmp_path / "run", transcript(0, *parts, text=right(0)), transcript(1, *whole, text=right(1)))
    m = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert m["rounds"] == [0.5, 1.0]
    assert m["flips"]["wrong_to_right"] == 1
    assert m["oracle"] == m["final"] == 1


def test_flips_of_a_metric_where_lower_is_better(tmp_path: Path) -> None:
    task = make_task(
        process_results=lambda doc, results: {"length": float(len(results[0]))},
        metric_list=[{"metric": "length", "aggregation": "mean", "higher_is_better": False}],
    )
    turns = (said("student", "draft", "long text"), said("student", "refine", "short"))
    m = score_run(write_run(tmp_path / "run", transcript(0, *turns)), manager=manager_of(task))["tasks"]["sums"][
        "metrics"
    ]["length,none"]
    assert m["higher_is_better"] is False
    assert m["flips"]["wrong_to_right"] == 1
    assert m["oracle"] == 5.0


def test_failed_questions_are_scored_as_wrong_and_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", transcript(0, said("student", "draft", right(0))), failed(1))
    figures = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]
    assert (figures["documents"], figures["failed"]) == (2, 1)
    assert figures["metrics"]["exact_match,none"]["final"] == 0.5


def test_an_answer_after_a_failure_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", failed(0), transcript(0, said("student", "draft", right(0))))
    figures = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]
    assert (figures["documents"], figures["failed"]) == (1, 0)


def test_several_agents_vote_by_answers(tmp_path: Path) -> None:
    """Two of three agents agree in different words, texts without an answer do not vote, then all follow the third."""
    texts = ["Answer: 6", "#### 6", "Answer: 5"]
    drafts = [said(f"agent{i}", "draft", text, round=0) for i, text in enumerate(texts)]
    replies = [said(f"agent{i}", "reply", "Answer: 5", round=1) for i in (0, 1)]
    silent = [
        said(f"agent{i}", "draft", text, round=0) for i, text in enumerate(["well, hm hm hm", "so, er er er", "0"])
    ]
    run = write_run(
        tmp_path / "run",
        transcript(3, *drafts, *replies, text="Answer: 5"),
        transcript(0, *silent, text="0"),
        failed(5),
    )
    loose = {
        "filter_list": [
            {"name": "n", "filter": [{"function": "regex", "regex_pattern": r"(\d+)"}, {"function": "take_first"}]}
        ]
    }
    m = score_run(run, manager=manager_of(make_task(**loose)))["tasks"]["sums"]["metrics"]["exact_match,n"]
    assert m["vote"] == pytest.approx(2 / 3), "6 beats 5, 0 beats replies without an answer, a failure stays wrong"
    assert m["vote_oracle"] == pytest.approx(2 / 3)
    assert m["first_draft"] == pytest.approx(1 / 3)
    assert m["final"] == pytest.approx(1 / 3)
    assert m["agents"] == [pytest.approx(3 / 7), pytest.approx(1 / 7)]
    assert m["flips"]["right_to_wrong"] == 1


def test_every_repeat_counts_if_the_filter_takes_the_first(tmp_path: Path) -> None:
    draws = [
        transcript(1, said("student", "draft", text), repeat=k) for k, text in enumerate(["x", right(1), right(1)])
    ]
    run = write_run(tmp_path / "run", *draws)
    metrics = score_run(run, manager=manager_of(make_task(repeats=3, **FILTERS)))["tasks"]["sums"]["metrics"]
    strict, maj = metrics["exact_match,strict"], metrics["exact_match,maj"]
    assert (strict["lm_eval"], strict["final"]) == (0.0, pytest.approx(2 / 3))
    assert maj["lm_eval"] == maj["final"] == 1.0


def test_repeats_that_only_have_a_score_together_are_never_separated(tmp_path: Path) -> None:
    """As in pass@k, the task needs all repeats and fails with fewer."""

    def any_right(doc: Any, results: Any) -> dict[str, float]:
        assert len(results[0]) == 2
        return {"any": float(doc["a"] in results[0])}

    every = [{"name": "all", "filter": [{"function": "take_first_k", "k": 2}]}]
    metric = [{"metric": "any", "aggregation": "mean"}]
    task = make_task(repeats=2, filter_list=every, process_results=any_right, metric_list=metric)
    texts = enumerate(["x", right(1)])
    run = write_run(tmp_path / "run", *(transcript(1, said("student", "draft", t), repeat=k) for k, t in texts))
    m = score_run(run, manager=manager_of(task))["tasks"]["sums"]["metrics"]["any,all"]
    assert m["lm_eval"] == m["final"] == 1.0


def test_a_document_that_changed_is_named(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", transcript(0, said("student", "draft", "0")), transcript(2, said("student", "draft", "4"))
    )
    changed = [dict(row) for row in ROWS]
    changed[2]["a"] = "5"
    with pytest.raises(
        ScoringError, match=r"(?s)task sums: 1 documents.*document 2 \(recorded hash .*HARNESS_EXT_DATA"
    ):
        score_run(run, manager=manager_of(make_task(rows=changed)))
    assert not (run / "scores.jsonl").exists()


def test_selected_samples_are_found_by_their_hash(tmp_path: Path) -> None:
    """With --samples, lm-eval numbers the selected documents from 0."""
    picked = [transcript(i, said("student", "draft", right(i))) for i in (3, 5)]
    run = write_run(tmp_path / "run", *(replace(t, doc_id=n) for n, t in enumerate(picked)))
    score_run(run, manager=manager_of(make_task()))
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == [3, 5]
    assert [row["filters"]["none"]["lm_eval"]["exact_match"] for row in rows] == [1.0, 1.0]


def test_equal_documents_keep_their_positions(tmp_path: Path) -> None:
    rows = [ROWS[1], ROWS[0], ROWS[1]]
    run = write_run(
        tmp_path / "run",
        *(transcript(i, said("student", "draft", "2"), rows=rows) for i in (0, 2)),
    )
    figures = score_run(run, manager=manager_of(make_task(rows=rows)))
    assert figures["tasks"]["sums"]["documents"] == 2


def test_choices_are_scored_by_their_log_probabilities(tmp_path: Path) -> None:
    task = make_task(
        output_type="multiple_choice", doc_to_choice=["1", "2"], doc_to_target=1, doc_to_text="{{q}}",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )  # fmt: skip

    def choice(logprob: float) -> Any:
        turn = said("student", "choice", "")
        return replace(turn, result=Loglikelihood(logprob, greedy=False))

    run = write_run(
        tmp_path / "run",
        transcript(0, said("student", "draft", "I think"), choice(-3.0), choice(-1.0), text="I think"),
        transcript(1, choice(-1.0), choice(-3.0)),
    )
    figures = score_run(run, manager=manager_of(task))["tasks"]["sums"]
    assert figures["metrics"]["acc,none"]["lm_eval"] == 0.5
    assert figures["two_way"], "rejecting one of two choices reveals the other"
    broken = write_run(tmp_path / "broken", failed(0))
    with pytest.raises(ScoringError, match="no log-probability can stand for a wrong answer"):
        score_run(broken, manager=manager_of(task))


def test_runs_that_cannot_be_scored_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="contains no transcripts"):
        score_run(tmp_path)
    run = write_run(tmp_path / "run", transcript(0, said("student", "draft", "0")))
    with pytest.raises(ScoringError, match=r"(?s)'sums' cannot be loaded .*--include_path"):
        score_run(run, manager=manager_of())
    with pytest.raises(ScoringError, match="--confirm_run_unsafe_code"):
        score_run(run, manager=manager_of(make_task(unsafe_code=True)))
    assert score_run(run, TaskSource(unsafe_code=True), manager_of(make_task(unsafe_code=True)))
    bad = make_task(process_results=lambda doc, results: {"m": 1 / 0})
    with pytest.raises(ScoringError, match="task sums, document 0: its process_results raised ZeroDivisionError"):
        score_run(run, manager=manager_of(bad))
    twice = write_run(tmp_path / "twice", *(transcript(0, said("student", "draft", "0"), question=q) for q in "ab"))
    with pytest.raises(ScoringError, match="two answers to the same question"):
        score_run(twice, manager=manager_of(make_task()))


def test_stale_scores_are_recognised(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", transcript(0, said("student", "draft", "0")))
    figures = score_run(run, manager=manager_of(make_task()))
    assert figures["transcripts"] == transcripts_digest(run)
    write_run(run, transcript(1, said("student", "draft", "2")))
    assert figures["transcripts"] != transcripts_digest(run)


def test_the_command_finds_tasks_and_groups_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real TaskManager, but without lm-eval's own tasks: YAML files, a group of two tasks, the printed table."""
    import lm_eval.tasks

    from harness_ext.analysis.scoring.command import main

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name in ("sums_a", "sums_b"):
        (tasks / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test\n"
            "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
            "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
        )
    (tasks / "group.yaml").write_text("group: sums_both\ntask: [sums_a, sums_b]\n")
    run = write_run(
        tmp_path / "run",
        *(transcript(i, said("student", "draft", right(i)), task=t) for t in ("sums_a", "sums_b") for i in range(3)),
        transcript(3, said("student", "draft", "\x1b[31mred"), task="sums_b"),
    )
    assert main([str(run), "--include_path", str(tasks)]) == 0
    figures = json.loads((run / "scores.json").read_text())
    assert figures["groups"] == {"sums_both": ["sums_a", "sums_b"]}
    assert figures["pools"]["other tasks"]["metrics"]["exact_match,none"]["final"] == pytest.approx(6 / 7)
    printed = capsys.readouterr().out
    assert "sums_a" in printed
    assert "all 2 together" in printed
    assert main([str(tmp_path / "nothing")]) == 1
    assert "contains no transcripts" in capsys.readouterr().err
