"""Preflight: every combination that would crash or silently train wrongly is refused before a model is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.args import ADAPTERS, DEEPSPEED_PRESETS, METHODS, ConfigError, TrainArgs
from harness_ext.finetune.preflight import (
    OPTIONAL,
    RULES,
    Machine,
    ModelFacts,
    PreflightCase,
    check,
    model_facts,
    refusals,
)

LAPTOP = Machine(1, False, 0, False, frozenset(OPTIONAL), False, True)
GPUS = dataclasses.replace(LAPTOP, gpus=4, bf16=True)
MODEL = ModelFacts(vocabulary=1000, tokens=1000, positions=4096, encoder_decoder=False, has_stop=True)
OTHER = dataclasses.replace(MODEL, vocabulary=1200)


def case(
    machine: Machine = LAPTOP, model: ModelFacts = MODEL, teacher: ModelFacts | None = None, **values: object
) -> PreflightCase:
    args = TrainArgs(**{"model": "m", "train_file": "t", "output_dir": "o", **values})  # type: ignore[arg-type]
    return PreflightCase(args, machine, model, teacher)


def names(one: PreflightCase) -> list[str]:
    return [rule.name for rule, _ in refusals(one)]


BARE = dataclasses.replace(LAPTOP, libraries=frozenset())
# One example per rule. `test_every_rule_has_an_example` checks that none is missing.
EXAMPLES = {
    "no trl": case(BARE),
    "no peft": case(BARE, adapter="lora"),
    "no deepspeed": case(BARE, deepspeed="zero2"),
    "no bitsandbytes": case(BARE, adapter="qlora"),
    "no flash_attn": case(BARE, attn_implementation="flash_attention_2"),
    "no wandb": case(BARE, tracker="wandb"),
    "no tensorboard": case(BARE, tracker="tensorboard"),
    "no trackio": case(BARE, tracker="trackio"),
    "prefix + gradient checkpointing": case(adapter="prefix", gradient_checkpointing=True),
    "prefix + packing": case(adapter="pkv", packing=True),
    "prefix + ZeRO-3": case(adapter="pkv", deepspeed="zero3"),
    "4-bit + DeepSpeed": case(adapter="qlora", deepspeed="zero2"),
    "packing + preferences": case(method="dpo", packing=True),
    "packing + distillation": case(method="kd", teacher_model="t", packing=True),
    "packing + grouping": case(packing=True, group_by_length=True),
    "truncated preferences": case(method="orpo", too_long="keep_end"),
    "a column + preferences": case(method="dpo", column="cot"),
    "a teacher model without kd": case(teacher_model="t"),
    "targets without kd": case(targets="teacher"),
    "a column + targets": case(method="kd", column="cot", targets="teacher"),
    "a teacher file for golden targets": case(method="kd", teacher_file="t.csv"),
    "teacher with another vocabulary": case(teacher=OTHER, method="kd", teacher_model="t"),
    "teacher with another tokenizer": case(
        teacher=dataclasses.replace(MODEL, digest="other"), method="kd", teacher_model="t"
    ),
    "adapter settings without the adapter": case(lora_r=4),
    "prefix settings without the prefix": case(adapter="lora", prefix_tokens=9),
    "contamination settings without tasks": case(contamination="warn"),
    "several GPUs, one process": case(GPUS),
    "flash attention in float32": case(attn_implementation="flash_attention_2"),
    "another optimizer + DeepSpeed": case(optim="adafactor", deepspeed="zero2"),
    "float16 on a CPU": case(dtype="float16"),
    "bfloat16 on an old GPU": case(dataclasses.replace(GPUS, gpus=1, bf16=False), dtype="bfloat16"),
    "a push without the Hub": case(dataclasses.replace(LAPTOP, offline=True), push_to_hub="me/model"),
    "splits of a file": case(train_file=__file__, train_split="other"),
    "two sources of validation rows": case(eval_file="e", eval_fraction=0.1),
    "a model that is an adapter": case(model=dataclasses.replace(MODEL, adapter_base="base")),
    "an encoder-decoder model": case(model=dataclasses.replace(MODEL, encoder_decoder=True)),
    "no stop token": case(model=dataclasses.replace(MODEL, has_stop=False)),
    "tokens without embeddings": case(model=dataclasses.replace(MODEL, tokens=1001)),
    "rows longer than the model's positions": case(adapter="prefix", max_length=4090),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_rule_refuses_its_example_with_a_remedy(name: str) -> None:
    found = {rule.name: text for rule, text in refusals(EXAMPLES[name])}
    assert name in found
    assert "Remedy: " in found[name]
    assert "{" not in found[name]


def test_every_rule_has_an_example() -> None:
    assert {rule.name for rule in RULES} == set(EXAMPLES)


@pytest.mark.parametrize("method", METHODS)
def test_supported_combinations_are_not_refused(method: str) -> None:
    for adapter in ADAPTERS:
        for deepspeed in ("", *DEEPSPEED_PRESETS):
            wanted = []
            if adapter == "qlora" and deepspeed:
                wanted = ["4-bit + DeepSpeed"]
            if adapter in ("prefix", "pkv") and deepspeed.startswith("zero3"):
                wanted = ["prefix + ZeRO-3"]
            assert names(case(method=method, adapter=adapter, deepspeed=deepspeed)) == wanted


def test_all_problems_are_reported_at_once_before_a_model_is_loaded(tmp_path: Path) -> None:
    args = TrainArgs(
        model=str(tmp_path / "nowhere"),
        train_file="t",
        output_dir="o",
        method="kd",
        adapter="prefix",
        teacher_model=str(model_path("teacher")),
        gradient_checkpointing=True,
        packing=True,
        deepspeed="zero3",
    )
    with pytest.raises(ConfigError) as caught:
        check((args,), BARE)
    for part in ("nowhere cannot be read", "no trl", "no peft", "prefix + packing", "prefix + ZeRO-3", "distillation"):
        assert part in str(caught.value)


def test_the_model_of_a_later_stage_may_not_exist_yet(tmp_path: Path) -> None:
    first = TrainArgs(model=str(model_path("student")), train_file="t", output_dir="o")
    second = dataclasses.replace(first, model=str(tmp_path / "o" / "final"))
    check((first, second), LAPTOP)
    with pytest.raises(ConfigError, match="final cannot be read"):
        check((second, first), LAPTOP)


def test_the_pair_shares_a_vocabulary() -> None:
    student, teacher = (model_facts(str(model_path(seat))) for seat in ("student", "teacher"))
    assert student.vocabulary == teacher.vocabulary >= student.tokens
    assert student.digest == teacher.digest
    assert student.positions == 8192
    assert student.has_stop
