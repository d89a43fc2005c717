"""A calibration: what turns the probabilities of a model's decisions about one question into honest ones.

It is fitted on rows that are not scored (`harness-ext calibrate`) with Platt's method: J. Platt, "Probabilistic outputs
for support vector machines", 1999. The log-odds of a probability are multiplied by a slope (the inverse of a
temperature) and shifted by an offset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import exp, log
from pathlib import Path
from typing import Any

SMALLEST = 1e-12  # probabilities are kept this far from 0 and 1, where log-odds are infinite


@dataclass(frozen=True, slots=True)
class Calibration:
    """The correction of one model's answers to one yes/no question.

    model: the fingerprint of the model.
    model_name: its name, for messages.
    question: the digest of the question (`question_digest`).
    source: where the probabilities came from.
    slope, offset: the correction, in log-odds.
    rows: how many decisions it was fitted on, and `right` of them were about right answers.
    tasks: the tasks and splits that these came from.
    date: when it was fitted.
    """

    model: str
    model_name: str
    question: str
    source: str
    slope: float
    offset: float
    rows: int
    right: int
    tasks: tuple[str, ...]
    date: str

    def apply(self, probability: float) -> float:
        """Return the corrected probability."""
        return sigmoid(self.slope * logit(probability) + self.offset)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as the content of `calibration.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Parse what `to_json` returned. Raises ValueError with cause and remedy for anything else."""
        names = {f.name for f in fields(cls)}
        try:
            found = cls(**{**{k: v for k, v in data.items() if k in names}, "tasks": tuple(data["tasks"])})
            if not all(abs(float(number)) < float("inf") for number in (found.slope, found.offset)):
                raise ValueError("its slope and offset are not finite numbers")
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"it is not a calibration ({error}): make one with `harness-ext calibrate`") from error
        return found

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read a file. Raises ValueError with cause and remedy."""
        try:
            data = json.loads(path.expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read ({error})") from error
        try:
            return cls.from_json(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def logit(probability: float) -> float:
    """Return the log-odds of a probability."""
    inside = min(max(probability, SMALLEST), 1 - SMALLEST)
    return log(inside) - log(1 - inside)


def sigmoid(odds: float) -> float:
    """Return the probability of log-odds."""
    return 1 / (1 + exp(-odds)) if odds >= 0 else exp(odds) / (1 + exp(odds))
