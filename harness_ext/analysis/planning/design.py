"""A planned comparison, and the table that says how many questions it needs or which gain it finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness_ext.analysis.planning.assumptions import Assumption
from harness_ext.analysis.planning.clustered import ClusteredAnswers, ClusterShape, PilotDifferences
from harness_ext.analysis.planning.models import IndependentQuestions, Model, Power, smallest_gain


@dataclass(frozen=True)
class Answers:
    """Right and wrong answers.

    baseline: the share of right answers of the reference.
    assumptions: how many questions change; the first is the one to plan with.
    shape: how questions form clusters. Default None: they are independent.
    icc: the intra-cluster correlation of the differences. Default 0.
    """

    baseline: float
    assumptions: tuple[Assumption, ...]
    shape: ClusterShape | None = None
    icc: float = 0.0


@dataclass(frozen=True)
class Design:
    """What a comparison is planned with.

    data: right and wrong answers, or the differences of a pilot.
    alpha: the significance level of the first step of Holm's correction.
    power: the probability with which the gain has to be found.
    gain: the gain to find. Default None: what `questions` find.
    questions: the number of questions. Default None: what `gain` needs.
    seed: the seed of simulations. Default 0.
    """

    data: Answers | PilotDifferences
    alpha: float
    power: float
    gain: float | None = None
    questions: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """What follows from one assumption.

    assumption: the assumption, in words.
    share: the share of the questions that change; None for graded values.
    up, down: the shares that get right and wrong.
    gain: the gain: the given one, or the smallest that is found; None if even the largest is not.
    questions: the number of questions: the given one, or the smallest that suffices; None if there is none.
    clusters: how many clusters these are; None if questions are independent.
    power: the power of that number and that gain; None if one of them is missing.
    needed: if both are given, the number of questions that would suffice; None if there is none.
    """

    assumption: str
    share: float | None
    up: float | None
    down: float | None
    gain: float | None
    questions: int | None
    clusters: int | None
    power: Power | None
    needed: int | None = None


@dataclass(frozen=True)
class Table:
    """What follows from all assumptions.

    rows: the rows; the first is the one to plan with.
    impossible: the assumptions that the baseline does not allow.
    """

    rows: tuple[Row, ...]
    impossible: tuple[str, ...] = ()


def solve(design: Design) -> Table:
    """Return the numbers of questions, or the gains, of a design.

    Raises ValueError if it has neither a gain nor a number of questions.
    """
    if design.gain is None and design.questions is None:
        raise ValueError("a design needs a gain or a number of questions")
    rows: list[Row] = []
    impossible: list[str] = []
    for assumption, model in _models(design):
        row = _row(design, assumption, model)
        baseline = design.data.baseline if isinstance(design.data, Answers) else 0.0
        if assumption is not None and row.gain is not None and not assumption.is_possible(baseline, row.gain):
            impossible.append(assumption.name)
            if rows:
                continue
        rows.append(row)
    return Table(tuple(rows), tuple(impossible))


def _models(design: Design) -> Iterator[tuple[Assumption | None, Model]]:
    data = design.data
    if isinstance(data, PilotDifferences):
        yield None, data
        return
    for one in data.assumptions:
        if data.shape is None:
            yield one, IndependentQuestions(one, data.baseline, design.alpha)
        else:
            yield one, ClusteredAnswers(one, data.baseline, data.shape, data.icc, design.alpha, design.seed)


def _row(design: Design, assumption: Assumption | None, model: Model) -> Row:
    gain, questions, needed = design.gain, design.questions, None
    if gain is None:
        assert questions is not None
        gain = smallest_gain(model, questions, _largest_gain(design.data), design.power)
    elif questions is None:
        questions = model.needed(gain, design.power)
    else:
        needed = model.needed(gain, design.power)
    name = "differences as in the pilot" if assumption is None else assumption.name
    share = up = down = None
    if assumption is not None and gain is not None and isinstance(design.data, Answers):
        share = assumption.share(design.data.baseline, gain)
        up, down = (share + gain) / 2, (share - gain) / 2
    power = None if gain is None or questions is None else model.power(questions, gain)
    clusters = None if questions is None else model.clusters(questions)
    return Row(name, share, up, down, gain, questions, clusters, power, needed)


def _largest_gain(data: Answers | PilotDifferences) -> float:
    if isinstance(data, Answers):
        return 1 - data.baseline
    return data.span if data.span is not None else 50 * data.differences.standard_error
