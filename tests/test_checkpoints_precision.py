"""All models of a curve are scored in the same precision, which is recorded; a difference is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.embedded import model_path
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.checkpoint_scores import (
    CheckpointScore,
    EvaluationSettings,
    Scorer,
    precision_notes,
    precision_of,
    subjects,
)
from harness_ext.finetune.checkpoints import drop_states
from harness_ext.finetune.checkpoints_command import main
from harness_ext.finetune.train import run_stage

QUESTION = "1 Mary went to the garden.\nWhere is Mary?\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that trains a bfloat16 model in float32, so that its checkpoints are float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("precision")
    base = AutoModelForCausalLM.from_pretrained(model_path("student"), dtype=torch.bfloat16)
    base.save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(model_path("student")).save_pretrained(folder / "base")
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": QUESTION, "completion": "garden"}) + "\n", encoding="utf-8")
    run_stage(TrainArgs(str(folder / "base"), str(rows), str(folder / "run"), device="cpu"))
    (folder / "garden.yaml").write_text(
        f"task: garden\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{prompt}}'\ntarget_delimiter: ''\n"
        "doc_to_choice: ['kitchen', 'garden']\ndoc_to_target: 1\nmetric_list: [{metric: acc}]\n",
        encoding="utf-8",
    )
    return folder / "run"


def test_a_baseline_and_its_checkpoints_compute_alike(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tasks", "garden", "--include_path", str(run.parent), "--device", "cpu"]
    teacher = ["--teacher", str(run.parent / "base")]
    assert main([str(run), *options, *teacher]) == 0
    assert "All models were scored in float32." in capsys.readouterr().err
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (run / "evaluations/scores").glob("*.json")]
    assert {record["subject"]: record["dtype"] for record in records} == dict.fromkeys(
        ("untouched", "checkpoint-1", "teacher"), "float32"
    )
    assert main([str(run), *options, *teacher, "--dtype", "bfloat16"]) == 0
    assert "All models were scored in bfloat16." in capsys.readouterr().err
    assert "| garden | acc,none | 1 |" in (run / "final" / "README.md").read_text(encoding="utf-8")


def test_what_save_only_model_deletes_does_not_count(run: Path) -> None:
    before = {subject.name: subject.identity for subject in subjects(run)[0]}
    drop_states(run / "checkpoint-1")
    assert {subject.name: subject.identity for subject in subjects(run)[0]} == before
    weights = run / "checkpoint-1" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert {subject.name: subject.identity for subject in subjects(run)[0]} != before
    weights.write_bytes(kept)


def test_a_precision_belongs_to_the_identity_of_a_score(run: Path) -> None:
    (subject, *_), _ = subjects(run)
    default, named, other = (
        Scorer(run, EvaluationSettings(dtype=dtype)).path(subject, "t") for dtype in ("", "float32", "bfloat16")
    )
    assert default == named != other


@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["float32", "bfloat16", ""]), min_size=1))
def test_a_difference_is_named_with_all_its_models(dtypes: dict[str, str]) -> None:
    scores = [CheckpointScore(name, task, "acc", {}, dtype) for name, dtype in dtypes.items() for task in "xy"]
    (note,) = precision_notes(scores)
    if len(set(dtypes.values())) == 1:
        assert note.startswith("All models were scored in ")
    else:
        assert note.startswith("WARNING: not all models were scored in the same precision")
        for dtype in set(dtypes.values()):
            names = ", ".join(name for name in dtypes if dtypes[name] == dtype)
            assert f"{names} in {dtype or 'an unknown precision'}" in note


@pytest.mark.parametrize(
    ("quantised", "expected"),
    [
        (None, "bfloat16"),
        ({"quant_method": "gptq"}, "bfloat16, weights quantised (gptq)"),
        (SimpleNamespace(quant_method=SimpleNamespace(value="awq")), "bfloat16, weights quantised (awq)"),
    ],
)
def test_quantised_weights_are_named(quantised: Any, expected: str) -> None:
    config = SimpleNamespace(quantization_config=quantised)
    assert precision_of(SimpleNamespace(dtype="torch.bfloat16", config=config)) == expected
