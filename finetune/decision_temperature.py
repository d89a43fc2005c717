"""The temperature that makes the probabilities of a model's decisions honest, fitted on rows that it has not learned.

It is that of C. Guo and others, "On calibration of modern neural networks", 2017: the scores of the options are divided
by it, which changes how sure the model is but not what it prefers. Its targets are Laplace's, pulled away from 0 and 1,
so that the fit is finite where the scores separate right from wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness_ext.analysis.scoring.probabilities import Estimate, binary_statistics, estimates
from harness_ext.decisions.calibration import sigmoid
from harness_ext.finetune.decision_rows import DecisionTokens

SMALLEST, LARGEST = 0.05, 20.0
FEWEST = 30  # rows, below which a fit is hardly better than a guess


@dataclass(frozen=True)
class Fit:
    """The temperature of the questions of one type.

    type: the type, as `decision.json` names it.
    temperature: the temperature.
    rows: how many rows it was fitted on.
    before, after: the mean negative log-likelihood of the answers, at temperature 1 and at this one.
    auroc: for yes/no questions, how well the probabilities separate the answers. Default None.
    """

    type: str
    temperature: float
    rows: int
    before: float
    after: float
    auroc: Estimate | None = None

    def lines(self) -> list[str]:
        """Return what was fitted, and what speaks against relying on it, as lines of text."""
        found = [
            f"{self.type}: temperature {self.temperature:.3g} from {self.rows} validation rows, negative "
            f"log-likelihood {self.before:.3f} -> {self.after:.3f}"
        ]
        if self.auroc is not None and self.auroc.value is not None:
            area = self.auroc
            interval = "" if area.low is None else f" ({area.low:.3f} to {area.high:.3f})"
            found[0] += f", AUROC {area.value:.3f}{interval}"
            if area.low is not None and area.high is not None and area.low <= 0.5 <= area.high:
                found.append("WARNING: the interval includes 0.5: these decisions may say nothing about the answers")
        if self.rows < FEWEST:
            found.append(f"WARNING: only {self.rows} validation rows: use at least {FEWEST}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the fit as JSON values."""
        return asdict(self)


def fit_temperatures(rows: Sequence[DecisionTokens], scores: Sequence[Sequence[float]]) -> list[Fit]:
    """Return the temperature of each type of question.

    rows: the validation rows.
    scores: the score of each option of each row, before any temperature.
    """
    found = []
    for kind in dict.fromkeys(row.type for row in rows):
        own = [(row.answer, score) for row, score in zip(rows, scores, strict=True) if row.type == kind]
        answers, values = zip(*own, strict=True)
        temperature = best_temperature(values, answers)
        auroc = None
        if kind == "noul":
            # A model's settings may list `false` first. The area is the same for either option.
            stated = [sigmoid(score[0] - score[1]) for score in values]
            auroc = estimates(binary_statistics(stated, [a == 0 for a in answers]), range(len(stated)))["auroc"]
        loss = _Loss(values, answers)
        found.append(Fit(kind, temperature, len(own), loss(1.0), loss(temperature), auroc))
    return found


def best_temperature(scores: Sequence[Sequence[float]], answers: Sequence[int]) -> float:
    """Return the temperature with the largest likelihood, from `SMALLEST` to `LARGEST`; 1 if the scores do not differ.

    scores: the score of each option of each row.
    answers: the index of each row's right option.
    """
    from math import exp, log

    from scipy.optimize import minimize_scalar

    if max(max(row) - min(row) for row in scores) < 1e-9:
        return 1.0
    bounds = (log(SMALLEST), log(LARGEST))
    loss = _Loss(scores, answers, smooth=True)
    found = minimize_scalar(lambda at: loss(exp(at)), bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(exp(found.x))


class _Loss:
    """The mean negative log-likelihood of the answers, as a function of the temperature."""

    def __init__(self, scores: Sequence[Sequence[float]], answers: Sequence[int], smooth: bool = False) -> None:
        """Keep the scores and the targets.

        smooth: whether the other options count with the weights of Laplace's rule. Default false.
        """
        import numpy as np

        sizes = np.array([len(row) for row in scores])
        self.there = np.arange(sizes.max()) < sizes[:, None]
        self.scores = np.full(self.there.shape, -np.inf)
        self.scores[self.there] = [score for row in scores for score in row]
        least = 1 / (len(scores) + sizes) if smooth else np.zeros(len(sizes))
        self.targets = np.where(self.there, least[:, None], 0.0)
        self.targets[np.arange(len(sizes)), list(answers)] = 1 - least * (sizes - 1)

    def __call__(self, temperature: float) -> float:
        """Return the loss at a temperature."""
        import numpy as np
        from scipy.special import log_softmax

        logs = np.where(self.there, log_softmax(self.scores / temperature, axis=1), 0.0)
        return float(-(self.targets * logs).sum() / len(logs))


def label_scores(model: Any, rows: Sequence[DecisionTokens], pad: int, size: int) -> list[list[float]]:
    """Return the score that a model gives each option of each row, as the decision pipeline reads it.

    model: a causal language model.
    rows: the rows.
    pad: the token that fills shorter rows of a batch.
    size: rows per forward pass.
    """
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    keeps = "logits_to_keep" in inspect.signature(base.forward).parameters
    device = next(model.parameters()).device
    found: list[list[float]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt), reverse=True)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        prompts = [rows[i].prompt for i in batch]
        width = max(map(len, prompts))
        # Rows are padded on the right, where a causal model does not look.
        ids = torch.tensor([[*prompt, *[pad] * (width - len(prompt))] for prompt in prompts], device=device)
        mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts], device=device)
        # The logits of all positions would be a tensor of tokens by vocabulary.
        kept = sorted({len(prompt) - 1 for prompt in prompts}) if keeps else list(range(width))
        more = {"logits_to_keep": torch.tensor(kept, device=device)} if keeps else {}
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
        for at, i in enumerate(batch):
            own = logits[at, kept.index(len(rows[i].prompt) - 1)].float()
            found[i] = own[torch.tensor(rows[i].labels, device=device)].tolist()
    return found
