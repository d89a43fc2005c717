"""Exported folders are plain models that load in transformers, in lm-eval's hf model and on a seat."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.args import DEEPSPEED_PRESETS, ConfigError, TrainArgs
from harness_ext.finetune.checkpoints import MARKER
from harness_ext.finetune.export_model import export, main, pick
from harness_ext.finetune.train import run_stage

TEXT = "1 Mary went to the garden.\nWhere is Mary?\n"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text(json.dumps({"prompt": TEXT, "completion": "Answer: attic"}) + "\n", encoding="utf-8")
    return path


def train(rows: Path, out: Path, adapter: str, **more: Any) -> Path:
    args = TrainArgs(
        model=str(model_path("student")), train_file=str(rows), output_dir=str(out), adapter=adapter, device="cpu",
        learning_rate=1e-2, epochs=4, scheduler="constant", **more,
    )  # fmt: skip
    run_stage(args)
    return out


@pytest.fixture(scope="module")
def lora(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(rows, tmp_path_factory.mktemp("lora"), "lora")


def logits(model: Any) -> Any:
    import torch
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(model_path("student"))(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_a_merged_model_equals_the_model_with_its_adapter(lora: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main([str(lora), str(tmp_path / "merged")]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(model_path("student"))
    untouched = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, str(lora / "final")))
    assert torch.allclose(logits(merged), adapted, atol=1e-4)
    assert not torch.allclose(adapted, untouched, atol=1e-2)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert json.loads((tmp_path / "merged" / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"] == 2
    with pytest.raises(ConfigError, match="exists"):
        export(lora, tmp_path / "merged")


def test_hf_and_a_seat_load_an_exported_folder(lora: Path, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from harness_ext.models.baseline import BaselineLM

    export(lora, tmp_path / "merged")
    asked = [Instance("generate_until", {}, (TEXT, {"until": ["</s>"], "max_gen_toks": 12, "do_sample": False}), 0)]
    stock = HFLM(pretrained=str(tmp_path / "merged"), device="cpu").generate_until(asked)
    arguments = f"student={tmp_path / 'merged'},run_dir={tmp_path / 'run'},store=off"
    seat = BaselineLM.create_from_arg_string(arguments, {"device": "cpu", "batch_size": 1}).generate_until(asked)
    assert stock == seat
    assert stock[0].strip()


def test_zero_partitions_are_gathered(rows: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = json.loads(DEEPSPEED_PRESETS["zero3"].read_text(encoding="utf-8"))
    config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = False
    (tmp_path / "ungathered.json").write_text(json.dumps(config), encoding="utf-8")
    more = {"deepspeed": str(tmp_path / "ungathered.json")}
    # In a process of its own, because the process group that DeepSpeed needs would outlive the test.
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(rows, tmp_path / "parts", "full"), kwargs=more
    )
    process.start()
    process.join(240)
    assert process.exitcode == 0
    assert not (tmp_path / "parts" / "final" / "model.safetensors").exists()
    export(tmp_path / "parts", tmp_path / "plain")
    train(rows, tmp_path / "whole", "full")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "final")
    assert torch.allclose(logits(found), logits(expected), atol=1e-3)


def test_a_failed_export_explains_why(
    rows: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = train(rows, tmp_path / "prefix", "prefix")
    assert main([str(prefix), str(tmp_path / "out")]) == 2
    assert f"peft={prefix / 'final'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="no folder"):
        pick(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="contains no weights"):
        export(tmp_path / "empty", tmp_path / "out")
    (prefix / "final" / MARKER).unlink()
    assert pick(prefix).name == "checkpoint-4"
    (prefix / "checkpoint-4" / MARKER).unlink()
    with pytest.raises(ConfigError, match="is incomplete"):
        pick(prefix / "checkpoint-4")
    assert pick(prefix).name == "checkpoint-3"
