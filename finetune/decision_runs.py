"""Rows that teach decisions, from earlier runs: their drafts, with lm-eval's scores as the answers."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.analysis.scoring.rounds import trajectory_of
from harness_ext.decisions import Predicate
from harness_ext.errors import HarnessExtError
from harness_ext.models.reviewing import IS_CORRECT
from harness_ext.protocol import Question
from harness_ext.records import Transcript
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts

TRAINING = re.compile(r"train(ing)?(?![a-z])", re.IGNORECASE)
SCORES = (0, 1)


class RunError(HarnessExtError):
    """A run cannot be made into rows as asked. The message says why, and what to do."""


@dataclass
class Drafts:
    """The drafts of runs, as rows.

    rows: the rows, each with the document that it is about under `document`.
    left_out: how many drafts, draws or documents were left out, by reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def right(self) -> int:
        """Return how many of the drafts are right."""
        return sum(row["answer"] for row in self.rows)


def refuse_test_rows(run: Path, figures: Mapping[str, Any]) -> None:
    """Raise RunError unless the rows of all tasks of a run are training rows, by the name of their split.

    run: the run directory.
    figures: the content of `scores.json`.
    """
    splits = {task: found["split"] for task, found in figures["tasks"].items()}
    problems = [
        f"  - {task}: its rows are of the split `{split}`" if split else f"  - {task}: it does not name its split"
        for task, split in splits.items()
        if split is None or not TRAINING.match(split)
    ]
    if problems:
        raise RunError(
            f"{run} is not shown to be about training rows, and a model that has learned the answers to test rows "
            "cannot be evaluated on them:\n" + "\n".join(problems) + "\nUse a run of a task whose `test_split` is a "
            "training split (such as creak_cot_train, strategyqa_cot_train or gsm8k_cot_answer_train), or give "
            "--any_split if you do not evaluate on these rows"
        )


def add_drafts(
    found: Drafts,
    run: Path,
    figures: Mapping[str, Any],
    scored: Sequence[Mapping[str, Any]],
    question: str = IS_CORRECT,
    metric: str | None = None,
) -> None:
    """Add the drafts of a scored run.

    What is asked about a draft is what `feedback_pair` asks with `verdict=decision`.

    found: receives the rows.
    run: the run directory.
    figures, scored: the contents of its `scores.json` and `scores.jsonl`.
    question: the yes/no question. Default: that of `feedback_pair`.
    metric: the metric, or `metric,filter`, that says which drafts are right. Default: the only one of each task whose
        values are 1 and 0.

    Raises RunError if that metric is missing or ambiguous.
    """
    by_document: dict[tuple[str, str], list[Transcript]] = {}
    for transcript in read_transcripts(run):
        by_document.setdefault((transcript.task, transcript.doc_hash), []).append(transcript)
    chosen = {task: _metric(task, figures["tasks"][task]["metrics"], scored, metric) for task in figures["tasks"]}
    twice = Counter((row["task"], row["doc_hash"]) for row in scored)
    seen = {_identity(row) for row in found.rows}
    for row in scored:
        key = (row["task"], row["doc_hash"])
        if twice[key] > 1:
            found.left_out["documents that occur several times, so that their draws cannot be told apart"] += 1
            continue
        for text, right, transcript in _drafts(row, by_document[key], *chosen[row["task"]], found.left_out):
            asked = _question(transcript)
            made = {
                "state": {"task": asked.text, "answer": (asked.prefix + text).strip()},
                "question": {"type": Predicate.type, "instructions": question},
                "answer": right,
                "task": row["task"],
                "document": row["doc_hash"],
            }
            if (identity := _identity(made)) in seen:
                found.left_out["repeated drafts"] += 1
                continue
            seen.add(identity)
            found.rows.append(made)


def split_by_document(
    rows: Sequence[dict[str, Any]], share: float, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the training rows and the validation rows. All rows about a document are on the same side.

    rows: the rows.
    share: the share of the documents that are held out, 0 to 1.
    seed: the seed of the choice. Default 0.
    """
    documents = sorted({row["document"] for row in rows})
    held_out = set(random.Random(seed).sample(documents, round(share * len(documents))))
    return (
        [row for row in rows if row["document"] not in held_out],
        [row for row in rows if row["document"] in held_out],
    )


def _identity(row: Mapping[str, Any]) -> str:
    return json.dumps([row["state"], row["question"]], sort_keys=True)


def _drafts(
    row: Mapping[str, Any], transcripts: Sequence[Transcript], metric: str, key: str, left_out: Counter[str]
) -> Iterator[tuple[str, bool, Transcript]]:
    """Yield each draft of a document that has a score of its own, whether it is right, and its transcript."""
    scores = row["filters"].get(key, {})
    units, agents = scores.get("answers", []), scores.get("agents", [])
    by_repeat = {transcript.repeat: transcript for transcript in transcripts}
    for number, draw in enumerate(row["draws"]):
        transcript = by_repeat[draw["repeat"]]
        if draw["failed"]:
            left_out["questions without an answer"] += 1
        elif not draw["by_round"] or len(units) != len(row["draws"]):
            left_out["draws whose drafts have no score of their own"] += 1
        else:
            trajectory = trajectory_of(transcript)
            several = number < len(agents) and bool(agents[number])
            texts = trajectory.rounds if several else [(text,) for text in trajectory.answers]
            values = agents[number] if several else [[state] for state in units[number]]
            for written, stated in zip(texts, values, strict=True):
                for text, value in zip(written, stated, strict=True):
                    yield text, bool(value[metric]), transcript


def _question(transcript: Transcript) -> Question:
    """Return the question of a transcript, whose context is a text or messages as JSON."""
    try:
        found = json.loads(transcript.context)
        chat = bool(found) and all(set(message) == {"role", "content"} for message in found)
    except (ValueError, TypeError, RecursionError):
        chat = False
    return Question(ChatContext(transcript.context) if chat else transcript.context)


def _metric(
    task: str, metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], wanted: str | None
) -> tuple[str, str]:
    """Return the metric and the filter that say which drafts of a task are right."""
    own = [row for row in rows if row["task"] == task]
    binary = []
    for name, figures in metrics.items():
        metric, _, key = name.rpartition(",")
        values = [
            state.get(metric)
            for row in own
            for unit in row["filters"].get(key, {}).get("answers", [])
            for state in unit
        ]
        if figures["higher_is_better"] and values and all(value in SCORES for value in values):
            binary.append(name)
    found = [name for name in binary if wanted in (None, name, name.rpartition(",")[0])]
    if not binary:
        raise RunError(f"task {task}: no metric says right or wrong (1 or 0) of its drafts: use another task")
    if len(found) != 1:
        reason = "has several metrics" if found else f"has no metric {wanted!r} of 1 and 0"
        raise RunError(f"task {task} {reason}: choose with --metric among {'; '.join(binary)}")
    metric, _, key = found[0].rpartition(",")
    return metric, key
