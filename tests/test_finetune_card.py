"""Model cards: in the folder of each model, with what it was trained on and how well it does, and nobody's paths."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.checkpoint_scores import CheckpointScore, EvaluationSettings, Scorer, subjects
from harness_ext.finetune.checkpoints import MARKER, mark_complete, why_incomplete
from harness_ext.finetune.model_card import table, update_scores, write_card
from harness_ext.finetune.train import run_stage


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a run per adapter, the second with preferences."""
    folder = tmp_path_factory.mktemp("cards")
    rows, pairs = folder / "stories.jsonl", folder / "pairs.jsonl"
    lines = [{"prompt": f"{at} Mary went home.\n", "completion": "home"} for at in range(4)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    lines = [{"prompt": f"{at} Mary went home.\n", "chosen": "home", "rejected": "work"} for at in range(4)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    base = TrainArgs(str(model_path("student")), str(rows), "", epochs=2, batch_size=2, device="cpu")
    run_stage(dataclasses.replace(base, output_dir=str(folder / "full"), eval_file=str(rows)))
    more = {"output_dir": str(folder / "lora"), "adapter": "lora", "method": "dpo", "train_file": str(pairs)}
    run_stage(dataclasses.replace(base, **more))  # type: ignore[arg-type]
    return {name: folder / name for name in ("full", "lora")}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("full", ["supervised fine-tuning", "all weights", "stories.jsonl", "| rows | 4 | 4 |", "| 1 | "]),
        ("lora", ["direct preference optimization (DPO)", "a LoRA adapter", "pairs.jsonl", "`lora_r`", "`beta`"]),
    ],
)
def test_the_card_lies_with_the_model_and_says_what_it_is(name: str, facts: list[str], runs: dict[str, Path]) -> None:
    from huggingface_hub import ModelCard

    run = runs[name]
    assert not (run / "README.md").exists(), "the folder of the run contains no model"
    digest = json.loads((run / "data_report.json").read_text(encoding="utf-8"))["train"]["digest"]
    for folder, step in ((run / "final", 4), (run / "checkpoint-4", 4), (run / "checkpoint-2", 2)):
        text = (folder / "README.md").read_text(encoding="utf-8")
        for fact in [*facts, digest, "student (a local folder)", f"step {step}, epoch {step // 2}", "`learning_rate`"]:
            assert fact in text
        for wrong in ("None", "More Information Needed", str(run.parent), str(model_path("student"))):
            assert wrong not in text
        head = ModelCard.load(folder / "README.md").data
        assert head.base_model is None, "a local folder is no name on the Hub"
        assert head.library_name == {"full": "transformers", "lora": "peft"}[name]
        assert why_incomplete(folder) == ""


def test_a_model_of_the_hub_is_named_in_the_metadata(runs: dict[str, Path], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    for record in ("run.json", "data_report.json"):
        facts = json.loads((runs["full"] / record).read_text(encoding="utf-8"))
        if record == "run.json":
            facts.update(model="org/model", model_path="org/model")
        (tmp_path / record).write_text(json.dumps(facts), encoding="utf-8")
    write_card(tmp_path, tmp_path, 1, 0.5)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "org/model"
    assert "org/model, trained by supervised fine-tuning on stories.jsonl." in card.text
    assert "None yet." in card.text, "no errors are known yet"


def test_editing_a_card_does_not_make_a_model_incomplete(runs: dict[str, Path], tmp_path: Path) -> None:
    card = runs["full"] / "final" / "README.md"
    text = card.read_text(encoding="utf-8")
    card.write_text("# Mine\n", encoding="utf-8")
    assert why_incomplete(card.parent) == ""
    card.unlink()
    assert why_incomplete(card.parent) == ""
    card.write_text(text, encoding="utf-8")
    # Markers of earlier versions list the card.
    (tmp_path / "README.md").write_text("old", encoding="utf-8")
    (tmp_path / "weights").write_text("w", encoding="utf-8")
    mark_complete(tmp_path)
    facts = json.loads((tmp_path / MARKER).read_text(encoding="utf-8"))
    assert facts["files"] == {"weights": 1}
    (tmp_path / MARKER).write_text(json.dumps({"files": {"weights": 1, "README.md": 99}}), encoding="utf-8")
    assert why_incomplete(tmp_path) == ""


def test_scores_reach_the_cards_and_leave_the_rest_alone(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs["full"]
    card = run / "final" / "README.md"
    assert "Not scored yet" in card.read_text(encoding="utf-8")
    card.write_text(card.read_text(encoding="utf-8").replace("# full", "# The best of all"), encoding="utf-8")
    scorer = Scorer(run, EvaluationSettings(num_fewshot=3))
    means = {"untouched": 0.25, "checkpoint-2": 0.5, "checkpoint-4": 0.75}
    for subject in subjects(run)[0]:
        values = {f"a|b:{at}": float(at < 4 * means[subject.name]) for at in range(4)}
        scorer.store(subject, CheckpointScore(subject.name, "a|b", "acc,none", values, "float32"))
    update_scores(run)
    text = card.read_text(encoding="utf-8")
    assert "# The best of all" in text
    assert "Not scored yet" not in text
    assert "| a\\|b | acc,none | 4 | 3 | float32 | 0.2500 | 0.7500 |" in text
    other = (run / "checkpoint-2" / "README.md").read_text(encoding="utf-8")
    assert "| a\\|b | acc,none | 4 | 3 | float32 | 0.2500 | 0.5000 |" in other
    update_scores(run)
    assert card.read_text(encoding="utf-8") == text
    # Someone who has removed the section does not get it back.
    card.write_text("# Mine\n", encoding="utf-8")
    update_scores(run)
    assert card.read_text(encoding="utf-8") == "# Mine\n"


def test_cells_stay_in_their_column() -> None:
    lines: list[tuple[Any, ...]] = [("a|b", "c\nd", 3)]
    assert table(("x", "y", "z"), lines) == "| x | y | z |\n| --- | --- | --- |\n| a\\|b | c⏎d | 3 |"
