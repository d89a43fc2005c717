"""The questions of a report: a table with one row each, and their transcripts in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness_ext.analysis.compare.command import Compared
from harness_ext.analysis.compare.runs import QuestionId
from harness_ext.analysis.report.records import Records, RunRecords
from harness_ext.analysis.report.turns import context_json, transcript_json
from harness_ext.analysis.scoring.replay import numeric
from harness_ext.records import Transcript
from harness_ext.records.chat import messages_of
from harness_ext.records.usage import add
from harness_ext.terminal import safe_line

Key = tuple[str, str]  # task, document hash
MALFORMED, CUT, FAILED, LEAK, LONG, UP, DOWN = (1 << i for i in range(7))
LONG_SHARE = 0.05  # the longest questions of a run
PER_BLOCK = 48
SNIPPET = 140


@dataclass
class Cell:
    """What the table says about a question in one run.

    value: its mean score over repeats; None if it is not a number.
    first: that of its first draft; None if it is unknown.
    flags: the sum of the flags above.
    transcripts: how many transcripts the run has of it.
    written: how many tokens these wrote; None if that is unknown.
    """

    value: float | None = None
    first: float | None = None
    flags: int = 0
    transcripts: int = 0
    written: int | None = 0

    @property
    def tokens(self) -> int | None:
        """Return how many tokens were written for the question; None if that is unknown."""
        return self.written if self.transcripts else None

    def to_json(self) -> list[Any]:
        return [_rounded(self.value), _rounded(self.first), self.flags, self.tokens]


@dataclass
class Question:
    """A question with everything that the runs said about it.

    task, number, digest: the task, and the number and the hash of the document.
    targets: the gold targets.
    cells: the cell of each run.
    contexts: the contexts that the runs were given, in the order of the first that had them.
    said: what the run directories recorded: the number of the directory, that of the context, and the transcript.
    scores: for each directory, the scores of each draw after each round.
    """

    task: str
    number: int
    digest: str
    targets: list[str] = field(default_factory=list)
    cells: list[Cell | None] = field(default_factory=list)
    contexts: list[str] = field(default_factory=list)
    said: list[tuple[int, int, Transcript]] = field(default_factory=list)
    scores: dict[int, list[list[float | None]]] = field(default_factory=dict)


def questions_of(found: Compared, records: Records) -> tuple[list[Question], dict[str, str]]:
    """Return the compared questions, and the metric of each task that says which are right.

    found: the comparison.
    records: the run directories behind it.
    """
    metrics = {task: next(iter(by_metric)) for task, by_metric in found.matched.questions.items()}
    questions = {
        (task, digest): Question(task, number, digest, cells=[_cell(found, i, task, metrics[task], (number, digest))
                                                              for i in range(len(found.runs))])
        for task in metrics
        for number, digest in found.matched.questions[task][metrics[task]]
    }  # fmt: skip
    for number, directory in enumerate(records.directories):
        _add_transcripts(questions, number, directory)
        _add_scores(questions, number, directory, metrics, found)
    for run in range(len(found.runs)):
        _mark_longest([c for q in questions.values() if (c := q.cells[run]) is not None])
    return list(questions.values()), metrics


def table_json(questions: Sequence[Question], metrics: Mapping[str, str]) -> dict[str, Any]:
    """Return the table: `tasks`, each with its metric, and `rows` of task, number, question, targets and cells."""
    tasks, snippets = list(metrics), _snippets(questions)
    return {
        "tasks": [[safe_line(task), safe_line(metrics[task])] for task in tasks],
        "rows": [
            [
                tasks.index(question.task),
                question.number,
                snippets[question.task, question.digest],
                [safe_line(target) for target in question.targets],
                [cell.to_json() if cell else None for cell in question.cells],
            ]
            for question in questions
        ],
        "per_block": PER_BLOCK,
    }


def block_json(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Return the transcripts of a block of the table: `PER_BLOCK` questions, in its order.

    All runs of a question stand together, since most of what they say is the same and compresses well.
    """
    return [
        {
            "contexts": [context_json(context) for context in question.contexts],
            "said": [[d, c, transcript_json(t)] for d, c, t in question.said],
            "scores": question.scores,
        }
        for question in questions
    ]


def _cell(found: Compared, run: int, task: str, metric: str, question: QuestionId) -> Cell | None:
    values = [numeric(v) for v in found.runs[run].tasks[task].metrics[metric].values.get(question, ())]
    known = [v for v in values if v is not None and v == v]
    return Cell(sum(known) / len(known) if known and len(known) == len(values) else None) if values else None


def _add_transcripts(questions: Mapping[Key, Question], number: int, directory: RunRecords) -> None:
    for transcript in directory.transcripts():
        question = questions.get((transcript.task, transcript.doc_hash))
        if question is None:
            continue
        if transcript.context not in question.contexts:
            question.contexts.append(transcript.context)
        question.said.append((number, question.contexts.index(transcript.context), transcript))
        cell = question.cells[directory.run]
        if cell is None:
            continue
        cell.transcripts += 1
        for turn in transcript.turns:
            cell.written = add(cell.written, turn.result.completion_tokens)
            cell.flags |= MALFORMED if (turn.verdict or {}).get("malformed") else 0
            cell.flags |= CUT if turn.finish == "length" else 0
        cell.flags |= FAILED if transcript.failure is not None else 0


def _add_scores(
    questions: Mapping[Key, Question], number: int, directory: RunRecords, metrics: Mapping[str, str], found: Compared
) -> None:
    for row in directory.rows:
        question = questions.get((row["task"], row["doc_hash"]))
        if question is None:
            continue
        metric, _, key = metrics[question.task].rpartition(",")
        question.targets = question.targets or [str(target) for target in row["target"]]
        draws = [
            [_score(state.get(metric)) for state in unit] for unit in row["filters"].get(key, {}).get("answers", [])
        ]
        question.scores[number] = draws
        cell = question.cells[directory.run]
        if cell is None:
            continue
        firsts = [draw[0] for draw in draws if draw and draw[0] is not None]
        if draws and len(firsts) == len(draws):
            cell.first = sum(firsts) / len(firsts)
        better = found.runs[directory.run].tasks[question.task].metrics[metrics[question.task]].higher_is_better
        for draw in draws:
            first, last = draw[0], draw[-1]
            if first is not None and last is not None and first != last:
                cell.flags |= UP if (last > first) == better else DOWN
        hints = [hint for draw in row["draws"] for hint in draw["hints"] or []]
        cell.flags |= LEAK if any(hint["leaks"] for hint in hints) else 0


def _score(value: Any) -> float | None:
    found = numeric(value)
    return None if found is None or found != found else _rounded(found)


def _mark_longest(cells: Sequence[Cell]) -> None:
    known = sorted(cell.tokens for cell in cells if cell.tokens is not None)
    if not known:
        return
    bound = known[int((1 - LONG_SHARE) * (len(known) - 1))]
    for cell in cells:
        if cell.tokens is not None and cell.tokens > bound:
            cell.flags |= LONG


def _snippets(questions: Sequence[Question]) -> dict[Key, str]:
    """Return, in one line, the end of what each question asks that others of its task do not: instructions are left
    out, and so are examples that all of them show."""
    found: dict[Key, str] = {}
    for task in dict.fromkeys(question.task for question in questions):
        asked = {q.digest: _asked(q) for q in questions if q.task == task}
        texts = list(asked.values())
        before = _shared(texts)
        after = _shared([text[before:][::-1] for text in texts])
        for digest, text in asked.items():
            # Words are kept whole where the others begin or end with the same letters.
            start = text.rfind(" ", 0, before) + 1
            end = len(text) if not after else (text.find(" ", len(text) - after) + 1 or len(text) + 1) - 1
            line = text[start:end] if start < end else text
            if len(line) > SNIPPET:
                words = line[-SNIPPET:]
                line = f"… {words[words.find(' ') + 1 :]}"
            found[task, digest] = line
    return found


def _shared(texts: Sequence[str]) -> int:
    """Return how many characters several texts begin with together; 0 for a single one."""
    if len(texts) < 2:
        return 0
    first, last = min(texts), max(texts)  # all others are between them, so they share what these two share
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _asked(question: Question) -> str:
    contexts = question.contexts[:1]
    asked = [content for c in contexts for role, content in messages_of(c) if role != "assistant" and content.strip()]
    return safe_line(" ".join((asked[-1] if asked else "").split()))


def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    return int(value) if value == int(value) else round(value, 4)
