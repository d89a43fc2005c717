"""Thresholds of confidence that are taken from what another run recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.records.run_directory import read_transcripts


def recorded_confidences(run: Path, options: Mapping[str, Any], seats: Mapping[str, Any]) -> list[float | None]:
    """Return the confidence of each answer that a run accepted or not; None for answers without one.

    run: the run directory.
    options: the options on which the confidences depend, as the run must have had them.
    seats: what identifies each seat on which they depend, likewise; None for a seat without a model.

    Raises ValueError with cause and remedy if there are none, or if they were measured in another way.
    """
    try:
        identity = json.loads((run / "config.json").read_text(encoding="utf-8"))["identity"]
        differing = [name for name, value in options.items() if identity["options"].get(name) != value]
        differing += [name for name, seat in seats.items() if _plain(identity["seats"].get(name)) != _plain(seat)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{run} is not a complete run directory ({error}): give one of a finished run") from error
    if differing:
        raise ValueError(
            f"the confidences in {run} were measured in another way ({', '.join(differing)} differ): make a run with "
            "these settings on other rows"
        )
    turns = (turn for one in read_transcripts(run) if one.failure is None for turn in one.turns)
    found = [verdict.get("probability") for turn in turns if "accepted" in (verdict := turn.verdict or {})]
    if all(one is None for one in found):
        raise ValueError(
            f"{run} contains no answers with a confidence (decisions without probabilities have none): give a run that "
            "has some, or a number"
        )
    return found


def threshold_for(confidences: Sequence[float | None], share: float) -> float:
    """Return the highest of some confidences below which at most a share of all of them lies.

    confidences: the confidences; None counts as lying below all others.
    share: the share.

    If that is impossible, since too many are None, it is the lowest; 0 if all are.
    """
    known = sorted(one for one in confidences if one is not None)
    below = int(share * len(confidences) + 1e-9) - (len(confidences) - len(known))
    return known[min(max(0, below), len(known) - 1)] if known else 0.0


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
