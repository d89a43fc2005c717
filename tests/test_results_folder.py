"""The folder that lm-eval writes results to: named after protocol and models where the user gave no label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import make_task

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.bridge.results_folder import LONGEST, base_name, default_name
from harness_ext.config.run_plan import RunPlan
from harness_ext.models.decision import DecisionLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.protocol import SeatSetup


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("gpt2", "gpt2"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"),
        ("/models/run 7/checkpoint-300/", "checkpoint-300"),
        ("openai:Qwen/Qwen3-8B@http://localhost:8000/v1", "Qwen3-8B"),
        ("openai:llama3.2:3b@https://host/v1", "llama3.2_3b"),
        ("local-completions:name", "name"),
        ("vllm:owner/model", "model"),
        ("/", "model"),
    ],
)
def test_the_base_name_of_a_model(model: str, base: str) -> None:
    assert base_name(model) == base


@given(st.lists(st.text(max_size=300), min_size=1, max_size=9))
def test_any_models_make_a_name_for_a_folder(names: list[str]) -> None:
    seats = {f"agent{i}": SeatSetup(ScriptedBackend(str, name=name)) for i, name in enumerate(names)}
    name = default_name("debate", RunPlan(None, None, seats))  # type: ignore[arg-type]
    assert name.startswith("debate-")
    assert len(name) <= LONGEST
    assert not set(name) & set("/\\:*?<>|\"' \n\0")


def evaluate(folder: Path, arguments: dict[str, Any], model: str = "feedback_pair") -> str:
    """Run lm-eval's `simple_evaluate` as its command line does, and return the name of the results' folder."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from harness_ext.bridge import plugins

    plugins.register_models()
    tracker = EvaluationTracker(output_path=str(folder))
    found = lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=[make_task()], task_manager=TaskManager(include_defaults=False),
        evaluation_tracker=tracker, bootstrap_iters=0, limit=2, batch_size=1, device="cpu",
    )  # fmt: skip
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    (results,) = folder.rglob("results_*.json")
    assert json.loads(results.read_text())["model_name"] == results.parent.name
    return results.parent.name


def test_results_of_lm_eval_lie_in_a_folder_named_after_protocol_and_models(tmp_path: Path) -> None:
    small, large = (ScriptedBackend(lambda p: "Correct.", name=f"owner/{size}") for size in ("small", "large"))
    arguments = {
        "student": small, "teacher": large, "store": "off", "progress": "off", "run_dir": str(tmp_path / "one")
    }  # fmt: skip
    assert evaluate(tmp_path / "first", arguments) == "feedback_pair-small-large"
    # The same dictionary with another model must not keep the name that was added for the first one.
    arguments |= {"teacher": small, "run_dir": str(tmp_path / "two")}
    assert evaluate(tmp_path / "second", arguments) == "feedback_pair-small"
    arguments |= {"model": "my label", "run_dir": str(tmp_path / "three")}
    assert evaluate(tmp_path / "third", arguments) == "my label"
    assert evaluate(tmp_path / "fourth", arguments) == "my label"


def test_a_single_model_that_is_named_by_its_seat_has_a_name_too(tmp_path: Path) -> None:
    seat = ScriptedBackend(str, name="owner/small")
    arguments = {"decider": seat, "store": "off", "progress": "off", "run_dir": str(tmp_path / "run")}
    for _ in range(2):
        DecisionLM.create_from_arg_obj(arguments)
        assert arguments["model"] == "decision-small"


def test_the_built_in_pair_is_named_as_what_it_is(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"store": "off", "run_dir": str(tmp_path / "run")}
    FeedbackPairLM.create_from_arg_obj(arguments)
    assert arguments["model"] == "feedback_pair-demonstration"
