"""How many questions a claim needs: exact numbers, simulated studies, and what they are assumed from."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness_ext.analysis.planning.assumptions import (
    independent_answers,
    most_that_change,
    only_gains,
    this_share,
    twice_the_gain,
)
from harness_ext.analysis.planning.clustered import ClusteredAnswers, ClusterShape, PilotDifferences, fewest
from harness_ext.analysis.planning.correlation import intracluster_correlation
from harness_ext.analysis.planning.costs import cost_of, further
from harness_ext.analysis.planning.design import Answers, Design, solve
from harness_ext.analysis.planning.models import (
    IndependentQuestions,
    first_to_stay,
    least_clusters,
    smallest_gain,
)
from harness_ext.analysis.planning.simulation import changing_answers, rejections
from harness_ext.analysis.sampling import FIGURES
from harness_ext.analysis.statistics.clusters import Clusters
from harness_ext.analysis.statistics.power import detectable_share, mcnemar_power
from harness_ext.analysis.statistics.sign_flip import sign_flip_test
from harness_ext.records import Usage


def generators(seed: int) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, part]) for part in range(4)]


# Exact numbers


@pytest.mark.parametrize(
    ("share", "gain", "alpha", "power"),
    [
        (0.5, 0.1, 0.05, 0.8),
        (0.2, 0.1, 0.05, 0.9),
        (0.1, 0.1, 0.01, 0.8),
        (0.3, 0.15, 0.05 / 3, 0.8),
        (0.9, 0.3, 0.05, 0.8),
    ],
)
def test_the_number_has_the_power_and_one_less_has_not(share: float, gain: float, alpha: float, power: float) -> None:
    model = IndependentQuestions(this_share(share, "given"), 0.35, alpha)
    number = model.needed(gain, power)
    assert number is not None
    assert model.power(number, gain).value == mcnemar_power(number, share, gain, alpha) >= power
    assert mcnemar_power(number - 1, share, gain, alpha) < power
    assert model.power(number, gain).error is None
    assert model.clusters(number) is None


@settings(max_examples=25, deadline=None)
@given(
    share=st.sampled_from([0.3, 0.6, 0.9, 0.97, 0.99, 1.0]),
    part=st.floats(0.25, 0.95),
    alpha=st.sampled_from([0.05, 0.01, 0.05 / 7]),
    power=st.sampled_from([0.5, 0.8, 0.95]),
)
def test_no_larger_number_has_less_power(share: float, part: float, alpha: float, power: float) -> None:
    """Where all questions change, adding one can lower the power; the number is the one after the last such fall."""
    gain = share * part
    # A baseline that allows this many changes.
    baseline = (share - gain) / 2
    model = IndependentQuestions(this_share(share, "given"), baseline, alpha)
    number = model.needed(gain, power)
    assert number is not None
    assert mcnemar_power(number - 1, share, gain, alpha) < power or number == 1
    assert all(mcnemar_power(n, share, gain, alpha) >= power for n in range(number, 2 * number + 60))


def test_a_number_after_which_the_power_falls_again_is_not_enough() -> None:
    powers = [mcnemar_power(n, 1.0, 0.3) for n in range(1, 200)]
    first = next(n for n, power in enumerate(powers, 1) if power >= 0.8)
    assert any(b < a for a, b in pairwise(powers[first:])), "the power is not monotone"
    number = IndependentQuestions(this_share(1.0, "all"), 0.35, 0.05).needed(0.3, 0.8)
    assert number is not None
    assert first < number
    assert powers[number - 2] < 0.8 <= min(powers[number - 1 :])


@given(last=st.integers(0, 400), holes=st.sets(st.integers(1, 400), max_size=4))
def test_the_first_number_to_stay(last: int, holes: set[int]) -> None:
    """Whatever is not enough between the first and the last failure is found, as long as failures are close."""
    failures = {last, *(last - hole for hole in holes if hole <= 8)}
    found = first_to_stay(lambda n: n > last or (n not in failures and n > last - 8), 1000, 50)
    assert found == last + 1


def test_numbers_beyond_the_largest_are_none() -> None:
    assert first_to_stay(lambda n: n > 100, 100, 5) is None
    assert first_to_stay(lambda n: n >= 100, 100, 5) == 100
    assert first_to_stay(lambda n: True, 100, 5) == 1
    assert IndependentQuestions(independent_answers(0.5), 0.5, 0.05).needed(0.0005, 0.8) is None


@settings(max_examples=20, deadline=None)
@given(number=st.integers(20, 800), share=st.floats(0.0, 0.4))
def test_the_gain_found_is_the_detectable_difference(number: int, share: float) -> None:
    model = IndependentQuestions(this_share(share, "given"), 0.5, 0.05)
    found, detectable = smallest_gain(model, number, 0.5, 0.8), detectable_share(number, share)
    assert detectable is not None
    assume(detectable < 0.49)  # the baseline allows 0.5 at most
    assert found == pytest.approx(detectable, abs=3e-4)
    assert model.power(number, found).value >= 0.8
    assert model.power(number, 0.99 * found).value < 0.8


def test_too_few_questions_find_no_gain() -> None:
    assert smallest_gain(IndependentQuestions(only_gains(), 0.0, 0.05), 5, 1.0, 0.8) is None
    assert smallest_gain(IndependentQuestions(only_gains(), 0.0, 0.05), 6, 1.0, 0.8) is not None


# Assumptions


@given(baseline=st.floats(0.0, 0.99), part=st.floats(0.001, 1.0))
def test_independent_answers_are_possible_and_lie_between(baseline: float, part: float) -> None:
    gain = part * (1 - baseline)
    assumption = independent_answers(baseline)
    assert assumption.is_possible(baseline, gain)
    share = assumption.share(baseline, gain)
    assert gain - 1e-12 <= share <= most_that_change(baseline, gain) + 1e-12
    other = baseline + gain
    assert share == pytest.approx(baseline * (1 - other) + other * (1 - baseline))
    assert only_gains().share(baseline, gain) == pytest.approx(gain)


def test_impossible_shares_are_capped_and_named() -> None:
    assert twice_the_gain().is_possible(0.5, 0.1)
    assert not twice_the_gain().is_possible(0.95, 0.04), "gains of 0.06 would exceed what is wrong"
    assert twice_the_gain().share(0.95, 0.04) == pytest.approx(0.06)
    table = solve(Design(Answers(0.95, (only_gains(), twice_the_gain())), 0.05, 0.8, gain=0.04))
    assert [row.assumption for row in table.rows] == [only_gains().name]
    assert table.impossible == (twice_the_gain().name,)


def test_a_design_solves_for_either_or_both() -> None:
    data = Answers(0.5, (independent_answers(0.5),))
    (needed,) = solve(Design(data, 0.05, 0.8, gain=0.1)).rows
    assert needed.questions is not None
    assert (needed.share, needed.up, needed.down) == pytest.approx((0.5, 0.3, 0.2))
    (found,) = solve(Design(data, 0.05, 0.8, questions=needed.questions)).rows
    assert found.gain == pytest.approx(0.1, abs=1e-3)
    (both,) = solve(Design(data, 0.05, 0.8, gain=0.1, questions=100)).rows
    assert both.needed == needed.questions
    assert both.power is not None
    assert both.power.value == mcnemar_power(100, 0.5, 0.1)
    with pytest.raises(ValueError, match="needs a gain"):
        solve(Design(data, 0.05, 0.8))


# Simulated studies


@pytest.mark.parametrize("clusters", [6, 10, 14, 19, 22, 60])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
def test_simulated_studies_are_tested_by_the_test_itself(clusters: int, alpha: float) -> None:
    random = np.random.default_rng([clusters, 1])
    uneven = random.integers(1, 9, size=(clusters, 40))
    even = np.full((clusters, 40), 4)
    effect = 1.2 / math.sqrt(clusters)
    studies = [
        (changing_answers(even, min(0.4, effect / 2), 0.5, 0.3, generators(clusters)), even),
        (changing_answers(uneven, min(0.3, effect / 3), 0.35, 0.6, generators(clusters)), uneven),
        (np.round(random.normal(effect, 0.5, size=even.shape), 9), np.ones_like(even)),
    ]
    for sums, sizes in studies:
        expected = [
            sign_flip_test(Clusters(sums[:, i], sizes[:, i].astype(float), 0.0, 0.0)) < alpha for i in range(40)
        ]
        assert rejections(sums, sizes, alpha).tolist() == expected


@pytest.mark.parametrize("icc", [0.0, 0.2, 0.7, 1.0])
def test_answers_have_the_stated_rates_and_correlation(icc: float) -> None:
    sizes = np.full((200_000, 1), 3)
    sums = changing_answers(sizes, 0.1, 0.3, icc, generators(3))[:, 0]
    variance = 0.3 - 0.1**2
    assert sums.mean() / 3 == pytest.approx(0.1, abs=0.005)
    assert sums.var() == pytest.approx(3 * variance * (1 + 2 * icc), rel=0.02)
    singles = changing_answers(np.ones((200_000, 1), dtype=int), 0.1, 0.3, icc, generators(4))
    assert [np.mean(singles == change) for change in (1, -1)] == pytest.approx([0.2, 0.1], abs=0.005)


def test_clusters_of_one_question_need_what_independent_questions_need() -> None:
    exact = IndependentQuestions(this_share(0.3, "given"), 0.5, 0.05).needed(0.1, 0.8)
    simulated = ClusteredAnswers(this_share(0.3, "given"), 0.5, ClusterShape((1,)), 0.0, 0.05, 0).needed(0.1, 0.8)
    assert exact is not None
    assert simulated == pytest.approx(exact, rel=0.06)
    power = ClusteredAnswers(this_share(0.3, "given"), 0.5, ClusterShape((1,)), 0.0, 0.05, 0).power(exact, 0.1)
    assert power.error is not None
    assert abs(power.value - 0.8) < 4 * power.error + 0.01


def test_whole_clusters_that_change_together_count_as_one_question() -> None:
    model = ClusteredAnswers(this_share(0.3, "given"), 0.5, ClusterShape((4,)), 1.0, 0.05, 0)
    power = model.power(4 * 150, 0.12)
    assert power.error is not None
    assert abs(power.value - mcnemar_power(150, 0.3, 0.12)) < 4 * power.error


def test_a_number_of_clusters_has_the_power_in_other_studies_too() -> None:
    """The number is found with one seed, and its power is checked by studies of another one."""
    shape = ClusterShape((2, 3, 10))
    number = ClusteredAnswers(twice_the_gain(), 0.6, shape, 0.25, 0.05, 0).needed(0.1, 0.8)
    assert number is not None
    power = ClusteredAnswers(twice_the_gain(), 0.6, shape, 0.25, 0.05, 99).power(number, 0.1)
    assert power.error is not None
    assert abs(power.value - 0.8) < 5 * power.error
    fewer = ClusteredAnswers(twice_the_gain(), 0.6, shape, 0.25, 0.05, 99).power(int(0.7 * number), 0.1)
    assert fewer.value < power.value - 5 * power.error


def test_correlation_and_size_raise_the_number() -> None:
    def needed(size: int, icc: float) -> int:
        found = ClusteredAnswers(twice_the_gain(), 0.5, ClusterShape((size,)), icc, 0.05, 0).needed(0.1, 0.8)
        assert found is not None
        assert found % size == 0, "clusters are complete"
        return found

    assert needed(5, 0.1) < needed(5, 0.4) < needed(10, 0.4)


def test_a_fixed_number_of_clusters_may_never_suffice() -> None:
    def model(clusters: int) -> ClusteredAnswers:
        return ClusteredAnswers(independent_answers(0.5), 0.5, ClusterShape((1,), clusters), 0.3, 0.05, 0)

    assert model(12).needed(0.1, 0.8) is None
    number = model(120).needed(0.15, 0.8)
    assert number is not None
    assert model(120).clusters(number) == 120
    assert model(5).power(1000, 0.5).value == 0.0, "five clusters are never significant"


def test_results_are_reproducible() -> None:
    def model(seed: int) -> ClusteredAnswers:
        return ClusteredAnswers(twice_the_gain(), 0.5, ClusterShape((3, 7)), 0.3, 0.05, seed)

    assert model(1).power(200, 0.1) == model(1).power(200, 0.1) != model(2).power(200, 0.1)
    assert model(1).needed(0.15, 0.8) == model(1).needed(0.15, 0.8)


def test_graded_differences_follow_the_textbook() -> None:
    """For many questions with normal differences, the number is that of Miller (2024), section 5."""
    changes = np.random.default_rng(8).normal(0.0, 0.4, size=400)
    model = PilotDifferences(Clusters.of(changes), None, False, 0.05, 0)
    number = model.needed(0.08, 0.8)
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert number == pytest.approx(z**2 * np.mean(changes**2) / 0.08**2, rel=0.08)
    assert model.clusters(number) is None
    assert smallest_gain(model, number, 1.0, 0.8) == pytest.approx(0.08, rel=0.04)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    clusters=st.integers(1, 10_000),
    questions=st.integers(1, 100_000),
)
def test_complete_clusters_are_counted(sizes: list[int], clusters: int, questions: int) -> None:
    shape = ClusterShape(tuple(sizes))
    assert shape.clusters(shape.questions(clusters)) == clusters
    assert shape.clusters(questions) * shape.mean <= questions * (1 + 1e-12)


@given(alpha=st.floats(1e-6, 0.9))
def test_least_clusters_is_the_first_that_can_be_significant(alpha: float) -> None:
    least = least_clusters(alpha)
    assert 2.0 ** (1 - least) < alpha * (1 + 1e-12)
    assert 2.0 ** (2 - least) >= alpha * (1 - 1e-12)


@given(true=st.integers(1, 5000), guess=st.floats(0.1, 1e5), most=st.integers(1, 5000))
def test_the_search_ends_near_the_smallest_number(true: int, guess: float, most: int) -> None:
    found = fewest(lambda n: n >= true, guess, 1, most)
    if true > most:
        assert found is None
    else:
        assert found is not None
        assert true <= found <= min(most, true + max(1, true // 50))


# The correlation within clusters


@pytest.mark.parametrize("icc", [0.0, 0.3, 0.8])
def test_the_correlation_is_recovered(icc: float) -> None:
    random = np.random.default_rng(2)
    labels = np.repeat(np.arange(3000), random.integers(1, 8, size=3000))
    common = random.normal(0, math.sqrt(icc), size=3000)[labels]
    values = common + random.normal(0, math.sqrt(1 - icc), size=len(labels))
    found = intracluster_correlation(values.tolist(), labels.tolist())
    assert found == pytest.approx(icc, abs=0.04)


def test_the_correlation_is_unknown_where_nothing_shows_it() -> None:
    assert intracluster_correlation([0, 1, 0], ["a", "a", "a"]) is None
    assert intracluster_correlation([0, 1, 0], ["a", "b", "c"]) is None
    assert intracluster_correlation([1, 1, 1], ["a", "a", "b"]) is None
    assert intracluster_correlation([1, 1, 0, 0], ["a", "a", "b", "b"]) == 1.0
    assert intracluster_correlation([1, 0, 1, 0], ["a", "a", "b", "b"]) == 0.0, "negative estimates count as 0"


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.integers(0, 5)), min_size=1, max_size=60))
def test_the_correlation_is_a_correlation(rows: list[tuple[float, int]]) -> None:
    found = intracluster_correlation([value for value, _ in rows], [label for _, label in rows])
    assert found is None or 0.0 <= found <= 1.0


# Costs


@given(
    values=st.lists(st.floats(0.0, 1e4), min_size=2, max_size=20),
    number=st.integers(1, 5000),
)
def test_further_questions_have_the_interval_of_a_prediction(values: list[float], number: int) -> None:
    assume(max(values) - min(values) > 1e-3)
    found, n = further(values, number), len(values)
    assert found.value == pytest.approx(np.mean(values) * number, rel=1e-6)
    margin = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) * number * math.sqrt(1 / n + 1 / number)
    assert found.high == pytest.approx(found.value + margin, rel=1e-5)
    assert found.low == pytest.approx(max(0.0, found.value - margin), rel=1e-5, abs=1e-5 * margin)


def test_unknown_figures_and_samples_without_spread_stay_so() -> None:
    usages = [Usage(calls=2, prompt_tokens=10, completion_tokens=None, seconds=1.0, price=0.5) for _ in range(5)]
    cost = cost_of("pair", usages, 100)
    assert (cost.run, cost.sample, cost.questions, set(cost.figures)) == ("pair", 5, 100, set(FIGURES))
    assert cost.figures["completion_tokens"] is None
    calls = cost.figures["calls"]
    assert calls is not None
    assert (calls.value, calls.low, calls.high) == (200, None, None)
    assert calls.reason == "no spread in the sample"
