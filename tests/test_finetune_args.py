"""Training settings: all problems are reported at once, values are converted from YAML, stages follow one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.command import main, read
from harness_ext.finetune.plan import build_plan, load_plan, positional_settings


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    return str(path)


def test_all_problems_are_reported_at_once(rows: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan(
            {
                "model": "m",
                "output_dir": "o",
                "train_file": "missing.jsonl",
                "learning_rate": 0,
                "batch_size": 0,
                "dtype": "float64",
                "deepspeed": "zero9",
            }
        )
    text = str(caught.value)
    for part in ("missing.jsonl", "`learning_rate` is 0", "`batch_size` is 0", "float64", "zero9"):
        assert part in text


def test_unknown_missing_and_mistyped_settings_are_reported_at_once(rows: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan({"model": "m", "train_file": rows, "epoch": 3, "batch_size": "many", "resume": "yes"})
    text = str(caught.value)
    for part in ("`epoch` is not a setting", "`output_dir` is missing", "`batch_size` is 'many'", "`resume` is 'yes'"):
        assert part in text


def test_numbers_are_converted_from_yaml(tmp_path: Path, rows: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: 7\ntrain_file: {rows}\noutput_dir: {tmp_path}/o\nlearning_rate: 1e-3\nepochs: 2\nmax_steps: 5.0\n",
        encoding="utf-8",
    )
    (stage,) = load_plan(config).stages
    assert (stage.model, stage.learning_rate, stage.epochs, stage.max_steps) == ("7", 1e-3, 2.0, 5)


@pytest.mark.parametrize("value", [1.5, True, None, [3]])
def test_values_that_are_not_integers_are_refused(rows: str, value: object) -> None:
    with pytest.raises(ConfigError, match="`batch_size`"):
        build_plan({"model": "m", "train_file": rows, "output_dir": "o", "batch_size": value})


def test_each_stage_starts_from_the_previous_one(rows: str) -> None:
    settings = {
        "model": "base",
        "output_dir": "out",
        "train_file": rows,
        "stages": [{"name": "a"}, {"name": "b", "seed": 4}, {"name": "c", "model": "other"}],
    }
    a, b, c = build_plan(settings).stages
    assert (a.model, a.output_dir) == ("base", "out/a")
    assert (b.model, b.output_dir, b.seed) == ("out/a/final", "out/b", 4)
    assert (c.model, c.output_dir) == ("other", "out/c")


def test_problems_name_their_stage(rows: str) -> None:
    settings = {
        "model": "base",
        "output_dir": "out",
        "train_file": rows,
        "stages": [{"name": "a", "epochs": 0}, {"name": "b", "devise": "cpu"}, {"name": "a"}],
    }
    with pytest.raises(ConfigError) as caught:
        build_plan(settings)
    text = str(caught.value)
    assert "stage a: `epochs` is 0" in text
    assert "stage b: `devise` is not a setting" in text
    assert "stage names must be unique" in text


@pytest.mark.parametrize("text", ["- a\n- b\n", "model: [unclosed\n", "just words\n"])
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_plan(config)


def test_the_command_reports_problems_and_checks(tmp_path: Path, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml" in capsys.readouterr().err
    Path(rows).write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text(f"model: {model_path('student')}\ntrain_file: {rows}\noutput_dir: {tmp_path}/o\n")
    assert main(["--config", str(config), "--check"]) == 0
    said = capsys.readouterr()
    assert "no problems found" in said.out
    assert "1 rows, 1 used" in said.err
    assert not (tmp_path / "o").exists()
    options = ["--adapter", "prefix", "--gradient-checkpointing", "true", "--packing", "true", "--deepspeed", "zero3"]
    assert main(["--config", str(config), "--check", *options]) == 2
    said = capsys.readouterr()
    for name in ("prefix + gradient checkpointing", "prefix + packing", "prefix + ZeRO-3"):
        assert name in said.err


TEN = ["model", "data", "8", "1", "6e-06", "10", "cot_tail", "NAME", "store", "project"]


def test_ten_positional_arguments_mean_the_same_as_in_teacherlm(tmp_path: Path) -> None:
    (stage,) = build_plan(positional_settings([*TEN[:1], str(tmp_path), *TEN[2:]], {})).stages
    assert (stage.model, stage.train_file, stage.batch_size, stage.gradient_accumulation) == (
        "model",
        str(tmp_path),
        8,
        1,
    )
    assert (stage.learning_rate, stage.epochs, stage.column) == (6e-6, 10, "cot_tail")
    assert (stage.output_dir, stage.run_name, stage.project) == ("store/NAME", "NAME", "project")
    assert (stage.scheduler, stage.gradient_checkpointing, stage.deepspeed) == ("constant", True, "zero3")
    assert (stage.max_length, stage.too_long, stage.logging_steps, stage.tracker) == (2048, "keep_end", 8, "none")


def test_one_process_on_a_cpu_has_nothing_to_shard(tmp_path: Path) -> None:
    values = [*TEN[:1], str(tmp_path), *TEN[2:]]
    for options in ({}, {"adapter": "lora"}, {"use_peft": "true"}):
        alone, several = (positional_settings(values, options, one_cpu_process) for one_cpu_process in (True, False))
        assert alone == {**several, "deepspeed": ""}
        assert several["deepspeed"] in ("zero2", "zero3")
    chosen = positional_settings(values, {"deepspeed": "zero2"}, one_cpu_process=True)
    assert chosen["deepspeed"] == "zero2"


@pytest.mark.parametrize(
    ("processes", "gpus", "device", "deepspeed"),
    [("1", 0, "auto", ""), ("2", 0, "auto", "zero3"), ("1", 1, "auto", "zero3"), ("1", 1, "cpu", "")],
)
def test_the_positional_command_looks_at_its_machine(
    processes: str, gpus: int, device: str, deepspeed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setenv("WORLD_SIZE", processes)
    plan, _ = read([*TEN[:1], str(tmp_path), *TEN[2:8], str(tmp_path), "project", "--device", device])
    assert plan.stages[0].deepspeed == deepspeed


def test_named_options_take_precedence_over_positional_arguments(tmp_path: Path) -> None:
    values = [*TEN[:1], str(tmp_path), *TEN[2:]]
    named = positional_settings(values, {"adapter": "pkv", "scheduler": "cosine", "max_length": "512"})
    (stage,) = build_plan(named).stages
    assert (stage.adapter, stage.scheduler, stage.max_length) == ("pkv", "cosine", 512)
    assert (stage.gradient_checkpointing, stage.deepspeed) == (False, "zero2")
    (stage,) = build_plan(positional_settings(values, {"method": "dpo"})).stages
    assert (stage.column, stage.too_long) == ("", "drop")


def test_wrong_positional_arguments_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TEN[:9]) == 2
    assert "9 positional arguments instead of 10: model_path dataset_path" in capsys.readouterr().err
    assert main([TEN[0], "nowhere", "eight", *TEN[3:]]) == 2
    said = capsys.readouterr().err
    assert "`batch_size` is 'eight'" in said
    assert main(["--config", "a.yaml", *TEN]) == 2
    assert "not both" in capsys.readouterr().err


def test_default_learning_rates_depend_on_method_and_adapter(rows: str) -> None:
    def rate(**values: str) -> float:
        base = {"model": "m", "train_file": rows, "output_dir": "o"}
        return build_plan({**base, **values}).stages[0].learning_rate

    assert rate() == 2e-5
    assert rate(adapter="prefix") == 5e-3
    assert rate(adapter="lora", method="dpo") == pytest.approx(2e-5)
    assert rate(adapter="lora", learning_rate="3e-4") == 3e-4


def test_options_override_the_file_in_every_stage(tmp_path: Path, rows: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: m\ntrain_file: {rows}\noutput_dir: o\nstages:\n  - {{name: a, seed: 3}}\n  - {{name: b}}\n"
    )
    a, b = load_plan(config, {"seed": "9", "resume": "false", "output_dir": "p"}).stages
    assert (a.seed, b.seed, a.resume, a.output_dir, b.output_dir) == (9, 9, False, "p/a", "p/b")
