"""Intervals and tests, compared with scipy and statsmodels, and simulated: coverage, level and power."""

from __future__ import annotations

import math

import intervals
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as hyp

from harness_ext.analysis.compare import statistics as st

changes = hyp.lists(hyp.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=2, max_size=40)


@given(hyp.integers(1, 200), hyp.data())
@settings(max_examples=50, deadline=None)
def test_shares_as_in_statsmodels(n: int, data: hyp.DataObject) -> None:
    from statsmodels.stats import proportion

    k = data.draw(hyp.integers(0, n))
    low, high = proportion.proportion_confint(k, n, method="beta")
    found = st.share_interval(k, n)
    assert (found.low, found.high) == pytest.approx((0.0 if k == 0 else low, 1.0 if k == n else high), abs=1e-9)


@given(hyp.integers(0, 60), hyp.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_mcnemar_as_in_statsmodels(up: int, down: int) -> None:
    from statsmodels.stats import contingency_tables as tables

    expected = tables.mcnemar([[5, up], [down, 7]], exact=True).pvalue if up + down else 1.0
    assert st.mcnemar(up, down) == pytest.approx(min(1.0, expected), abs=1e-12)


@given(hyp.lists(hyp.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_as_in_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats import multitest

    assert st.holm(p_values) == pytest.approx(list(multitest.multipletests(p_values, method="holm")[1]))


@given(changes)
def test_standard_errors_as_in_scipy(values: list[float]) -> None:
    found = st.standard_error(st.Clusters.of(values))
    assert found == pytest.approx(float(scipy.stats.sem(values)), abs=1e-9)


def test_clustered_errors_as_in_statsmodels() -> None:
    from statsmodels import api

    random = np.random.default_rng(0)
    labels = random.integers(0, 12, size=90)
    values = random.normal(size=90) + 0.1 * labels
    fitted = api.OLS(values, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": labels})
    found = st.standard_error(st.Clusters.of(values, list(labels)))
    groups = len(set(labels.tolist()))
    small_sample = math.sqrt(groups / (groups - 1) * 89 / 89)
    assert found == pytest.approx(float(fitted.bse[0]) / small_sample * math.sqrt(groups / (groups - 1)), rel=1e-6)


@given(changes)
def test_an_interval_contains_the_shrunk_mean_and_stays_on_the_scale(values: list[float]) -> None:
    clusters = st.Clusters.of(values)
    found = st.mean_interval(clusters, -1, 1)
    assert -1 <= found.low <= clusters.with_ends(-1, 1).mean <= found.high <= 1


@given(changes)
def test_swapping_the_runs_only_changes_the_sign(values: list[float]) -> None:
    negated = [-v for v in values]
    first, second = (st.mean_interval(st.Clusters.of(v), -1, 1) for v in (values, negated))
    assert (first.low, first.high) == pytest.approx((-second.high, -second.low))
    p, q = (st.bootstrap_test(st.Clusters.of(v), resamples=199) for v in (values, negated))
    assert p == pytest.approx(q, abs=0.15)


@given(changes)
def test_clusters_of_one_change_nothing(values: list[float]) -> None:
    alone, labelled = st.Clusters.of(values), st.Clusters.of(values, list(range(len(values))))
    assert st.mean_interval(alone, -1, 1) == st.mean_interval(labelled, -1, 1)
    assert st.bootstrap_test(alone, 3, 199) == st.bootstrap_test(labelled, 3, 199)


def test_duplicated_questions_in_clusters_add_no_evidence() -> None:
    random = np.random.default_rng(1)
    values = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=60)
    labels = list(range(60))
    once = st.standard_error(st.Clusters.of(values))
    doubled = st.Clusters.of(np.concatenate([values, values]), labels * 2)
    assert st.standard_error(doubled) == pytest.approx(once)
    assert st.standard_error(st.Clusters.of(np.concatenate([values, values]))) < once


def test_without_a_difference_nothing_is_significant() -> None:
    assert st.mcnemar(0, 0) == 1.0
    assert st.bootstrap_test(st.Clusters.of([0.0] * 10)) == 1.0
    assert st.bootstrap_test(st.Clusters.of([0.3])) == 1.0
    assert st.bootstrap_test(st.Clusters.of([0.5] * 8)) == 2**-7, "all equal: the p-value of the sign test"
    assert st.mean_interval(st.Clusters.of([0.3]), -1, 1) == st.Interval(-1, 1)


def test_the_bootstrap_agrees_with_the_t_test_where_both_are_valid() -> None:
    random = np.random.default_rng(2)
    values = random.normal(0.15, 1, size=200)
    expected = scipy.stats.ttest_1samp(values, 0).pvalue
    assert st.bootstrap_test(st.Clusters.of(values)) == pytest.approx(expected, abs=0.02)


def test_statistics_of_all_questions_at_once() -> None:
    items = [float(i % 2) for i in range(40)]
    interval, p = st.bootstrap_statistic(items, None, lambda found: sum(found) / len(found))
    assert p is None
    assert interval.low < 0.5 < interval.high
    _, same = st.bootstrap_statistic(items, items, lambda found: sum(found))
    assert same == 1.0
    _, other = st.bootstrap_statistic([0.0] * 40, [1.0] * 40, lambda found: sum(found))
    assert other is not None
    assert other < 0.01


@pytest.mark.parametrize(("n", "discordant", "expected"), [(100, 0.1, 0.0884), (1319, 0.1, 0.0250), (300, 0.2, 0.0737)])
def test_detectable_differences_are_close_to_the_formula(n: int, discordant: float, expected: float) -> None:
    """Miller's formula, 2.80 · √(discordant / n), gives 0.0886, 0.0244 and 0.0723, close to the exact test."""
    found = st.detectable_share(n, discordant)
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("n", "discordant"), [(20, 0.05), (60, 0.3)])
def test_mcnemar_has_the_power_it_states(n: int, discordant: float) -> None:
    difference = st.detectable_share(n, discordant)
    assert difference is not None
    share = max(discordant, difference)
    random = np.random.default_rng(5)
    draws = random.multinomial(n, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=500)
    found = np.mean([st.mcnemar(int(up), int(down)) <= st.ALPHA for up, down, _ in draws])
    assert found == pytest.approx(st.POWER, abs=0.07)
    assert st.mcnemar_power(n, share, difference) == pytest.approx(st.POWER, abs=0.01)


def test_with_too_few_questions_nothing_is_detectable() -> None:
    assert st.detectable_share(5, 0.2) is None
    assert st.detectable_share(6, 0.2) is not None
    assert st.detectable_mean(st.Clusters.of([0.1]), 1.0) is None
    assert st.detectable_mean(st.Clusters.of([0.1, 0.9]), 1.0) is None


def test_intervals_cover_and_tests_keep_their_level() -> None:
    """The measurement of `benchmarks/intervals.py` with fewer draws."""
    times = 100
    rows = intervals.measure([20], times)
    assert len(rows) > 25
    slack = 3.5 * math.sqrt(0.05 * 0.95 / times)
    for row in rows:
        if row["what"].startswith("coverage"):
            assert row["value"] >= 0.95 - (slack if row["error"] else 0.02), row
        elif "nothing" in row["what"]:
            assert row["value"] <= 0.05 + (slack if row["error"] else 1e-9), row
        else:
            assert row["value"] >= 0.8 - 4 * max(row["error"], 0.002), row
