"""What the planned questions cost, from the questions of a pilot or from a few questions of the run itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness_ext.analysis.estimate import Total, ask_sample, estimate
from harness_ext.analysis.sampling import FIGURES, Sampler
from harness_ext.errors import ConfigurationError
from harness_ext.records import Usage


@dataclass(frozen=True)
class Cost:
    """The cost of the planned questions in one run.

    run: the run's label.
    sample: how many questions it is extrapolated from.
    questions: how many questions it is extrapolated to.
    figures: calls, tokens, FLOPs, price and seconds; None stands for unknown ones.
    """

    run: str
    sample: int
    questions: int
    figures: Mapping[str, Total | None]


def cost_of(run: str, usages: Sequence[Usage], questions: int) -> Cost:
    """Return the cost of a number of questions like those of a sample.

    run: the run's label.
    usages: what the questions of the sample cost; at least one.
    questions: how many other questions there will be.
    """
    figures: dict[str, Total | None] = {}
    for name in FIGURES:
        values = [float(value) for usage in usages if (value := getattr(usage, name)) is not None]
        figures[name] = further(values, questions) if len(values) == len(usages) else None
    return Cost(run, len(usages), questions, figures)


def further(values: Sequence[float], number: int) -> Total:
    """Return the total of `number` questions other than those of the sample, with a 95 % interval.

    values: the values of the sample.
    number: how many other questions there are.

    `Total.of` extrapolates to all questions together, those of the sample included; the others are what is left.
    """
    spent, whole = sum(values), Total.of(values, len(values) + number)
    return _without(whole, spent)


def sampled_cost(run: str, arguments: Sequence[str], size: int, questions: int) -> tuple[Cost, int]:
    """Ask a few questions of a run, as `harness-ext estimate` does, and return the cost of a number of questions.

    run: the run's label.
    arguments: lm-eval's arguments for the run.
    size: how many documents to ask.
    questions: how many questions are planned.

    Also returns how many documents lm-eval's arguments select.

    Raises ConfigurationError if the arguments are wrong, and HarnessExtError if the sample cannot be answered.
    """
    return cost_of_sample(run, ask_sample(arguments, size), questions)


def cost_of_sample(run: str, sampler: Sampler, questions: int) -> tuple[Cost, int]:
    """Return the cost of a number of questions, and how many documents there are, from a sample that was asked."""
    usage, size = sampler.usage(), len(sampler.sampled)
    if not size:
        raise ConfigurationError(["the tasks contain no documents: check `--tasks` and `--limit`"])
    spent, whole = estimate(usage, size)["total"], estimate(usage, size + questions)["total"]
    figures = {name: None if whole[name] is None else _without(whole[name], spent[name].value) for name in FIGURES}
    return Cost(run, size, questions, figures), sampler.documents


def _without(whole: Total, spent: float) -> Total:
    low = None if whole.low is None else max(0.0, whole.low - spent)
    high = None if whole.high is None else whole.high - spent
    return replace(whole, value=whole.value - spent, low=low, high=high)
