"""Rows for tests of training data, as a file of JSON lines gives them."""

from __future__ import annotations

import hashlib
import json

from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.rows import LINE, Rows


def settings(**values: object) -> TrainArgs:
    """Return the settings of a run, with names that nothing reads for what is required."""
    return TrainArgs(**{"model": "m", "train_file": "rows.jsonl", "output_dir": "o", **values})  # type: ignore[arg-type]


def rows_of(*values: object) -> Rows:
    """Return rows with these values, labelled `line 1` and so on."""
    import numpy as np
    from datasets import Dataset, Features, Value

    lines = [json.dumps(value) for value in values]
    data = Dataset.from_dict({LINE: lines}, Features({LINE: Value("string")}))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Rows("rows.jsonl", data, digest, np.arange(len(lines)), by_line=True)
