"""4-bit layers: gradients must still reach every layer after an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.adapters import keep_gradients, peft_config, quantization
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.train import run_stage


def test_gradients_reach_the_lowest_adapter_after_an_evaluation(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    args = TrainArgs(
        model=str(model_path("student")), train_file="-", output_dir=str(tmp_path), adapter="qlora", device="cpu"
    )
    base = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, quantization_config=quantization(args, torch.float32)
    )
    keep_gradients(base)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft_config(args, base.config.hidden_size))
    ids = torch.tensor([[5, 9, 11, 7, 21, 3]])

    def lowest_gradients() -> list[torch.Tensor]:
        model.train()
        model.zero_grad()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # so that two passes give the same gradients
        model(input_ids=ids, labels=ids).loss.backward()
        lowest = model.base_model.model.model.layers[0]
        return [p.grad.clone() for n, p in lowest.named_parameters() if "lora_B" in n and p.grad is not None]

    before = lowest_gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    after = lowest_gradients()
    assert before
    assert any(gradient.abs().max() > 0 for gradient in before)
    assert len(after) == len(before)
    for first, second in zip(before, after, strict=True):
        torch.testing.assert_close(first, second)


class Repacked(Exception):
    """Raised where a layer would be repacked for the kernel without gradients."""


@pytest.fixture
def fast_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bitsandbytes take this CPU for one with AVX512-BF16, and refuse to repack a layer."""
    layers = pytest.importorskip("bitsandbytes.nn.modules")

    def repack(*_: Any) -> None:
        raise Repacked

    monkeypatch.setattr(layers, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(layers, "_convert_weight_packed_for_cpu", repack)


def test_no_layer_is_repacked_during_a_training(fast_cpu: None, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Where is Mary?\n", "completion": "garden"}) + "\n", encoding="utf-8")
    final = run_stage(
        TrainArgs(
            str(model_path("student")), str(rows), str(tmp_path / "run"), eval_file=str(rows), adapter="qlora",
            epochs=2, device="cpu",
        )
    )  # fmt: skip
    assert (final / "adapter_model.safetensors").is_file()


def test_without_the_protection_an_evaluation_repacks_layers(fast_cpu: None, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    args = TrainArgs(str(model_path("student")), "-", str(tmp_path), adapter="qlora")
    model = AutoModelForCausalLM.from_pretrained(args.model, quantization_config=quantization(args, torch.float32))
    ids = torch.tensor([[5, 9, 11]])
    with torch.no_grad(), pytest.raises(Repacked):
        model(input_ids=ids)
    keep_gradients(model)
    with torch.no_grad():
        assert model(input_ids=ids).logits.isfinite().all()
