"""`harness-ext report`: figures are those of `compare` and `score`, and whatever models say stays text."""

from __future__ import annotations

import html.parser
import json
import re
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_support import ATTACKS, parts_of, three_runs, write_report
from scored_runs import ROWS, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.report.checkpoint_charts import CheckpointsError, checkpoint_chart, read_points
from harness_ext.analysis.report.command import main
from harness_ext.analysis.report.comparison_charts import pareto_front
from harness_ext.analysis.report.encoding import inert_json, packed
from harness_ext.analysis.report.records import Records, RunRecords
from harness_ext.analysis.report.round_charts import round_charts, token_charts
from harness_ext.analysis.report.turns import transcript_json
from harness_ext.analysis.scoring.probabilities import area_under_roc, roc_curve
from harness_ext.analysis.scoring.score import score_run
from harness_ext.cli import report

pytest.importorskip("plotly", reason="needs the extra `report`")

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def parts(page: Path) -> dict[str, Any]:
    return parts_of(page)


class Elements(html.parser.HTMLParser):
    """Collects the elements of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def charts_of(parts: dict[str, Any]) -> dict[str, Any]:
    return {chart["name"]: chart for charts in parts["charts"].values() for chart in charts}


def test_the_page_loads_nothing_and_its_policy_forbids_it(page: Path) -> None:
    elements = Elements(page.read_text()).found
    assert not [a for _, a in elements if any(n.startswith("on") or n in ("src", "srcset", "action") for n in a)]
    assert all((a.get("href") or "#").startswith("#") for _, a in elements)
    (policy,) = [a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert allowed["default-src"] == "'none'"
    assert all(re.fullmatch(r"'sha256-[\w+/]{43}='", source) for source in allowed["script-src"].split())
    assert not re.search(r"https?:|\*", policy)


def test_what_the_runs_say_is_no_markup_and_hides_nothing(page: Path, parts: dict[str, Any]) -> None:
    text = page.read_text()
    tags = [tag for tag, _ in Elements(text).found]
    assert not {"img", "b"} & set(tags)
    assert tags.count("script") == 2 + len(parts)  # the data about the page, its own script, and the parts
    static = text[: text.index('<script type="application/x-deflated"')]
    for shown in (static, json.dumps({k: v for k, v in parts.items() if k != "plotly"}, ensure_ascii=False)):
        assert not {c for c in shown if unicodedata.category(c) in HIDDEN} - {"\n", "\x1f"}
    said = json.dumps(parts["block-0"], ensure_ascii=False)
    assert "<U+202E>evil" in said
    assert "<U+001B>[31mred<U+0007>" in said
    assert "<U+200B>" in said


def test_the_table_shows_each_question_as_the_scores_have_it(parts: dict[str, Any]) -> None:
    table = parts["table"]
    assert table["tasks"] == [["sums", "exact_match,none"]]
    assert [row[1] for row in table["rows"]] == list(range(8))
    assert [row[2] for row in table["rows"]] == [row["q"] for row in ROWS]  # without the rest of the prompt
    base, pair, hostile = zip(*(row[4] for row in table["rows"]), strict=True)
    assert [cell[0] for cell in base] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert [cell[:2] for cell in pair] == [[0, 1], [1, 1], [1, 1], [1, 1], [1, 0], [0, 0], [0, 0], [0, 0]]
    malformed, failed, up, down = 1, 4, 32, 64
    assert [cell[2] & (malformed | failed | up | down) for cell in pair] == [down, 0, 0, 0, up, 0, malformed, failed]
    assert all(cell[0] == 0 for cell in hostile)


def test_transcripts_come_back_as_they_were_recorded(parts: dict[str, Any]) -> None:
    block = parts["block-0"]
    assert len(block) == 8
    spoiled = next(said for directory, _, said in block[0]["said"] if directory == 1)
    assert ["".join(turn.get("parts", [])) for turn in spoiled["turns"]] == ["0", "", "it is 1"]
    assert spoiled["turns"][1]["verdict"] == "✗ rejected (logprobs, 0.30)"
    assert spoiled["turns"][2]["parts"] == ["it is ", "1", ""]  # what was read stands apart
    assert spoiled["turns"][2]["read"] == "1"
    assert block[0]["scores"]["1"] == [[1, 0]]
    attacked = next(said for directory, _, said in block[0]["said"] if directory == 2)
    assert "".join(attacked["turns"][0]["parts"]) == ATTACKS[0]


def test_figures_are_those_of_compare_and_score(page: Path, parts: dict[str, Any]) -> None:
    charts = charts_of(parts)
    assert {"values", "differences", "cost", "running", "rounds", "flips", "verdicts", "calibration", "roc",
            "thresholds", "faults", "tokens"} <= set(charts)  # fmt: skip
    scores = json.loads((page.parent / "pair" / "scores.json").read_text())["tasks"]["sums"]["metrics"]
    found = scores["exact_match,none"]
    (rounds,) = charts["rounds"]["drawings"].values()
    assert rounds["traces"][0]["y"] == found["rounds"]
    (verdicts,) = charts["verdicts"]["drawings"].values()
    assert verdicts["traces"][0]["x"] == [pytest.approx(found["acceptance"]["precision"])]
    (flips,) = charts["flips"]["drawings"].values()
    assert flips["rows"][0] == ["pair", "0 → 1", "1", "1"]
    (values,) = charts["values"]["drawings"].values()
    assert [row[2] for row in values["rows"]] == ["0.500", "0.500", "0.000"]


def test_plotly_accepts_every_drawing(parts: dict[str, Any]) -> None:
    import plotly.graph_objects as go

    drawings = [d for chart in charts_of(parts).values() for d in chart["drawings"].values()]
    for drawing in drawings:
        go.Figure({"data": drawing["traces"], "layout": drawing["layout"]})
        assert drawing["rows"]
        assert {len(row) for row in drawing["rows"]} == {len(drawing["head"])}


def test_warnings_come_first_and_the_method_is_complete(page: Path) -> None:
    text = page.read_text()
    assert "the built-in demonstration pair answered" in text
    assert "1 of 8 questions have no answer (1 backend)" in text
    assert "had no readable verdict" in text
    assert "exact McNemar test" in text
    assert text.index("Before you believe the figures") < text.index('id="comparison"')


def test_a_folder_has_the_same_parts_as_a_file(page: Path, parts: dict[str, Any], tmp_path: Path) -> None:
    index = write_report(tmp_path, "--split")
    names = {path.stem for path in index.parent.glob("*.js")}
    assert names == set(parts)
    assert (index.parent / "plotly.js").read_text() == parts["plotly"]
    assert index.stat().st_size < 300_000
    assert main([*map(str, [tmp_path / "base", tmp_path / "pair"]), "--split", "-o", str(index.parent)]) == 0  # again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "there"], "is a folder: give a file"),
        (["-o", "there", "--split"], "is a folder with other files"),
        (["-o", "file.txt", "--split"], "is a file, and --split writes a folder"),
        (["-o", "missing/report.html"], "there is no folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    (tmp_path / "file.txt").write_text("mine")
    assert main(["nowhere", *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "file.txt").read_text() == "mine"


def test_a_suite_stands_for_its_runs_and_options_and_the_readers_own_come_after(tmp_path: Path) -> None:
    base, pair, hostile = three_runs(tmp_path)
    asked: list[tuple[Path, bool]] = []

    def suite(study: Path, drop_unmatched: bool) -> list[str]:
        asked.append((study, drop_unmatched))
        return [f"one={base}", f"two={pair}", "--reference", "two", "--group", "mine=sums"]

    output = tmp_path / "suite.html"
    for arguments, first in (
        (["--suite", "study.yaml"], "two"),
        ([f"three={hostile}", "--suite", "study.yaml", "--reference", "three", "--drop_unmatched"], "three"),
        (["--reference", "one", "--suite", "study.yaml", f"three={hostile}"], "one"),
    ):
        assert main([*arguments, "-o", str(output)], suite) == 0
        (about,) = re.findall(r'id="about">(.*?)</script>', output.read_text())
        labels = [label for label, _ in json.loads(about)["runs"]]
        assert labels[0] == first
        assert set(labels) == {"one", "two"} | ({"three"} if "three" in str(arguments) else set())
    assert asked == [(Path("study.yaml"), False), (Path("study.yaml"), True), (Path("study.yaml"), False)]


def test_a_report_of_nothing_or_of_a_faulty_study_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        report([])
    assert error.value.code == 2
    assert "name a run, or a study (--suite STUDY)" in capsys.readouterr().err
    study = tmp_path / "study.yaml"
    study.write_text("tasks: [babi_stories]\nsettings: {a: {model: baseline, limits: 4}}\n")
    assert report(["--suite", "study.yaml"]) == 2
    assert "harness-ext report:\n  - " in capsys.readouterr().err
    study.write_text("tasks: [babi_stories]\nsettings: {a: {model: baseline, limit: 4}}\n")
    assert report(["--suite", "study.yaml"]) == 1
    assert "no cell is finished: `harness-ext suite run study.yaml`" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_runs_that_do_not_match_are_refused_as_by_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = write_run(tmp_path / "few", transcript(0, said("student", "draft", "0")), label="few")
    score_run(few, manager=manager_of(make_task()))
    base = three_runs(tmp_path)[0]
    assert main([base, str(few), "-o", str(tmp_path / "r.html")]) == 2
    assert "harness-ext report: nothing was compared" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()
    assert main([base, str(few), "-o", str(tmp_path / "r.html"), "--drop_unmatched"]) == 0
    assert len(parts_of(tmp_path / "r.html")["table"]["rows"]) == 1


def test_debates_and_speculative_runs_have_charts_of_their_own(tmp_path: Path) -> None:
    corrections = [{"position": 0}, {"position": 5}]
    run = write_run(
        tmp_path,
        transcript(0, said("student", "draft", "0123456789"), details={"corrections": corrections}),
        transcript(1, said("student", "draft", "0123456789"), details={"corrections": [{"position": 99}]}),
    )
    totals = {
        "characters_student": 15,
        "characters_teacher": 5,
        "agreement_round_0": 1.0,
        "agreement_round_1": 2.0,
        "corrections": 3,
    }
    tokens = {"kept": 8, "discarded": 2, "verification": None}
    usage = {"student": {"total": {"prompt_tokens": 10, "cached_tokens": 5}}}
    summary = {"questions": 2, "answered": 2, "totals": totals, "completion_tokens": tokens, "usage": usage}
    conformity = {"conformed_wrong_to_right": 3, "kept_right": 1}
    figures = {"rounds": [0.5, 1.0], "agents": [0.5, 0.75], "conformity": conformity}
    scores = {"tasks": {"sums": {"metrics": {"exact_match,none": figures}}}, "pools": {}}
    directory = RunRecords(0, "both", run, {}, summary, scores, ())
    found = Records(("both",), (directory,), ())
    rows = {c.name: next(iter(c.drawings.values())).rows for c in (*round_charts(found), *token_charts(found))}
    assert rows == {
        "rounds": [["both", "0.500", "1.000"]],
        "agents": [["both", "0.500", "0.750"]],
        "agreement": [["both", "50.0%", "100.0%"]],
        "conformity": [["both", "3", "1", "0", "0", "0", "0"]],
        "tokens": [["both", "4.0", "1.0", "—"]],
        "cached": [["both: student", "50.0%"]],
        "corrections": [["both", "3", "33.3%", *["0.0%"] * 4, "33.3%", *["0.0%"] * 3, "33.3%"]],
        "authors": [["both", "75.0%", "25.0%"]],
    }


def test_a_text_of_two_authors_is_split_where_they_take_turns() -> None:
    units = {"authors": "sstt", "characters": [2, 3, 1, 4], "probabilities": [None] * 4}
    turns = (said("student", "draft", "12345"), said("teacher", "correct", "6789\u202e"))
    found = transcript_json(transcript(0, *turns, text="123456789\u202e", details={"units": units}))
    assert found["authors"] == [["student", "12345"], ["teacher", "6789<U+202E>"]]
    assert "read" not in found["turns"][1]  # a part of an answer is not read as one
    assert "authors" not in transcript_json(transcript(0, *turns, details={"units": "unknown"}))


def test_a_training_is_shown_by_epoch(tmp_path: Path) -> None:
    point = {
        "task": "sums",
        "metric": "acc,none",
        "questions": 8,
        "interval": {"low": None, "high": None},
        "best": False,
    }
    points = [
        {**point, "subject": "untouched", "mean": 0.25, "epoch": None},
        {**point, "subject": "checkpoint-2", "mean": 0.75, "epoch": 2.0, "interval": {"low": 0.5, "high": 0.9}},
        {**point, "subject": "checkpoint-1", "mean": 0.5, "epoch": 1.0},
    ]
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "points.json").write_text(json.dumps(points))
    found = checkpoint_chart(read_points(tmp_path))
    assert found is not None
    (drawing,) = found.drawings.values()
    assert [row[:4] for row in drawing.rows] == [
        ["untouched", "—", "8", "0.250"], ["checkpoint-1", "1", "8", "0.500"], ["checkpoint-2", "2", "8", "0.750"],
    ]  # fmt: skip
    with pytest.raises(CheckpointsError, match=r"has no points\.json"):
        read_points(tmp_path / "elsewhere")
    (tmp_path / "points.json").write_text('[{"subject": 1}]')
    with pytest.raises(CheckpointsError, match="run `harness-ext checkpoints` again"):
        read_points(tmp_path / "points.json")


points = st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float))


@given(st.lists(points, min_size=1), st.booleans())
def test_no_point_beats_one_of_the_front_and_each_other_is_beaten(
    some: list[tuple[float, float]], higher: bool
) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] <= b[0] and (a[1] >= b[1] if higher else a[1] <= b[1])

    front = pareto_front(some, higher)
    assert front == sorted(front)
    assert set(front) == {p for p in some if not any(beats(q, p) for q in some)}


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=2, max_size=30))
def test_the_area_below_the_roc_curve_is_the_auroc(some: list[tuple[float, bool]]) -> None:
    import numpy as np

    stated, right = [p for p, _ in some], [r for _, r in some]
    curve = roc_curve(stated, right)
    expected = area_under_roc(stated, right)(np.ones((1, len(some))))[0]
    if not curve:
        assert np.isnan(expected)
        return
    assert curve[-1][:2] == (1, 1)
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(curve))
    assert area == pytest.approx(expected)


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_data_in_a_page_cannot_end_its_element(text: str) -> None:
    inside = inert_json({"said": text})
    assert not set(inside) & set("<>&\u2028\u2029")
    assert json.loads(inside) == {"said": text}
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed([text]))
