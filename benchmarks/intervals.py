"""Measures the intervals, tests and detectable differences of `harness_ext.analysis.statistics`.

    pip install errorbars==0.2.4
    python benchmarks/intervals.py --output benchmarks/results/intervals.json

Three tables:

- clusters: studies of 8, 20, 60 and 300 clusters of 1 to 10 questions. Coverage of the nominal 95 % interval of the
  difference, how often the test at the 5 % level rejects (its level where the true difference is 0, its power
  elsewhere), and how often it finds the difference that another study of the same kind calls detectable. If the package
  `errorbars` is installed, its clustered interval and test are computed on the same studies.
- questions: independent questions, without clusters. Shares and paired shares are computed exactly, by summing over all
  outcomes; other values are simulated.
- evidence: p-values where few questions differ, beside the exact value.

Simulated values are reported with the standard error of the simulation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured import publish_measured
from numpy.typing import NDArray
from scipy import stats

from harness_ext.analysis.statistics.clusters import ALPHA, Clusters
from harness_ext.analysis.statistics.intervals import difference_interval, mean_interval, share_interval
from harness_ext.analysis.statistics.paired import paired_difference
from harness_ext.analysis.statistics.power import detectable_mean, detectable_share, mcnemar_power
from harness_ext.analysis.statistics.sign_flip import sign_flip_test

Floats = NDArray[Any]
Draw = Callable[[np.random.Generator, int], Floats]
Study = Callable[[np.random.Generator, NDArray[np.int64], float], Floats]

SIZES = (1, 10)
SHARES = (0.02, 0.1, 0.3, 0.5, 0.9, 0.98)
# Shares of the questions that change from wrong to right, and from right to wrong.
PAIRS = ((0.02, 0.02), (0.05, 0.0), (0.06, 0.02), (0.1, 0.1), (0.3, 0.05), (0.25, 0.25))
EVIDENCE = ((3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 1), (10, 2), (20, 20), (300, 100))


def _signs(random: np.random.Generator, up: Floats, down: Floats) -> Floats:
    drawn = random.random(len(up))
    return np.where(drawn < up, 1.0, np.where(drawn < up + down, -1.0, 0.0))


def changes(discordant: float, lean: float) -> Study:
    """Return a study of right and wrong answers.

    discordant: the share of questions on which the runs differ (more if the effect needs more).
    lean: by how much the mean of a cluster is above or below that of the others.
    """

    def draw(random: np.random.Generator, sizes: NDArray[np.int64], effect: float) -> Floats:
        share = max(discordant, min(1.0, effect + lean))
        shift = np.repeat(random.choice([-lean, 0.0, lean], size=len(sizes)), sizes)
        up = np.clip((share + effect + shift) / 2, 0, 1)
        return _signs(random, up, np.clip(share - up, 0, 1))

    return draw


def graded(random: np.random.Generator, sizes: NDArray[np.int64], effect: float) -> Floats:
    """Draw differences of graded scores, half of whose variance is between clusters."""
    common = np.repeat(random.normal(0, 0.2, size=len(sizes)), sizes)
    return np.asarray(np.clip(effect + common + random.normal(0, 0.2, size=len(common)), -1, 1))


def whole(random: np.random.Generator, sizes: NDArray[np.int64], effect: float) -> Floats:
    """Draw differences of clusters that change as a whole, every third or fourth of them."""
    share = np.full(len(sizes), max(0.3, effect))
    up = (share + effect) / 2
    return np.repeat(_signs(random, up, share - up), sizes)


STUDIES: dict[str, tuple[Study, tuple[float, ...]]] = {
    "40 % differ": (changes(0.4, 0.3), (0.0, 0.1)),
    "15 % differ": (changes(0.15, 0.1), (0.0, 0.05)),
    "4 % differ": (changes(0.04, 0.0), (0.0, 0.03)),
    "30 % differ, independent": (changes(0.3, 0.0), (0.0, 0.1)),
    "graded": (graded, (0.0, 0.1)),
    "whole clusters change": (whole, (0.0, 0.1)),
}


def soft(*shares: float) -> Draw:
    """Return a sampler of a graded match (0, 0.5, 0.75, 1) with these probabilities."""
    return lambda random, n: random.choice([0, 0.5, 0.75, 1], p=shares, size=n)


def repeats(random: np.random.Generator, n: int) -> Floats:
    """Sample the mean of five answers per question, for questions of very different difficulty."""
    return random.binomial(5, random.beta(0.3, 0.1, size=n)) / 5


def overlap(random: np.random.Generator, n: int) -> Floats:
    """Sample the token F1 of a weak model: mostly zero, sometimes large."""
    return np.where(random.random(n) < 0.85, 0.0, random.beta(5, 2, size=n))


VALUES: dict[str, tuple[Draw, float]] = {
    "soft match, even": (soft(0.3, 0.2, 0.1, 0.4), 0.575),
    "soft match, nearly all right": (soft(0.03, 0.03, 0.02, 0.92), 0.95),
    "soft match, nearly all wrong": (soft(0.93, 0.05, 0.01, 0.01), 0.0425),
    "mean of 5 repeats": (repeats, 0.75),
    "token overlap": (overlap, 0.15 * 5 / 7),
}
CHANGES: dict[str, tuple[Draw, float]] = {
    "soft match, up": (
        lambda r, n: r.choice([-1, -0.5, 0, 0.25, 0.5, 1], p=[0.04, 0.03, 0.7, 0.05, 0.06, 0.12], size=n),
        0.1075,
    ),
    "soft match, rare and one way": (lambda r, n: r.choice([0, 0.5], p=[0.96, 0.04], size=n), 0.02),
    "soft match, no difference": (
        lambda r, n: r.choice([-1, -0.5, 0, 0.5, 1], p=[0.05, 0.05, 0.8, 0.05, 0.05], size=n),
        0.0,
    ),
    "mean of 5 repeats, no difference": (lambda r, n: (r.binomial(5, 0.7, n) - r.binomial(5, 0.7, n)) / 5, 0.0),
    "rare, no difference": (lambda r, n: r.choice([-1, 0, 1], p=[0.02, 0.96, 0.02], size=n), 0.0),
}


def clustered(name: str, number: int, effect: float, times: int) -> dict[str, Any]:
    """Simulate studies of one kind and return what was found.

    name: the kind of study, a key of `STUDIES`.
    number: the number of clusters.
    effect: the true mean difference. In `15 % differ` and the like it is exact; see `STUDIES`.
    times: how many studies to simulate.
    """
    study = STUDIES[name][0]
    random = np.random.default_rng([number, round(effect * 1000)])
    covered = found = found_detectable = detectables = contradictions = 0
    widths: list[float] = []
    peer = {"covered": 0, "found": 0}
    for _ in range(times):
        sizes = random.integers(SIZES[0], SIZES[1] + 1, size=number)
        labels = np.repeat(np.arange(number), sizes)
        values = study(random, sizes, effect)
        sample = Clusters.of(values, list(labels))
        p_value = sign_flip_test(sample)
        interval = difference_interval(sample, 2.0 if name == "graded" else 1.0, p_value)
        covered += interval.low - 1e-12 <= effect <= interval.high + 1e-12
        found += p_value < ALPHA
        contradictions += (0.0 in interval) == (p_value < ALPHA)
        widths.append(interval.high - interval.low)
        if effect == 0:
            size = detectable_mean(sample, 1.0)
            if size is not None and size < 0.95:
                other = random.integers(SIZES[0], SIZES[1] + 1, size=number)
                again = Clusters.of(study(random, other, size), list(np.repeat(np.arange(number), other)))
                found_detectable += sign_flip_test(again) < ALPHA
                detectables += 1
        if _peer is not None:
            theirs = _peer(values, np.zeros_like(values), clusters=labels)
            low, high, p = theirs.ci_low_clustered, theirs.ci_high_clustered, theirs.p_value_clustered
            peer["covered"] += low - 1e-12 <= effect <= high + 1e-12
            peer["found"] += p < ALPHA
    row = {
        "data": name,
        "clusters": number,
        "effect": effect,
        "coverage": covered / times,
        "rejected": found / times,
        "width": round(float(np.mean(widths)), 4),
        "contradictions": contradictions,
        "found_detectable": found_detectable / detectables if detectables else None,
        "detectable_in": detectables,
    }
    if _peer is not None:
        row |= {f"errorbars_{what}": count / times for what, count in peer.items()}
    return row


def evidence() -> list[dict[str, Any]]:
    """Return p-values for few questions that differ, of 60 or 1,000."""
    rows = []
    for up, down in EVIDENCE:
        number = 60 if up + down <= 60 else 1000
        first = [0.0] * up + [1.0] * down + [0.0] * (number - up - down)
        second = [1.0] * up + [0.0] * down + [0.0] * (number - up - down)
        exact = float(stats.binomtest(up, up + down).pvalue)
        ours = paired_difference(first, second, (0, 1), list(range(number)))
        row = {"questions": number, "up": up, "down": down, "exact": exact, "ours": ours.p_value,
               "low": ours.interval.low, "high": ours.interval.high}  # fmt: skip
        if _peer is not None:
            theirs = _peer(np.array(second), np.array(first), clusters=np.arange(number))
            row |= {"errorbars": theirs.p_value_clustered, "errorbars_low": theirs.ci_low_clustered,
                    "errorbars_high": theirs.ci_high_clustered}  # fmt: skip
        rows.append(row)
    return rows


def share_coverage(n: int, share: float) -> float:
    """Return the exact coverage of `share_interval`."""
    chances = stats.binom.pmf(np.arange(n + 1), n, share)
    covers = [(i := share_interval(k, n)).low <= share <= i.high for k in range(n + 1)]
    return float(np.dot(chances, covers))


def pair_figures(n: int, up: float, down: float) -> tuple[float, float]:
    """Return the exact coverage of `difference_interval` for paired shares, and how often the test is significant.

    n: number of questions.
    up, down: shares of the questions that change from wrong to right, and from right to wrong.
    """
    covered = found = 0.0
    for gained in range(n + 1):
        if stats.binom.pmf(gained, n, up) < 1e-9:
            continue
        for lost in range(n + 1 - gained):
            chance = stats.multinomial.pmf([gained, lost, n - gained - lost], n, [up, down, 1 - up - down])
            if chance < 1e-9:
                continue
            sample = Clusters.of(np.repeat([1.0, -1.0, 0.0], [gained, lost, n - gained - lost]))
            p_value = sign_flip_test(sample)
            interval = difference_interval(sample, 1.0, p_value)
            covered += chance * (interval.low - 1e-12 <= up - down <= interval.high + 1e-12)
            found += chance * (p_value < ALPHA)
    return covered, found


def independent(sizes: Sequence[int], times: int) -> list[dict[str, Any]]:
    """Return the results for questions without clusters: what, the data, the number, the value and its error."""
    rows: list[dict[str, Any]] = []

    def add(what: str, data: str, n: int, value: float, exact: bool) -> None:
        error = 0.0 if exact else (max(value * (1 - value), 1e-9) / times) ** 0.5
        rows.append({"what": what, "data": data, "n": n, "value": round(value, 4), "error": round(error, 4)})

    for n in sizes:
        for share in SHARES:
            add("coverage of a share", f"{share:g}", n, share_coverage(n, share), True)
        for up, down in PAIRS if n <= 100 else ():
            covered, found = pair_figures(n, up, down)
            add("coverage of a paired difference of shares", f"+{up:g} -{down:g}", n, covered, True)
            if up == down:
                add("the test of shares finds nothing that is not there", f"+{up:g} -{down:g}", n, found, True)
        for discordant in (0.05, 0.2):
            difference = detectable_share(n, discordant)
            if difference is not None:
                power = mcnemar_power(n, max(discordant, difference), difference)
                add("the test of shares finds what is detectable", f"{discordant:g} discordant", n, power, True)
        for seed, (name, (draw, mean)) in enumerate(VALUES.items()):
            random = np.random.default_rng([seed, n])
            covered = np.mean([mean in mean_interval(Clusters.of(draw(random, n)), (0, 1)) for _ in range(times)])
            add("coverage of a mean", name, n, float(covered), False)
        for seed, (name, (draw, mean)) in enumerate(CHANGES.items()):
            random = np.random.default_rng([100 + seed, n])
            covered = found = 0.0
            for _ in range(times):
                sample = Clusters.of(draw(random, n))
                p_value = sign_flip_test(sample)
                covered += mean in difference_interval(sample, 1.0, p_value)
                found += p_value < ALPHA
            add("coverage of a paired difference of means", name, n, covered / times, False)
            if mean == 0:
                add("the sign-flip test finds nothing that is not there", name, n, found / times, False)
    return rows


def _errorbars() -> Any:
    try:
        from errorbars.compare import paired_compare
    except ImportError:
        return None
    return paired_compare


_peer = _errorbars()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clusters", type=int, nargs="+", default=[8, 20, 60, 300])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--times", type=int, default=2000, help="number of simulated studies (default: 2000)")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = {
        "times": args.times,
        "clusters": [
            clustered(name, number, effect, args.times)
            for name, (_, effects) in STUDIES.items()
            for number in args.clusters
            for effect in effects
        ],
        "questions": independent(args.sizes, args.times),
        "evidence": evidence(),
    }
    publish_measured(result, args.output)


if __name__ == "__main__":
    main()
