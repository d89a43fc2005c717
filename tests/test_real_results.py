"""The benchmark of real models: which cells run, what is collected from their runs, and what the page says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import page_results
import pytest
import real_results
from hypothesis import given
from hypothesis import strategies as st
from page_results import NAME, finding, missing, page_of, readme_rows, with_family
from real_grid import (
    CONTROLS,
    PAIRS,
    SETTINGS,
    TASKS,
    Cell,
    Pair,
    Task,
    grid,
    model_arguments,
    run_directory,
    setting_named,
)
from real_results import FINISHED, chosen, chosen_limit, figures, finished

from harness_ext.analysis.statistics.holm import holm
from harness_ext.embedded import model_path

LABELS = [setting.label for setting in SETTINGS]
STORIES = Task("babi_stories", "Stories", unread="soft_match,none")


def cell(run: str, value: float, p_value: float = 1.0, **more: Any) -> dict[str, Any]:
    change = {
        "value": value - 0.4, "interval": {"low": value - 0.5, "high": value - 0.3}, "p_value": p_value,
        "adjusted": 0.0, "up": 3, "down": 1, "detectable": 0.21,
    }  # fmt: skip
    usage = {"calls": 20, "prompt_tokens": 2000, "completion_tokens": 1000}
    return {
        "run": run, "number": 20, "value": value, "interval": {"low": value - 0.1, "high": value + 0.1},
        "difference": None if run == "baseline" else change, "cost": {"flops": 2e9, "seconds": 4.5}, "unread": 0.1,
        "seats": {"student": usage}, "k": None, "verdicts": None, **more,
    }  # fmt: skip


def group(*cells: dict[str, Any], task: str = "gsm8k_cot_answer", pair: Pair = PAIRS[0]) -> dict[str, Any]:
    found = [cell("baseline", 0.4, cost={"flops": 1e9, "seconds": 2.0}), *cells]
    return {
        "task": task,
        "student": pair.student,
        "teacher": pair.teacher,
        "limit": 20,
        "two_way": task == "creak_cot",
        "cells": found,
    }


VERDICTS = {
    "accepted_right": 8, "accepted_wrong": 10, "rejected_right": 0, "rejected_wrong": 2, "malformed": 1, "asked": 20,
    "precision": 8 / 18, "recall": 1.0, "wrong_rejected": 2 / 12, "stated": 0.8,
    "auroc": {"value": 0.61, "low": 0.4, "high": 0.8},
}  # fmt: skip


@pytest.mark.parametrize("text", ["qwen-0.5b", "qwen-0.5b+", "+gemma", "gemma+gpt", "a+b+c", ""])
def test_a_pair_names_two_known_models(text: str) -> None:
    with pytest.raises(ValueError, match="there is no model"):
        Pair.of(text)
    assert Pair.of("smollm2+gemma") == Pair("smollm2", "gemma")


@given(st.sets(st.sampled_from(LABELS)), st.sets(st.sampled_from([task.name for task in TASKS]), min_size=1))
def test_a_part_of_the_grid_has_what_it_is_compared_with(labels: set[str], tasks: set[str]) -> None:
    cells = chosen(sorted(tasks), PAIRS, sorted(labels))
    found = [c.setting.label for c in cells if (c.task.name, c.pair) == (min(tasks), PAIRS[0])]
    assert found[0] == "baseline"
    assert set(found) >= labels
    assert "self_consistency" not in found or found.index("feedback_pair") < found.index("self_consistency")
    assert len({str(one) for one in cells}) == len(cells) == len(found) * len(tasks) * len(PAIRS)


def test_the_default_grid_is_everything() -> None:
    tasks = [task.name for task in TASKS]
    assert chosen(tasks, None, LABELS) == list(grid())
    assert list(grid())[: len(PAIRS) * len(TASKS) * len(LABELS)] == chosen(tasks, PAIRS, LABELS)
    assert {cell.pair for cell in chosen(["creak_cot"], None, [])} == {*PAIRS, *CONTROLS}
    assert {cell.pair for cell in chosen(["gsm8k_cot_answer"], None, [])} == {*PAIRS}


@given(st.dictionaries(st.integers(1, 9), st.lists(st.sampled_from(LABELS), unique=True).map(tuple)))
def test_the_number_of_questions_with_most_settings_is_published(found: dict[int, tuple[str, ...]]) -> None:
    usable = {n: labels for n, labels in found.items() if "baseline" in labels and len(labels) > 1}
    limit = chosen_limit(found)
    assert (limit is None) == (not usable)
    assert all((len(found[limit]), limit) >= (len(labels), n) for n, labels in usable.items() if limit is not None)


def test_seats_get_servers_and_two_agents_on_one_model_differ(tmp_path: Path) -> None:
    files = {"qwen-0.5b": tmp_path / "small.gguf", "qwen-1.5b": tmp_path / "large.gguf"}
    votes, debate = setting_named("self_consistency"), setting_named("debate")

    def arguments(setting: Any, pair: Pair) -> dict[str, Any]:
        return model_arguments(Cell(TASKS[0], pair, setting), files, tmp_path / "server", tmp_path, 20)

    found = arguments(votes, PAIRS[0])
    feedback = run_directory(Cell(TASKS[0], PAIRS[0], setting_named("feedback_pair")), tmp_path, 20)
    assert found["k"] == f"auto:{feedback}"
    assert found["student"] == f"serve:{files['qwen-0.5b']}"
    assert "teacher" not in found
    assert arguments(debate, PAIRS[0])["agent.2"] == f"serve:{files['qwen-1.5b']}"
    assert "agent.2.gen.do_sample" not in arguments(debate, PAIRS[0])
    assert arguments(debate, PAIRS[1])["agent.2.gen.do_sample"] is True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with finished runs of the embedded pair, and one that was interrupted."""
    from lm_eval.tasks import TaskManager

    from harness_ext.bridge import plugins

    plugins.register_models()
    found, manager = tmp_path_factory.mktemp("real"), TaskManager()
    for label in ("baseline", "feedback_pair", "skyline"):
        one = Cell(STORIES, PAIRS[0], setting_named(label))
        arguments = {
            **{seat: str(model_path(role)) for seat, role in one.setting.seats.items()}, **one.setting.options,
            "store": str(found / "calls"), "run_dir": str(run_directory(one, found, 8)),
        }  # fmt: skip
        real_results.run(one, arguments, 8, manager)
    (run_directory(one, found, 8) / FINISHED).unlink()
    return found


def test_figures_are_those_of_finished_runs(folder: Path) -> None:
    runs = folder / STORIES.name / str(PAIRS[0]) / "8"
    assert finished(runs) == ("baseline", "feedback_pair")
    result = figures(STORIES, PAIRS[0], 8, folder, real_results.scorer(None))
    base, feedback = result["cells"]
    assert [base["run"], base["difference"], base["number"]] == ["baseline", None, 8]
    scored = json.loads((runs / "feedback_pair" / "scores.json").read_text())["tasks"][STORIES.name]["metrics"]
    assert feedback["value"] == scored["exact_match,none"]["lm_eval"]
    assert feedback["unread"] == scored["soft_match,none"]["lm_eval"]
    assert feedback["difference"]["up"] - feedback["difference"]["down"] == round(
        8 * (feedback["value"] - base["value"])
    )
    asked = feedback["verdicts"]["asked"]
    assert 0 < asked <= feedback["seats"]["teacher"]["calls"]
    assert feedback["verdicts"]["accepted_right"] == scored["exact_match,none"]["acceptance"]["accepted_right"]
    assert feedback["verdicts"]["auroc"] == scored["exact_match,none"]["probabilities"].get("auroc")
    assert base["verdicts"] is None
    assert result["two_way"] is False
    assert json.loads(json.dumps(result)) == result


def test_nothing_is_written_before_there_is_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "result.json"
    output.write_text("kept")
    real_results.publish(tmp_path, output)
    assert output.read_text() == "kept"
    assert "no result is written" in capsys.readouterr().err


def test_tables_of_an_earlier_result_stay_unless_the_folder_has_as_many_settings() -> None:
    earlier = [
        group(cell("skyline", 0.7), cell("debate", 0.7)),
        group(cell("skyline", 0.7), task="creak_cot"),
        group(cell("skyline", 0.7), task="ecqa_cot"),
    ]
    found = [
        {**group(cell("skyline", 0.1), task="ecqa_cot"), "new": True},
        {**group(cell("skyline", 0.1)), "new": True},
        {**group(cell("skyline", 0.1), task="ecqa_cot", pair=CONTROLS[0]), "new": True},
    ]
    kept = real_results.merged(found, earlier)
    assert [(g["task"], g["student"], g.get("new", False)) for g in kept] == [
        ("gsm8k_cot_answer", "qwen-0.5b", False),
        ("creak_cot", "qwen-0.5b", False),
        ("ecqa_cot", "qwen-0.5b", True),
        ("ecqa_cot", "smollm2", True),
    ]


def test_groups_keep_the_record_of_their_own_measurement(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "result.json"
    monkeypatch.setattr(real_results, "TASKS", (STORIES, *TASKS))
    real_results.publish_measured({"groups": [group(cell("skyline", 0.7), task="creak_cot")]}, output)
    first = json.loads(output.read_text())["measured"]
    runs = folder / STORIES.name / str(PAIRS[0]) / "8"
    for label, commit, day in (("baseline", "abc", 1), ("feedback_pair", "def", 2)):
        mark = json.loads((runs / label / FINISHED).read_text())
        assert {*mark} == {"limit", "commit", "date"}
        made = {"commit": commit, "date": f"2030-01-0{day}T00:00:00Z"}
        (runs / label / FINISHED).write_text(json.dumps(mark | made))
    for _ in range(2):  # what was added once is not added again
        real_results.publish(folder, output)
        found = json.loads(output.read_text())["groups"]
        assert [g["task"] for g in found] == [STORIES.name, "creak_cot"]
        assert [g["measured"] for g in found] == [
            {"commit": "abc, def", "date": "2030-01-02T00:00:00Z"},
            {"commit": first["commit"], "date": first["date"]},
        ]
    assert "Measured on 2030-01-02 at commit abc, def." in str(page_results.measured_on(found[0]))
    output.write_text(output.read_text().replace("0.7", "0.9"))
    with pytest.raises(SystemExit, match="was changed after it was made"):
        real_results.publish(folder, output)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_all_comparisons_of_the_page_are_one_family(p_values: list[float]) -> None:
    half = len(p_values) // 2
    parts = [p_values[:half], p_values[half:]]
    groups = with_family([group(*(cell(f"run {i}", 0.5, p) for i, p in enumerate(part))) for part in parts])
    found = [c["difference"]["adjusted"] for g in groups for c in g["cells"] if c["difference"]]
    assert found == holm(p_values)


def test_what_was_found_depends_on_the_figures() -> None:
    feedback = cell("feedback_pair", 0.5, 0.5, verdicts=VERDICTS)
    one = with_family([group(cell("skyline", 0.7, 0.001), feedback, cell("debate", 0.2, 0.002))])[0]
    said = finding(one)
    assert "20 questions: the student alone is right on 40%." in said
    assert "Significantly better: `skyline` (+30 points). Significantly worse: `debate` (-20 points)." in said
    assert "Not significantly different: `feedback_pair` (+10 points)." in said
    assert "rejected 2 of 12 wrong drafts and 0 of 8 right ones; 3 answers became right and 1 wrong." in said
    assert "Its mean probability that a draft is right is 0.80; 0.40 of them are right." in said
    assert "needs 2.0 times the compute" in said
    assert "second_look" not in said
    assert "gives the other one away" not in said
    assert "gives the other one away" in finding({**one, "two_way": True})
    two = with_family([group(cell("feedback_pair", 0.9, 0.001), cell("second_look", 0.45))])[0]
    assert "Significantly better: `feedback_pair` (+50 points)." in finding(two)
    assert "rejected" not in finding(two)
    assert "`second_look` gains +5 points" in finding(two)


def test_cells_that_were_not_run_are_named() -> None:
    every = group(*(cell(label, 0.4) for label in LABELS if label not in ("baseline", "debate")))
    said = missing([every])
    assert said.splitlines()[0] == f"- GSM8K, {PAIRS[0].title}: `debate`"
    assert said.count("all settings") == len(TASKS) * len(PAIRS) - 1
    full = [
        group(*(cell(label, 0.4) for label in LABELS[1:]), task=task.name, pair=pair)
        for task in TASKS
        for pair in (*PAIRS, *CONTROLS)
    ]
    assert missing(full) == "All cells of the default grid were run.\n"


def test_unknown_figures_are_no_zeros() -> None:
    seats = {"student": {"calls": 20, "prompt_tokens": None, "completion_tokens": 40}}
    unknown = cell("skyline", 0.5, seats=seats, cost=None, unread=None)
    row = page_results.cells_of(group(unknown), unknown)
    assert [row[name] for name in ("tokens read", "written", "unreadable", "compute")] == [
        "?", "2", "?", "? ×",
    ]  # fmt: skip


def test_the_page_has_every_group_and_what_it_can_detect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [group(cell("feedback_pair", 0.5, verdicts=VERDICTS)), group(cell("skyline", 0.6), pair=PAIRS[1])]
    text = page_of({"groups": groups})
    assert text.count("## GSM8K, ") == 2
    assert "corrected for all 2 comparisons" in text
    assert "| `feedback_pair` | 20 | 8 of 8 | 2 of 12 | 0.44 | 1.00 | 0.80 | 0.61 [0.40, 0.80] | 5% |" in text
    assert page_results.cells_of(groups[0], groups[0]["cells"][1])["detectable"] == "0.21"
    assert "with power 0.8" in text
    assert "| `feedback_pair` |" in readme_rows({"groups": groups})
    most = group(cell("skyline", 0.6), cell("debate", 0.3), task="creak_cot")
    assert readme_rows({"groups": [*groups, most]}).startswith(f"CREAK, {PAIRS[0].title}, 20 test questions:")
    monkeypatch.setattr(page_results, "RESULTS", tmp_path)
    assert not (tmp_path / NAME).exists()
    assert page_results.results_page().endswith("Nothing was measured yet.\n")
    monkeypatch.setattr("page_results.embedded_part", lambda: "| embedded |\n")
    assert page_results.readme_part().endswith("| embedded |\n")
