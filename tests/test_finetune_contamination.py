"""Evaluation documents in the rows of a training: found before a model is loaded, and refused or reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness_ext.embedded import model_path
from harness_ext.enhance.contamination import documents as task_loader
from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.command import main
from harness_ext.finetune.contamination import find_contamination
from harness_ext.finetune.plan import build_plan, load_plan
from harness_ext.finetune.sources import load

QUESTION = "Natalia sold clips to forty eight of her friends in April, and then she sold half as many clips in May."
ANSWER = "She sold twenty four in May, so altogether seventy two."


@pytest.fixture(autouse=True)
def documents(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str | None]]:
    """Let every task have one document, without loading lm-eval; return what was asked for."""
    asked: list[tuple[list[str], str | None]] = []

    def task_documents(names: Sequence[str], include_path: str | None = None) -> dict[str, list[dict[str, Any]]]:
        asked.append((list(names), include_path))
        return {name: [{"question": QUESTION, "answer": ANSWER}] for name in names}

    monkeypatch.setattr(task_loader, "task_documents", task_documents)
    return asked


def config(folder: Path, rows: Sequence[dict[str, Any]], **settings: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": str(model_path("student")),
        "train_file": str(folder / "rows.jsonl"),
        "output_dir": str(folder / "o"),
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps({**values, "device": "cpu", "max_steps": 1, "batch_size": 1, **settings}))
    return path


CLEAN = {"prompt": "What is one and one?", "completion": "Two."}
COPY = {"prompt": f"Solve this. {QUESTION}", "completion": "72"}


def test_rows_with_documents_end_the_run(
    tmp_path: Path, documents: list[tuple[list[str], str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, [CLEAN, COPY], contamination_tasks=["gsm8k", "mine"], contamination_include_path="folder")
    assert main(["--config", str(path), "--check"]) == 2
    assert documents == [(["gsm8k", "mine"], "folder")]
    said = capsys.readouterr().err
    assert "gsm8k, 1 documents: 1 rows share words with 1 of them (13 words in a row)" in said
    assert (
        "row 2 (line 2), document 0: shares “natalia sold clips to forty eight of her friends in april and then”"
        in said
    )
    assert "1 of 2 rows of" in said
    assert "contain documents of gsm8k, mine" in said
    assert "set `contamination: warn`" in said
    assert main(["--config", str(path)]) == 2
    assert not (tmp_path / "o" / "final").exists()
    assert not (tmp_path / "o" / "data_report.json").exists()


def test_a_warning_is_kept_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, [CLEAN, COPY], contamination_tasks="gsm8k")
    assert main(["--config", str(path), "--contamination", "warn"]) == 0
    assert "1 of 2 rows (50.00%) contain evaluation documents" in capsys.readouterr().err
    found = json.loads((tmp_path / "o" / "data_report.json").read_text())["contamination"]
    assert found["lines"]["ngram"] == [2]
    assert found["tasks"]["gsm8k"]["examples"][0]["place"] == "line 2"
    # These settings do not affect what is learned, so a finished run may be given others.
    assert main(["--config", str(path), "--contamination", "warn", "--contamination_ngram", "9"]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_nothing_is_looked_for_by_default(
    tmp_path: Path, documents: list[tuple[list[str], str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config(tmp_path, [COPY])), "--check"]) == 0
    assert documents == []
    assert "evaluation documents" not in capsys.readouterr().err
    assert main(["--config", str(config(tmp_path, [CLEAN], contamination_tasks="gsm8k")), "--check"]) == 0
    assert "0 of 1 rows (0.00%) contain evaluation documents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "settings", "found"),
    [
        ({"text": f"{QUESTION} {ANSWER}"}, {}, True),
        ({"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "72"}]}, {}, True),
        ({"prompt": [{"role": "user", "content": QUESTION}], "completion": "72"}, {}, True),
        ({"prompt": "Q", "chosen": ANSWER, "rejected": "no"}, {"method": "dpo"}, True),
        ({"prompt": "Q", "completion": "A", "source": QUESTION}, {}, False),
        ({"cot_tail": "other", "text": QUESTION}, {"column": "cot_tail"}, False),
        ({"cot_tail": QUESTION, "text": "other"}, {"column": "cot_tail"}, True),
        ({"prompt": "Q", "solution": "A", "explanation": ANSWER}, {"method": "kd"}, False),
        ({"prompt": "Q", "solution": "A", "explanation": ANSWER}, {"method": "kd", "targets": "teacher"}, True),
        ({"prompt": QUESTION}, {}, False),  # a malformed row, which the data report counts
    ],
)
def test_what_is_learned_is_compared(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any], found: bool
) -> None:
    path = config(tmp_path, [row], contamination_tasks="t", **settings)
    (args,) = load_plan(path).stages
    result = find_contamination(args, load(args)[0])
    assert result is not None
    assert bool(result.contaminated) is found


def test_wrong_settings_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    wrong = {"contamination": "drop", "contamination_ngram": 0, "contamination_similarity": 1.5}
    with pytest.raises(ConfigError) as caught:
        build_plan({"model": "m", "train_file": str(tmp_path / "rows.jsonl"), "output_dir": "o", **wrong})
    for part in ("choose one of stop, warn", "`contamination_ngram` is 0", "`contamination_similarity` is 1.5"):
        assert part in str(caught.value)


def test_lists_of_names_are_lists_or_separated_by_commas(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    base = {"model": "m", "train_file": str(tmp_path / "rows.jsonl"), "output_dir": "o"}

    def built(**settings: Any) -> TrainArgs:
        return build_plan({**base, **settings}).stages[0]

    assert built(contamination_tasks=["a", "b"]) == built(contamination_tasks="a,b")
    assert built(lora_targets=["q_proj", "v_proj"]).lora_targets == "q_proj,v_proj"
    with pytest.raises(ConfigError, match="`contamination_tasks` is \\[1\\]"):
        built(contamination_tasks=[1])
    with pytest.raises(ConfigError, match="`column` is"):
        built(column=["a"])
