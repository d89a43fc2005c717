"""The arguments of `harness-ext plan`, all of which are checked before anything is read or computed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.analysis.planning.assumptions import most_that_change
from harness_ext.analysis.planning.models import least_clusters
from harness_ext.analysis.preregistration.plan import Claim
from harness_ext.analysis.scoring.command import add_task_arguments
from harness_ext.errors import HarnessExtError
from harness_ext.options import build, known_names

_OUTPUT_NEEDS = ("task", "metric", "reference", "run")


class ArgumentsError(HarnessExtError):
    """The arguments do not fit. `problems` lists everything that is wrong, each with its remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{head} with the arguments:", *(f"  - {problem}" for problem in problems)]))


@dataclass(frozen=True)
class Numbers:
    """The numbers among the arguments; None stands for those that were not given.

    baseline: the share of right answers of the reference.
    gain: the smallest gain of interest.
    questions: the number of questions, to know which gain they find.
    discordant: the share of the questions that change, in both directions.
    clusters: the number of clusters, if it is fixed.
    cluster_size: the number of questions per cluster.
    icc: the intra-cluster correlation of the differences.
    power: the probability with which the gain has to be found. Default 0.8.
    alpha: the probability of any false claim. Default 0.05.
    comparisons: the number of claims.
    cost_questions: how many questions to ask for an estimate of the cost. Default 16.
    simulation_seed: the seed of simulations. Default 0.
    """

    baseline: float | None = None
    gain: float | None = None
    questions: int | None = None
    discordant: float | None = None
    clusters: int | None = None
    cluster_size: int | None = None
    icc: float | None = None
    power: float = 0.8
    alpha: float = 0.05
    comparisons: int | None = None
    cost_questions: int = 16
    simulation_seed: int = 0


@dataclass(frozen=True)
class Arguments:
    """The checked arguments.

    numbers: the numbers.
    pilot: the runs of the pilot; empty if there is none.
    cluster: what defines the clusters.
    tasks, metrics, reference, runs, groups, claims: what is claimed, as in `Plan`; empty or None where it was not said.
    output: the file to write the plan into.
    json: whether to print JSON.
    lm_eval: lm-eval's arguments of a run whose cost is to be estimated.
    rest: all arguments as argparse returns them.
    """

    numbers: Numbers
    pilot: tuple[str, ...]
    cluster: str | None
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    reference: str | None
    runs: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    claims: tuple[Claim, ...]
    output: Path | None
    json: bool
    lm_eval: tuple[str, ...]
    rest: argparse.Namespace = field(repr=False, compare=False, default_factory=argparse.Namespace)


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Return the arguments. Raises ArgumentsError, which lists everything that is wrong."""
    words = list(arguments)
    split = words.index("--") if "--" in words else len(words)
    args = parser().parse_args(words[:split])
    problems: list[str] = []
    given = {name: value for name in known_names(Numbers) if (value := getattr(args, name)) is not None}
    # One by one, so that a number that cannot be read does not hide what is wrong with the others.
    readable = [name for name in given if build(Numbers, {name: given[name]}, problems, "--") is not None]
    numbers = build(Numbers, {name: given[name] for name in readable}, problems, "--") or Numbers()
    groups: dict[str, tuple[str, ...]] = {}
    for text in args.group:
        name, _, members = text.partition("=")
        if not name or not all(members.split(",")):
            problems.append(f"`--group {text}`: expected NAME=TASK,TASK")
        groups[name] = tuple(members.split(","))
    tasks = tuple(dict.fromkeys([*args.task, *groups]))
    runs = tuple(dict.fromkeys(args.run))
    claims = tuple(Claim(*words) for words in args.primary) or tuple(
        Claim(task, metric, run) for task in tasks for metric in dict.fromkeys(args.metric) for run in runs
    )
    found = Arguments(
        numbers, tuple(args.pilot), args.cluster, tasks, tuple(dict.fromkeys(args.metric)), args.reference,
        runs, groups, claims, args.output, args.json, tuple(words[split + 1 :]), args,
    )  # fmt: skip
    problems += _range_problems(numbers)
    problems += _size_problems(found, frozenset(given))
    problems += _claim_problems(found)
    if args.output is not None and args.output.exists() and not args.overwrite:
        problems.append(
            f"`--output {args.output}`: the file exists, and a plan that is changed later is none: name another file, "
            "or give --overwrite"
        )
    if split == len(words) - 1:
        problems.append("`--` is followed by nothing: give lm-eval's arguments of the run after it, or leave it out")
    if problems:
        raise ArgumentsError(problems)
    return found


def _range_problems(n: Numbers) -> list[str]:
    """Return the numbers that are out of their range."""
    ranges: dict[str, tuple[Callable[[Any], bool], str]] = {
        "baseline": (lambda v: 0 <= v < 1, "0 or more and below 1"),
        "gain": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
        "questions": (lambda v: v >= 1, "1 or more"),
        "discordant": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
        "clusters": (lambda v: v >= 1, "1 or more"),
        "cluster_size": (lambda v: v >= 1, "1 or more"),
        "icc": (lambda v: 0 <= v <= 1, "between 0 and 1"),
        "power": (lambda v: 0 < v < 1, "between 0 and 1"),
        "alpha": (lambda v: 0 < v < 1, "between 0 and 1"),
        "comparisons": (lambda v: v >= 1, "1 or more"),
        "cost_questions": (lambda v: v >= 1, "1 or more"),
        "simulation_seed": (lambda v: v >= 0, "0 or more"),
    }
    return [
        f"`--{name}={value:g}`: expected {words}"
        for name, (fits, words) in ranges.items()
        if (value := getattr(n, name)) is not None and not fits(value)
    ]


def _size_problems(found: Arguments, given: frozenset[str]) -> list[str]:
    """Return what is missing or contradictory among the numbers that decide the size.

    found: the arguments.
    given: the names of the numbers that were given, whether or not they could be read.
    """
    n, problems = found.numbers, []
    if not given & {"gain", "questions"}:
        problems.append(
            "give --gain, to know how many questions it needs, or --questions, to know which gain they find"
        )
    if not found.pilot and "baseline" not in given:
        problems.append("give --baseline, the share of right answers of the reference, or --from with a pilot")
    if {"clusters", "cluster_size"} <= given:
        problems.append(
            "--clusters and --cluster_size exclude each other: give --clusters if their number is fixed, and "
            "--cluster_size if more questions mean more clusters"
        )
    sized = bool(given & {"clusters", "cluster_size"})
    piloted = bool(found.pilot) and found.cluster is not None
    if sized and "icc" not in given and not piloted:
        problems.append(
            "clusters need --icc, the intra-cluster correlation of the differences, or a pilot with --cluster"
        )
    if not sized and not piloted and "icc" in given:
        problems.append("--icc needs clusters: give --clusters or --cluster_size, or a pilot with --cluster")
    if found.cluster is not None and not sized and not found.pilot:
        problems.append("--cluster needs the size of the clusters: give --cluster_size or --clusters, or a pilot")
    level = n.alpha / (n.comparisons or max(1, len(found.claims)))
    if n.clusters is not None and 0 < level < 1 and n.clusters < (least := least_clusters(level)):
        problems.append(
            f"--clusters {n.clusters}: no difference can be significant at the level {level:.3g}: the sign-flip test "
            f"needs {least} clusters for that"
        )
    if n.baseline is not None and n.gain is not None and not found.pilot and 0 <= n.baseline < 1 and n.gain > 0:
        problems += possible(n.baseline, n.gain, n.discordant)
    elif n.discordant is not None and n.gain is not None and n.discordant < n.gain:
        problems.append(f"--discordant {n.discordant:g} is less than the gain: at least as many questions change")
    return problems


def possible(baseline: float, gain: float, discordant: float | None) -> list[str]:
    """Return what is impossible about a gain and a share of changed questions, given the baseline."""
    if gain > 1 - baseline + 1e-9:
        return [f"a gain of {gain:g} over {baseline:.3g} is impossible: at most {1 - baseline:.3g} can be gained"]
    most = most_that_change(baseline, gain)
    if discordant is not None and not gain - 1e-9 <= discordant <= most + 1e-9:
        return [
            f"--discordant {discordant:g} is impossible: with a gain of {gain:g} over {baseline:.3g}, between {gain:g} "
            f"and {most:.3g} of the questions change"
        ]
    return []


def _claim_problems(found: Arguments) -> list[str]:
    """Return what is missing or contradictory about the claims."""
    problems = []
    if found.reference is not None and found.reference in found.runs:
        problems.append(f"--run {found.reference} is the reference too: a run is not compared with itself")
    for claim in found.claims:
        for option, value, known in (
            ("task", claim.pool, found.tasks), ("metric", claim.metric, found.metrics), ("run", claim.run, found.runs),
        ):  # fmt: skip
            if value not in known:
                problems.append(f"--primary {claim}: {value} is none of the given --{option}s")
    number = len(found.claims)
    if found.numbers.comparisons is not None and number and found.numbers.comparisons != number:
        problems.append(
            f"--comparisons {found.numbers.comparisons} contradicts the {number} claims that the other arguments name: "
            "leave it out, or name the claims with --primary"
        )
    if found.output is None:
        return problems
    # A pilot of two runs names all of these.
    missing = [
        name
        for name, value in zip(_OUTPUT_NEEDS, (found.tasks, found.metrics, found.reference, found.runs), strict=True)
        if not value and not found.pilot
    ]
    if missing:
        problems.append(
            f"--output needs {', '.join(f'--{name}' for name in missing)}: a plan says what will be compared"
        )
    n = found.numbers
    if (n.clusters is not None or n.cluster_size is not None) and found.cluster is None:
        problems.append("--output needs --cluster: a plan says what defines the clusters")
    return problems


def parser() -> argparse.ArgumentParser:
    """Return the parser. Numbers are parsed later, so that all problems can be listed together."""
    parser = argparse.ArgumentParser(
        prog="harness-ext plan",
        usage="harness-ext plan (--baseline P | --from RUN [RUN]) (--gain G | --questions N) [OPTIONS] "
        "[-- LM-EVAL'S ARGUMENTS]",
        description="Say how many questions a claim needs, or which gain a number of questions finds, what they cost, "
        "and write the plan down before the run.",
        epilog="Arguments after -- are those of `lm_eval` for a run whose cost is estimated. See docs/plan.md.",
        allow_abbrev=False,
    )
    size = parser.add_argument_group("size")
    size.add_argument("--baseline", metavar="P", help="the reference's share of right answers")
    size.add_argument("--gain", metavar="G", help="the smallest gain of interest; says how many questions it needs")
    size.add_argument("--questions", metavar="N", help="the number of questions; says which gain they find")
    size.add_argument("--discordant", metavar="D", help="the share of questions that change, in both directions")
    size.add_argument("--cluster_size", metavar="S", help="questions per cluster, if more questions mean more clusters")
    size.add_argument("--clusters", metavar="N", help="the number of clusters, if it is fixed")
    size.add_argument("--icc", metavar="R", help="the intra-cluster correlation of the differences")
    size.add_argument("--power", metavar="P", help="the probability with which the gain is found (default: 0.8)")
    size.add_argument("--alpha", metavar="A", help="the probability of any false claim (default: 0.05)")
    size.add_argument("--comparisons", metavar="K", help="the number of claims (default: those that are named, or 1)")
    size.add_argument("--simulation_seed", metavar="N", help="the seed of simulations (default: 0)")
    pilot = parser.add_argument_group("pilot and cost")
    pilot.add_argument(
        "--from", dest="pilot", nargs="+", default=[], metavar="[LABEL=]RUN",
        help="one or two runs of a pilot, the reference first: run directories, or lm-eval results with samples",
    )  # fmt: skip
    pilot.add_argument(
        "--cost_questions", metavar="N", help="how many questions to ask of the run after -- (default: 16)"
    )
    claims = parser.add_argument_group("claims")
    claims.add_argument("--task", action="append", default=[], metavar="TASK", help="a task or group (repeatable)")
    claims.add_argument(
        "--group", action="append", default=[], metavar="NAME=TASK,TASK", help="a group of tasks (repeatable)"
    )
    claims.add_argument(
        "--metric", action="append", default=[], metavar="METRIC[,FILTER]", help="a metric (repeatable)"
    )
    claims.add_argument("--reference", metavar="LABEL", help="the run that the others are compared with")
    claims.add_argument("--run", action="append", default=[], metavar="LABEL", help="another run (repeatable)")
    claims.add_argument(
        "--primary", action="append", default=[], nargs=3, metavar=("TASK", "METRIC", "RUN"),
        help="a claim (repeatable; default: every run on every task by every metric)",
    )  # fmt: skip
    claims.add_argument(
        "--cluster", metavar="FIELD", help="what defines the clusters: a field of the documents, a template, or `task`"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--output", type=Path, metavar="FILE", help="write the plan into this file")
    output.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_task_arguments(parser)
    return parser
