"""Helpers of the tests of suites: the cells of a study, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness_ext.errors import ConfigurationError
from harness_ext.suite.cells import Evaluation
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.study import read_study

PAIR: dict[str, Any] = {"model": "feedback_pair"}
LOOP = {"model": "self_consistency"}


def cells(folder: Path, study: Mapping[str, Any] | str) -> tuple[Evaluation, ...]:
    """Return the evaluations of a study whose file has this content."""
    path = folder / "study.yaml"
    text = (
        study if isinstance(study, str) else yaml.safe_dump({"folder": str(folder / "suite"), **study}, sort_keys=False)
    )
    path.write_text(text, encoding="utf-8")
    return tuple(cell for cell in cells_of(read_study(path)) if isinstance(cell, Evaluation))


def problems(folder: Path, study: Mapping[str, Any] | str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        cells(folder, study)
    return raised.value.problems
