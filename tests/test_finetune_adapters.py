"""4-bit layers: gradients must still reach every layer after an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.adapters import keep_gradients, peft_config, quantization
from harness_ext.finetune.args import TrainArgs


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
