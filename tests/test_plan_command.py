"""`harness-ext plan`: arguments, pilots, costs, and the file that it writes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_runs import ROWS, make_task, manager_of, said, transcript, write_run
from support import instances

from harness_ext import __version__
from harness_ext.analysis.compare.comparison import compare
from harness_ext.analysis.compare.matching import match
from harness_ext.analysis.compare.runs import CompareError
from harness_ext.analysis.compare.sources import read_runs
from harness_ext.analysis.planning import command, drafting
from harness_ext.analysis.planning.arguments import ArgumentsError, read_arguments
from harness_ext.analysis.planning.command import main
from harness_ext.analysis.planning.correlation import intracluster_correlation
from harness_ext.analysis.planning.costs import cost_of_sample
from harness_ext.analysis.planning.pilot import Selection, read_pilot
from harness_ext.analysis.preregistration.plan import Claim, Plan
from harness_ext.analysis.preregistration.review import planned_notes
from harness_ext.analysis.preregistration.start_times import start_times
from harness_ext.analysis.sampling import Sampler
from harness_ext.analysis.scoring.score import score_run
from harness_ext.analysis.statistics.intervals import share_interval
from harness_ext.analysis.statistics.power import mcnemar_power
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.errors import ConfigurationError
from harness_ext.models.baseline import BaselineLM

TIME = "2026-01-01T00-00-00.5"


def results(folder: Path, model: str, values: Sequence[Any], task: str = "t", date: float = 0.0, **more: Any) -> Path:
    """Write results and samples of one task as lm-eval does, with one value per question."""
    metric, size = more.get("metric", "acc"), more.get("cluster_size", 4)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "configs": {task: {"metric_list": [{"metric": metric, "aggregation": "mean"}]}},
        "config": {"model": model, "model_args": {"pretrained": f"org/{model}"}},
        "results": {task: {}}, "higher_is_better": {task: {metric: more.get("higher", True)}},
        "group_subtasks": {}, "n-shot": {task: 0}, "versions": {task: 1}, "date": date,
    }  # fmt: skip
    (folder / f"results_{TIME}.json").write_text(json.dumps(content))
    lines = [
        {
            "doc_id": i, "doc": {"q": i, "story": i // size}, "target": "7", "doc_hash": f"{task}-{i}",
            "resps": [["x"]], "filter": "none", "metrics": [metric], metric: value,
        }
        for i, value in enumerate(values)
    ]  # fmt: skip
    (folder / f"samples_{task}_{TIME}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def never(run: Path) -> None:
    raise AssertionError(f"{run} has been scored already")


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the JSON that the command prints."""
    assert main(["--json", *map(str, arguments)]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# Arguments


def test_the_number_and_what_it_depends_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--baseline", "0.5", "--gain", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "To find a gain of 0.05 (from 0.5 to 0.55) with power 0.8, 1,606 questions are needed." in out
    assert "Assumed: independent answers" in out
    assert "exact McNemar test, two-sided, at the level 0.05" in out
    numbers = {row["share"]: row["questions"] for row in planned(capsys, "--baseline", "0.5", "--gain", "0.05")["rows"]}
    assert list(numbers) == pytest.approx([0.5, 0.1, 0.05])
    assert all(
        mcnemar_power(number, share, 0.05) >= 0.8 > mcnemar_power(number - 1, share, 0.05)
        for share, number in numbers.items()
    )


def test_a_given_share_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    rows = planned(capsys, "--baseline", "0.5", "--gain", "0.05", "--discordant", "0.2")["rows"]
    assert [row["share"] for row in rows] == pytest.approx([0.2, 0.05, 0.1, 0.5])
    assert rows[0]["assumption"] == "as given"


def test_several_claims_are_tested_at_the_first_step_of_holm(capsys: pytest.CaptureFixture[str]) -> None:
    counted = planned(capsys, "--baseline", "0.5", "--gain", "0.05", "--comparisons", "4")
    assert counted["level"] == 0.05 / 4
    assert counted["rows"][0]["questions"] > 1606
    named = planned(
        capsys, "--baseline", "0.5", "--gain", "0.05", "--task", "a", "--task", "b", "--metric", "acc",
        "--run", "x", "--run", "y", "--reference", "r",
    )  # fmt: skip
    assert (named["comparisons"], named["rows"]) == (4, counted["rows"])
    assert main(["--baseline", "0.5", "--gain", "0.05", "--comparisons", "4"]) == 0
    assert "the first step of Holm's correction for 4 claims at 0.05 together" in capsys.readouterr().out


def test_the_gain_that_a_number_finds(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--baseline", "0.5", "--questions", "1606")["rows"][0]
    assert found["gain"] == pytest.approx(0.05, abs=2e-4)
    assert main(["--baseline", "0.5", "--questions", "1606", "--gain", "0.03"]) == 0
    out = capsys.readouterr().out
    assert f"find a gain of 0.03 (from 0.5 to 0.53) with power {mcnemar_power(1606, 0.5, 0.03):.3f}" in out
    assert main(["--baseline", "0.5", "--questions", "5"]) == 0
    assert "5 questions find no gain with power 0.8, not even the largest possible one" in capsys.readouterr().out


def test_clusters_need_more_and_are_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--baseline", "0.5", "--gain", "0.12", "--discordant", "0.3", "--cluster_size", "4", "--icc", "0.4")
    found = planned(capsys, *arguments)
    assert found["test"] == "sign-flip test over clusters"
    row, independent = found["rows"][0], planned(capsys, *arguments[:6])["rows"][0]
    assert row["questions"] > 1.5 * independent["questions"]
    assert row["questions"] == 4 * row["clusters"]
    assert row["power"]["error"] > 0
    assert independent["power"]["error"] is None
    assert planned(capsys, *arguments) == found, "the seed makes it reproducible"
    assert main([*arguments[:6], "--clusters", "8", "--icc", "0.9"]) == 0
    assert "not even with 1,000 questions in each: more clusters are needed" in capsys.readouterr().out


def problems(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(ArgumentsError) as caught:
        read_arguments(arguments)
    return caught.value.problems


def test_all_problems_are_listed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text("{}")
    arguments = [
        "--baseline", "half", "--gain", "2", "--power", "1", "--clusters", "9", "--cluster_size", "2.5", "--group", "x",
        "--output", str(tmp_path / "plan.json"), "--",
    ]  # fmt: skip
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("harness-ext plan: 11 problems with the arguments:\n")
    for problem in (
        "`--baseline=half`: expected a number",
        "`--gain=2`: expected above 0 and at most 1",
        "`--power=1`: expected between 0 and 1",
        "`--cluster_size=2.5`: expected a whole number",
        "--clusters and --cluster_size exclude each other",
        "clusters need --icc",
        "`--group x`: expected NAME=TASK,TASK",
        "--output needs --metric, --reference, --run",
        "--output needs --cluster",
        "plan.json`: the file exists",
        "`--` is followed by nothing",
    ):
        assert problem in err
    assert (tmp_path / "plan.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give --gain"),
        ([], "give --baseline"),
        (["--baseline", "0.9", "--gain", "0.2"], "a gain of 0.2 over 0.9 is impossible: at most 0.1 can be gained"),
        (
            ["--baseline", "0.9", "--gain", "0.05", "--discordant", "0.3"],
            "between 0.05 and 0.15 of the questions change",
        ),
        (["--baseline", "0.5", "--gain", "0.1", "--discordant", "0.05"], "between 0.1 and 0.9 of the questions change"),
        (["--baseline", "0.5", "--gain", "0.1", "--icc", "0.1"], "--icc needs clusters"),
        (["--baseline", "0.5", "--gain", "0.1", "--cluster", "story"], "--cluster needs the size of the clusters"),
        (["--baseline", "0.5", "--gain", "0.1", "--clusters", "5", "--icc", "0"], "test needs 6 clusters for that"),
        (["--baseline", "0.5", "--gain", "nan"], "a number that is finite"),
        (["--baseline", "0.5", "--gain", "0.1", "--run", "a", "--reference", "a"], "--run a is the reference too"),
        (["--baseline", "0.5", "--gain", "0.1", "--primary", "t", "acc", "a"], "a is none of the given --runs"),
        (
            ["--baseline", "0.5", "--gain", "0.1", "--task", "t", "--metric", "m", "--run", "a", "--comparisons", "3"],
            "--comparisons 3 contradicts the 1 claims",
        ),
    ],
)
def test_contradictions_are_named(arguments: list[str], problem: str) -> None:
    assert any(problem in found for found in problems(*arguments))


def test_more_clusters_are_needed_for_more_claims() -> None:
    arguments = ["--baseline", "0.5", "--gain", "0.1", "--clusters", "7", "--icc", "0"]
    read_arguments(arguments)
    assert any("needs 8 clusters" in problem for problem in problems(*arguments, "--comparisons", "5"))


# The plan's file


def test_the_file_says_what_was_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    arguments = [
        "--baseline", "0.6", "--gain", "0.1", "--discordant", "0.2", "--task", "gsm8k", "--group", "both=gsm8k,mmlu",
        "--metric", "acc", "--reference", "base", "--run", "pair", "--run", "debate", "--primary", "gsm8k", "acc",
        "pair", "--primary", "both", "acc", "debate", "--output", str(path),
    ]  # fmt: skip
    before = datetime.now(UTC).replace(microsecond=0)
    assert main(arguments) == 0
    assert f"wrote {path}: keep it unchanged" in capsys.readouterr().err
    plan = Plan.read(path)
    assert before <= plan.time <= datetime.now(UTC)
    assert (plan.harness_ext, plan.test, plan.cluster, plan.clusters) == (__version__, "exact McNemar test", None, None)
    assert plan.claims == (Claim("gsm8k", "acc", "pair"), Claim("both", "acc", "debate"))
    assert plan.groups == {"both": ("gsm8k", "mmlu")}
    assert (plan.alpha, plan.gain, plan.power) == (0.05, 0.1, 0.8)
    assert mcnemar_power(plan.questions, 0.2, 0.1, 0.025) >= 0.8 > mcnemar_power(plan.questions - 1, 0.2, 0.1, 0.025)
    assert (plan.assumptions.share, plan.assumptions.simulation_seed) == (0.2, None)
    assert main(arguments) == 2, "the file exists"
    assert main([*arguments, "--overwrite"]) == 0


def test_no_plan_is_written_without_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    named = ["--task", "t", "--metric", "m", "--reference", "a", "--run", "b", "--output", str(path)]
    assert main(["--baseline", "0.5", "--questions", "5", *named]) == 2
    assert "nothing suffices" in capsys.readouterr().err
    assert not path.exists()


def test_the_commit_is_that_of_this_packages_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *own, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    package = tmp_path / "harness_ext" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(drafting.harness_ext, "__file__", str(package))
    assert drafting.checkout_commit() is None, "no repository"
    git("init", "-q")
    (tmp_path / "other").write_text("x")
    git("add", "other")
    git("commit", "-qm", "somebody else's")
    assert drafting.checkout_commit() is None, "an installation inside somebody else's repository"
    git("add", ".")
    git("commit", "-qm", "ours")
    assert drafting.checkout_commit() == git("rev-parse", "HEAD")
    package.write_text("# changed")
    assert drafting.checkout_commit() == f"{git('rev-parse', 'HEAD')}-dirty"


# Pilots


REFERENCE = [1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0] * 3
BETTER = [*([1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1] * 2), *REFERENCE[40:]]


def test_a_pilot_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"a={results(tmp_path / 'a', 'm', REFERENCE)}", f"b={results(tmp_path / 'b', 'n', BETTER)}"]
    pilot = read_pilot(arguments, Selection(cluster="story"), never)
    changes = [b - a for a, b in zip(REFERENCE, BETTER, strict=True)]
    labels = [i // 4 for i in range(60)]
    assert (pilot.runs, pilot.tasks, pilot.metric, pilot.number) == (("a", "b"), ("t",), "acc,none", 60)
    assert (pilot.baseline, pilot.changed) == (27 / 60, sum(map(abs, changes)))
    assert pilot.sizes == (4,) * 15
    assert pilot.icc == intracluster_correlation(changes, labels)
    found = planned(capsys, "--from", *arguments, "--gain", "0.1")
    interval = share_interval(10, 60)
    assert pilot.changed == 10
    assert [row["share"] for row in found["rows"][:3]] == pytest.approx(
        [10 / 60, max(0.1, interval.low), interval.high]
    )
    assert found["pilot"]["changed"] == 10
    clustered = planned(capsys, "--from", *arguments, "--gain", "0.1", "--cluster", "story", "--icc", "0.5")
    assert clustered["icc"] == 0.5
    assert clustered["rows"][0]["questions"] > found["rows"][0]["questions"]
    assert any("15 clusters" in note for note in clustered["pilot"]["notes"])


def test_a_pilot_of_one_run_leaves_the_share_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--from", str(results(tmp_path / "a", "m", REFERENCE)), "--gain", "0.1")
    assert found["baseline"] == 27 / 60
    assert found["rows"] == planned(capsys, "--baseline", str(27 / 60), "--gain", "0.1")["rows"]


def test_error_rates_are_turned_into_right_answers(tmp_path: Path) -> None:
    folder = results(tmp_path / "a", "m", [1, 0, 0, 0], higher=False)
    pilot = read_pilot([str(folder)], Selection(), never)
    assert pilot.baseline == 0.75
    assert any("better when lower" in note for note in pilot.notes)


def test_graded_pilots_are_planned_from_their_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(4)
    first = random.random(60).round(3)
    second = np.clip(first + random.normal(0.02, 0.2, size=60), 0, 1).round(3)
    arguments = [str(results(tmp_path / n, n, v.tolist(), metric="f1")) for n, v in (("a", first), ("b", second))]
    found = planned(capsys, "--from", *arguments, "--gain", "0.1")
    assert (found["test"], len(found["rows"]), found["baseline"]) == ("sign-flip test", 1, None)
    z = (1.96 + 0.8416) ** 2
    assert found["rows"][0]["questions"] == pytest.approx(z * np.mean((second - first) ** 2) / 0.01, rel=0.25)
    assert (
        main(["--from", *arguments, "--gain", "0.1", "--icc", "0.2", "--cluster", "story", "--discordant", "0.4"]) == 2
    )
    assert (
        "f1,none is graded, so that the size follows from the pilot's own differences: leave out --discordant, --icc"
        in (capsys.readouterr().err)
    )
    assert main(["--from", arguments[0], "--gain", "0.1"]) == 2
    assert "give --from two runs" in capsys.readouterr().err


def test_what_a_pilot_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = results(tmp_path / "a", "m", REFERENCE), results(tmp_path / "b", "n", REFERENCE)
    results(tmp_path / "c", "o", [1, 0], task="u")
    with pytest.raises(CompareError, match="names 3 runs"):
        read_pilot([str(a), str(b), str(tmp_path / "c")], Selection(), never)
    with pytest.raises(CompareError, match="no scores of u"):
        read_pilot([str(a), str(b)], Selection(tasks=("t", "u")), never)
    with pytest.raises(CompareError, match="the tasks of the runs are none in common"):
        read_pilot([str(a), str(tmp_path / "c")], Selection(), never)
    assert main(["--from", str(a), str(b), "--gain", "0.1", "--cluster", "page"]) == 1
    assert "have no such field" in capsys.readouterr().err
    assert main(["--from", str(a), str(b), "--gain", "0.1", "--cluster", "story"]) == 2
    assert "does not show how alike the questions of a cluster are" in capsys.readouterr().err
    assert main(["--from", str(a), "--gain", "0.7"]) == 2
    assert "a gain of 0.7 over 0.45 is impossible" in capsys.readouterr().err


def test_a_pilot_names_what_is_claimed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"a={results(tmp_path / 'a', 'm', REFERENCE)}", f"b={results(tmp_path / 'b', 'n', BETTER)}"]
    path = tmp_path / "plan.json"
    assert main(["--from", *arguments, "--gain", "0.2", "--cluster", "story", "--output", str(path)]) == 0
    plan = Plan.read(path)
    assert (plan.reference, plan.runs, plan.tasks, plan.metrics) == ("a", ("b",), ("t",), ("acc,none",))
    assert (plan.cluster, plan.test) == ("story", "sign-flip test over clusters")
    assert plan.clusters is not None
    assert plan.assumptions.cluster_size == pytest.approx(4)
    assert plan.assumptions.pilot == tuple(arguments)
    other = str(tmp_path / "other.json")
    assert main(["--from", *arguments, "--gain", "0.2", "--comparisons", "3", "--output", other]) == 2
    assert "--comparisons is 3, but the plan names 1 claim" in capsys.readouterr().err
    assert main(["--from", arguments[0], "--gain", "0.2", "--output", other]) == 2
    assert "the pilot is a single run: name the other ones with --run" in capsys.readouterr().err


def test_the_plan_reviews_a_real_comparison(tmp_path: Path) -> None:
    """What `compare` returns fits the plan that the command writes."""
    path = tmp_path / "plan.json"
    assert main(
        ["--baseline", "0.4", "--questions", "60", "--task", "t", "--metric", "acc", "--reference", "a", "--run", "b",
         "--output", str(path)]
    ) == 0  # fmt: skip
    plan = Plan.read(path)
    late, early = plan.time.timestamp() + 5, plan.time.timestamp() - 5
    runs = read_runs(
        [
            f"a={results(tmp_path / 'a', 'm', REFERENCE, date=early)}",
            f"b={results(tmp_path / 'b', 'n', BETTER, date=late)}",
            f"c={results(tmp_path / 'c', 'o', REFERENCE, date=late)}",
        ],
        never,
    )
    comparison = compare(runs, match(runs))
    found = planned_notes(plan, comparison, start_times({run.label: run.sources for run in runs}))
    assert [(row.run, row.is_planned) for row in found.rows] == [("b", True), ("c", False)]
    assert found.unknown == ()
    assert len(found.deviations) == 1
    assert found.deviations[0].startswith("a was started on")
    first = next(row for row in comparison.rows if row.run == "b")
    assert first.difference is not None
    assert found.rows[0].adjusted == first.difference.p_value


# Costs


def pair(folder: Path, label: str, questions: int) -> Path:
    """Write and score a run whose questions take one or two drafts."""
    drafts = [[said("student", "draft", str(2 * i))] * (1 + i % 2) for i in range(questions)]
    run = write_run(folder, *(transcript(i, *turns) for i, turns in enumerate(drafts)), label=label)
    score_run(run, manager=manager_of(make_task(rows=ROWS)))
    return run


def test_costs_come_from_the_pilot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = pair(tmp_path / "a", "base", 8), pair(tmp_path / "b", "pair", 8)
    found = planned(capsys, "--from", str(a), str(b), "--questions", "100", "--baseline", "0.5")
    assert [cost["run"] for cost in found["costs"]] == ["base", "pair"]
    calls = found["costs"][0]["figures"]["calls"]
    assert calls["value"] == 150, "every second question takes a second call"
    assert calls["low"] < 150 < calls["high"]
    assert found["costs"][0]["figures"]["price"] is None, "the student has no price"
    assert main(["--from", str(a), "--questions", "100", "--baseline", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "Cost of 100 questions in each run (95 % intervals):" in out
    assert "Cost unknown" not in out
    stock = results(tmp_path / "stock", "m", REFERENCE)
    assert main(["--from", str(stock), "--questions", "100"]) == 0
    assert "Cost unknown: m" in capsys.readouterr().out


def test_costs_come_from_a_sample_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = BaselineLM(student=ScriptedBackend(lambda p: "x"), store="off", run_dir=tmp_path / "r", progress="off")
    sampler = Sampler(lm, 4)
    sampler.install()
    lm.generate_until(instances((f"q{i}" for i in range(20)), {"until": [], "max_gen_toks": 8}))
    cost, documents = cost_of_sample("pair", sampler, 50)
    calls = cost.figures["calls"]
    assert calls is not None
    assert (cost.sample, documents, calls.value, calls.reason) == (4, 20, 50, "no spread in the sample")
    asked: list[Any] = []

    def ask(arguments: Sequence[str], size: int) -> Sampler:
        asked.append((list(arguments), size))
        return sampler

    monkeypatch.setattr("harness_ext.analysis.planning.costs.ask_sample", ask)
    numbers = ["--baseline", "0.5", "--questions", "50", "--cost_questions", "4"]
    found = planned(capsys, *numbers, "--run", "new", "--", "--model", "baseline", "--tasks", "sums")
    assert asked == [(["--model", "baseline", "--tasks", "sums"], 4)]
    assert (found["documents"], found["costs"][0]["run"]) == (20, "new")
    several = ["--task", "t", "--task", "u", "--metric", "acc", "--run", "new"]
    assert main([*numbers, *several, "--", "--model", "baseline"]) == 0
    assert "about 2 tasks or groups; the cost is that of the questions of one" in capsys.readouterr().out
    assert main([*numbers, "--", "--model", "baseline"]) == 0
    out = capsys.readouterr().out
    assert "select only 20 documents: give --questions 20" in out
    assert "no interval (no spread in the sample)" in out


def test_a_sample_without_documents_is_an_error(tmp_path: Path) -> None:
    lm = BaselineLM(student=ScriptedBackend(lambda p: "x"), store="off", run_dir=tmp_path / "r", progress="off")
    with pytest.raises(ConfigurationError, match="no documents"):
        cost_of_sample("pair", Sampler(lm, 4), 50)


def test_wrong_arguments_for_lm_eval_are_usage_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> Any:
        raise ConfigurationError(["`--model hf` is not one of this package's protocols"])

    monkeypatch.setattr(command, "sampled_cost", refuse)
    assert main(["--baseline", "0.5", "--questions", "50", "--", "--model", "hf"]) == 2
    assert "not one of this package's protocols" in capsys.readouterr().err
