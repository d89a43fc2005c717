"""Analyses of runs: scores, comparisons, reports, transcripts, estimates. `load` brings a run into a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness_ext.analysis.loading import LoadedRun

__all__ = ["load"]


def load(run: str | Path, score: bool = False) -> LoadedRun:
    """Return a run as data frames: see `harness_ext.analysis.loading.load`."""
    from harness_ext.analysis import loading  # only here, so that commands do not import what they do not need

    return loading.load(run, score)
