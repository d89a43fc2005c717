"""From the arguments and the pilot to the design of a comparison and to its plan."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import harness_ext
from harness_ext.analysis.planning.arguments import Arguments, ArgumentsError, possible
from harness_ext.analysis.planning.assumptions import (
    Assumption,
    independent_answers,
    only_gains,
    this_share,
    twice_the_gain,
)
from harness_ext.analysis.planning.clustered import ClusterShape, PilotDifferences
from harness_ext.analysis.planning.design import Answers, Design, Row
from harness_ext.analysis.planning.pilot import Pilot
from harness_ext.analysis.preregistration.plan import Assumptions, Claim, Plan, name_of_test


@dataclass(frozen=True)
class Claims:
    """What is claimed; empty or None where neither the arguments nor the pilot say it.

    tasks, metrics, reference, runs, claims: as in `Plan`.
    """

    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    reference: str | None
    runs: tuple[str, ...]
    claims: tuple[Claim, ...]


def claims_of(arguments: Arguments, pilot: Pilot | None) -> Claims:
    """Return what is claimed; what the arguments do not say is what the pilot compared."""
    tasks, metrics = arguments.tasks, arguments.metrics
    reference, runs = arguments.reference, arguments.runs
    if pilot is not None:
        tasks, metrics = tasks or pilot.tasks, metrics or (pilot.metric,)
        reference = reference or pilot.runs[0]
        runs = runs or tuple(run for run in pilot.runs[1:] if run != reference)
    claims = arguments.claims or tuple(Claim(t, m, r) for t in tasks for m in metrics for r in runs)
    return Claims(tasks, metrics, reference, runs, claims)


def design_of(arguments: Arguments, pilot: Pilot | None, comparisons: int) -> Design:
    """Return the design of a comparison.

    arguments: the arguments.
    pilot: what the pilot says, or None.
    comparisons: the number of claims; Holm's first step tests at alpha divided by it.

    Raises ArgumentsError, which lists everything that does not fit.
    """
    n = arguments.numbers
    alpha = n.alpha / comparisons
    problems: list[str] = []
    data: Answers | PilotDifferences | None
    if pilot is not None and not pilot.is_binary:
        data = _graded(arguments, pilot, alpha, problems)
    else:
        data = _answers(arguments, pilot, problems)
    if data is None or problems:
        raise ArgumentsError(problems)
    return Design(data, alpha, n.power, n.gain, n.questions, n.simulation_seed)


def _graded(arguments: Arguments, pilot: Pilot, alpha: float, problems: list[str]) -> PilotDifferences | None:
    n = arguments.numbers
    unused = [
        name for name in ("baseline", "discordant", "clusters", "cluster_size", "icc") if getattr(n, name) is not None
    ]
    if unused:
        problems.append(
            f"{pilot.metric} is graded, so that the size follows from the pilot's own differences: leave out "
            f"{', '.join(f'--{name}' for name in unused)}"
        )
    if pilot.differences is None:
        problems.append(
            f"{pilot.metric} is graded, so that the size depends on the spread of the differences: give --from two runs"
        )
        return None
    if n.gain is not None and pilot.span is not None and n.gain > pilot.span:
        problems.append(f"--gain {n.gain:g} is more than the scale of {pilot.metric} allows, {pilot.span:.4g}")
    return PilotDifferences(pilot.differences, pilot.span, arguments.cluster is not None, alpha, n.simulation_seed)


def _answers(arguments: Arguments, pilot: Pilot | None, problems: list[str]) -> Answers | None:
    n = arguments.numbers
    baseline = n.baseline if n.baseline is not None else pilot.baseline if pilot is not None else None
    assert baseline is not None, "the arguments have been checked"
    if n.gain is not None:
        found = possible(baseline, n.gain, n.discordant)
    else:
        found = [] if baseline < 1 else ["the reference is right on every question, so that nothing can be gained"]
    problems += found
    shape, icc = _clusters(arguments, pilot, problems)
    return None if problems else Answers(baseline, tuple(_assumptions(arguments, pilot, baseline)), shape, icc)


def _clusters(arguments: Arguments, pilot: Pilot | None, problems: list[str]) -> tuple[ClusterShape | None, float]:
    n = arguments.numbers
    if n.clusters is not None:
        shape = ClusterShape((1,), n.clusters)
    elif n.cluster_size is not None:
        shape = ClusterShape((n.cluster_size,))
    elif pilot is not None and pilot.sizes is not None:
        shape = ClusterShape(pilot.sizes)
    else:
        return None, 0.0
    icc = n.icc if n.icc is not None else pilot.icc if pilot is not None else None
    if icc is None and shape.number is None and set(shape.sizes) == {1}:
        icc = 0.0  # no cluster has two questions that could be alike
    if icc is None:
        problems.append(
            "the pilot does not show how alike the questions of a cluster are, because no cluster has two of them or "
            "nothing differs: give --icc"
        )
    return shape, icc or 0.0


def _assumptions(arguments: Arguments, pilot: Pilot | None, baseline: float) -> Iterator[Assumption]:
    """Yield the assumptions about how many questions change, the one to plan with first."""
    given = arguments.numbers.discordant
    if given is not None:
        yield this_share(given, "as given")
    if pilot is not None and pilot.changed is not None and pilot.changed_interval is not None:
        share, ends = pilot.changed / pilot.number, pilot.changed_interval
        yield this_share(share, f"the pilot's: {pilot.changed} of {pilot.number} change")
        yield this_share(ends.low, "lower end of the pilot's interval")
        yield this_share(ends.high, "upper end of the pilot's interval")
        yield from (only_gains(), twice_the_gain(), independent_answers(baseline))
    elif given is not None:
        yield from (only_gains(), twice_the_gain(), independent_answers(baseline))
    else:
        # Without a measured share, plan with the largest that two runs usually have.
        yield from (independent_answers(baseline), twice_the_gain(), only_gains())


def tested_by(design: Design, arguments: Arguments) -> str:
    """Return the name of the test that `compare` will use."""
    is_binary = isinstance(design.data, Answers)
    if isinstance(design.data, Answers):
        return name_of_test(is_binary, design.data.shape is not None)
    return name_of_test(is_binary, arguments.cluster is not None)


def plan_of(arguments: Arguments, design: Design, row: Row, claims: Claims, pilot: Pilot | None) -> Plan:
    """Return the plan.

    arguments: the arguments.
    design: the design of the comparison.
    row: what follows from the assumption to plan with.
    claims: what is claimed.
    pilot: what the pilot says, or None.

    Raises ArgumentsError if there is no number of questions or gain to plan, or if it is not said what is claimed.
    """
    problems = []
    if row.questions is None or row.gain is None:
        problems.append("no plan was written, because nothing suffices: give another --gain, --power or --questions")
    if claims.reference is None or not claims.claims:
        problems.append("no plan was written, because the pilot is a single run: name the other ones with --run")
    elif claims.reference in claims.runs:
        problems.append(f"--run {claims.reference} is the pilot's reference too: name the reference with --reference")
    given, named = arguments.numbers.comparisons, len(claims.claims)
    if given is not None and named and given != named:
        problems.append(
            f"no plan was written: --comparisons is {given}, but the plan names {named} claim{'s' * (named > 1)}: name "
            "all of them with --task, --metric and --run, or with --primary"
        )
    if problems or row.questions is None or row.gain is None or claims.reference is None:
        raise ArgumentsError(problems)
    answers = design.data if isinstance(design.data, Answers) else None
    shape = answers.shape if answers else design.data.shape if isinstance(design.data, PilotDifferences) else None
    clustered = arguments.cluster is not None
    return Plan(
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        harness_ext=harness_ext.__version__,
        commit=checkout_commit(),
        tasks=claims.tasks,
        groups=dict(arguments.groups),
        metrics=claims.metrics,
        reference=claims.reference,
        runs=claims.runs,
        claims=claims.claims,
        test=tested_by(design, arguments),
        cluster=arguments.cluster,
        clusters=row.clusters if clustered else None,
        alpha=arguments.numbers.alpha,
        power=design.power,
        gain=row.gain,
        questions=row.questions,
        assumptions=Assumptions(
            discordant=row.assumption,
            baseline=answers.baseline if answers else None,
            share=row.share,
            cluster_size=row.questions / row.clusters if clustered and row.clusters and shape else None,
            icc=answers.icc if answers and answers.shape else None,
            pilot=arguments.pilot,
            simulation_seed=design.seed if row.power and row.power.error is not None else None,
        ),
    )


def checkout_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with `-dirty` if it was changed, or None."""
    folder = Path(harness_ext.__file__).parent
    try:
        # An installed package may lie inside somebody else's repository, which does not track its files.
        for command in (
            ["ls-files", "--error-unmatch", "__init__.py"],
            ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        ):
            done = subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=30, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
