"""`harness-ext compare`: what is one run, which results count, repeats, and values that are not numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_support import printed, read
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.compare.command import main
from harness_ext.analysis.compare.matching import match
from harness_ext.analysis.compare.merging import merge
from harness_ext.analysis.compare.runs import Evaluation, Metric, Repeat, Run, TaskScores
from harness_ext.analysis.scoring.score import score_run

KEY = "exact_match,none"
FIRST, LAST = "2026-01-01T00-00-00.5", "2026-01-02T00-00-00.5"


def results(folder: Path, values: Sequence[Any], time: str = FIRST, torch_seed: int = 1, model: str = "a") -> Path:
    """Write a results file and samples of the task `t`. A value is that of the document with its index."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = {"random_seed": 0, "numpy_seed": 0, "torch_seed": torch_seed, "fewshot_seed": 0}
    content = {
        "configs": {"t": {"metric_list": [{"metric": "exact_match", "aggregation": "mean"}]}},
        "config": {"model": "hf", "model_args": {"pretrained": f"org/{model}"}, **seeds},
        "results": {"t": {}}, "higher_is_better": {"t": {"exact_match": True}}, "n-shot": {"t": 0},
    }  # fmt: skip
    path = folder / f"results_{time}.json"
    path.write_text(json.dumps(content))
    lines = [
        {"doc_id": i, "doc": {"q": i}, "target": "7", "doc_hash": f"h{i}", "resps": [["x"]], "filter": "none",
         "metrics": ["exact_match"], "exact_match": value}
        for i, value in enumerate(values)
    ]  # fmt: skip
    (folder / f"samples_t_{time}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def by_question(run: Run, metric: str = KEY, task: str = "t") -> dict[int, tuple[Any, ...]]:
    return {doc_id: found for (doc_id, _), found in run.tasks[task].metrics[metric].values.items()}


@pytest.mark.parametrize("times", [(FIRST, LAST), (LAST, FIRST)])
def test_a_smoke_test_does_not_replace_a_full_run(tmp_path: Path, times: tuple[str, str]) -> None:
    full, trial = results(tmp_path, [1, 0, 1, 1], times[0]), results(tmp_path, [0], times[1])
    (run,) = read(tmp_path)
    assert by_question(run) == {0: (1,), 1: (0,), 2: (1,), 3: (1,)}
    assert run.notes == (f"a, t: {full} (4 questions) replaces {trial} (1 question), which has the same seeds",)


def evaluation(source: str, values: Mapping[int, Any], seed: int = 0, when: float = 0.0, **more: Any) -> Evaluation:
    documents = {(number, "h"): {} for number in values}
    metric = Metric({(number, "h"): (value,) for number, value in values.items()})
    return Evaluation(source, "a", "a", (seed,), when, {"t": TaskScores({KEY: metric}, documents, **more)})


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=6))
def test_of_equal_seeds_the_most_questions_win_then_the_newest(drawn: list[tuple[int, int, int]]) -> None:
    """Every value names its file, so that the values of the run show which ones were chosen, and in which order."""
    files = [
        evaluation(f"/{i}", dict.fromkeys(range(count), i), seed, when + i / 100)
        for i, (seed, count, when) in enumerate(drawn)
    ]
    seeds = sorted({seed for seed, _, _ in drawn})
    best = [
        max((i for i, d in enumerate(drawn) if d[0] == seed), key=lambda i: (drawn[i][1], files[i].when))
        for seed in seeds
    ]
    run = merge(files, "a")
    most, fewest = (f(drawn[i][1] for i in best) for f in (max, min))
    assert by_question(run) == {number: tuple(best) for number in range(fewest)}
    assert run.tasks["t"].metrics[KEY].repeats == tuple(Repeat((seed,), 0) for seed in seeds)
    assert {q[0] for q in run.tasks["t"].incomplete.get(KEY, ())} == set(range(fewest, most))
    assert sum("replaces" in note for note in run.notes) == len(files) - len(best)


def test_a_path_without_a_label_is_a_run_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = results(tmp_path / "one", [1, 0, 1, 1], torch_seed=1)
    two = results(tmp_path / "two", [1, 1, 0, 1], torch_seed=2)
    again = printed(capsys, one, one)
    assert again["runs"] == ["a", "a #2"]
    difference = again["rows"][1]["difference"]
    assert (difference["value"], difference["up"], difference["down"]) == (0.0, 0, 0)
    assert f"a #2 is {one}: the same model, settings and seeds as a" in again["notes"]
    seeds = printed(capsys, one, two)
    assert (seeds["runs"], seeds["rows"][1]["difference"]["up"]) == (["a", "a #2"], 1)
    assert any(note.startswith(f"a #2 is {two}: a with other seeds. To average them") for note in seeds["notes"])
    merged = printed(capsys, f"x={one}", f"x={two}")
    assert (merged["runs"], merged["rows"][0]["value"]) == (["x"], 0.75)
    assert read(tmp_path)[0].notes == ("a, t: mean of 2 repeats with different seeds",), "a folder is one run"
    assert read(f"x={one}", f"x={one.parent}")[0].notes == (f"x: {one} is named twice and counts once",)


def test_a_given_label_belongs_to_no_other_run(tmp_path: Path) -> None:
    one, other = results(tmp_path / "one", [1], model="a"), results(tmp_path / "two", [0], model="b")
    third = results(tmp_path / "three", [0], model="c/a")
    runs = read(one, f"a={other}", third)
    assert [run.label for run in runs] == ["a #2", "a", "a #3"]
    assert [run.notes for run in runs] == [(f"a #2 is {one}",), (), (f"a #3 is {third}",)]


def test_run_directories_of_a_protocol_that_samples_are_repeats(tmp_path: Path) -> None:
    """Their seed is part of their identity, because a run cannot be continued with another seed."""
    for seed in (2, 1):
        run = write_run(
            tmp_path / str(seed), *(transcript(i, said("student", "draft", str(seed))) for i in range(8)),
            label="debate", seed=seed, identity={"protocol": "Debate", "seed": seed},
        )  # fmt: skip
        score_run(run, manager=manager_of(make_task()))
    (merged,) = read(f"x={tmp_path / '2'}", f"x={tmp_path / '1'}")
    assert by_question(merged, task="sums")[1] == (0.0, 1.0), "in the order of the seeds: the answer to 1+1 is 2"
    assert merged.tasks["sums"].metrics[KEY].repeats == tuple(Repeat((None, None, s, None), 0) for s in (1, 2))
    assert [run.label for run in read(tmp_path / "2", tmp_path / "1")] == ["debate", "debate #2"]


def test_run_directories_beside_results_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    results(tmp_path / "results", [1])
    run = write_run(tmp_path / "runs" / "base", transcript(0, said("student", "draft", "0")))
    (found,) = read(tmp_path)
    (note,) = found.notes
    assert str(run) in note
    assert "not read" in note


# Repeats, and values that are not numbers


def test_a_question_without_all_repeats_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results(tmp_path, [1, 1, 0, 0], FIRST, torch_seed=1)
    results(tmp_path, [0, 1], LAST, torch_seed=2)
    assert main([str(tmp_path)]) == 2
    assert "t: 2 questions of a lack the answer of a repeat (doc_id 2, 3)" in capsys.readouterr().err
    (row,) = printed(capsys, tmp_path, "--drop_unmatched")["rows"]
    assert (row["number"], row["value"]) == (2, 0.75)


def test_a_question_without_all_draws_is_named_and_left_out(tmp_path: Path) -> None:
    """A run that was ended early may have asked some questions less often than the task demands."""
    drawn = [transcript(i, said("student", "draft", str(2 * i)), repeat=r) for i in range(3) for r in (1, 0)]
    drawn[0] = replace(drawn[0], text="x", turns=())
    run = write_run(tmp_path / "run", *drawn, transcript(3, said("student", "draft", "6"), repeat=1))
    score_run(run, manager=manager_of(make_task(repeats=2)))
    (found,) = read(run)
    assert by_question(found, task="sums") == {0: (1.0, 0.0), 1: (1.0, 1.0), 2: (1.0, 1.0)}
    assert [repeat.draw for repeat in found.tasks["sums"].metrics[KEY].repeats] == [0, 1]
    assert match([found]).left_out == ("sums: 1 questions of pair lack the answer of a repeat (doc_id 3)",)


def test_a_metric_that_is_missing_is_named(tmp_path: Path) -> None:
    one, two = evaluation("/1", {0: 1, 1: 0}, 1), evaluation("/2", {0: 1, 1: 0}, 2)
    extra = replace(two.tasks["t"], metrics={**two.tasks["t"].metrics, "f1,none": two.tasks["t"].metrics[KEY]})
    run = merge([one, replace(two, tasks={"t": extra})], "a")
    assert match([run]).left_out == ("t: 2 questions of a lack the answer of a repeat (doc_id 0, 1) of f1",)
    scored, partly = merge([one], "a"), evaluation("/3", {0: 1, 1: 0}, 1)
    values = {(0, "h"): (1,)}
    fewer = replace(partly.tasks["t"], metrics={KEY: Metric(values)})
    matched = match([scored, merge([replace(partly, tasks={"t": fewer})], "b")])
    assert matched.left_out == ("t: 1 questions of b have no value (doc_id 1)",)
    assert matched.questions == {"t": {KEY: ((0, "h"),)}}


@pytest.mark.parametrize("odd", [math.nan, None, math.inf])
def test_values_that_are_not_numbers_are_read_as_they_are(tmp_path: Path, odd: float | None) -> None:
    def same(value: Any) -> bool:
        return value is odd if odd is None else isinstance(value, float) and repr(value) == repr(odd)

    results(tmp_path / "a", [1, odd, 0])
    (alone,) = read(tmp_path / "a")
    assert same(by_question(alone)[1][0])
    results(tmp_path / "a", [1, 1, odd], LAST, torch_seed=2)
    (merged,) = read(tmp_path / "a")
    found = by_question(merged)
    assert (found[0], found[1][1], found[2][0]) == ((1, 1), 1, 0)
    assert same(found[1][0])
    assert same(found[2][1])
    assert match([alone, merged]).questions["t"][KEY] == ((0, "h0"), (1, "h1"), (2, "h2"))


def test_scores_of_a_run_directory_that_are_not_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    """A task's own `process_results` may return NaN where a question cannot be scored."""

    def score(doc: Mapping[str, Any], replies: Sequence[str]) -> dict[str, float]:
        return {"exact_match": math.nan if doc["q"] == "1+1?" else float(replies[0] == doc["a"])}

    run = write_run(tmp_path / "run", *(transcript(i, said("student", "draft", str(2 * i))) for i in range(3)))
    score_run(run, manager=manager_of(make_task(process_results=score)))
    found = by_question(read(run)[0], task="sums")
    assert (found[0], found[2]) == ((1.0,), (1.0,))
    assert math.isnan(found[1][0])


def test_a_document_that_occurs_twice_in_samples_counts_once(tmp_path: Path) -> None:
    path = results(tmp_path, [1, 0])
    samples = tmp_path / f"samples_t_{FIRST}.jsonl"
    samples.write_text(samples.read_text() + samples.read_text().splitlines()[1] + "\n")
    (run,) = read(path)
    assert by_question(run) == {0: (1,), 1: (0,)}
    assert run.notes == (f"{samples}: 1 documents occur more than once (doc_id 1); the first one counts",)
