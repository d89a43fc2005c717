"""Tests of arguments of the `hf` backend that change what is loaded: quantization, adapters, data types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness_ext.backends.base import GenerateRequest, Prompt, ScoreRequest
from harness_ext.backends.hf import HFBackend
from harness_ext.backends.hf_lm import bitsandbytes_config
from harness_ext.config.run_plan import plan_run
from harness_ext.embedded import model_path
from harness_ext.errors import CallFailed, ConfigurationError, RunAborted
from harness_ext.models.baseline import Baseline
from harness_ext.records import Completion, Message

STUDENT = str(model_path("student"))
ROWS = [("Where is Mary?\n", "Answer: garden"), ("Where is the milk?\n", "Answer: office")]


def seat(**arguments: Any) -> HFBackend:
    """Return the student's backend with these arguments, loaded."""
    given = {f"student.{name}": value for name, value in arguments.items()}
    backend = plan_run(Baseline, {"student": STUDENT, **given}, 2, None, "cpu").seats["student"].backend
    assert isinstance(backend, HFBackend)
    backend.load()
    return backend


def scores(backend: HFBackend) -> list[float]:
    """Return the log-probabilities of the rows' continuations."""
    found: dict[int, Completion] = {}
    backend.score([ScoreRequest(*row) for row in ROWS], found.__setitem__)
    return [found[i].logprob or 0.0 for i in range(len(ROWS))]


def test_four_bits_are_loaded_although_transformers_rejects_the_argument() -> None:
    pytest.importorskip("bitsandbytes")
    full, small = seat(), seat(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    layer = small.lm.model.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == "Linear4bit"
    assert small.fingerprint != full.fingerprint
    assert scores(small) == pytest.approx(scores(full), rel=0.5)
    assert scores(small) != scores(full)


def test_bitsandbytes_arguments_become_one_config() -> None:
    assert bitsandbytes_config({"revision": "main", "load_in_4bit": False}) == {"revision": "main"}
    made = bitsandbytes_config({"revision": "main", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    assert set(made) == {"revision", "quantization_config"}
    assert made["quantization_config"].bnb_4bit_quant_type == "nf4"


def test_missing_bitsandbytes_is_reported_before_anything_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness_ext.backends.hf.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install bitsandbytes"):
        plan_run(Baseline, {"student": STUDENT, "student.load_in_4bit": True}, 1, None, "cpu")


def test_an_adapter_sits_on_its_base_as_in_stock_lm_eval(tmp_path: Path) -> None:
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(STUDENT), config).save_pretrained(tmp_path)
    adapted = seat(peft=str(tmp_path))
    stock = HFLM(pretrained=STUDENT, peft=str(tmp_path), device="cpu", batch_size=2)
    instances = [Instance("loglikelihood", {}, row, i) for i, row in enumerate(ROWS)]
    assert scores(adapted) == pytest.approx([value for value, _ in stock.loglikelihood(instances)], abs=1e-6)
    assert scores(adapted) != pytest.approx(scores(seat()), abs=1e-2)
    assert adapted.fingerprint != seat().fingerprint


def test_the_data_type_is_the_requested_one() -> None:
    import torch

    assert next(seat(dtype="bfloat16").lm.model.parameters()).dtype == torch.bfloat16


def test_a_batch_ends_between_two_tokens_when_its_run_has_ended() -> None:
    backend = seat()
    steps = iter(range(100))
    backend.cancelled = lambda: next(steps) >= 3
    request = GenerateRequest("Where is Mary?\n", {"until": [], "max_gen_toks": 50, "do_sample": False})
    with pytest.raises(RunAborted):
        backend.generate([request], lambda i, completion: None)
    assert next(steps) == 4


SYSTEM_AND_USER = [Message("system", "Be brief."), Message("user", "Where?")]


@pytest.mark.parametrize(
    ("template", "text", "notes"),
    [
        ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", "[system]Be brief.[user]Where?", ()),
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "[{{ m.role }}]{{ m.content }}{% endfor %}",
            "[user]Be brief.\n\nWhere?",
            ("system_merged",),
        ),
        (
            "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}",
            "[user]Be brief.\n\nWhere?",
            ("system_merged",),
        ),
    ],
    ids=["takes", "refuses", "drops"],
)
def test_system_messages_are_never_lost(template: str, text: str, notes: tuple[str, ...]) -> None:
    backend = seat()
    backend.lm.tokenizer.chat_template = template
    assert backend.render(SYSTEM_AND_USER) == Prompt(text, notes=notes)


@pytest.mark.parametrize("template", ["{{ raise_exception('never') }}", "{{ messages | length }}"])
def test_a_template_that_refuses_a_conversation_fails_the_call(template: str) -> None:
    backend = seat()
    backend.lm.tokenizer.chat_template = template
    with pytest.raises(CallFailed, match="refuses this conversation"):
        backend.render([*SYSTEM_AND_USER, Message("assistant", "In the")])
