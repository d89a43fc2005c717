"""How good decisions between the choices of a task are: accuracy, and the quality of the probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp
from typing import Any

from harness_ext.analysis.scoring.decisions import mass_figures
from harness_ext.analysis.scoring.leaks import choices_of
from harness_ext.analysis.scoring.probabilities import (
    CALIBRATION_ERROR,
    Statistic,
    area_under_roc,
    calibration_error,
    error_by_chance,
    estimates,
    log_loss,
    mean,
    reliability,
)
from harness_ext.analysis.scoring.verdicts import label_mass, source_of
from harness_ext.bridge.choices import SCORED
from harness_ext.records import Completion, Decision, Transcript


@dataclass(frozen=True)
class Pick:
    """A decision between the choices of a document.

    document: the task and the number of the document.
    gold: the index of the right choice.
    chosen: the index of the chosen one.
    probabilities: the probability of each choice; empty if the source has none. For a choice that the model did not
        report, it is the highest that it can be.
    """

    document: tuple[str, int]
    gold: int
    chosen: int
    probabilities: tuple[float, ...]


def gold_indices(task: Any, doc: Any) -> list[int] | None:
    """Return the indices of the right choices of a document; None if its task has no choices."""
    choices = choices_of(task, doc)
    if not choices:
        return None
    target = task.doc_to_target(doc)
    targets = list(target) if isinstance(target, list | tuple) else [target]
    found = [choices.index(t) if isinstance(t, str) and t in choices else t for t in targets]
    return [t for t in found if isinstance(t, int) and not isinstance(t, bool) and 0 <= t < len(choices)]


def pick_of(transcripts: Sequence[Transcript]) -> dict[str, Any] | None:
    """Return the decision between the choices of a document, for `scores.jsonl`; None if none was made.

    transcripts: those of one repeat of the document.

    The entries are:

    chosen: the index of the likeliest option; the first of several, as in lm-eval.
    options: how many options there were.
    probabilities: the probability of each, in the order of the task's choices; empty if the source has none.
    unreported: how many of these are only the highest that they can be, since the model did not report them.
    label_mass, source: as in `reviews_of`.
    """
    for transcript in transcripts:
        for number, turn in enumerate(transcript.turns):
            scores = (turn.verdict or {}).get("scores")
            if turn.kind != SCORED or not scores:
                continue
            result = turn.result
            known = bool(result.probabilities) if isinstance(result, Decision) else not isinstance(result, Completion)
            return {
                "chosen": max(range(len(scores)), key=lambda i: scores[i][0]),
                "options": len(scores),
                "probabilities": [exp(logprob) for logprob, _ in scores] if known else [],
                "unreported": result.probabilities.count(None) if isinstance(result, Decision) else 0,
                "label_mass": label_mass(transcript.turns, number),
                "source": source_of(result),
            }
    return None


def choice_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how good the decisions between choices are; None if there are none.

    rows: the lines of `scores.jsonl`.

    The figures are:

    rows: how many decisions there are about documents with one right choice.
    left_out: how many are about others: several right choices, none, or options that are not the document's choices.
    without: how many rows have no probabilities.
    accuracy: with its 95 % interval, as all that follow, over documents.

    If there are probabilities, also:

    brier: the squared distance of the probabilities from 1 for the right choice and 0 for all others, summed over the
        choices. With two choices, it is twice the binary Brier score.
    nll: the negative log-likelihood of the right choice.
    ece: the calibration error of the probability of the likeliest choice.
    auroc: if all rows have two choices, how well the probability of the second tells which is right.
    ece_by_chance, bins, label_mass: as for verdicts, about the likeliest choice.
    unreported: how many probabilities are only the highest that they can be.
    """
    found, picks, left_out = [], [], 0
    for row in rows:
        for draw in row["draws"]:
            if (pick := draw.get("pick")) is None:
                continue
            gold = row.get("gold") or []
            if len(gold) != 1 or row["choices"] != pick["options"]:
                left_out += 1
                continue
            found.append(pick)
            picks.append(
                Pick((row["task"], row["doc_id"]), gold[0], pick["chosen"], tuple(map(float, pick["probabilities"])))
            )
    if not picks:
        return {"rows": 0, "left_out": left_out} if left_out else None
    right = {"accuracy": mean([float(pick.chosen == pick.gold) for pick in picks], (0.0, 1.0))}
    known = [pick for pick in picks if pick.probabilities]
    figures: dict[str, Any] = {
        "rows": len(picks),
        "left_out": left_out,
        "without": len(picks) - len(known),
        "sources": dict(Counter(pick["source"] for pick in found)),
        "accuracy": asdict(estimates(right, [pick.document for pick in picks])["accuracy"]),
    }
    if not known:
        return figures
    tops = [max(pick.probabilities) for pick in known]
    top_right = [pick.chosen == pick.gold for pick in known]
    drawn = estimates(_statistics(known, tops, top_right), [pick.document for pick in known])
    return {
        **figures,
        **{name: asdict(estimate) for name, estimate in drawn.items()},
        "ece_by_chance": error_by_chance(tops),
        "bins": [asdict(one) for one in reliability(tops, top_right)],
        "label_mass": mass_figures([pick["label_mass"] for pick in found if pick["label_mass"] is not None]),
        "unreported": sum(pick["unreported"] for pick in found),
    }


def _statistics(picks: Sequence[Pick], tops: Sequence[float], top_right: Sequence[bool]) -> dict[str, Statistic]:
    squares = [sum((p - (i == pick.gold)) ** 2 for i, p in enumerate(pick.probabilities)) for pick in picks]
    statistics: dict[str, Statistic] = {
        "brier": mean(squares, (0.0, 2.0)),
        "nll": log_loss([pick.probabilities[pick.gold] for pick in picks]),
        CALIBRATION_ERROR: calibration_error(tops, top_right),
    }
    if all(len(pick.probabilities) == 2 for pick in picks):
        statistics["auroc"] = area_under_roc([p.probabilities[1] for p in picks], [p.gold == 1 for p in picks])
    return statistics
