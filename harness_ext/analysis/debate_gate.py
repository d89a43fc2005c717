"""The command `harness-ext train-gate`: fits what predicts whether a debate is worth it (`debate gate=trained`).

A debate with `gate=critique` lets its first agent answer, criticise its answer and then debate with the others. The
scores show which debates corrected a wrong answer, and the features of the critiques are fitted to that.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness_ext.analysis.platt import FOLDS, folds_of
from harness_ext.analysis.scoring.command import Scorer, add_task_arguments
from harness_ext.analysis.scoring.score import FIGURES, read_config
from harness_ext.decisions.debate_gate import DebateGate, settings_of
from harness_ext.errors import FAILED, OK, USAGE, HarnessExtError
from harness_ext.records.run_directory import read_transcripts, write_json
from harness_ext.terminal import clean, console, safe_line

FEWEST = 30  # debates, below which a fit is hardly better than a guess
PENALTY = 1.0  # on the squared slopes of standardised features: the fit is finite where they separate the rows
FEW_HELPED = 10  # corrected answers, below which a fit hardly knows what they have in common


class GateError(HarnessExtError):
    """No gate can be fitted as asked. The message says why, and what to do."""


@dataclass(frozen=True)
class DebatedQuestion:
    """A question whose first answer was criticised and debated.

    document: the task and the hash of the document.
    features: the features of the critique, by name.
    before, after: whether the first answer and the debate's are right.
    """

    document: tuple[str, str]
    features: Mapping[str, float]
    before: bool
    after: bool

    @property
    def helped(self) -> bool:
        """Return whether the debate corrected a wrong answer."""
        return self.after and not self.before


@dataclass(frozen=True)
class Outcome:
    """What a threshold does.

    threshold: the least probability at which there is a debate.
    debated: the share of the questions with a debate.
    accuracy: the share of right answers: the debate's where there is one, elsewhere the first.
    """

    threshold: float
    debated: float
    accuracy: float


def main(arguments: Sequence[str]) -> int:
    """Fit a gate on runs and return the exit status."""
    args = _parser().parse_args(list(arguments))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    output: Path = args.output
    if output.exists() and not args.overwrite:
        print(f"harness-ext train-gate: {output} exists: give --overwrite, or another --output", file=sys.stderr)
        return USAGE
    try:
        questions, settings, tasks = list[DebatedQuestion](), list[dict[str, Any]](), dict[str, None]()
        scorer, names = Scorer("train-gate", args), [name for given in args.on for name in given.split(",")]
        for run in map(Path.expanduser, args.runs):
            figures, rows = scorer.scored(run)
            questions += debated_questions(run, figures, rows, names, args.metric)
            settings.append(gate_settings(run))
            tasks |= dict.fromkeys(f"{name}:{figures['tasks'][name]['split'] or 'unknown'}" for name in names)
        if any(other != settings[0] for other in settings):
            raise GateError("the runs have different options or models: fit a gate on debates of one kind")
        gate, outcomes = train(questions, settings[0], tuple(tasks))
        write_json(output, gate.to_json())
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext train-gate: {clean(error)}", file=sys.stderr)
        return FAILED
    _report(gate, questions, outcomes, output)
    return OK


def debated_questions(
    run: Path,
    figures: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    metric: str | None = None,
) -> list[DebatedQuestion]:
    """Return the questions of some tasks whose first answer was criticised and debated.

    run: the run directory.
    figures, rows: the contents of its `scores.json` and `scores.jsonl`.
    tasks: the names of the tasks.
    metric: the metric, or `metric,filter`, that says which answers are right. Default None: the only one of each task.

    Raises GateError if a task or metric is missing or ambiguous, or if there are no such questions.
    """
    if unknown := [task for task in tasks if task not in figures["tasks"]]:
        raise GateError(f"--on {unknown[0]}: the tasks of {run} are {', '.join(figures['tasks'])}: name one of them")
    features: dict[tuple[str, str, int], Mapping[str, float]] = {}
    for transcript in read_transcripts(run):
        for turn in transcript.turns:
            verdict = turn.verdict or {}
            # Where a gate decided (`debates`), the debates are a choice, and tell nothing about those that were spared.
            if turn.kind == "critique" and "features" in verdict and "debates" not in verdict:
                features[transcript.task, transcript.doc_hash, transcript.repeat] = verdict["features"]
    questions = []
    for task in dict.fromkeys(tasks):
        own = [row for row in rows if row["task"] == task]
        name, _, key = _metric(own, task, metric).rpartition(",")
        for row in own:
            entry = row["filters"][key]
            for draw, agents, answers in zip(row["draws"], entry.get("agents") or [], entry["answers"], strict=False):
                found = features.get((task, row["doc_hash"], draw["repeat"]))
                if found is not None and not draw["failed"] and agents:
                    # The first text of round 0 is that of the agent that criticised itself.
                    before, after = bool(agents[0][0][name]), bool(answers[-1][name])
                    questions.append(DebatedQuestion((task, row["doc_hash"]), found, before, after))
    if not questions:
        raise GateError(
            f"{run} has no debated questions with critiques: name a run of `debate` with `gate=critique`, on tasks "
            "with written answers"
        )
    return questions


def gate_settings(run: Path) -> dict[str, Any]:
    """Return the settings of a run's debates. Raises GateError if the run did not record them."""
    identity = read_config(run).get("identity") or {}
    if not identity.get("options") or not identity.get("seats"):
        raise GateError(f"{run / 'config.json'} does not say what the debates were: use a complete run")
    return settings_of(identity["options"], identity["seats"])


def train(
    questions: Sequence[DebatedQuestion], settings: Mapping[str, Any], tasks: Sequence[str], date: str | None = None
) -> tuple[DebateGate, list[Outcome]]:
    """Return the gate that fits debated questions best, and what its thresholds do on documents left out of the fit.

    questions: the questions.
    settings: what the debates were (`settings_of`).
    tasks: the tasks and splits that they came from.
    date: when the gate is fitted. Default: today.

    The threshold of the gate is the one with the most right answers on documents left out, and of several the highest.
    Raises GateError if no debate helped, or all did, or if there is a single document.
    """
    helped = [question.helped for question in questions]
    if all(helped) or not any(helped):
        raise GateError(
            f"{'all' if all(helped) else 'none'} of {len(questions)} debates corrected a wrong answer, so that nothing "
            "shows when a debate is worth it: use more questions, or others"
        )
    names = sorted(questions[0].features)
    if any(sorted(question.features) != names for question in questions):
        raise GateError("the critiques have different features: use runs of one version")
    folds = folds_of([question.document for question in questions])
    if len(set(folds)) < 2:
        raise GateError("all questions are about one document: use a run with more questions")
    fitted = _fit(questions, names)
    unseen = [0.0] * len(questions)
    for fold in set(folds):
        part = _fit([q for q, other in zip(questions, folds, strict=True) if other != fold], names)
        for i, question in enumerate(questions):
            if folds[i] == fold:
                unseen[i] = _gate(part, names).probability(question.features)
    outcomes = outcomes_of(unseen, questions)
    best = max(outcomes, key=lambda outcome: (outcome.accuracy, outcome.threshold))
    gate = _gate(
        fitted,
        names,
        threshold=best.threshold,
        settings=settings,
        rows=len(questions),
        helped=sum(helped),
        tasks=tuple(tasks),
        date=date or datetime.now(UTC).date().isoformat(),
    )
    return gate, outcomes


def outcomes_of(probabilities: Sequence[float], questions: Sequence[DebatedQuestion]) -> list[Outcome]:
    """Return what each threshold that makes a difference does, from no debate at all to debates on all questions.

    probabilities: how probable it is that a debate helps, by questions.
    questions: the questions.
    """
    order = sorted(range(len(questions)), key=lambda i: -probabilities[i])
    right = sum(question.before for question in questions)
    found = [Outcome(1.0, 0.0, right / len(questions))]
    for position, i in enumerate(order, start=1):
        right += questions[i].after - questions[i].before
        below = probabilities[order[position]] if position < len(order) else -probabilities[i]
        if below < probabilities[i] or position == len(order):
            # Halfway to the next question: the fit to all documents differs a little from those that left some out.
            threshold = (probabilities[i] + below) / 2
            found.append(Outcome(threshold, position / len(questions), right / len(questions)))
    return found


def _metric(rows: Sequence[Mapping[str, Any]], task: str, wanted: str | None) -> str:
    """Return the `metric,filter` of a task that says which answers are right.

    rows: the task's lines of `scores.jsonl`.
    """
    values: dict[str, set[Any]] = {}
    for row in rows:
        for key, entry in row["filters"].items():
            for scores in (scores for unit in entry["answers"] for scores in unit):
                for name, value in scores.items():
                    values.setdefault(f"{name},{key}", set()).add(value if isinstance(value, int | float) else None)
    binary = [name for name, found in values.items() if found <= {0, 1}]
    named = [name for name in binary if wanted in (None, name, name.rpartition(",")[0])]
    if not binary:
        raise GateError(f"task {task}: no metric says right or wrong (1 or 0) of an answer: use another task")
    if len(named) != 1:
        reason = "has several metrics" if len(named) > 1 else f"has no metric {wanted!r} of 1 and 0"
        raise GateError(f"task {task} {reason}: choose with --metric among {'; '.join(binary)}")
    return named[0]


def _fit(questions: Sequence[DebatedQuestion], names: Sequence[str]) -> dict[str, Any]:
    """Return means, scales, slopes and offset of a logistic regression with a penalty on its slopes.

    A feature that is the same for all questions gets a slope of 0. The targets are Platt's (`platt.fit`), so that the
    offset is finite where no debate helped.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit

    table = np.array([[question.features[name] for name in names] for question in questions], dtype=float)
    helped = np.array([question.helped for question in questions])
    means, scales = table.mean(axis=0), table.std(axis=0)
    scales[scales < 1e-9] = 1.0
    design = np.hstack([(table - means) / scales, np.ones((len(questions), 1))])
    positives = int(helped.sum())
    targets = np.where(helped, (positives + 1) / (positives + 2), 1 / (len(helped) - positives + 2))
    penalty = np.array([PENALTY] * len(names) + [0.0])

    def loss(parameters: Any) -> tuple[float, Any]:
        odds = design @ parameters
        value = np.sum(np.logaddexp(0, odds) - targets * odds) + np.sum(penalty * parameters**2) / 2
        return float(value), (expit(odds) - targets) @ design + penalty * parameters

    found = minimize(loss, np.zeros(len(penalty)), jac=True, method="L-BFGS-B").x
    return {
        "means": tuple(map(float, means)),
        "scales": tuple(map(float, scales)),
        "slopes": tuple(map(float, found[:-1])),
        "offset": float(found[-1]),
    }


def _gate(fitted: Mapping[str, Any], names: Sequence[str], **about: Any) -> DebateGate:
    unknown = {"threshold": 1.0, "settings": {}, "rows": 0, "helped": 0, "tasks": (), "date": ""}
    return DebateGate(**{"features": tuple(names), **fitted, **unknown, **about})


def _report(gate: DebateGate, questions: Sequence[DebatedQuestion], outcomes: Sequence[Outcome], output: Path) -> None:
    from rich import box
    from rich.table import Table

    out = console()

    def say(text: str) -> None:
        out.print(text, soft_wrap=True, markup=False, highlight=False)

    harmed = sum(question.before and not question.after for question in questions)
    say(f"{gate.rows} debates: {gate.helped} corrected a wrong answer, {harmed} spoiled a right one")
    say(f"Accuracy on documents that the fit has not seen (up to {FOLDS} folds), on which the threshold is chosen:")
    chosen = next(outcome for outcome in outcomes if outcome.threshold == gate.threshold)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "debates", "accuracy", "gate_at"):
        table.add_column(name, justify="right" if name else "left")
    for name, outcome in (("never", outcomes[0]), ("the gate", chosen), ("always", outcomes[-1])):
        table.add_row(name, f"{outcome.debated:.1%}", f"{outcome.accuracy:.3f}", f"{outcome.threshold:.4f}")
    out.print(table)
    strongest = sorted(zip(gate.features, gate.slopes, strict=True), key=lambda pair: -abs(pair[1]))[:5]
    say("Strongest features: " + ", ".join(f"{name} {slope:+.2f}" for name, slope in strongest))
    if gate.rows < FEWEST or gate.helped < FEW_HELPED:
        say(
            f"WARNING: {gate.rows} debates, of which {gate.helped} helped, are few: fit on at least {FEWEST}, of which "
            f"{FEW_HELPED} helped"
        )
    if chosen.accuracy <= max(outcomes[0].accuracy, outcomes[-1].accuracy):
        say("WARNING: the gate is not more accurate than never or always debating; what it may save is debates")
    say("Use it for rows that it was not fitted on, with the model arguments of these debates and:")
    say(safe_line(f"  gate=trained,gate_file={output}"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext train-gate",
        description="Fit what predicts from an agent's critique of its answer whether a debate would correct it. The "
        "runs are those of `debate` with `gate=critique`, on rows that you do not evaluate on.",
        epilog=f"Scores the runs first unless {FIGURES} is up to date. See docs/debate.md.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "--on", action="append", required=True, metavar="TASK", help="a task whose questions to fit on (repeatable)"
    )
    parser.add_argument(
        "--metric", metavar="METRIC[,FILTER]", help="what says which answers are right, if a task has several metrics"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("gate.json"), metavar="FILE", help="the file to write (default: gate.json)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_task_arguments(parser)
    return parser
