"""What a plan makes of a comparison: which results were planned, which are exploratory, and what is not as planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from harness_ext.analysis.preregistration.plan import Claim, Plan
from harness_ext.analysis.statistics.clusters import ALPHA
from harness_ext.analysis.statistics.holm import holm

Verdict = Literal["shown", "not shown", "opposite"]

_IN_WORDS: dict[Verdict, str] = {
    "shown": "a gain is shown",
    "not shown": "no difference is shown",
    "opposite": "a loss is shown, the opposite of what was claimed,",
}


class PoolLike(Protocol):
    """The pool of a row; `Pool` of a comparison is one."""

    @property
    def name(self) -> str: ...
    @property
    def tasks(self) -> tuple[str, ...]: ...


class DifferenceLike(Protocol):
    """The difference of a row; `Difference` of a comparison is one."""

    @property
    def value(self) -> float: ...
    @property
    def p_value(self) -> float: ...
    @property
    def test(self) -> str: ...


class RowLike(Protocol):
    """A row of a comparison; `ComparisonRow` is one. The package of comparisons is above this one."""

    @property
    def pool(self) -> PoolLike: ...
    @property
    def metric(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def difference(self) -> DifferenceLike | None: ...


class ComparisonLike(Protocol):
    """A comparison; `Comparison` is one."""

    @property
    def runs(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> Sequence[RowLike]: ...
    @property
    def clusters(self) -> str | None: ...


@dataclass(frozen=True)
class ReviewedRow:
    """A difference of a comparison, seen from the plan.

    pool, metric, run: the row.
    claim: the claim that it tests; None for an exploratory row.
    gain: the difference, positive if the run is better than the reference.
    p_value: its p-value.
    adjusted: its p-value after Holm's correction over the planned claims; None for an exploratory row.
    verdict: what it says about the claim at the plan's alpha; None for an exploratory row.
    """

    pool: str
    metric: str
    run: str
    claim: Claim | None
    gain: float
    p_value: float
    adjusted: float | None = None
    verdict: Verdict | None = None

    @property
    def is_planned(self) -> bool:
        """Return whether the row tests a claim of the plan."""
        return self.claim is not None


@dataclass(frozen=True)
class Review:
    """A comparison, seen from the plan.

    plan: the plan.
    rows: every row that has a difference, in the order of the comparison.
    deviations: one sentence for everything that is not as planned.
    unknown: one sentence for everything that cannot be checked.
    """

    plan: Plan
    rows: tuple[ReviewedRow, ...]
    deviations: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    def row(self, pool: str, metric: str, run: str) -> ReviewedRow | None:
        """Return what is said about a row of the comparison; None for the reference's rows."""
        return next((row for row in self.rows if (row.pool, row.metric, row.run) == (pool, metric, run)), None)

    def notes(self) -> tuple[str, ...]:
        """Return the review in sentences: the claims first, then what is exploratory, then the deviations."""
        plan, count = self.plan, len(self.plan.claims)
        over = f", Holm over {count} claims" if count > 1 else ""
        lines = [
            f"Planned on {plan.written}: {row.pool}, {_short(row.metric)}, {row.run} against {plan.reference}: "
            f"{row.gain:+.3f}, p = {row.adjusted:.3g}{over}: {_IN_WORDS[row.verdict]} at the level {plan.alpha:g}."
            for row in self.rows
            if row.verdict is not None
        ]
        if exploratory := sum(row.claim is None for row in self.rows):
            lines.append(
                f"Exploratory: {exploratory} of {len(self.rows)} differences were not planned. Their p-values do not "
                "account for having been chosen among others."
            )
        lines += [f"Not as planned: {sentence}." for sentence in self.deviations]
        return (*lines, *(f"Unknown: {sentence}." for sentence in self.unknown))


def planned_notes(
    plan: Plan, comparison: ComparisonLike, started: Mapping[str, datetime | None] | None = None, alpha: float = ALPHA
) -> Review:
    """Return which rows of a comparison were planned, with p-values over the planned ones, and all deviations.

    plan: the plan.
    comparison: the comparison.
    started: when each run was started, by its label, as `start_times` returns it. Default: nothing is known.
    alpha: the level at which the comparison's own intervals and marks were made. Default 0.05.

    A planned claim for which the comparison has no row, or several, counts in Holm's correction as if its p-value were
    1: leaving a claim out must not make the others look better.
    """
    deviations: list[str] = []
    if comparison.runs[:1] != (plan.reference,):
        other = comparison.runs[0] if comparison.runs else "nothing"
        deviations.append(f"the reference is {other} instead of {plan.reference}, so that no claim is tested")
        found: dict[Claim, RowLike] = {}
    else:
        found = _tested(plan, comparison, deviations)
    if comparison.clusters != plan.cluster:
        deviations.append(
            f"the clusters are {_clusters(comparison.clusters)} instead of {_clusters(plan.cluster)}, which changes "
            "the test"
        )
    if alpha != plan.alpha:
        deviations.append(
            f"the comparison's intervals belong to the level {alpha:g}, and the plan's level is {plan.alpha:g}: judge "
            "the claims by their p-values"
        )
    for claim, row in found.items():
        deviations += _differing(plan, claim, row)
    times, unknown = dict(started or {}), []
    for run in (label for label in (plan.reference, *plan.runs) if label in comparison.runs):
        when = times.get(run)
        if when is None:
            unknown.append(f"when {run} was started, so that it may have been known before the plan was written")
        elif when < plan.time:
            deviations.append(
                f"{run} was started on {when.isoformat(timespec='seconds')}, before the plan was written on "
                f"{plan.written}"
            )
    return Review(plan, _rows(plan, comparison, found), tuple(dict.fromkeys(deviations)), tuple(unknown))


def _tested(plan: Plan, comparison: ComparisonLike, deviations: list[str]) -> dict[Claim, RowLike]:
    """Return the row that tests each claim. Claims without a row, or with several, are deviations."""
    deviations += [f"the run {run} is missing" for run in plan.runs if run not in comparison.runs]
    found: dict[Claim, RowLike] = {}
    for claim in plan.claims:
        rows = [row for row in comparison.rows if row.difference is not None and _fits(claim, row)]
        if len(rows) == 1:
            found[claim] = rows[0]
        elif rows:
            names = ", ".join(row.metric for row in rows)
            deviations.append(
                f"the claim ({claim}) fits several metrics ({names}) and did not say which, so that none of them is "
                "planned"
            )
        elif claim.run in comparison.runs:
            deviations.append(f"the claim ({claim}) is not tested: there is no such pool or metric")
    return found


def _fits(claim: Claim, row: RowLike) -> bool:
    name, _, _ = row.metric.rpartition(",")
    return (claim.pool, claim.run) == (row.pool.name, row.run) and claim.metric in (row.metric, name)


def _differing(plan: Plan, claim: Claim, row: RowLike) -> list[str]:
    """Return how the test of a claim differs from the plan."""
    found = []
    if row.number < plan.questions:
        found.append(
            f"{claim.pool}, {_short(row.metric)} has {row.number} questions, fewer than the planned {plan.questions}"
        )
    elif row.number > plan.questions:
        found.append(
            f"{claim.pool}, {_short(row.metric)} has {row.number} questions, more than the planned {plan.questions}: "
            "if they were added after looking at results, the p-value is too small"
        )
    if row.difference is not None and row.difference.test != plan.test:
        found.append(
            f"{claim.pool}, {_short(row.metric)} was tested by the {row.difference.test} instead of the {plan.test}"
        )
    planned = plan.groups.get(claim.pool)
    if planned is not None and set(planned) != set(row.pool.tasks):
        found.append(f"{claim.pool} consists of {', '.join(row.pool.tasks)} instead of {', '.join(planned)}")
    return found


def _rows(plan: Plan, comparison: ComparisonLike, found: Mapping[Claim, RowLike]) -> tuple[ReviewedRow, ...]:
    p_values = [
        1.0 if (row := found.get(claim)) is None or row.difference is None else row.difference.p_value
        for claim in plan.claims
    ]
    adjusted = dict(zip(plan.claims, holm(p_values), strict=True))
    claims = {(row.pool.name, row.metric, row.run): claim for claim, row in found.items()}
    reviewed = []
    for row in comparison.rows:
        if row.difference is None:
            continue
        gain = row.difference.value if row.higher_is_better else -row.difference.value
        claim = claims.get((row.pool.name, row.metric, row.run))
        p = adjusted[claim] if claim is not None else None
        verdict = None if p is None else _verdict(p < plan.alpha, gain)
        reviewed.append(
            ReviewedRow(row.pool.name, row.metric, row.run, claim, gain, row.difference.p_value, p, verdict)
        )
    return tuple(reviewed)


def _verdict(is_significant: bool, gain: float) -> Verdict:
    if not is_significant:
        return "not shown"
    return "shown" if gain > 0 else "opposite"


def _clusters(field: str | None) -> str:
    return f"defined by {field}" if field else "single questions"


def _short(metric: str) -> str:
    return metric.removesuffix(",none")
