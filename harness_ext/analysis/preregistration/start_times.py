"""When runs were started, from what they wrote down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness_ext.analysis.scoring.score import read_config


def start_times(sources: Mapping[str, Sequence[str]]) -> dict[str, datetime | None]:
    """Return when each run was started; None if one of its sources does not say.

    sources: for each run, by its label, its run directories and lm-eval's results files (`Run.sources`).

    Of several sources the earliest counts: a plan that was written after it was not written before the run.
    """
    return {label: _earliest([_started(Path(path)) for path in paths]) for label, paths in sources.items()}


def _earliest(times: Sequence[datetime | None]) -> datetime | None:
    known = [time for time in times if time is not None]
    return min(known) if known and len(known) == len(times) else None


def _started(path: Path) -> datetime | None:
    if path.is_dir():
        return _in_words(read_config(path).get("started"))
    try:
        date = json.loads(path.read_text(encoding="utf-8")).get("date")
        # lm-eval writes the seconds since 1970 at which the evaluation began.
        return datetime.fromtimestamp(float(date), UTC)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _in_words(started: object) -> datetime | None:
    try:
        found = datetime.strptime(str(started), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return None
    return found
