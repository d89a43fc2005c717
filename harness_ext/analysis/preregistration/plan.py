"""The plan of a claim: what will be compared, on how many questions, and by which test."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness_ext.analysis.preregistration.strict import parse, read
from harness_ext.errors import HarnessExtError
from harness_ext.records.run_directory import write_json
from harness_ext.terminal import outside

FORMAT = 1
TESTS = ("exact McNemar test", "sign-flip test", "sign-flip test over clusters")
"""The names that `harness_ext.analysis.statistics` gives to its tests."""


class PlanError(HarnessExtError):
    """A plan cannot be read or written. The message names the file, everything that is wrong, and what to do."""


@dataclass(frozen=True)
class Claim:
    """One planned comparison.

    pool: the task or group whose questions are compared, as `compare` names it.
    metric: the metric, as `metric` or `metric,filter`.
    run: the label of the run that is compared with the reference.
    """

    pool: str
    metric: str
    run: str

    def __str__(self) -> str:
        return f"{self.pool}, {self.metric}, {self.run}"


@dataclass(frozen=True)
class Assumptions:
    """What the size was computed from. None stands for what was not assumed.

    discordant: how many questions change, in words.
    baseline: the share of right answers of the reference.
    share: the share of the questions that change.
    cluster_size: the mean number of questions per cluster.
    icc: the intra-cluster correlation of the differences.
    pilot: the runs that these came from; empty if they were given.
    simulation_seed: the seed of the simulation.
    """

    discordant: str | None = None
    baseline: float | None = None
    share: float | None = None
    cluster_size: float | None = None
    icc: float | None = None
    pilot: tuple[str, ...] = ()
    simulation_seed: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is claimed, and how it will be tested, written down before the run.

    written: when, in ISO 8601 with the offset from UTC.
    harness_ext: the version of this package.
    commit: the commit of this package's checkout; None for an installation.
    tasks: the tasks and groups of tasks that will be compared.
    groups: the tasks of each pool that the plan itself defines.
    metrics: the metrics, as `metric` or `metric,filter`.
    reference: the label of the run that the others are compared with.
    runs: the labels of the other runs.
    claims: the primary comparisons. All others are exploratory.
    test: the name of the test.
    cluster: what defines the clusters, as for `compare --cluster`; None if questions are independent.
    clusters: how many clusters there will be; None if questions are independent.
    alpha: the probability of any false claim, for all claims together (Holm's correction).
    power: the probability with which the smallest gain of interest is found.
    gain: the smallest gain of interest.
    questions: how many questions each claim is tested on.
    assumptions: what the size was computed from.
    format: the version of the file's format.
    """

    written: str
    harness_ext: str
    commit: str | None
    tasks: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    metrics: tuple[str, ...]
    reference: str
    runs: tuple[str, ...]
    claims: tuple[Claim, ...]
    test: str
    cluster: str | None
    clusters: int | None
    alpha: float
    power: float
    gain: float
    questions: int
    assumptions: Assumptions = Assumptions()
    format: int = FORMAT

    @property
    def time(self) -> datetime:
        """Return when the plan was written."""
        return datetime.fromisoformat(self.written)

    def problems(self) -> list[str]:
        """Return one sentence for everything that contradicts itself or is out of range; none for a valid plan."""
        found = [] if self.format == FORMAT else [f"`format` is {self.format}, and this version reads {FORMAT}"]
        found += _time_problems(self.written)
        ranges = {
            "alpha": (0 < self.alpha < 1, "between 0 and 1"),
            "power": (0 < self.power < 1, "between 0 and 1"),
            "gain": (self.gain > 0, "above 0"),
            "questions": (self.questions >= 1, "1 or more"),
            "clusters": (self.clusters is None or self.clusters >= 1, "1 or more"),
        }
        found += [
            f"`{name}` is {getattr(self, name)}: expected {words}" for name, (fits, words) in ranges.items() if not fits
        ]
        if self.test not in TESTS:
            found.append(f"`test` is {outside(self.test, 80)!r}: expected one of {', '.join(TESTS)}")
        if (self.cluster is None) != (self.clusters is None):
            found.append("`cluster` and `clusters` belong together: give both or neither")
        if (self.cluster is None) == (self.test == TESTS[2]):
            found.append(
                f"`test` is {outside(self.test, 80)!r}, which does not fit `cluster`: {TESTS[2]} needs clusters"
            )
        for name in ("tasks", "metrics", "runs", "claims"):
            values = getattr(self, name)
            if not values:
                found.append(f"`{name}` is empty")
            if len(set(values)) < len(values):
                found.append(f"`{name}` contains something twice")
        if self.reference in self.runs:
            found.append(f"`runs` contains the reference {outside(self.reference, 80)!r}")
        found += [
            f"`groups[{outside(name, 80)}]` is not among `tasks`" for name in self.groups if name not in self.tasks
        ]
        found += [f"`groups[{outside(name, 80)}]` is empty" for name, members in self.groups.items() if not members]
        for i, claim in enumerate(self.claims):
            for name, known in (("pool", self.tasks), ("metric", self.metrics), ("run", self.runs)):
                if (value := getattr(claim, name)) not in known:
                    plural = "tasks" if name == "pool" else f"{name}s"
                    found.append(f"`claims[{i}].{name}` is {outside(value, 80)!r}, which is not among `{plural}`")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the plan as the content of its file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any, source: str = "the plan") -> Plan:
        """Return the plan that `to_json` returned.

        data: the content of a file.
        source: what it was read from, for the message.

        Raises PlanError, which lists everything that is wrong.
        """
        problems: list[str] = []
        plan = read(cls, data, problems)
        if plan is not None:
            problems = plan.problems()
        if plan is None or problems:
            raise PlanError(_message(source, problems))
        return plan

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Return the plan in a file. Raises PlanError, which lists everything that is wrong."""
        try:
            data = parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(_message(str(path), [f"it cannot be read: {outside(error)}"])) from error
        return cls.from_json(data, str(path))

    def write(self, path: Path) -> None:
        """Write the plan into a file. Raises PlanError if it could not be read again, and OSError."""
        Plan.from_json(parse(json.dumps(self.to_json())), str(path))
        write_json(path, self.to_json())


def name_of_test(is_binary: bool, is_clustered: bool) -> str:
    """Return the name of the test that `compare` uses.

    is_binary: whether the values are right or wrong.
    is_clustered: whether questions are compared by cluster.
    """
    if is_clustered:
        return TESTS[2]
    return TESTS[0] if is_binary else TESTS[1]


def _time_problems(written: str) -> list[str]:
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        return [f"`written` is {outside(written, 80)!r}: expected a date and time in ISO 8601"]
    return [] if found.tzinfo else [f"`written` is {written}: expected an offset from UTC, such as +00:00"]


def _message(source: str, problems: list[str]) -> str:
    listed = "\n".join(f"  - {problem}" for problem in problems)
    number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return (
        f"{source} is not a plan ({number}):\n{listed}\n"
        "Restore the file that `harness-ext plan --output` wrote, or write a new plan"
    )
