"""Training settings: every problem at once, types as YAML gives them, stages that follow one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness_ext.finetune.args import ConfigError, build_plan, load_plan
from harness_ext.finetune.cli import main


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    return str(path)


def test_all_problems_are_named_at_once(rows: str) -> None:
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


def test_unknown_missing_and_mistyped_settings_are_named_at_once(rows: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan({"model": "m", "train_file": rows, "epoch": 3, "batch_size": "many", "resume": "yes"})
    text = str(caught.value)
    for part in ("`epoch` is no setting", "`output_dir` is missing", "`batch_size` is 'many'", "`resume` is 'yes'"):
        assert part in text


def test_numbers_are_taken_as_yaml_gives_them(tmp_path: Path, rows: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: 7\ntrain_file: {rows}\noutput_dir: {tmp_path}/o\nlearning_rate: 1e-3\nepochs: 2\nmax_steps: 5.0\n",
        encoding="utf-8",
    )
    (stage,) = load_plan(config).stages
    assert (stage.model, stage.learning_rate, stage.epochs, stage.max_steps) == ("7", 1e-3, 2.0, 5)


@pytest.mark.parametrize("value", [1.5, True, None, [3]])
def test_what_is_no_whole_number_is_refused(rows: str, value: object) -> None:
    with pytest.raises(ConfigError, match="`batch_size`"):
        build_plan({"model": "m", "train_file": rows, "output_dir": "o", "batch_size": value})


def test_stages_start_from_the_one_before(rows: str) -> None:
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
    assert "stage b: `devise` is no setting" in text
    assert "share a name" in text


@pytest.mark.parametrize("text", ["- a\n- b\n", "model: [unclosed\n", "just words\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_plan(config)


def test_the_command_reports_problems_and_checks(tmp_path: Path, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml" in capsys.readouterr().err
    config = tmp_path / "run.yaml"
    config.write_text(f"model: m\ntrain_file: {rows}\noutput_dir: o\n", encoding="utf-8")
    assert main(["--config", str(config), "--check"]) == 0
    assert "no problem" in capsys.readouterr().out
