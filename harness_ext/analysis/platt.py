"""Platt scaling: the slope and the offset that turn stated log-odds into honest ones.

J. Platt, "Probabilistic outputs for support vector machines", 1999. Its targets are pulled away from 0 and 1, so that
the fit is finite where the log-odds separate right from wrong.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from harness_ext.decisions.calibration import logit, sigmoid

FOLDS = 5


class Correction(NamedTuple):
    """What is done to log-odds: they are multiplied by the slope, and shifted by the offset."""

    slope: float
    offset: float

    def apply(self, probability: float) -> float:
        """Return the corrected probability."""
        return sigmoid(self.slope * logit(probability) + self.offset)


def fit(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Correction:
    """Return the slope and the offset with the largest likelihood, for Platt's smoothed targets.

    probabilities: the stated probabilities; two or more of them differ.
    outcomes: what came true.

    Raises ValueError if all probabilities are equal, which leaves nothing to fit a slope to.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit

    odds = np.array([logit(p) for p in probabilities])
    true = np.asarray(outcomes, dtype=bool)
    centre, scale = float(odds.mean()), float(odds.std())
    if scale < 1e-9:
        raise ValueError("all probabilities are equal")
    positives = int(true.sum())
    negatives = len(true) - positives
    targets = np.where(true, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Centred and scaled, the two parameters are of like size and hardly correlated, which Newton's method needs.
    design = np.stack([(odds - centre) / scale, np.ones(len(odds))], axis=1)

    def loss(parameters: np.ndarray) -> float:
        shifted = design @ parameters
        return float(np.sum(np.logaddexp(0, shifted) - targets * shifted))

    def gradient(parameters: np.ndarray) -> np.ndarray:
        return np.asarray((expit(design @ parameters) - targets) @ design)

    def curvature(parameters: np.ndarray) -> np.ndarray:
        shares = expit(design @ parameters)
        return np.asarray((design * (shares * (1 - shares))[:, None]).T @ design)

    found = minimize(loss, np.zeros(2), jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-8})
    slope = float(found.x[0]) / scale
    return Correction(slope, float(found.x[1]) - slope * centre)


def cross_validated(
    probabilities: Sequence[float], outcomes: Sequence[bool], clusters: Sequence[Hashable], seed: int = 0
) -> list[float] | None:
    """Return each probability as corrected by a fit to the other folds, so that it shows what a fit does to new rows.

    probabilities, outcomes: as for `fit`.
    clusters: the document of each row. All rows of a document are in one of five folds, or of fewer if there are fewer
        documents.
    seed: the seed of the shuffle that makes the folds. Default 0.

    Returns None for a single document, or if all probabilities outside a fold are equal.
    """
    fold_of = folds_of(clusters, seed)
    if len(set(fold_of)) < 2:
        return None
    corrected = list(probabilities)
    for fold in set(fold_of):
        rest = [i for i, other in enumerate(fold_of) if other != fold]
        try:
            correction = fit([probabilities[i] for i in rest], [outcomes[i] for i in rest])
        except ValueError:
            return None
        for i, own in enumerate(fold_of):
            if own == fold:
                corrected[i] = correction.apply(probabilities[i])
    return corrected


def folds_of(clusters: Sequence[Hashable], seed: int = 0) -> list[int]:
    """Return the fold of each row.

    clusters: the document of each row. All rows of a document are in one of five folds, or of fewer if there are fewer
        documents.
    seed: the seed of the shuffle that makes the folds. Default 0.
    """
    import numpy as np

    names = list(dict.fromkeys(clusters))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = {names[i]: position % min(FOLDS, len(names)) for position, i in enumerate(order)}
    return [fold_of[name] for name in clusters]
