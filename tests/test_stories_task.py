"""The task `babi_stories`: its rows and its YAML."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from harness_ext.embedded.stories import FAMILIES
from harness_ext.tasks import babi_stories
from harness_ext.tasks.babi_stories.rows import draw, load


def test_rows_are_reproducible_and_unique() -> None:
    first, second = load(model="x", rows=50), load(rows=50)
    assert first["test"].to_list() == second["test"].to_list()
    rows = first["test"].to_list()
    assert len({(row["passage"], row["question"]) for row in rows}) == len(rows) == 50
    assert set(Counter(row["family"] for row in rows).values()) == {50 // len(FAMILIES)}
    assert not {row["passage"] for row in rows} & {row["passage"] for row in first["train"].to_list()}


def test_another_seed_gives_other_rows() -> None:
    assert list(draw(1, 10, (4, 8))) != list(draw(2, 10, (4, 8)))
    assert load(rows=10, seed=1)["test"].to_list() != load(rows=10)["test"].to_list()


def test_lengths_are_as_requested() -> None:
    rows = load(rows=40, shortest=6, longest=6)["test"].to_list()
    assert {len(row["passage"].splitlines()) for row in rows} == {6}


def test_the_task_asks_and_scores_like_babi_reasoning() -> None:
    root = Path(babi_stories.__file__).parent
    own = (root / "babi_stories.yaml").read_text(encoding="utf-8").splitlines()
    shared = (root.parent / "babi_reasoning" / "_template_yaml").read_text(encoding="utf-8").splitlines()
    comparable = [line for line in shared if not line.strip().startswith(("#", "custom_dataset"))]
    assert [line for line in comparable if line not in own] == []
