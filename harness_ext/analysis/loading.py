"""Runs in notebooks: data frames of their questions, turns and scores. See docs/notebooks.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.analysis.compare.run_directories import is_run
from harness_ext.analysis.find_runs import find_runs
from harness_ext.analysis.scoring.replay import ScoringError
from harness_ext.analysis.scoring.score import read_config, read_scored, score_run
from harness_ext.analysis.tables import QUESTIONS, SCORES, TURNS, TYPES, question_rows, score_rows, turn_rows
from harness_ext.config.run_options import RUNS
from harness_ext.errors import HarnessExtError
from harness_ext.terminal import clean, safe_line, shell_word

if TYPE_CHECKING:
    import pandas as pd

_PANDAS = {int: "Int64", float: "float64", bool: "boolean", str: "object"}


class UnknownRun(HarnessExtError):
    """A run cannot be loaded. The message names cause and remedy."""


@dataclass(frozen=True)
class LoadedRun:
    """A run directory as data frames, each of which is read when it is first used, and then kept.

    path: the run directory.
    label: the run's label.
    config: its `config.json`.

    In a notebook, the value of an expression that is a run is shown as a table of its figures.
    """

    path: Path
    label: str
    config: Mapping[str, Any] = field(repr=False)

    @cached_property
    def questions(self) -> pd.DataFrame:
        """Return one row per question, with the columns of `harness_ext.analysis.tables.QUESTIONS`."""
        return _frame(question_rows(self.path), QUESTIONS)

    @cached_property
    def turns(self) -> pd.DataFrame:
        """Return one row per turn, with the columns of `harness_ext.analysis.tables.TURNS`."""
        return _frame(turn_rows(self.path), TURNS)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Return one row per answer and metric, with the columns of `harness_ext.analysis.tables.SCORES`.

        Raises ScoringError if the run has no scores, or older ones than its transcripts.
        """
        return _frame(score_rows(self._scored[1]), SCORES)

    @property
    def figures(self) -> Mapping[str, Any]:
        """Return what `harness-ext score` computed, the content of `scores.json`. Raises as `scores` does."""
        return self._scored[0]

    @property
    def _scored(self) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        found = read_scored(self.path)
        if found is None:
            raise ScoringError(
                f"{self.path} has no scores, or older ones than its transcripts: run `harness-ext score "
                f"{shell_word(self.path)}`, or load it with load(…, score=True)"
            )
        return found

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the figures of each task, or why there are none, with every text escaped."""
        title = f"{self.label}: {self.path}"
        try:
            rows = list(_summary(self.figures))
        except HarnessExtError as error:
            return f"<p><strong>{_shown(title)}</strong></p><p>{_shown(error)}</p>"
        head = ("task", "metric", "questions", "failed", "first draft", "final")
        lines = [_line("th", head), *(_line("td", row) for row in rows)]
        return f"<table><caption>{_shown(title)}</caption>{''.join(lines)}</table>"


def load(run: str | Path, score: bool = False) -> LoadedRun:
    """Return a run for use in a notebook or a script.

    run: a run directory, its folder's name in `harness_ext_runs`, or a label; of several runs with the label, the
        newest.
    score: whether to score it first, as `harness-ext score` does, unless it has scores. Default False.

    Raises UnknownRun if there is no such run, and ScoringError if it cannot be scored.
    """
    found = find_runs(str(run))
    if not found or (Path(run).expanduser().is_dir() and not is_run(Path(run).expanduser())):
        listed = f": it contains {', '.join(map(str, found[:5]))}" if found else f", and {RUNS} has none of this label"
        raise UnknownRun(f"{run} is no run directory{listed}. Name one")
    path = found[-1]
    if score and read_scored(path) is None:
        score_run(path)
    config = read_config(path)
    return LoadedRun(path, str(config.get("label") or path.name), config)


def _frame(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd

    # Without the types, pandas would make numbers that may be unknown floats, and truth values objects.
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    return pd.DataFrame({name: pd.Series(some, dtype=_PANDAS[TYPES[name]]) for name, some in values.items()})


def _summary(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for task, found in figures["tasks"].items():
        for metric, one in found["metrics"].items():
            values = ("—" if one[name] is None else f"{one[name]:.3f}" for name in ("first_draft", "final"))
            yield (task, metric.removesuffix(",none"), str(found["questions"]), str(found["failed"]), *values)


def _line(cell: str, values: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{_shown(value)}</{cell}>' for value in values)}</tr>"


def _shown(text: object) -> str:
    return escape(safe_line(clean(text)))
