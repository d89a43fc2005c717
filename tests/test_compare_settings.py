"""`harness-ext compare`: the settings of runs, as lm-eval and this package record them, and how they differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from compare_support import printed, read
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import ROWS, make_task, manager_of, said, transcript, write_run
from tasks_support import RuleLM

from harness_ext.analysis.compare.command import main
from harness_ext.analysis.compare.differences import differences
from harness_ext.analysis.compare.matching import match
from harness_ext.analysis.compare.runs import CompareError, Metric, Run, TaskScores
from harness_ext.analysis.compare.settings import TaskSettings
from harness_ext.analysis.scoring.score import score_run
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.bridge import loaded_tasks, task_settings
from harness_ext.bridge.task_settings import read_settings, record_settings
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPair
from harness_ext.models.self_consistency import SelfConsistency
from harness_ext.models.speculative_pair import SpeculativePair

KEY = "exact_match,none"
COUNT = 4


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Leave out what takes seconds: reading lm-eval's own tasks, and describing the machine in its results.

    What this process notes about the task `sums` is forgotten afterwards: other tests have tasks of that name.
    """
    import lm_eval.evaluator
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)
        patch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
        patch.setattr(loaded_tasks, "_origins", {})
        patch.setattr(task_settings, "_settings", {})
        yield


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a task manager that knows the task `sums`, which is a file as a user would write it."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = str(folder / "rows.jsonl")
    task = {
        "task": "sums", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": rows, "train": rows}},
        "test_split": "test", "fewshot_split": "train", "output_type": "generate_until", "doc_to_text": "Q: {{q}}\nA:",
        "doc_to_target": "{{a}}", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }  # fmt: skip
    (folder / "sums.yaml").write_text(json.dumps(task))
    return TaskManager(include_path=str(folder))


def evaluated(model: Any, manager: Any, folder: Path, **options: Any) -> Path:
    """Evaluate a model as lm-eval's command line does, and return the folder of the results file and samples."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(folder))
    found = simple_evaluate(
        model, model_args=None if isinstance(model, str) else {"pretrained": "stock"}, tasks=["sums"],
        task_manager=manager, limit=options.pop("limit", COUNT), bootstrap_iters=0, evaluation_tracker=tracker,
        log_samples=True, **options,
    )  # fmt: skip
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task, lines in samples.items():
        tracker.save_results_samples(task, lines)
    (path,) = folder.rglob("results_*.json")
    return path.parent


def stock(manager: Any, folder: Path, **options: Any) -> Path:
    """Return the results of a model that is not of this package."""
    # lm-eval's dummy has a chat template on the hub only.
    model = RuleLM(lambda request: "0") if options.get("apply_chat_template") else "dummy"
    return evaluated(model, manager, folder, **options)


def ours(manager: Any, folder: Path, **options: Any) -> Path:
    """Return a scored run directory of this package."""
    lm = BaselineLM(student=ScriptedBackend(lambda p: "4"), store="off", run_dir=folder, progress="off", device="cpu")
    evaluated(lm, manager, folder.with_name(f"{folder.name}-results"), **options)
    score_run(folder, manager=manager)
    return folder


@pytest.fixture(scope="module")
def plain(manager: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return results and a run directory with the same settings: the task's own."""
    folder = tmp_path_factory.mktemp("plain")
    return stock(manager, folder / "stock"), ours(manager, folder / "ours")


# Settings


def test_results_and_run_directories_record_the_same_settings(plain: tuple[Path, Path]) -> None:
    theirs, our = (run.tasks["sums"].settings[0] for run in read(f"a={plain[0]}", f"b={plain[1]}"))
    assert theirs == our
    assert (our.shots, our.version, our.chat_template, our.multiturn) == (0, 1.0, False, False)
    assert (our.system_instruction, our.higher_is_better) == ("", {"exact_match": True})
    assert our.generation == {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    assert our.prompt is not None
    assert {"doc_to_text", "doc_to_target", "output_type"} <= set(our.prompt)
    matched = match(read(f"a={plain[0]}", f"b={plain[1]}"))
    assert (matched.differences, matched.unknown, matched.left_out) == ((), (), ())


CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"num_fewshot": 2}, "sums: 0 shots in a, 2 in b"),
    ({"gen_kwargs": "max_gen_toks=4"}, "sums: max_gen_toks: 8 in a, 4 in b"),
    ({"gen_kwargs": "max_new_tokens=8,top_k=3"}, "sums: top_k: not set in a, 3 in b"),
    ({"system_instruction": "Be brief."}, "sums: system instruction: none in a, 'Be brief.' in b"),
    ({"apply_chat_template": True}, "sums: chat template: not applied in a, applied in b"),
]


@pytest.mark.parametrize("make", [stock, ours])
@pytest.mark.parametrize(("options", "words"), CHANGED)
def test_a_setting_that_differs_is_named(
    make: Callable[..., Path], options: dict[str, Any], words: str, plain: tuple[Path, Path], manager: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    other = make(manager, tmp_path / "b", **options)
    for first in plain:
        assert match(read(f"a={first}", f"b={other}")).differences == (words,)
    # The same settings again, recorded by the other kind of source.
    same = (ours if make is stock else stock)(manager, tmp_path / "c", **options)
    matched = match(read(f"b={other}", f"c={same}"))
    assert (matched.differences, matched.unknown) == ((), ())


def test_examples_as_turns_of_the_conversation_are_a_setting(manager: Any, tmp_path: Path) -> None:
    chat = {"apply_chat_template": True, "num_fewshot": 1}
    turns = stock(manager, tmp_path / "a", fewshot_as_multiturn=True, **chat)
    together = ours(manager, tmp_path / "b", fewshot_as_multiturn=False, **chat)
    (words,) = match(read(f"a={turns}", f"b={together}")).differences
    assert words == "sums: few-shot examples: turns of the conversation in a, part of one message in b"


def test_differing_runs_are_refused_with_all_differences_at_once(
    plain: tuple[Path, Path], manager: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ours(manager, tmp_path / "b", num_fewshot=2, system_instruction="Be brief.", limit=COUNT - 1)
    arguments = [f"a={plain[0]}", f"b={other}"]
    assert main(arguments) == 2
    said_ = capsys.readouterr().err
    for words in ("1 documents of a are not in every run", "0 shots in a, 2 in b", "'Be brief.' in b"):
        assert words in said_
    assert "--drop_unmatched" in said_
    assert "--allow_different_settings" in said_
    assert main([*arguments, "--drop_unmatched"]) == 2
    assert "are not in every run" not in capsys.readouterr().err
    notes = printed(capsys, *arguments, "--drop_unmatched", "--allow_different_settings")["notes"]
    assert notes[:2] == [
        "different settings: sums: 0 shots in a, 2 in b",
        "different settings: sums: system instruction: none in a, 'Be brief.' in b",
    ]


def edited(results: Path, folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Return a copy of real results whose results file was changed."""
    folder.mkdir(parents=True)
    for file in results.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (path,) = folder.glob("results_*.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return folder


def config(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["configs"]["sums"]
    return found


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["versions"].update(sums=2.0), "sums: version 1.0 in a, 2.0 in b"),
        (
            lambda c: c["higher_is_better"]["sums"].update(exact_match=False),
            "sums: exact_match: higher is better in a, lower in b",
        ),
        (
            lambda c: config(c)["metric_list"][0].update(aggregation="median"),
            "sums: exact_match: aggregated by mean in a, by median in b",
        ),
        (
            lambda c: config(c)["metric_list"][0].update(aggregation="def own(items):\n    return 1.0\n"),
            "sums: exact_match: aggregated by mean in a, by own in b",
        ),
        (lambda c: config(c).update(doc_to_text="{{q}}"), "sums: doc_to_text: one form in a, another in b"),
        (lambda c: config(c).update(description="Add."), "sums: description: one form in a, another in b"),
        (lambda c: config(c)["generation_kwargs"].update(until=["Q:"]), 'sums: until: ["\\n"] in a, ["Q:"] in b'),
    ],
)
def test_results_of_another_task_file_differ(
    edit: Callable[[dict[str, Any]], Any], words: str, plain: tuple[Path, Path], tmp_path: Path
) -> None:
    other = edited(plain[0], tmp_path / "b", edit)
    for first in plain:
        assert match(read(f"a={first}", f"b={other}")).differences == (words,)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: config(c).update(generation_kwargs={"until": "\n", "max_new_tokens": 8, "temperature": 0.0}),
        lambda c: config(c)["metric_list"][0].pop("aggregation"),
        lambda c: config(c)["fewshot_config"].update(sampler="first_n"),
        lambda c: config(c).update(fewshot_config=None),
        lambda c: config(c).update(metadata={"version": 1.0, "pretrained": "another/model"}, repeats=2),
        lambda c: c.update(chat_template_sha="abc", date=0.0),
    ],
    ids=["same generation", "default aggregation", "examples of 0 shots", "earlier version", "metadata", "unused"],
)
def test_what_does_not_change_the_values_is_no_difference(
    edit: Callable[[dict[str, Any]], Any], plain: tuple[Path, Path], tmp_path: Path
) -> None:
    other = edited(plain[0], tmp_path / "b", edit)
    for first in plain:
        matched = match(read(f"a={first}", f"b={other}"))
        assert (matched.differences, matched.unknown) == ((), ())


def test_examples_count_where_there_are_examples(manager: Any, tmp_path: Path) -> None:
    few = stock(manager, tmp_path / "a", num_fewshot=2)
    other = edited(few, tmp_path / "b", lambda c: config(c)["fewshot_config"].update(sampler="first_n"))
    inherited = edited(few, tmp_path / "c", lambda c: config(c).pop("fewshot_config"))
    (words,) = match(read(f"a={few}", f"b={other}")).differences
    assert words == "sums: fewshot_config: one form in a, another in b"
    assert match(read(f"a={few}", f"c={inherited}")).differences == ()


def test_functions_are_the_same_in_every_process() -> None:
    """Functions inside `fewshot_config` are recorded by name and address, at the top as source code."""
    from harness_ext.analysis.compare.settings import settings_of_results

    def found(address: str, name: str = "ask") -> TaskSettings:
        examples = {"doc_to_text": f"<function make.<locals>.{name} at {address}>", "sampler": "default", "split": None}
        text = "def ask(doc: dict) -> str:\n    return doc['q']\n"
        content = {"configs": {"t": {"doc_to_text": text, "num_fewshot": 3, "fewshot_config": examples}}}
        return settings_of_results(content, "t", {})

    assert found("0x7f3a81da8ea0") == found("0x55")
    assert found("0x7f").examples == {}, "the function of the task itself"
    assert found("0x7f", "other").examples == found("0x55", "other").examples != {}
    assert found("0x7f", "<lambda>").examples != {}


def test_what_is_not_recorded_counts_as_equal_and_is_named(
    manager: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = stock(manager, tmp_path / "a", num_fewshot=2)
    old = ours(manager, tmp_path / "b")
    (old / task_settings.FILE).unlink()
    untracked = edited(few, tmp_path / "c", lambda c: c.update(dict.fromkeys(("model_source", "chat_template"))))
    found = printed(capsys, f"a={few}", f"b={old}", f"c={untracked}")
    assert found["notes"][-2:] == [
        "b does not record the number of shots, whether a chat template was applied, the system instruction, the "
        "generation settings and the form of the prompt of sums: taken to be the same as in the other runs",
        "c does not record whether a chat template was applied and the system instruction of sums: taken to be the "
        "same as in the other runs",
    ]
    assert not any("does not record" in note for note in printed(capsys, old)["notes"]), "there is nothing to compare"


def test_differences_are_listed_once_for_all_tasks_and_holders() -> None:
    five, none = TaskSettings(shots=5), TaskSettings(shots=0, system_instruction="x" * 99 + "a")
    other = TaskSettings(system_instruction="x" * 99 + "b")
    lines = differences({"a": [five], "b": [none], "c": [five, five], "d": [other]})
    assert lines[0] == "5 shots in a, c, 0 in b"
    first, second = lines[1].removeprefix("system instruction: ").split(", ")
    assert first.removesuffix(" in b") != second.removesuffix(" in d"), "long texts differ although they begin alike"
    tasks = {f"t{n}": TaskScores({KEY: Metric({(0, "h"): (1,)})}, {(0, "h"): {}}, settings=(five,)) for n in range(7)}
    fewer = {name: replace(scores, settings=(none,)) for name, scores in tasks.items()}
    matched = match([Run("a", tasks, {}, ()), Run("b", fewer, {}, ())])
    assert matched.differences == ("t0, t1, t2, t3, t4 and 2 more tasks: 5 shots in a, 0 in b",)


def settings_strategy() -> st.SearchStrategy[TaskSettings]:
    texts = st.sampled_from(["", "A", "{b}"])
    return st.builds(
        TaskSettings,
        shots=st.none() | st.integers(0, 2),
        version=st.none() | st.sampled_from([1, 1.0, 2, "Yaml"]),
        chat_template=st.none() | st.booleans(),
        multiturn=st.none() | st.booleans(),
        system_instruction=st.none() | texts,
        generation=st.none() | st.dictionaries(st.sampled_from(["max_gen_toks", "top_k"]), st.integers(1, 3)),
        prompt=st.none() | st.dictionaries(st.sampled_from(["doc_to_text", "description"]), texts),
        examples=st.none() | st.dictionaries(st.just("fewshot_split"), texts),
        higher_is_better=st.dictionaries(st.just("m"), st.booleans()),
        aggregations=st.dictionaries(st.just("m"), st.sampled_from(["mean", "f1", "f1_score", "def own(x): ..."])),
    )


@given(settings_strategy(), settings_strategy())
def test_differences_are_symmetric_and_unknown_settings_match_all(one: TaskSettings, other: TaskSettings) -> None:
    assert differences({"a": [one], "b": [one]}, ["m,none"]) == []
    assert differences({"a": [one], "b": [TaskSettings()]}, ["m,none"]) == []
    there = differences({"a": [one], "b": [other]}, ["m,none"])
    back = differences({"b": [other], "a": [one]}, ["m,none"])
    assert len(there) == len(back)
    assert all(" in a" in line and " in b" in line for line in there)


# What a run directory records


def test_a_run_records_prompts_but_not_the_arguments_of_its_models(plain: tuple[Path, Path]) -> None:
    text = (plain[1] / task_settings.FILE).read_text()
    assert "metadata" not in text
    assert "dataset_kwargs" not in text
    assert (plain[1] / task_settings.FILE).stat().st_mode & 0o077 == 0


def test_settings_of_several_tasks_are_kept_and_damage_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows: dict[str, dict[str, Any]] = {name: {"chat_template": False, "config": {}} for name in ("t", "u")}
    monkeypatch.setattr(task_settings, "_settings", rows)
    record_settings(tmp_path, ["t"])
    record_settings(tmp_path, ["u", "unknown"])
    assert read_settings(tmp_path) == rows
    for damaged in ("{", "[]", '{"t": 1, "u": {"config": []}}'):
        (tmp_path / task_settings.FILE).write_text(damaged)
        assert read_settings(tmp_path) == {}
    record_settings(tmp_path / "gone", ["t"])
    assert "compare" in caplog.text


# What a run is


def test_results_with_other_settings_are_no_repeats(plain: tuple[Path, Path], tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["n-shot"]["sums"], content["config"]["torch_seed"] = 5, 9

    other = edited(plain[0], tmp_path / "b", edit)
    with pytest.raises(CompareError, match=r"'x' has results of sums with different settings:\n.* 0 shots in .* 5 in "):
        read(f"x={plain[0]}", f"x={other}")


def test_runs_know_their_protocol(plain: tuple[Path, Path], tmp_path: Path) -> None:
    results_of_ours = plain[1].with_name(f"{plain[1].name}-results")
    runs = read(f"stock={plain[0]}", f"run={plain[1]}", f"results={results_of_ours}")
    assert [run.protocol for run in runs] == [None, "baseline", "baseline"]
    for protocol in (FeedbackPair, SelfConsistency, SpeculativePair):
        name = protocol.__module__.rpartition(".")[2]  # what `lm_eval --model` calls it
        draft = transcript(0, said("student", "draft", "0"))
        run = write_run(tmp_path / name, draft, identity={"protocol": protocol.__qualname__})
        score_run(run, manager=manager_of(make_task()))
        assert read(run)[0].protocol == name
