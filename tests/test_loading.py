"""`load` brings a run into a notebook: its frames are its records, and what a notebook shows of it is text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_support import ATTACKS, LABEL, three_runs
from scored_runs import failed, make_task, said, transcript, write_run

from harness_ext.analysis import load
from harness_ext.analysis.loading import UnknownRun
from harness_ext.analysis.scoring import score as scoring
from harness_ext.analysis.scoring.replay import ScoringError
from harness_ext.analysis.tables import QUESTIONS, SCORES, TURNS, TYPES, score_rows
from harness_ext.records import Completion, Loglikelihood, Turn
from harness_ext.records.run_directory import read_transcripts

pd = pytest.importorskip("pandas", reason="needs pandas, which lm-eval's datasets brings")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    three_runs(folder)
    return folder


def test_questions_and_turns_are_those_of_the_records(runs: Path) -> None:
    run, transcripts = load(runs / "pair"), list(read_transcripts(runs / "pair"))
    assert list(run.questions) == list(QUESTIONS)
    assert list(run.questions["text"]) == [t.text for t in transcripts]
    assert list(run.questions["turns"]) == [len(t.turns) for t in transcripts]
    assert run.questions["failure"].notna().sum() == 1
    written = [[turn.result.completion_tokens for turn in t.turns] for t in transcripts]
    known = [sum(some) for some in written if None not in some]  # the verdicts of this run have no counts
    assert list(run.questions["completion_tokens"].dropna()) == known == [20, 0]
    assert list(run.turns) == list(TURNS)
    assert list(run.turns["kind"]) == [turn.kind for t in transcripts for turn in t.turns]
    verdicts = run.turns[run.turns["kind"] == "verdict"]
    assert list(verdicts["accepted"]) == [False, True, True, True, False, True]
    assert verdicts["probability"].iloc[0] == 0.3
    assert verdicts["choice"].iloc[0] == "false"
    joined = run.turns.merge(run.questions, on=["task", "doc_id", "repeat", "request"])
    assert len(joined) == len(run.turns)


def test_scores_say_what_each_round_was_worth(runs: Path) -> None:
    run = load(str(runs / "pair"))
    assert list(run.scores) == list(SCORES)
    last = run.scores[run.scores["last"]]
    figures = run.figures["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert last["value"].mean() == figures["final"]
    assert run.scores[run.scores["round"] == 0]["value"].mean() == figures["first_draft"]
    assert list(run.scores[run.scores["doc_id"] == 0]["value"]) == [1.0, 0.0]
    merged = last.merge(run.questions, on=["task", "doc_id", "repeat"])
    assert len(merged) == 8


def test_unknown_counts_stay_unknown(tmp_path: Path) -> None:
    turns = (
        Turn("student", "draft", "k", Completion("0", completion_tokens=None), {"answer": None}),
        Turn("student", "scored", "l", Loglikelihood(logprob=-0.5)),
    )
    run = load(write_run(tmp_path / "run", transcript(0, *turns), transcript(1, said("student", "draft", "2"))))
    assert list(run.questions["completion_tokens"].isna()) == [True, False]
    assert run.questions["completion_tokens"].dtype == "Int64"
    assert list(run.turns["logprob"].notna()) == [False, True, False]
    assert list(run.turns["malformed"].isna()) == [False, True, True]
    assert run.questions["accepted"].isna().all()


def test_the_columns_are_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "notebooks.md").read_text(encoding="utf-8")
    for title, columns in (("Questions", QUESTIONS), ("Turns", TURNS), ("Scores", SCORES)):
        table = text.partition(f"### {title}\n")[2].partition("\n### ")[0]
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", table, re.MULTILINE)
        assert rows == [(name, TYPES[name].__name__, words.replace("|", "\\|")) for name, words in columns.items()]


def test_every_value_has_the_type_of_its_column(runs: Path) -> None:
    for folder in ("base", "pair", "hostile"):
        run = load(runs / folder)
        for frame, columns in ((run.questions, QUESTIONS), (run.turns, TURNS), (run.scores, SCORES)):
            for name in columns:
                kinds = {float: (float, int)}.get(TYPES[name], TYPES[name])
                assert all(isinstance(value, kinds) for value in frame[name].dropna().tolist()), name


def test_a_score_that_is_no_number_is_kept_as_json() -> None:
    states = [{"f1": [0, 1], "acc": True}, {"f1": [1, 1], "acc": None}]
    row: dict[str, Any] = {
        "task": "t", "doc_id": 3, "doc_hash": "h", "target": ["a", "b"], "draws": [{"repeat": 0}, {"repeat": 1}],
        "filters": {"none": {"answers": [states]}},
    }  # fmt: skip
    found = [(r["metric"], r["round"], r["last"], r["value"], r["other"], r["repeat"]) for r in score_rows([row])]
    assert found == [
        ("f1", 0, False, None, "[0, 1]", None), ("acc", 0, False, 1.0, None, None),
        ("f1", 1, True, None, "[1, 1]", None), ("acc", 1, True, None, None, None),
    ]  # fmt: skip
    assert next(score_rows([row]))["target"] == "a | b"


def test_a_notebook_shows_figures_and_never_markup(runs: Path) -> None:
    shown = load(runs / "hostile")._repr_html_()
    assert "<b" not in shown.replace("<body", "")
    assert "&lt;b onclick=&#x27;window.hacked = 7&#x27;&gt;" in shown
    assert "&lt;U+202E&gt;" in shown
    assert "<td>sums</td><td>exact_match</td><td>8</td><td>0</td><td>0.000</td><td>0.000</td>" in shown


def test_a_run_without_scores_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / ATTACKS[0].replace("/", ""), transcript(0, said("student", "draft", "0")), failed(1))
    run = load(folder)
    assert len(run.questions) == 2
    with pytest.raises(ScoringError, match="run `harness-ext score"):
        _ = run.scores
    assert "has no scores" in run._repr_html_()
    assert "<script" not in run._repr_html_()
    monkeypatch.setattr(scoring, "load_tasks", lambda *_: ({"sums": make_task()}, {}))
    assert load(folder, score=True).figures["tasks"]["sums"]["questions"] == 2


def test_an_empty_run_has_its_columns(tmp_path: Path) -> None:
    (tmp_path / "transcripts.jsonl").touch()
    run = load(tmp_path)
    assert (list(run.questions), len(run.questions)) == (list(QUESTIONS), 0)
    assert (list(run.turns), len(run.turns)) == (list(TURNS), 0)


def test_a_run_is_found_by_its_label_and_a_folder_of_runs_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harness_ext_runs").symlink_to(runs)
    assert load("pair").label == "pair"
    assert load(LABEL).path.name == "hostile"
    for named in (runs, "nobody", tmp_path / "nowhere"):
        with pytest.raises(UnknownRun, match="is no run directory"):
            load(named)


def test_frames_are_made_once(runs: Path) -> None:
    run = load(runs / "base")
    assert run.questions is run.questions
    assert json.dumps(dict(run.config))
