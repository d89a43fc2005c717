"""Accuracy per epoch compared with the untouched model and the teacher: the points, a gate, and the best checkpoint."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from harness_ext.analysis.statistics.clusters import Clusters, Interval
from harness_ext.analysis.statistics.paired import PairedDifference, estimate, paired_difference
from harness_ext.analysis.statistics.scales import scale_of
from harness_ext.analysis.statistics.sign_flip import sign_flip_test
from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.checkpoint_scores import CheckpointScore, Subject

Labels = Mapping[str, Hashable]
Errors = Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Point:
    """The score of a subject on a task.

    subject, task, metric: what was scored.
    questions: the number of questions.
    mean: the mean over them.
    interval: its 95 % interval. Its ends are NaN if all values are equal and the scale of the metric is unknown.
    change: the difference to the untouched model. None for that model itself, or if it was not scored.
    """

    subject: Subject
    task: str
    metric: str
    questions: int
    mean: float
    interval: Interval
    change: PairedDifference | None


def points(subjects: Sequence[Subject], scores: Sequence[CheckpointScore], labels: Labels | None = None) -> list[Point]:
    """Return the points of the curve by task, in the order of the subjects. Subjects without a score are omitted.

    subjects: the models.
    scores: their scores.
    labels: the cluster of each question, by its name in the scores. Default: each question by itself.

    Raises ConfigError if the models were scored on different questions of a task.
    """
    found = []
    for task in dict.fromkeys(score.task for score in scores):
        by_name = {score.subject: score for score in scores if score.task == task}
        _check_questions(task, by_name)
        values = [value for score in by_name.values() for value in score.values.values()]
        scale = scale_of(next(iter(by_name.values())).metric.partition(",")[0], values)
        baseline = next((by_name.get(one.name) for one in subjects if one.role == "baseline"), None)
        for subject in subjects:
            score = by_name.get(subject.name)
            if score is None:
                continue
            names, new = _names(score.values, labels), list(score.values.values())
            change = None
            if baseline is not None and score is not baseline:
                change = paired_difference([baseline.values[name] for name in score.values], new, scale, names)
            mean = estimate(new, scale, names)
            found.append(Point(subject, task, score.metric, len(new), mean.value, mean.interval, change))
    return found


def gate(
    subjects: Sequence[Subject], scores: Sequence[CheckpointScore], labels: Labels | None = None,
    alpha: float | None = None,
) -> tuple[bool, str]:  # fmt: skip
    """Return whether the last epoch beats the untouched model, and a message with the reason.

    subjects: the models.
    scores: their scores.
    labels: the cluster of each question, by its name in the scores. Default: each question by itself.
    alpha: if given, the difference must also be significant at this level. Default None.

    This is the gate of github.com/BertilBraun/Master-Thesis: the last epoch has to win more questions than it loses,
    over all tasks together. The test is the sign-flip test of wins and losses over the same questions, which without
    clusters is the exact sign test.
    """
    baseline = next((one.name for one in subjects if one.role == "baseline"), None)
    before = {score.task: score.values for score in scores if score.subject == baseline}
    scored = {score.subject for score in scores if score.task in before}
    newest = [one.name for one in subjects if one.role == "epoch" and one.name in scored]
    if not newest:
        return False, "gate: closed: no epoch has a score to compare with the untouched model"
    signs: dict[str, float] = {}
    for score in scores:
        if score.subject == newest[-1] and score.task in before:
            old = before[score.task]
            # A group and one of its tasks have questions in common, each of which counts once.
            signs |= {name: float((value > old[name]) - (value < old[name])) for name, value in score.values.items()}
    won, lost = sum(sign > 0 for sign in signs.values()), sum(sign < 0 for sign in signs.values())
    p = sign_flip_test(Clusters.of(list(signs.values()), _names(signs, labels)))
    passed = won > lost and (alpha is None or p < alpha)
    wanted = "more wins than losses" + (f" and p < {alpha:g}" if alpha is not None else "")
    test = "sign-flip test over clusters" if labels else "exact sign test"
    return passed, (
        f"gate: {'open' if passed else 'closed'}: {newest[-1]} wins {won} and loses {lost} questions, p = {p:.2g} by "
        f"the {test} (needed: {wanted})"
    )


def best_checkpoint(found: Sequence[Point], errors: Errors) -> tuple[str | None, str]:
    """Return the name of the best scored checkpoint, and a sentence that says how it was chosen.

    found: the points of the curve.
    errors: training and validation error per epoch, from `errors.json`.

    The best is the one with the lowest validation error. Its scores do not count: choosing by the questions that are
    reported would make them look better than they are. Without validation errors, none is chosen.
    """
    best = lowest_error([point.subject for point in found], errors)
    if best is None:
        return None, (
            "No checkpoint is marked as the best, because the training measured no validation error: give it rows to "
            "choose by (`eval_file` or `eval_fraction`)."
        )
    return best.name, f"The best checkpoint is the one with the lowest validation error: {best.name}."


def lowest_error(subjects: Sequence[Subject], errors: Errors) -> Subject | None:
    """Return the checkpoint with the lowest validation error; None if the training measured none."""
    validation: dict[int | None, float] = {int(epoch): error for epoch, error in errors.get("validation", [])}
    known = [(validation[epoch], one) for one in subjects if (epoch := whole_epoch(one)) in validation]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def whole_epoch(subject: Subject) -> int | None:
    """Return the epoch after which a checkpoint was saved; None if it was saved during one, or is no checkpoint."""
    epoch = subject.epoch
    if subject.role != "epoch" or epoch is None or abs(epoch - round(epoch)) > 1e-6:
        return None
    return round(epoch)


def _names(values: Mapping[str, float], labels: Labels | None) -> list[Hashable] | None:
    return None if labels is None else [labels[name] for name in values]


def _check_questions(task: str, scores: Mapping[str, CheckpointScore]) -> None:
    (first, *others) = scores.values()
    for other in others:
        if other.values.keys() != first.values.keys():
            raise ConfigError(
                f"{first.subject} and {other.subject} were scored on different questions of {task}: its data have "
                "changed since. Delete the folder `evaluations/scores` of the run to score all models again."
            )
