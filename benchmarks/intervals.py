"""Measures the coverage of the intervals of `harness-ext compare`, and the level and power of its tests.

    python benchmarks/intervals.py --output benchmarks/results/intervals.json

The script reports the coverage of nominal 95 % intervals, how often tests at the 5 % level find a difference where
there is none, and how often they find the difference that `compare` calls detectable, which should be in 4 of 5 cases.
Shares and paired shares are computed exactly, by summing over all outcomes. Everything else is simulated and reported
with the standard error of the simulation.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from harness_ext.analysis.compare import statistics as st

Draw = Callable[[np.random.Generator, int], Any]
SHARES = (0.02, 0.1, 0.3, 0.5, 0.9, 0.98)
# Shares of the questions that change from wrong to right, and from right to wrong.
PAIRS = ((0.02, 0.02), (0.05, 0.0), (0.06, 0.02), (0.1, 0.1), (0.3, 0.05), (0.25, 0.25))


def soft(*shares: float) -> Draw:
    """Return a sampler of a graded match (0, 0.5, 0.75, 1) with these probabilities."""
    return lambda random, n: random.choice([0, 0.5, 0.75, 1], p=shares, size=n)


def repeats(random: np.random.Generator, n: int) -> Any:
    """Sample the mean of five answers per question, for questions of very different difficulty."""
    return random.binomial(5, random.beta(0.3, 0.1, size=n)) / 5


def overlap(random: np.random.Generator, n: int) -> Any:
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


def clustered(random: np.random.Generator, clusters: int) -> st.Clusters:
    """Sample differences with mean 0 in clusters of 1 to 9 questions, which mostly go up or down together."""
    sizes = random.integers(1, 10, size=clusters)
    lean = np.repeat(random.choice([-0.3, 0, 0.3], size=clusters), sizes)
    changes = np.where(random.random(len(lean)) < np.abs(lean), np.sign(lean), 0.0)
    return st.Clusters.of(changes, list(np.repeat(np.arange(clusters), sizes)))


def share_coverage(n: int, share: float) -> float:
    """Return the exact coverage of `share_interval`."""
    chances = stats.binom.pmf(np.arange(n + 1), n, share)
    covers = [(i := st.share_interval(k, n)).low <= share <= i.high for k in range(n + 1)]
    return float(np.dot(chances, covers))


def pair_figures(n: int, up: float, down: float) -> tuple[float, float]:
    """Return the exact coverage of `mean_interval` for paired shares, and how often McNemar's test is significant.

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
            changes = np.repeat([1.0, -1.0, 0.0], [gained, lost, n - gained - lost])
            interval = st.mean_interval(st.Clusters.of(changes), -1, 1)
            covered += chance * (interval.low - 1e-12 <= up - down <= interval.high + 1e-12)
            found += chance * (st.mcnemar(gained, lost) <= st.ALPHA)
    return covered, found


def simulate(draw: Callable[[np.random.Generator], st.Clusters], mean: float, ends: tuple[float, float], times: int,
             seed: int, tested: bool, resamples: int = 499) -> tuple[float, float]:  # fmt: skip
    """Return how often the interval covers `mean`, and how often the bootstrap test is significant.

    draw: samples a data set.
    mean: the true mean.
    ends: the least and greatest possible value.
    times: number of samples.
    seed: seed of the samples.
    tested: whether to run the test.
    resamples: resamples per test. Default 499.
    """
    random = np.random.default_rng(seed)
    covered = found = 0
    for number in range(times):
        sample = draw(random)
        interval = st.mean_interval(sample, *ends)
        covered += interval.low - 1e-12 <= mean <= interval.high + 1e-12
        if tested:
            found += st.bootstrap_test(sample, number, resamples) <= st.ALPHA
    return covered / times, found / times


def measure(sizes: Sequence[int], times: int) -> list[dict[str, Any]]:
    """Return all results: what was measured, the data, the number of questions, the value and its error."""
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
                add("McNemar's test finds nothing that is not there", f"+{up:g} -{down:g}", n, found, True)
        for discordant in (0.05, 0.2):
            difference = st.detectable_share(n, discordant)
            if difference is not None:
                power = st.mcnemar_power(n, max(discordant, difference), difference)
                add("McNemar's test finds what is detectable", f"{discordant:g} discordant", n, power, True)
        for seed, (name, (draw, mean)) in enumerate(VALUES.items()):
            covered, _ = simulate(lambda r: st.Clusters.of(draw(r, n)), mean, (0, 1), times, seed, False)  # noqa: B023
            add("coverage of a mean", name, n, covered, False)
        for seed, (name, (draw, mean)) in enumerate(CHANGES.items()):
            covered, found = simulate(
                lambda r: st.Clusters.of(draw(r, n)), mean, (-1, 1), times, seed, mean == 0  # noqa: B023
            )  # fmt: skip
            add("coverage of a paired difference of means", name, n, covered, False)
            if mean == 0:
                add("the bootstrap test finds nothing that is not there", name, n, found, False)
        if n >= 50:
            covered, found = simulate(lambda r: clustered(r, n // 5), 0.0, (-1, 1), times, n, True)  # noqa: B023
            add("coverage of a clustered difference", f"{n // 5} clusters", n, covered, False)
            add("the test over clusters finds nothing that is not there", f"{n // 5} clusters", n, found, False)
            add("the bootstrap test finds what is detectable", "repeats", n, mean_power(n, times), False)
    return rows


def mean_power(n: int, times: int) -> float:
    """Return how often the bootstrap test finds a difference of the size that `detectable_mean` returns."""
    random = np.random.default_rng(n)
    found = 0
    for number in range(times):
        noise = (random.binomial(5, 0.6, size=n) - random.binomial(5, 0.6, size=n)) / 5
        detectable = st.detectable_mean(st.Clusters.of(noise), 1.0)
        if detectable is not None:
            found += st.bootstrap_test(st.Clusters.of(noise + detectable), number, 499) <= st.ALPHA
    return found / times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--times", type=int, default=1000, help="number of simulated samples (default: 1000)")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = measure(args.sizes, args.times)
    for row in rows:
        print(f"{row['what']:62s} {row['data']:32s} n={row['n']:4d}  {row['value']:.3f} ± {row['error']:.3f}")
    if args.output:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        result = {"times": args.times, "machine": machine, "rows": rows}
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
