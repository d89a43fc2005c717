"""The rows of GSM8K: Cobbe et al. 2021, arXiv 2110.14168."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness_ext.data import DataSource, load_rows

if TYPE_CHECKING:
    from datasets import DatasetDict

SOURCE = DataSource(
    folder="gsm8k",
    hub_id="openai/gsm8k",
    config="main",
    splits=("train", "test"),
    fields={"question": str, "answer": str},
)
# For tasks whose few-shot examples do not come from the training rows.
TEST = replace(SOURCE, splits=("test",))


def load(**_: Any) -> DatasetDict:
    """Return the rows of GSM8K. Arguments, which lm-eval adds, are ignored.

    Raises DataError if the rows cannot be loaded.
    """
    return load_rows(SOURCE)
