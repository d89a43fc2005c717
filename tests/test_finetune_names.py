"""Names that TRL and transformers give to settings: each is translated, or refused with the reason."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.embedded import model_path
from harness_ext.finetune.aliases import resolve, unknown
from harness_ext.finetune.args import CHOICES, ConfigError, TrainArgs
from harness_ext.finetune.checkpoints import MARKER, why_incomplete
from harness_ext.finetune.command import main, read
from harness_ext.finetune.known_names import ALIASES, COMBINED, UNSUPPORTED
from harness_ext.finetune.option_help import option_help
from harness_ext.finetune.plan import HINTS, build_plan, load_plan
from harness_ext.finetune.train import run_stage

ROOT = Path(__file__).parent.parent


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "1 Mary went to the garden.\nWhere is Mary?\n", "completion": "Answer: garden"}
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "completion": "Answer: the garden"}) + "\n")
    return str(path)


@pytest.fixture
def needed(rows: str, tmp_path: Path) -> dict[str, str]:
    """Return the settings that every run needs, under TRL's names."""
    return {"model_name_or_path": "m", "dataset_name": rows, "output_dir": str(tmp_path / "out")}


def options(values: dict[str, Any]) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def problems(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build_plan(values)
    return str(caught.value)


# --- The table ---


def test_every_name_in_the_table_is_a_setting_or_not_supported() -> None:
    assert {alias.setting for alias in ALIASES.values()} | set(COMBINED.values()) <= set(HINTS)
    tables = [set(HINTS), set(ALIASES), set(COMBINED), set(UNSUPPORTED)]
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_every_name_in_trl_and_transformers_is_known() -> None:
    """Whatever a command line of TRL's own scripts contains is either understood or refused with a reason."""
    trl = pytest.importorskip("trl")
    from trl.experimental.gkd import GKDConfig
    from trl.experimental.orpo import ORPOConfig

    classes = (trl.SFTConfig, trl.DPOConfig, trl.ModelConfig, trl.ScriptArguments, GKDConfig, ORPOConfig)
    theirs = {field.name for one in classes for field in dataclasses.fields(one)}
    assert theirs - {*HINTS, *ALIASES, *COMBINED, *UNSUPPORTED} == set()


def test_the_documentation_lists_every_name() -> None:
    page = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
    section = page.split("## Names from TRL and transformers")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \| (`[^|]*) \|", section, re.MULTILINE)
    told = {name: right for left, right in rows for name in re.findall(r"`(\w+)`", left)}
    settings = {**{name: alias.setting for name, alias in ALIASES.items()}, **COMBINED}
    assert set(settings) <= set(told)
    assert {name: setting for name, setting in settings.items() if f"`{setting}`" not in told[name]} == {}


# --- Translation ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_train_epochs": 2}, {"epochs": 2.0}),
        ({"per_device_train_batch_size": 4, "per_device_eval_batch_size": 2}, {"batch_size": 4, "eval_batch_size": 2}),
        ({"gradient_accumulation_steps": 8}, {"gradient_accumulation": 8}),
        ({"lr_scheduler_type": "linear"}, {"scheduler": "linear"}),
        ({"warmup_ratio": 0.03}, {"warmup_steps": 0.03}),
        ({"optim": "adafactor"}, {"optim": "adafactor"}),
        ({"attn_implementation": "eager"}, {"attn_implementation": "eager"}),
        ({"use_peft": True, "lora_r": 32, "lora_alpha": 64}, {"adapter": "lora", "lora_r": 32, "lora_alpha": 64}),
        ({"use_peft": True, "load_in_4bit": True}, {"adapter": "qlora"}),
        ({"use_peft": True, "load_in_4bit": False}, {"adapter": "lora"}),
        ({"use_peft": False}, {"adapter": "full"}),
        ({"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"]}, {"lora_targets": "q_proj,v_proj"}),
        ({"bf16": True}, {"dtype": "bfloat16"}),
        ({"bf16": False}, {"dtype": "float32"}),
        ({"bf16": False, "fp16": True}, {"dtype": "float16"}),
        ({"bf16": True, "fp16": False}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ({"use_cpu": True}, {"device": "cpu"}),
        ({"report_to": ["wandb"]}, {"tracker": "wandb"}),
        ({"report_to": "none"}, {"tracker": "none"}),
        ({"train_sampling_strategy": "group_by_length"}, {"group_by_length": True}),
        ({"truncation_mode": "keep_start", "max_seq_length": 512}, {"too_long": "keep_start", "max_length": 512}),
        ({"push_to_hub": True, "hub_model_id": "me/model"}, {"push_to_hub": "me/model"}),
        ({"push_to_hub": False}, {"push_to_hub": ""}),
        ({"push_to_hub": "me/model"}, {"push_to_hub": "me/model"}),
        ({"save_strategy": "steps", "save_steps": 5}, {"save_steps": 5}),
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, {"eval_steps": 0, "save_steps": 0}),
        ({"resume_from_checkpoint": False}, {"resume": False}),
        ({"activation_checkpointing": True}, {"gradient_checkpointing": True}),
        ({"tf32": False, "packing_strategy": "bfd", "loss_type": "nll", "fsdp": None}, {}),
    ],
)  # fmt: skip
def test_names_and_values_are_translated(
    given: dict[str, Any], expected: dict[str, Any], needed: dict[str, str]
) -> None:
    (stage,) = build_plan({**needed, **given}).stages
    assert (stage.model, stage.train_file) == ("m", needed["dataset_name"])
    assert {name: getattr(stage, name) for name in expected} == expected


def test_the_command_line_and_a_yaml_file_mean_the_same(needed: dict[str, str], tmp_path: Path) -> None:
    values = {"num_train_epochs": "2", "use_peft": "true", "learning_rate": "1e-3", "warmup_ratio": "0.1"}
    values |= {"report_to": "none", "bf16": "false", "tf32": "false"}
    config = tmp_path / "run.yaml"
    config.write_text("".join(f"{name}: {value}\n" for name, value in {**needed, **values}.items()), encoding="utf-8")
    (plan, _), from_file = read(options({**needed, **values})), load_plan(config)
    assert plan == from_file
    dashed = [one.replace("_", "-") if one.startswith("--") else one for one in options({**needed, **values})]
    assert read(dashed)[0] == plan


def test_switches_need_no_value(needed: dict[str, str]) -> None:
    given = [
        "--use_peft",
        "--packing",
        "--bf16",
        "--no_resume",
        "--no-gradient-checkpointing",
        "--no_remove_unused_columns",
    ]
    (stage,) = read([*options(needed), *given, "--lora_target_modules", "q_proj", "v_proj", "--use_cpu"])[0].stages
    assert (stage.adapter, stage.packing, stage.dtype, stage.resume) == ("lora", True, "bfloat16", False)
    assert (stage.gradient_checkpointing, stage.lora_targets, stage.device) == (False, "q_proj,v_proj", "cpu")


def test_options_override_a_file_under_any_name(needed: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    lines = [f"{name}: {value}" for name, value in needed.items()]
    lines += ["num_train_epochs: 2", "stages:", "  - {name: a, per_device_train_batch_size: 3}", "  - {name: b}"]
    config.write_text("\n".join(lines), encoding="utf-8")
    a, b = load_plan(config, {"epochs": "5", "batch_size": "7"}).stages
    assert (a.epochs, b.epochs, a.batch_size, b.batch_size) == (5.0, 5.0, 7, 7)
    a, b = load_plan(config).stages
    assert (a.epochs, a.batch_size, b.batch_size, b.model) == (2.0, 3, 8, str(Path(a.output_dir) / "final"))


def test_settings_of_one_source_are_not_given_twice(needed: dict[str, str]) -> None:
    both = {
        **needed,
        "epochs": 1,
        "num_train_epochs": 1,
        "use_peft": True,
        "adapter": "lora",
        "bf16": True,
        "dtype": "auto",
    }
    text = problems({**both, "push_to_hub": "me/a", "hub_model_id": "me/a"})
    for pair in (
        "`epochs` and `num_train_epochs`",
        "`adapter` and `use_peft`",
        "`dtype` and `bf16`",
        "`push_to_hub` and `hub",
    ):
        assert pair in text
    with pytest.raises(ConfigError, match="`epochs` and `num_train_epochs`"):
        read([*options(needed), "--epochs", "1", "--num_train_epochs", "1"])


@given(st.permutations(["epochs", "num_train_epochs", "seed", "batch_size", "per_device_train_batch_size"]))
def test_two_names_of_one_setting_are_found_in_any_order(names: list[str]) -> None:
    found = resolve(dict.fromkeys(names, 1))
    assert set(found.values) == {"epochs", "seed", "batch_size"}
    assert sorted(re.findall(r"of one setting, `(\w+)`", " ".join(found.problems))) == ["batch_size", "epochs"]


# --- Refusal ---


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_names_without_a_setting_are_refused_with_the_reason(name: str, needed: dict[str, str]) -> None:
    text = problems({**needed, name: "something"})
    assert f"`{name}: something` is not supported: {UNSUPPORTED[name].why}." in text
    for value in UNSUPPORTED[name].accepted:
        build_plan({**needed, name: value})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"load_in_4bit": True}, "needs `use_peft`"),
        ({"use_peft": "perhaps"}, "choose true or false"),
        ({"bf16": True, "fp16": True}, "cannot both be true"),
        ({"fp16": False}, "set `dtype`"),
        ({"use_cpu": "maybe"}, "choose one of true, false"),
        ({"push_to_hub": True}, "`push_to_hub: owner/name`"),
        ({"hub_model_id": "me/model"}, "no effect without `push_to_hub`"),
        ({"warmup_ratio": 3}, "from 0 to below 1"),
        ({"warmup_ratio": "nan"}, "from 0 to below 1"),
        ({"warmup_steps": 2.5}, "a whole number, or below 1"),
        ({"save_strategy": "steps"}, "needs `save_steps`"),
        ({"eval_strategy": "no"}, "validation rows are measured after each epoch"),
        ({"report_to": ["wandb", "trackio"]}, "`tracker` (given as `report_to`) is"),
        ({"num_train_epochs": "many"}, "`epochs` (given as `num_train_epochs`) is 'many'"),
        ({"lr_scheduler_type": "polynomial"}, "choose one of constant"),
        ({"optim": "adamw_8bit"}, "choose one of adamw_torch_fused"),
        ({"adam_beta1": 1}, "`adam_beta1` is 1.0"),
        ({"eval_batch_size": -1}, "must not be negative"),
    ],
)
def test_values_that_no_setting_can_express_are_refused(
    given: dict[str, Any], said: str, needed: dict[str, str]
) -> None:
    assert said in problems({**needed, **given})


def test_unknown_names_are_reported_together_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "run.yaml", "--numtrain_epochs", "3", "--lernrate=2", "--adaptor", "lora"]) == 2
    said = capsys.readouterr().err
    assert "`numtrain_epochs` is not a setting (did you mean `num_train_epochs`?)" in said
    assert "`lernrate` is not a setting" in said
    assert "(did you mean `adapter`?)" in said
    assert "did you mean" not in unknown("zzz", HINTS)


# --- Help ---


def test_help_describes_every_setting_with_its_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    texts = option_help(TrainArgs)
    assert set(texts) == set(HINTS)
    for name, text in texts.items():
        assert f"--{name} " in printed
        assert " ".join(text.split())[:40] in printed
    for name in (*ALIASES, *COMBINED):
        assert f"--{name}" in printed


def test_help_states_the_defaults() -> None:
    """Every setting says what it is by default, and that is what it is."""
    words = {"": "none", False: "false", True: "true"}
    others = {"learning_rate": "2e-5 for `full`", "project": "`harness-ext`", "adam_epsilon": "1e-8"}
    for field in dataclasses.fields(TrainArgs):
        text = option_help(TrainArgs)[field.name]
        if field.default is dataclasses.MISSING:
            assert text.endswith("Required."), field.name
            continue
        expected = words.get(field.default) if isinstance(field.default, str | bool) else f"{field.default:g}"
        expected = others.get(field.name) or expected or f"`{field.default}`"
        assert f"Default {expected}" in text or f"Default: {expected}" in text, (field.name, expected)


# --- Real runs ---


def test_a_command_line_of_trl_trains(rows: str, tmp_path: Path) -> None:
    """The LoRA example of TRL's own script, with other paths and without what is refused."""
    pytest.importorskip("trl")
    line = f"""
        --model_name_or_path {shlex.quote(str(model_path("student")))} --dataset_name {shlex.quote(rows)}
        --learning_rate 2.0e-4 --num_train_epochs 2 --per_device_train_batch_size 1 --gradient_accumulation_steps 2
        --eval_strategy epoch --use_peft --lora_r 32 --lora_alpha 16 --lora_target_modules q_proj v_proj
        --warmup_ratio 0.5 --lr_scheduler_type linear --max_length 256 --optim adamw_torch --attn_implementation eager
        --logging_steps 1 --report_to none --seed 3 --weight_decay 0.01 --use_cpu --no_gradient_checkpointing
        --output_dir {shlex.quote(str(tmp_path / "out"))}
    """
    assert main(shlex.split(line)) == 0
    final = tmp_path / "out" / "final"
    assert why_incomplete(final) == ""
    adapter = json.loads((final / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["r"], adapter["lora_alpha"], sorted(adapter["target_modules"])) == (32, 16, ["q_proj", "v_proj"])
    log = json.loads((tmp_path / "out" / "log.json").read_text(encoding="utf-8"))
    # Two steps, of which the share 0.5 warms up: the rate is 0 at the first, then the peak.
    assert [one["learning_rate"] for one in log if "learning_rate" in one] == [0.0, 2e-4]


def test_the_examples_of_trls_scripts_are_understood(tmp_path: Path, rows: str) -> None:
    """Of the command lines in TRL's documentation, only the stop token and a push without a name are refused."""
    trl = pytest.importorskip("trl")
    for script in ("sft", "dpo"):
        text = (Path(trl.__file__).parent / "scripts" / f"{script}.py").read_text(encoding="utf-8")
        lines = re.findall(rf"^python trl/scripts/{script}\.py(.*?)\n```", text, re.MULTILINE | re.DOTALL)
        assert lines
        for line in lines:
            given = shlex.split(line.replace("\\\n", " "))
            given[given.index("--dataset_name") + 1] = rows
            given[given.index("--output_dir") + 1] = str(tmp_path / "out")
            try:
                refused = []
                read(given)
            except ConfigError as error:
                refused = re.findall(r"^  - `(\w+)", str(error), re.MULTILINE)
            assert set(refused) <= {"eos_token", "push_to_hub"}


@pytest.mark.parametrize("optim", [one for one in CHOICES["optim"] if one != TrainArgs.optim])
def test_each_optimizer_learns_and_resumes_to_the_same_losses(optim: str, rows: str, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    args = TrainArgs(
        str(model_path("student")), rows, str(tmp_path), optim=optim, epochs=3, batch_size=1, logging_steps=1,
        device="cpu", learning_rate=1e-3, attn_implementation="eager",
    )  # fmt: skip
    losses = []
    for _ in range(2):
        run_stage(args)
        log = json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))
        losses.append([one["loss"] for one in log if "loss" in one])
        for folder in ("final", "checkpoint-6"):
            (tmp_path / folder / MARKER).unlink()
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert sum(losses[0][-2:]) < sum(losses[0][:2])


def test_new_settings_reach_the_trainer(rows: str) -> None:
    from harness_ext.finetune.environment import common_arguments

    args = TrainArgs(
        "m", rows, "o", optim="sgd", adam_beta1=0.8, adam_epsilon=1e-6, eval_batch_size=3, warmup_steps=0.25
    )  # fmt: skip
    found = common_arguments(args, "float32", True, "none")
    expected = {"optim": "sgd", "adam_beta1": 0.8, "adam_epsilon": 1e-6, "warmup_steps": 0.25}
    assert {name: found[name] for name in expected} == expected
    assert found["per_device_eval_batch_size"] == 3
    plain = common_arguments(TrainArgs("m", rows, "o", batch_size=5), "float32", True, "none")
    assert plain["per_device_eval_batch_size"] == 5
