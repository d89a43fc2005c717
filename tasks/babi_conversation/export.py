"""The tables of github.com/racia/research-project: one row per question with the replies before and after, and metrics.

Columns that need a human reader or other data are empty: the reference reasoning (`silver_reasoning`), whether the
reasoning is correct, whether the answer begins with a verb (which needs a part-of-speech tagger), and the attention
columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from harness_ext.bridge.exports import Table, TableRow
from harness_ext.protocol.conversation import read_answers
from harness_ext.tasks.babi_conversation.rows import part_text
from harness_ext.tasks.babi_reasoning.metrics import exact_match, parse_reply, soft_match

_MEASURES = (
    "model_answer answer_correct model_reasoning reasoning_correct model_output exact_match_accuracy "
    "soft_match_accuracy there verbs pronouns not_mentioned context_sents_hall"
).split()
COLUMNS = (
    *"id_ task_id sample_id part_id task golden_answer silver_reasoning".split(),
    *(f"{measure}_before" for measure in _MEASURES),
    *(f"{measure}_after" for measure in _MEASURES),
    "iterations",
)


def file(doc: Mapping[str, Any], label: str) -> str:
    """Return the path of the table: `<split>_<model>_results.csv`."""
    return f"{doc.get('split', 'test')}_{re.sub(r'[^A-Za-z0-9._-]+', '_', label)}_results.csv"


def rows(doc_id: int, doc: Mapping[str, Any], reply: str) -> list[dict[str, Any]]:
    """Return the rows of a story, one per question.

    doc_id: index of the document; it is not used.
    doc: the story.
    reply: the reply to the whole conversation.
    """
    answers = read_answers(reply)
    made = []
    for number, (part, answer) in enumerate(zip(doc["parts"], answers, strict=False), start=1):
        said = {"before": answer.after if answer.before is None else answer.before, "after": answer.after}
        made.append(
            {
                "id_": f"{doc['task']}-{doc['story']}-{number}",
                "task_id": doc["task"],
                "sample_id": doc["story"],
                "part_id": number,
                "task": part_text(part).strip(),
                "golden_answer": part["answer"],
                **{f"{k}_{when}": v for when, text in said.items() for k, v in _measured(part, text).items()},
                "iterations": answer.rounds,
            }
        )
    return made


def _measured(part: Mapping[str, Any], output: str) -> dict[str, Any]:
    reply = parse_reply(output)
    answer = reply.answer.lower()
    correct = exact_match(part["answer"], reply.answer)
    told = {line.strip().lower() for line in part["lines"]}
    listed = [text.strip().lower() for text in re.findall(r"(?m)^\s*\d+[.)]?\s+(.+)$", output)]
    return {
        "model_answer": reply.answer,
        "answer_correct": correct,
        "model_reasoning": reply.reasoning,
        "model_output": output,
        "exact_match_accuracy": float(correct),
        "soft_match_accuracy": soft_match(part["answer"], reply.answer),
        "there": bool(re.search(r"\b(?:now|t)?here\b", answer)),
        "pronouns": bool(re.search(r"\b(?:he|she|it|her|him|they|them)\b", answer)),
        "not_mentioned": bool(re.search(r"\bmention|information|unknown", output.lower())),
        "context_sents_hall": sum(line not in told for line in listed),
    }


def metrics(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Return the mean and sample standard deviation over stories, rounded to two decimals.

    There is one row per task, and then the rows `mean` and `std` over the tasks.
    """
    columns = [f"{m}_match_accuracy_{when}" for when in ("before", "after") for m in ("exact", "soft")]
    made: list[dict[str, Any]] = []
    for task in sorted({int(row["task_id"]) for row in rows}):
        of_task = [row for row in rows if int(row["task_id"]) == task]
        line: dict[str, Any] = {"task_id": task}
        for column in columns:
            samples: dict[str, list[float]] = {}
            for row in of_task:
                samples.setdefault(row["sample_id"], []).append(float(row[column]))
            means = [fmean(values) for values in samples.values()]
            line[column] = round(fmean(means), 2)
            line[column.replace("accuracy", "std")] = round(stdev(means), 2) if len(means) > 1 else ""
        made.append(line)
    if made:
        over_tasks = {c: [line[c] for line in made] for c in columns}
        means_row = {c: round(fmean(values), 2) for c, values in over_tasks.items()}
        made.append({"task_id": "mean", **means_row})
        made.append({"task_id": "std", **{c: round(stdev(v), 2) if len(v) > 1 else "" for c, v in over_tasks.items()}})
    return made


TABLE = Table(COLUMNS, ("task_id", "sample_id", "part_id"), file, rows, metrics)
