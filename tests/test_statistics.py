"""Intervals and tests: compared with scipy and their definitions, with listing all outcomes, and simulated."""

from __future__ import annotations

import itertools
import math

import intervals
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as hyp

from harness_ext.analysis.statistics import sign_flip
from harness_ext.analysis.statistics.clusters import ALPHA, Clusters, Interval
from harness_ext.analysis.statistics.holm import holm
from harness_ext.analysis.statistics.intervals import difference_interval, mean_interval, share_interval
from harness_ext.analysis.statistics.jackknife import pseudo_differences, pseudo_values
from harness_ext.analysis.statistics.paired import estimate, paired_difference
from harness_ext.analysis.statistics.power import POWER, detectable_mean, detectable_share, mcnemar_power
from harness_ext.analysis.statistics.scales import scale_of
from harness_ext.analysis.statistics.seeds import SeedSpread, seed_spread, with_seeds
from harness_ext.analysis.statistics.sign_flip import sign_flip_test

changes = hyp.lists(hyp.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=2, max_size=40)
grades = hyp.lists(hyp.floats(-1, 1, allow_subnormal=False), min_size=2, max_size=40)


@given(hyp.integers(1, 200), hyp.data())
@settings(max_examples=50)
def test_the_interval_of_a_share_has_the_ends_of_clopper_and_pearson(n: int, data: hyp.DataObject) -> None:
    """At each end, what was seen or anything beyond it has a probability of 2.5%."""
    k = data.draw(hyp.integers(0, n))
    found = share_interval(k, n)
    seen_or_more = scipy.stats.binom.sf(k - 1, n, found.low)
    seen_or_less = scipy.stats.binom.cdf(k, n, found.high)
    assert found.low == 0.0 if k == 0 else seen_or_more == pytest.approx(ALPHA / 2, rel=1e-6)
    assert found.high == 1.0 if k == n else seen_or_less == pytest.approx(ALPHA / 2, rel=1e-6)


@given(hyp.integers(0, 60), hyp.integers(0, 60))
@settings(max_examples=50)
def test_shares_are_tested_by_mcnemars_exact_test(up: int, down: int) -> None:
    """Without a difference, a question that changes goes up or down like a coin."""
    first, second = [0.0] * up + [1.0] * down + [1.0] * 12, [1.0] * up + [0.0] * down + [1.0] * 12
    found = paired_difference(first, second, (0, 1))
    expected = sum(math.comb(up + down, n) for n in range(min(up, down) + 1)) / 2 ** (up + down)
    assert found.p_value == pytest.approx(min(1.0, 2 * expected), rel=1e-9)
    assert (found.test, found.up, found.down) == ("exact McNemar test", up, down)


def rejected(p_values: list[float], level: float) -> set[int]:
    """Return what Holm's procedure rejects: the smallest p-values in turn, until one is not small enough."""
    found: set[int] = set()
    for at in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[at] * (len(p_values) - len(found)) > level:
            break
        found.add(at)
    return found


@given(hyp.lists(hyp.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50)
def test_an_adjusted_p_value_is_the_smallest_level_at_which_holms_procedure_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(0 <= p <= 1 for p in adjusted)
    levels = {*adjusted, *(float(np.nextafter(p, -1)) for p in adjusted), *np.linspace(0, 1, 21)} - {1.0}
    for level in levels:  # at the level 1 everything is rejected
        assert {at for at, p in enumerate(adjusted) if p <= level} == rejected(p_values, level)


@given(changes)
def test_standard_errors_as_in_scipy(values: list[float]) -> None:
    assert Clusters.of(values).standard_error == pytest.approx(float(scipy.stats.sem(values)), abs=1e-9)


def test_clustered_errors_are_those_of_a_regression_on_a_constant() -> None:
    """The sandwich of Liang and Zeger (1986) with the usual correction for few clusters, in its general form."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 12, size=90)
    values = random.normal(size=90) + 0.1 * labels
    design = np.ones((90, 1))
    bread = np.linalg.inv(design.T @ design)
    residuals = values - design @ (bread @ design.T @ values)
    scores = [design[labels == label].T @ residuals[labels == label] for label in np.unique(labels)]
    groups, (rows, columns) = len(scores), design.shape
    correction = groups / (groups - 1) * (rows - 1) / (rows - columns)
    covariance = correction * bread @ sum(np.outer(score, score) for score in scores) @ bread
    found = Clusters.of(values, list(labels)).standard_error
    assert found == pytest.approx(float(np.sqrt(covariance[0, 0])), rel=1e-12)
    # statsmodels 0.15 says so too: OLS(values, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": labels}).bse[0]
    assert found == pytest.approx(0.10022164534416045, rel=1e-9)


# Sums that differ by less than the rounding of floats are ties for both, with another limit each; rounded values have
# no such sums.
@given(hyp.lists(hyp.floats(-3, 3).map(lambda value: round(value, 9)), min_size=2, max_size=9))
@example([-1.0, -3.289064914028357e-12])
@settings(max_examples=40)
def test_the_sign_flip_test_as_in_scipy(values: list[float]) -> None:
    """scipy permutes the two runs of each question, which flips the sign of their difference."""
    expected = scipy.stats.permutation_test(
        (values, [0.0] * len(values)), lambda x, y, axis: np.sum(x - y, axis=axis), permutation_type="samples",
        vectorized=True,
    )  # fmt: skip
    assert sign_flip_test(Clusters.of(values)) == pytest.approx(float(expected.pvalue), rel=1e-9)


@given(hyp.lists(hyp.integers(-4, 4), min_size=1, max_size=14))
@settings(max_examples=60)
def test_all_ways_to_the_p_value_agree(whole: list[int]) -> None:
    """Listing all ways of flipping, adding up the distribution, and the plain definition."""
    sums = np.array([w for w in whole if w], dtype=float)
    if not len(sums):
        return
    observed = abs(sums.sum())
    ways = [abs(np.dot(sums, signs)) >= observed for signs in itertools.product([1, -1], repeat=len(sums))]
    assert sign_flip._convolved(sums) == pytest.approx(float(np.mean(ways)), rel=1e-9)
    assert sign_flip._listed(sums, np.ones(len(sums))) == pytest.approx(float(np.mean(ways)), rel=1e-9)


@pytest.mark.parametrize(("mean", "number"), [(0.0, 30), (0.2, 60), (0.5, 60), (1.0, 60), (0.1, 1000)])
def test_the_saddlepoint_agrees_with_the_exact_distribution(mean: float, number: int) -> None:
    random = np.random.default_rng(number)
    whole = np.round(random.normal(mean, 1, size=number) * 50)
    whole = whole[whole != 0]
    exact = sign_flip._convolved(whole)
    assert sign_flip._saddlepoint(np.abs(whole), abs(float(whole.sum())) - 1) == pytest.approx(exact, rel=0.03)
    assert sign_flip_test(Clusters.of(whole + random.uniform(0, 1e-4, len(whole)))) == pytest.approx(exact, rel=0.05)


def test_tiny_p_values_have_no_floor() -> None:
    """As scipy's exact test says: about 1e-49 for 165 of 165, which no resampling can show."""
    both = [[0.0] * 165 + [1.0] * 40, [1.0] * 205]
    found = paired_difference(*both, (0, 1), list(range(205)))
    assert found.p_value == pytest.approx(scipy.stats.binomtest(165, 165).pvalue, rel=1e-9)
    graded = paired_difference([0.0] * 200, list(np.linspace(0.3, 0.7, 200)), (0, 1))
    assert graded.p_value == pytest.approx(2.0**-199, rel=1e-6)
    assert holm([graded.p_value] * 3)[0] == pytest.approx(3 * 2.0**-199, rel=1e-6)


@pytest.mark.parametrize("clustered", [False, True])
def test_more_evidence_means_a_smaller_p_value(clustered: bool) -> None:
    """Of 60 questions, 1 to 60 go up and none goes down."""
    labels = [i // 2 for i in range(60)] if clustered else list(range(60))
    found = [paired_difference([0.0] * 60, [1.0] * k + [0.0] * (60 - k), (0, 1), labels) for k in range(1, 61)]
    p_values = [d.p_value for d in found]
    assert p_values == sorted(p_values, reverse=True)
    if not clustered:
        assert p_values[4] == 0.0625
        assert p_values[5] == 0.03125


@given(changes | grades, hyp.integers(1, 5), hyp.booleans())
@settings(max_examples=200)
def test_interval_and_p_value_never_contradict_each_other(values: list[float], size: int, scaled: bool) -> None:
    sample = Clusters.of(values, [i // size for i in range(len(values))])
    p_value = sign_flip_test(sample)
    found = difference_interval(sample, 1.0 if scaled else None)
    if math.isnan(found.low):
        assert not scaled
        return
    assert (0.0 in found) == (p_value >= ALPHA)
    assert found.low <= sample.mean + 1e-12
    assert found.high >= sample.mean - 1e-12
    assert found.low < found.high


@given(changes)
def test_swapping_the_runs_only_changes_the_sign(values: list[float]) -> None:
    one, other = Clusters.of(values), Clusters.of([-v for v in values])
    assert sign_flip_test(one) == pytest.approx(sign_flip_test(other), rel=1e-9)
    first, second = difference_interval(one, 1.0), difference_interval(other, 1.0)
    assert (first.low, first.high) == pytest.approx((-second.high, -second.low), abs=1e-12)


@given(changes, hyp.floats(0.1, 100))
def test_the_unit_of_the_scale_does_not_matter(values: list[float], unit: float) -> None:
    plain = mean_interval(Clusters.of(values), (-1, 1))
    other = mean_interval(Clusters.of([v * unit for v in values]), (-unit, unit))
    assert (other.low, other.high) == pytest.approx((plain.low * unit, plain.high * unit), rel=1e-6, abs=1e-9)


@given(changes)
def test_clusters_of_one_change_nothing(values: list[float]) -> None:
    alone, labelled = Clusters.of(values), Clusters.of(values, list(range(len(values))))
    assert mean_interval(alone, (-1, 1)) == mean_interval(labelled, (-1, 1))
    assert sign_flip_test(alone) == sign_flip_test(labelled)


def test_duplicated_questions_in_clusters_add_no_evidence() -> None:
    random = np.random.default_rng(1)
    values = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=60)
    once, doubled = Clusters.of(values), Clusters.of(np.concatenate([values, values]), list(range(60)) * 2)
    assert doubled.standard_error == pytest.approx(once.standard_error)
    assert sign_flip_test(doubled) == pytest.approx(sign_flip_test(once))
    assert doubled.design_effect == pytest.approx(2.0)


def test_without_a_difference_nothing_is_significant_and_no_interval_is_empty() -> None:
    assert sign_flip_test(Clusters.of([0.0] * 10)) == 1.0
    assert sign_flip_test(Clusters.of([0.3])) == 1.0
    assert sign_flip_test(Clusters.of([0.5] * 8)) == 2**-7, "all equal: the p-value of the sign test"
    assert mean_interval(Clusters.of([0.3]), (-1, 1)) == Interval(-1, 1)
    none = paired_difference([0.5] * 30, [0.5] * 30, (0, 1))
    assert none.interval.low < -0.01
    assert none.interval.high > 0.01
    unknown = paired_difference([7.0] * 30, [7.0] * 30, None)
    assert math.isnan(unknown.interval.low), "equal values on an unknown scale: there is no interval"
    whole = paired_difference([0.5] * 30, [0.5] * 30, (0, 1), [i // 5 for i in range(30)])
    assert whole.interval.high > 2 * none.interval.high, "six clusters that may change as a whole say less"


def test_the_scale_is_the_metrics_or_the_range() -> None:
    assert scale_of("acc", [0.0, 1.0]) == (0.0, 1.0)
    assert scale_of("bleu", [0.0, 3.0]) == (0.0, 100.0)
    assert scale_of("own", [0.2, 0.4, 1.2]) == (0.2, 1.2), "one value above 1 is no reason to assume 0 to 100"
    assert scale_of("exact_match", [0.5, 2.0]) == (0.5, 2.0)
    assert scale_of("own", [0.0, 0.0]) == (0.0, 1.0)
    assert scale_of("own", [3.0, 3.0]) is None


def test_zeros_and_ones_on_another_scale_are_no_shares() -> None:
    """Brier scores lie between 0 and 2."""
    assert estimate([0.0] * 20, (0, 1)).interval == share_interval(0, 20)
    brier = estimate([0.0] * 20, (0, 2)).interval
    assert brier == mean_interval(Clusters.of([0.0] * 20), (0, 2))
    assert paired_difference([0.0] * 9, [1.0] * 9, (0, 2)).test == "sign-flip test"


def test_statistics_of_all_questions_at_once() -> None:
    items = [float(i % 3) for i in range(60)]
    for function in (np.mean, np.median, lambda v: float(np.exp(np.mean(v)))):
        assert pseudo_values(items, lambda v, f=function: float(f(v))).mean == pytest.approx(float(function(items)))
    alone = pseudo_values(items, lambda v: float(np.mean(v)))
    assert list(alone.sums) == pytest.approx(items), "the jackknife values of a mean are the values"
    labels = [i // 3 for i in range(60)]
    grouped = pseudo_values(items, lambda v: float(np.mean(v)), labels)
    assert list(grouped.sums) == pytest.approx(list(Clusters.of(items, labels).sums))
    many = pseudo_values([float(i % 7) for i in range(1001)], lambda v: float(np.mean(v)))
    assert (many.number, many.questions) == (200, 1001)
    same = pseudo_differences(alone, alone)
    assert sign_flip_test(same) == 1.0
    pulls = [pseudo_values(v, lambda v: float(np.exp(np.mean(v)))) for v in (items, [v + 1 for v in items])]
    better = pseudo_differences(*pulls)
    assert better.mean == pytest.approx(math.exp(2) - math.exp(1))
    assert sign_flip_test(better) < 1e-6


def test_the_spread_between_seeds() -> None:
    random = np.random.default_rng(3)
    covered = {"plain": 0, "seeds": 0}
    for _ in range(400):
        shift = random.normal(0, 0.05, size=4)
        table = 0.6 + random.normal(0, 0.2, size=(200, 1)) + shift + random.normal(0, 0.1, size=(200, 4))
        values = list(table.mean(axis=1))
        spread = seed_spread(table.tolist())
        assert spread is not None
        found = estimate(values, None)
        covered["plain"] += 0.6 in found.interval
        covered["seeds"] += 0.6 in with_seeds(found.value, found.interval, Clusters.of(values), [spread])
    assert covered["plain"] < 0.75 * 400, "an interval over questions does not cover other seeds"
    assert 0.92 * 400 <= covered["seeds"] <= 0.99 * 400
    assert seed_spread([[0.1], [0.5]]) is None
    alike = seed_spread([[0.0, 0.0], [1.0, 1.0]])
    assert alike == SeedSpread(2, 0.0, 0.0)
    assert with_seeds(0.5, Interval(0.2, 0.8), Clusters.of([0, 1]), [alike]) == Interval(0.2, 0.8)


@pytest.mark.parametrize(("n", "discordant", "expected"), [(100, 0.1, 0.0884), (1319, 0.1, 0.0250), (300, 0.2, 0.0737)])
def test_detectable_differences_are_close_to_the_formula(n: int, discordant: float, expected: float) -> None:
    """Miller's formula, 2.80 · √(discordant / n), gives 0.0886, 0.0244 and 0.0723, close to the exact test."""
    assert detectable_share(n, discordant) == pytest.approx(expected, rel=0.02)


def test_over_clusters_of_one_the_detectable_difference_is_nearly_that_of_mcnemars_test() -> None:
    values = [1.0] * 15 + [-1.0] * 15 + [0.0] * 120
    found = detectable_mean(Clusters.of(values), 1.0)
    exact = detectable_share(150, 0.2)
    assert found is not None
    assert exact is not None
    assert exact < found < 1.2 * exact, "a difference over clusters is assumed to add to the spread"


@pytest.mark.parametrize(("n", "discordant"), [(20, 0.05), (60, 0.3)])
def test_mcnemar_has_the_power_it_states(n: int, discordant: float) -> None:
    difference = detectable_share(n, discordant)
    assert difference is not None
    share = max(discordant, difference)
    random = np.random.default_rng(5)
    draws = random.multinomial(n, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=500)
    found = np.mean([sign_flip_test(Clusters.of(np.repeat([1.0, -1.0, 0.0], counts))) < ALPHA for counts in draws])
    assert found == pytest.approx(POWER, abs=0.07)
    assert mcnemar_power(n, share, difference) == pytest.approx(POWER, abs=0.01)


def test_with_too_few_questions_nothing_is_detectable() -> None:
    assert detectable_share(5, 0.2) is None
    assert detectable_share(6, 0.2) is not None
    assert detectable_mean(Clusters.of([0.1]), 1.0) is None
    assert detectable_mean(Clusters.of([0.1, 0.9, 0.2, 0.5, 0.1]), 1.0) is None


@pytest.mark.parametrize("number", [8, 20, 60])
@pytest.mark.parametrize(("data", "effect"), [("40 % differ", 0.1), ("graded", 0.0), ("graded", 0.1)])
def test_intervals_over_clusters_cover_neither_too_seldom_nor_too_often(number: int, data: str, effect: float) -> None:
    """The measurement of `benchmarks/intervals.py` with fewer studies; three standard errors are 0.03."""
    row = intervals.clustered(data, number, effect, 400)
    assert row["contradictions"] == 0
    assert 0.92 <= row["coverage"] <= 0.98
    if effect == 0:
        assert row["rejected"] <= 0.08
        assert 0.66 <= row["found_detectable"] <= 0.94


def test_the_differences_of_the_audit_are_consistent() -> None:
    """29 of 99 differences of a published table had p < 0.05 and an interval that contained 0."""
    random = np.random.default_rng(29)
    for _ in range(60):
        sizes = random.integers(1, 11, size=20)
        labels = np.repeat(np.arange(20), sizes)
        gains = np.repeat(random.random(20) < 0.6, sizes) & (random.random(len(labels)) < 0.7)
        found = paired_difference([0.0] * len(labels), list(gains.astype(float)), (0, 1), list(labels))
        assert (0.0 in found.interval) == (found.p_value >= ALPHA)
        assert found.interval.high - found.interval.low < 0.6
