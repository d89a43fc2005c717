"""The command `harness-ext calibrate`: fits what makes the probabilities of a seat's verdicts honest."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness_ext.analysis.platt import FOLDS, Correction, cross_validated, fit
from harness_ext.analysis.scoring.command import Scorer, add_task_arguments
from harness_ext.analysis.scoring.decision_report import NAMES, show_estimate
from harness_ext.analysis.scoring.decisions import judged_drafts
from harness_ext.analysis.scoring.probabilities import Estimate, binary_statistics, estimates
from harness_ext.analysis.scoring.score import FIGURES, read_config
from harness_ext.analysis.scoring.verdicts import JudgedDraft
from harness_ext.decisions.calibration import Calibration, sigmoid
from harness_ext.errors import FAILED, OK, USAGE, HarnessExtError
from harness_ext.records.run_directory import write_json
from harness_ext.terminal import clean, console, safe_line

FEWEST = 30  # verdicts, below which a fit is hardly better than a guess


class CalibrationError(HarnessExtError):
    """A run cannot be calibrated as asked. The message says why, and what to do."""


@dataclass(frozen=True)
class Asked:
    """What distinguishes verdicts that need calibrations of their own.

    seat: who decided.
    question: the digest of what was asked; None if the run did not record it.
    source: where the probabilities come from.
    """

    seat: str
    question: str | None
    source: str

    def __str__(self) -> str:
        return f"seat {self.seat}, question {self.question or 'unknown'}, source {self.source}"


@dataclass(frozen=True)
class Fitted:
    """A calibration, and what it does.

    calibration: the calibration.
    before: the figures of the raw probabilities, with intervals.
    after: those of the probabilities that fits to other documents corrected; None if there are too few documents. The
        AUROC is that of the fit to all of them, which keeps the order if its slope is positive.
    """

    calibration: Calibration
    before: Mapping[str, Estimate]
    after: Mapping[str, Estimate] | None


def main(arguments: Sequence[str]) -> int:
    """Calibrate the verdicts of a run and return the exit status."""
    args = _parser().parse_args(list(arguments))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    output: Path = args.output
    if output.exists() and not args.overwrite:
        print(f"harness-ext calibrate: {output} exists: give --overwrite, or another --output", file=sys.stderr)
        return USAGE
    run = args.run.expanduser()
    try:
        figures, rows = Scorer("calibrate", args).scored(run)
        tasks = [name for given in args.on for name in given.split(",")]
        drafts = drafts_on(figures, rows, tasks, args.metric)
        asked, chosen = choose(drafts, args.seat, args.question, args.source)
        names = tuple(f"{task}:{figures['tasks'][task]['split'] or 'unknown'}" for task in tasks)
        fitted = calibrate(chosen, asked, seat_config(run, asked.seat), names)
        write_json(output, fitted.calibration.to_json())
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext calibrate: {clean(error)}", file=sys.stderr)
        return FAILED
    _report(asked, fitted, output)
    return OK


def drafts_on(
    figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], tasks: Sequence[str], metric: str | None = None
) -> list[JudgedDraft]:
    """Return the judged drafts of some tasks whose verdicts have a probability.

    figures, rows: the contents of `scores.json` and `scores.jsonl`.
    tasks: the names of the tasks.
    metric: the metric, or `metric,filter`, that says which drafts are right. Default None: the only one of each task.

    Raises CalibrationError if a task or metric is missing or ambiguous, or if no verdict has a probability.
    """
    if unknown := [task for task in tasks if task not in figures["tasks"]]:
        raise CalibrationError(
            f"--on {unknown[0]}: the tasks of this run are {', '.join(figures['tasks'])}: name one of them"
        )
    found = []
    for task in tasks:
        own = [row for row in rows if row["task"] == task]
        name, _, key = _metric(figures["tasks"][task]["metrics"], task, metric).rpartition(",")
        found += judged_drafts(own, name, key)
    known = [draft for draft in found if draft.probability is not None]
    if not known:
        reason = (
            f"none of its {len(found)} verdicts has a probability (they were read from text): use a `verdict` and a "
            "model that have some (docs/protocols.md)"
            if found
            else "it contains no verdicts on drafts that have a score of their own: name a run of `feedback_pair`"
        )
        raise CalibrationError(f"the run cannot be calibrated on {', '.join(tasks)}: {reason}")
    return known


def choose(
    drafts: Sequence[JudgedDraft], seat: str | None = None, question: str | None = None, source: str | None = None
) -> tuple[Asked, list[JudgedDraft]]:
    """Return the verdicts of one seat on one question from one source, and what they have in common.

    drafts: the judged drafts, with probabilities.
    seat, question, source: what they have to be. Default None: whatever the only ones are.

    Raises CalibrationError if that leaves none or several, or if the run did not record the question.
    """
    groups: dict[Asked, list[JudgedDraft]] = {}
    for draft in drafts:
        asked = Asked(draft.review["seat"], draft.review["question"], draft.review["source"])
        groups.setdefault(asked, []).append(draft)
    wanted = {"seat": seat, "question": question, "source": source}
    left = [a for a in groups if all(value in (None, getattr(a, name)) for name, value in wanted.items())]
    if len(left) != 1:
        listed = "\n".join(f"  - {asked}: {len(found)} verdicts" for asked, found in groups.items())
        reason = "several kinds of verdicts, which need calibrations of their own" if left else "no such verdicts"
        raise CalibrationError(f"there are {reason}: choose with --seat, --question and --source among\n{listed}")
    if left[0].question is None:
        raise CalibrationError(
            "the run did not record what was asked, so that no other run could tell whether a calibration is meant for "
            "its question: repeat the run with this version (of a cascade, with `confidence=correct`)"
        )
    return left[0], groups[left[0]]


def calibrate(
    drafts: Sequence[JudgedDraft], asked: Asked, seat: Mapping[str, Any], tasks: Sequence[str], date: str | None = None
) -> Fitted:
    """Return the calibration of verdicts, and their figures before and after.

    drafts: the judged drafts of one kind.
    asked: what they have in common.
    seat: the entry of the seat in the run's `config.json`.
    tasks: the tasks and splits of the drafts.
    date: when it is fitted. Default: today.

    Raises CalibrationError if only right or only wrong drafts were judged, or if all probabilities are equal.
    """
    raw = [float(draft.review["raw"]) for draft in drafts]
    right = [draft.right for draft in drafts]
    if all(right) or not any(right):
        raise CalibrationError(
            f"all {len(right)} judged drafts are {'right' if right[0] else 'wrong'}, so that nothing shows how right "
            "and wrong ones differ: use a run with more questions, or of a student that is sometimes right"
        )
    try:
        correction: Correction = fit(raw, right)
    except ValueError as error:
        raise CalibrationError(
            f"all {len(raw)} probabilities are {raw[0]:.4g}, so that nothing can be fitted: this model does not tell "
            "drafts apart. Use another model or question"
        ) from error
    documents = [draft.document for draft in drafts]
    corrected = cross_validated(raw, right, documents)
    before, after = _figures(raw, right, documents), None
    if corrected is not None:
        # Folds shift the corrected probabilities against each other, which would change the order across folds. The
        # AUROC depends on nothing but the order, so it is that of the fit in the file.
        order = _figures([correction.apply(p) for p in raw], right, documents)
        after = {**_figures(corrected, right, documents), "auroc": order["auroc"]}
    calibration = Calibration(
        model=str(seat["fingerprint"]),
        model_name=str(seat.get("name") or "unknown"),
        question=str(asked.question),
        source=asked.source,
        slope=correction.slope,
        offset=correction.offset,
        rows=len(raw),
        right=sum(right),
        tasks=tuple(tasks),
        date=date or datetime.now(UTC).date().isoformat(),
    )
    return Fitted(calibration, before, after)


def warnings_of(fitted: Fitted, seat: str) -> Iterator[str]:
    """Yield what speaks against using a calibration."""
    calibration, area = fitted.calibration, fitted.before["auroc"]
    if calibration.rows < FEWEST:
        yield f"only {calibration.rows} verdicts: fit on at least {FEWEST}"
    if area.low is None or area.high is None:
        why = area.reason or "these drafts are all right or all wrong"
        yield f"the AUROC has no interval ({why}), so that nothing says how far to trust the fit"
    elif area.low <= 0.5 <= area.high:
        yield (
            "the interval of the AUROC includes 0.5: these probabilities may say nothing about which drafts are right, "
            "and no calibration changes that"
        )
    before, after = fitted.before["nll"].value, fitted.after and fitted.after["nll"].value
    if before is not None and after and after >= before:
        yield "corrected by fits to other documents, the probabilities are no better than before (log-likelihood)"
    if calibration.slope <= 0:
        yield (
            f"the slope is not positive: drafts that `{seat}` finds more probable are not more often right, and the "
            "calibration does not keep their order"
        )


def seat_config(run: Path, seat: str) -> Mapping[str, Any]:
    """Return a seat's entry in `config.json`. Raises CalibrationError if it does not identify the seat's model."""
    found = (read_config(run).get("seats") or {}).get(seat) or {}
    if not found.get("fingerprint"):
        raise CalibrationError(
            f"{run / 'config.json'} does not say which model `{seat}` was, so that a calibration would fit any: use a "
            "complete run directory"
        )
    return dict(found)


def _metric(metrics: Mapping[str, Any], task: str, wanted: str | None) -> str:
    """Return the `metric,filter` of a task that says which drafts are right."""
    binary = [name for name, figures in metrics.items() if "probabilities" in figures]
    found = [name for name in binary if wanted in (None, name, name.partition(",")[0])]
    if not binary:
        raise CalibrationError(
            f"task {task}: no metric says right or wrong (1 or 0) of reviewed drafts: use another task"
        )
    if len(found) != 1:
        reason = "has several metrics" if len(found) > 1 else f"has no metric {wanted!r} of 1 and 0"
        raise CalibrationError(f"task {task} {reason}: choose with --metric among {'; '.join(binary)}")
    return found[0]


def _figures(
    stated: Sequence[float], right: Sequence[bool], documents: Sequence[tuple[str, int]]
) -> dict[str, Estimate]:
    return estimates(binary_statistics(stated, right), documents)


def _report(asked: Asked, fitted: Fitted, output: Path) -> None:
    from dataclasses import asdict

    from rich import box
    from rich.table import Table

    calibration = fitted.calibration
    out = console()
    say = partial(out.print, soft_wrap=True)  # paths and commands must not be broken
    say(
        safe_line(
            f"{asked.seat} ({calibration.model_name}), question {calibration.question}, source {calibration.source}: "
            f"{calibration.rows} verdicts on {', '.join(calibration.tasks)}, {calibration.right} of them about right "
            "drafts"
        )
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in NAMES.values():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("before", *(show_estimate(asdict(fitted.before[key])) for key in NAMES))
    if fitted.after is not None:
        table.add_row("after", *(show_estimate(asdict(fitted.after[key])) for key in NAMES))
    out.print(table)
    say(
        "After: corrected by fits to the other documents, in up to "
        f"{FOLDS} folds. A fit to all of them is what the file contains"
        if fitted.after is not None
        else "There are too few documents to show what the fit does to new ones"
    )
    say(f"slope {calibration.slope:.4f}, offset {calibration.offset:+.4f} (in log-odds)")
    say(
        f"`accept_at={calibration.apply(0.5):.4g}` now decides as `accept_at=0.5` did before"
        + (
            f", and `accept_at=0.5` as {sigmoid(-calibration.offset / calibration.slope):.4g} did"
            if calibration.slope > 0
            else ""
        )
    )
    for warning in warnings_of(fitted, asked.seat):
        say(f"WARNING: {warning}")
    say("Use it for rows that it was not fitted on, with the model argument:")
    say(safe_line(f"  {asked.seat}.calibration={output}"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext calibrate",
        description="Fit slope and offset (Platt) of the probabilities of a seat's verdicts, on the scored drafts of a "
        "run. Use rows for it that you do not evaluate on.",
        epilog=f"Scores the run first unless {FIGURES} is up to date. See docs/cli.md.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "--on", action="append", required=True, metavar="TASK", help="a task whose drafts to fit on (repeatable)"
    )
    parser.add_argument(
        "--metric", metavar="METRIC[,FILTER]", help="what says which drafts are right, if a task has several metrics"
    )
    parser.add_argument("--seat", metavar="SEAT", help="whose verdicts, if several seats gave some")
    parser.add_argument("--question", metavar="DIGEST", help="on which question, if several were asked")
    parser.add_argument("--source", metavar="SOURCE", help="from which source, if there are several")
    parser.add_argument(
        "--output", type=Path, default=Path("calibration.json"), metavar="FILE",
        help="the file to write (default: calibration.json)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_task_arguments(parser)
    return parser
