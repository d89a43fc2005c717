"""The table of github.com/katja-kolos/foundation_models: `idx, input, output, subject`, one row per question."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness_ext.bridge.exports import Table
from harness_ext.tasks.scienceqa.rows import question_text


def file(doc: Mapping[str, Any], label: str) -> str:
    """Return the path of the table: `benchmarking/<model>/<model>_<val|test>_output_setting_<SETTING>.csv`."""
    model = re.sub(r"[/.\s]", "_", label).lower()
    split = "val" if doc["split"] == "validation" else doc["split"]
    return f"benchmarking/{model}/{model}_{split}_output_setting_{doc['setting']}.csv"


def rows(doc_id: int, doc: Mapping[str, Any], reply: str) -> list[dict[str, Any]]:
    """Return the row of a question; `idx` is its index among the rows that have a lecture and a solution."""
    return [{"idx": doc_id, "input": question_text(dict(doc)), "output": reply or "NA", "subject": doc["subject"]}]


TABLE = Table(("idx", "input", "output", "subject"), ("idx",), file, rows)
