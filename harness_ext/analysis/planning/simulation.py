"""Simulated studies of clustered questions, tested as `compare` tests them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness_ext.analysis.planning.models import Power
from harness_ext.analysis.statistics.clusters import Clusters, Floats
from harness_ext.analysis.statistics.sign_flip import sign_flip_test

Ints = NDArray[np.int64]
Draw = Callable[[int, int], tuple[Floats, Ints]]
"""Returns the sums and the sizes of the clusters of some studies, one column per study.

It takes the number of studies and the number of the block that they belong to, which makes blocks differ.
"""

_STUDIES = 2000
_FEWEST_STUDIES = 200
_BLOCK = 50  # studies that are drawn at once, which bounds the memory
_DRAWN = 20_000_000  # clusters in all studies
_LISTED = 12  # up to this many differing clusters, listing all ways of flipping is quicker than approximating


def simulated_power(draw: Draw, clusters: int, alpha: float) -> Power:
    """Return how often the sign-flip test over clusters finds a difference in simulated studies.

    draw: draws studies.
    clusters: how many clusters a study has. More of them mean fewer studies, between 200 and 2,000.
    alpha: the significance level.
    """
    times = int(np.clip(_DRAWN // max(1, clusters), _FEWEST_STUDIES, _STUDIES)) // _BLOCK
    found = np.concatenate([rejections(*draw(_BLOCK, block), alpha) for block in range(times)])
    power = float(found.mean())
    return Power(power, math.sqrt(max(power * (1 - power), 1 / len(found)) / len(found)))


def rejections(sums: Floats, sizes: Ints, alpha: float) -> NDArray[np.bool_]:
    """Return for each study whether the p-value of `sign_flip_test` is below `alpha`.

    sums, sizes: the sums of the differences and the numbers of questions of the clusters, one column per study.
    alpha: the significance level.

    Where an approximation leaves no doubt on which side of `alpha` the p-value is, the test itself is spared.
    """
    count = np.count_nonzero(sums, axis=0)
    squares = np.sum(sums**2, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = squares**2 / np.sum(sums**4, axis=0)
        whole = bool(np.all(sums == np.round(sums)))
        # Sums of whole numbers differ by twice their common divisor; half of that is the correction for continuity.
        step = np.gcd.reduce(sums.astype(np.int64), axis=0) if whole else 0
        ratio = np.maximum(np.abs(sums.sum(axis=0)) - step, 0.0) ** 2 / squares
        student = np.sqrt(ratio * (count - 1) / np.maximum(count - ratio, 1e-12))
        approximate = 2 * stats.t.sf(student, np.maximum(count - 1, 1))
        # Near alpha, the logarithm of the approximate p-value is off by less than this. Found by trying: for levels
        # from 0.05 to 0.0001, 13 to 300 clusters, and even, uneven and graded sizes, half of it would do.
        z = float(stats.norm.isf(alpha / 2))
        doubt = z**4 / 4 / effective + (0.0 if whole else z / np.sqrt(effective))
        is_doubtful = np.abs(np.log(approximate / alpha)) <= doubt
    found: NDArray[np.bool_] = approximate < alpha
    found[2.0 ** (1.0 - count) >= alpha] = False  # not even if all clusters agree
    agree = np.abs(sums.sum(axis=0)) == np.abs(sums).sum(axis=0)  # then the p-value is 2 ** (1 - count)
    found[agree & (2.0 ** (1.0 - count) < alpha)] = True
    is_open = (2.0 ** (1.0 - count) < alpha) & ~agree & ((count <= _LISTED) | is_doubtful)
    for study in np.flatnonzero(is_open):
        found[study] = sign_flip_test(_clusters(sums[:, study], sizes[:, study])) < alpha
    return found


def _clusters(sums: Floats, sizes: Any) -> Clusters:
    # The test depends on neither the squares of single questions nor the share of equal values.
    return Clusters(sums, sizes.astype(np.float64), math.nan, math.nan)


def changing_answers(
    sizes: Ints, gain: float, share: float, icc: float, generators: list[np.random.Generator]
) -> Floats:
    """Return the sums of the differences of right and wrong answers, whose correlation within a cluster is `icc`.

    sizes: the numbers of questions of the clusters.
    gain: the mean difference.
    share: the share of the questions that change.
    icc: the intra-cluster correlation of the differences.
    generators: four random generators.

    With the probability √icc, a question changes like its cluster, and otherwise by itself. Then any two questions of a
    cluster have the correlation icc, whatever the distribution of a change is (Lunn and Davies 1998 for two values).
    """
    up, down = (share + gain) / 2, max(0.0, (share - gain) / 2)
    drawn = generators[0].random(sizes.shape)
    common = (drawn < up).astype(np.int64) - (drawn >= 1 - down)
    followers = generators[1].binomial(sizes, math.sqrt(icc))
    alone = sizes - followers
    gains = generators[2].binomial(alone, up)
    losses = generators[3].binomial(alone - gains, min(1.0, down / (1 - up)) if up < 1 else 0.0)
    return (common * followers + gains - losses).astype(np.float64)
