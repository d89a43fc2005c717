"""`harness-ext checkpoints`: each epoch is scored once, with its base, adapter and tokenizer; table, plot and gate."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness_ext.analysis.statistics.paired import PairedDifference
from harness_ext.embedded import model_path
from harness_ext.finetune import checkpoints_command as checkpoints_cli
from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.checkpoint_scores import (
    CheckpointScore,
    EvaluationSettings,
    Scorer,
    Subject,
    hf_arguments,
    read_samples,
    subjects,
)
from harness_ext.finetune.checkpoints import MARKER
from harness_ext.finetune.checkpoints_command import main
from harness_ext.finetune.curve import best_checkpoint, gate, points
from harness_ext.finetune.curve_files import table, write
from harness_ext.finetune.train import run_stage

QUESTION = "1 Mary went to the garden.\nWhere is Mary?\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return runs that teach a single wrong answer, so that an epoch can only win where that answer is expected."""
    folder = tmp_path_factory.mktemp("runs")
    rows = folder / "rows.jsonl"
    rows.write_text((json.dumps({"prompt": QUESTION, "completion": "kitchen"}) + "\n") * 6, encoding="utf-8")
    base = TrainArgs(
        str(model_path("student")), str(rows), "", epochs=3, batch_size=1, scheduler="constant", device="cpu"
    )
    for adapter, rate in (("full", 1e-3), ("lora", 2e-2), ("pkv", 2e-2)):
        run_stage(dataclasses.replace(base, output_dir=str(folder / adapter), adapter=adapter, learning_rate=rate))
    return {adapter: folder / adapter for adapter in ("full", "lora", "pkv")}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    questions = [{"question": QUESTION, "answer": "kitchen"}] * 3
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
    (folder / "kitchen.yaml").write_text(
        f"task: kitchen\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ntarget_delimiter: ''\n"
        "doc_to_choice: ['kitchen', 'garden', 'Reasoning']\ndoc_to_target: 0\nmetric_list: [{metric: acc}]\n",
        encoding="utf-8",
    )
    return folder


def arguments(run: Path, tasks: Path, *more: str) -> list[str]:
    return [str(run), "--tasks", "kitchen", "--include_path", str(tasks), "--batch_size", "4", "--device", "cpu", *more]


def test_adapters_are_loaded_with_their_base_model_and_tokenizer(runs: dict[str, Path]) -> None:
    student = str(model_path("student"))
    for adapter in ("lora", "pkv"):
        folder = runs[adapter] / "checkpoint-6"
        assert hf_arguments(folder) == {"pretrained": student, "peft": str(folder), "tokenizer": str(folder)}
    folder = runs["full"] / "checkpoint-6"
    assert hf_arguments(folder) == {"pretrained": str(folder), "tokenizer": str(folder)}


def test_incomplete_checkpoints_are_skipped(runs: dict[str, Path]) -> None:
    marker = runs["full"] / "checkpoint-12" / MARKER
    kept = marker.read_bytes()
    marker.unlink()
    try:
        found, skipped = subjects(runs["full"])
    finally:
        marker.write_bytes(kept)
    assert [one.name for one in found] == ["untouched", "checkpoint-6", "checkpoint-18"]
    assert [one.epoch for one in found][1:] == [1, 3]
    assert "checkpoint-12" in skipped[0]


@pytest.mark.parametrize("adapter", ["lora", "pkv"])
def test_every_epoch_and_the_untouched_model_are_scored_once(
    adapter: str,
    runs: dict[str, Path],
    tasks: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = runs[adapter]
    assert main(arguments(run, tasks, "--gate", "--wait")) == 0
    said = capsys.readouterr().out
    assert "gate: open: checkpoint-18 wins 3 and loses 0 questions" in said
    assert "| untouched |  | 0.000 |" in said
    assert "| checkpoint-18 " in said
    assert (run / "evaluations" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "evaluations" / "table.md").read_text(encoding="utf-8").strip() == said.strip()
    numbers = json.loads((run / "evaluations" / "points.json").read_text(encoding="utf-8"))
    assert [one["epoch"] for one in numbers] == [None, 1, 2, 3]
    assert "No checkpoint is marked as the best" in said
    # Nothing is scored again unless the settings or the model have changed.
    monkeypatch.setattr(Scorer, "score", lambda self, subject, _: pytest.fail(f"{subject.name} is scored again"))
    assert main(arguments(run, tasks)) == 0
    # All questions have the same answer, so they are one cluster, from which nothing follows.
    capsys.readouterr()
    assert main(arguments(run, tasks, "--cluster", "answer", "--gate", "--gate_alpha", "0.05")) == 1
    said = capsys.readouterr().out
    assert "wins 3 and loses 0 questions, p = 1 by the sign-flip test over clusters" in said
    assert "| untouched |  | 0.000 | 0.000 to 1.000 |" in said
    assert main(arguments(run, tasks, "--cluster", "story")) == 2
    assert "the documents of kitchen have no such field; their fields are: question, answer" in capsys.readouterr().err
    known, _ = subjects(run)
    assert Scorer(run, EvaluationSettings(limit=2.0)).stored(known[0], "kitchen") is None
    assert (
        Scorer(run, EvaluationSettings(batch_size="8")).stored(dataclasses.replace(known[0], identity="x"), "kitchen")
        is None
    )


def test_clusters_need_the_documents_that_were_scored(runs: dict[str, Path], tasks: Path) -> None:
    scorer = Scorer(runs["full"], EvaluationSettings(include_path=str(tasks)))
    found = scorer.clusters("{{question[0]}}", ["kitchen"], ["kitchen:0", "kitchen:2"])
    assert found["kitchen:0"] == found["kitchen:2"] == ("kitchen", "1")
    with pytest.raises(ConfigError, match="kitchen has 3 documents, fewer than were scored"):
        scorer.clusters("task", ["kitchen"], ["kitchen:3"])


def test_a_failing_model_does_not_stop_the_others(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(self: Scorer, subject: Subject, names: list[str]) -> list[CheckpointScore]:
        if subject.name == "checkpoint-6":
            raise RuntimeError("no memory\x1b[2J")
        return [CheckpointScore(subject.name, name, "acc,none", {"q:0": 1.0}) for name in names]

    monkeypatch.setattr(checkpoints_cli.Scorer, "score", score)
    assert main([str(runs["full"]), "--tasks", "a,b"]) == 1
    said = capsys.readouterr()
    assert "checkpoint-6 on a failed: RuntimeError: no memory" in said.err
    assert "\x1b" not in said.err
    assert "| checkpoint-12 " in said.out
    assert "| checkpoint-6 " not in said.out


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--tasks", "a"]) == 2
    assert "no run.json" in capsys.readouterr().err


def score(name: str, *values: float) -> CheckpointScore:
    return CheckpointScore(name, "t", "acc,none", {f"t:{at}": value for at, value in enumerate(values)})


def epochs(*errors: float) -> dict[str, list[list[float]]]:
    return {"train": [], "validation": [[epoch, error] for epoch, error in enumerate(errors, 1)]}


UNTOUCHED = Subject("untouched", "baseline", {}, "")
FIRST, SECOND = (Subject(f"checkpoint-{n}", "epoch", {}, "", float(n), n) for n in (1, 2))


def test_changes_are_counted_question_by_question() -> None:
    def change(before: list[float], after: list[float]) -> PairedDifference:
        found = points([UNTOUCHED, FIRST], [score("untouched", *before), score("checkpoint-1", *after)])[1].change
        assert found is not None
        return found

    found = change([0, 0, 0, 1, 1], [1, 1, 0, 0, 1])
    assert (found.value, found.up, found.down, found.p_value) == (pytest.approx(0.2), 2, 1, 1.0)
    assert found.test == "exact McNemar test"
    assert change([0] * 10, [1] * 10).p_value == pytest.approx(2 / 1024)
    graded = change([0.5, 0.5, 0.5], [0.75, 0.75, 1.0])
    assert (graded.up, graded.down, graded.test) == (3, 0, "sign-flip test")


def test_models_scored_on_different_questions_are_not_compared() -> None:
    with pytest.raises(ConfigError, match="untouched and checkpoint-1 were scored on different questions of t"):
        points([UNTOUCHED, FIRST], [score("untouched", 0, 1), score("checkpoint-1", 1)])


def test_no_interval_is_without_width(tmp_path: Path) -> None:
    known = [UNTOUCHED, FIRST]
    for before, after in (([0, 0], [0, 0]), ([1, 1], [1, 1]), ([0, 0.5], [0, 0.5]), ([0.5, 0.5], [0.5, 0.5])):
        for labels in (None, {"t:0": "a", "t:1": "b"}, {"t:0": "a", "t:1": "a"}):
            found = points(known, [score("untouched", *before), score("checkpoint-1", *after)], labels)
            assert all(point.interval.low < point.interval.high for point in found), (before, labels)
    scores = [
        CheckpointScore(name, "t", "loss,none", {"t:0": 2.5, "t:1": 2.5}) for name in ("untouched", "checkpoint-1")
    ]
    found = points(known, scores)
    assert "- No intervals for t: there is only one cluster, or all values are equal" in table(found, {})
    write(found, {}, "", tmp_path)
    assert json.loads((tmp_path / "points.json").read_text())[0]["interval"] == {"low": None, "high": None}


def test_clusters_widen_intervals_and_raise_p_values() -> None:
    scores = [score("untouched", *[0] * 12), score("checkpoint-1", *[1] * 8, *[0] * 4)]
    labels = {f"t:{at}": at // 4 for at in range(12)}
    alone, together = (points([UNTOUCHED, FIRST], scores, names)[1] for names in (None, labels))
    assert together.interval.low < alone.interval.low
    assert together.interval.high > alone.interval.high
    assert alone.change is not None
    assert together.change is not None
    assert (alone.change.p_value, together.change.p_value) == (2 / 2**8, 0.5)
    assert together.change.test == "sign-flip test over clusters"
    assert "p = 0.0078 by the exact sign test" in gate([UNTOUCHED, FIRST], scores)[1]
    passed, said = gate([UNTOUCHED, FIRST], scores, labels, alpha=0.05)
    assert not passed
    assert "p = 0.5 by the sign-flip test over clusters" in said


def test_the_gate_requires_more_wins_than_losses_of_the_last_epoch() -> None:
    known = [UNTOUCHED, FIRST, SECOND]

    def closed(*last: float) -> tuple[bool, str]:
        return gate(
            known, [score("untouched", 0, 1, 0, 0), score("checkpoint-1", 1, 1, 1, 1), score("checkpoint-2", *last)]
        )

    assert closed(1, 1, 0, 0)[0]
    assert not closed(1, 0, 0, 0)[0]
    assert not closed(0, 0, 0, 0)[0]
    passed, said = gate(known, [score("untouched", 0, 1, 0, 0), score("checkpoint-2", 1, 1, 0, 0)], alpha=0.05)
    assert not passed
    assert "p < 0.05" in said
    assert gate(known, [])[0] is False


def test_the_gate_is_over_all_tasks_and_counts_each_question_once() -> None:
    def scores(name: str, *values: float) -> list[CheckpointScore]:
        first = {f"a:{at}": value for at, value in enumerate(values)}
        group = {**first, "b:0": values[0]}
        return [CheckpointScore(name, "a", "acc,none", first), CheckpointScore(name, "group", "acc,none", group)]

    found = gate([UNTOUCHED, FIRST], [*scores("untouched", 0, 0, 0), *scores("checkpoint-1", 1, 1, 0)])
    assert "wins 3 and loses 0 questions, p = 0.25" in found[1]


def test_the_best_checkpoint_is_chosen_by_validation_error_and_not_by_the_reported_scores() -> None:
    known = [UNTOUCHED, FIRST, SECOND]
    found = points(known, [score("untouched", 0, 1), score("checkpoint-1", 0, 0), score("checkpoint-2", 1, 1)])
    assert best_checkpoint(found, epochs(0.2, 0.3))[0] == "checkpoint-1"
    text = table(found, epochs(0.2, 0.3))
    assert "| checkpoint-1 (best) |" in text
    assert "| checkpoint-2 |" in text
    assert "the lowest validation error: checkpoint-1" in text
    assert best_checkpoint(found[2:], epochs(0.2, 0.3))[0] == "checkpoint-2", "the others have no score"
    assert best_checkpoint(found, {"train": [[1, 0.1]], "validation": []})[0] is None
    without = table(found, {})
    assert "(best)" not in without
    assert "No checkpoint is marked as the best, because the training measured no validation error" in without


def test_the_table_shows_accuracy_and_errors() -> None:
    found = points([UNTOUCHED, FIRST], [score("untouched", 0, 1), score("checkpoint-1", 1, 1)])
    line = next(
        line
        for line in table(found, {"train": [[1, 0.25]], "validation": [[1, 0.5]]}).splitlines()
        if line.startswith("| checkpoint-1")
    )
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:4] == ["checkpoint-1 (best)", "1", "1.000", "0.158 to 1.000"]
    assert cells[4].startswith("+0.500 (")
    assert cells[5:] == ["1 / 0", "1", "0.2500", "0.5000"]
    assert points([UNTOUCHED, FIRST], []) == []


def test_the_default_metric_is_the_first_of_the_first_filter() -> None:
    rows = [
        {"doc_id": 0, "filter": name, "metrics": ["exact_match", "f1"], "exact_match": value, "f1": 0.5}
        for name, value in (("strict", 0.0), ("flexible", 1.0))
    ]
    assert read_samples({"t": rows}, "s", "t", "").values == {"t:0": 0.0}
    assert read_samples({"t": rows}, "s", "t", "exact_match,flexible").mean == 1.0
    assert read_samples({"t": rows}, "s", "t", "f1").metric == "f1,strict"
    with pytest.raises(ConfigError, match="The metrics are: exact_match,strict"):
        read_samples({"t": rows}, "s", "t", "bleu")
    with pytest.raises(ConfigError, match="no such filter"):
        read_samples({"t": rows}, "s", "t", "f1,other")
