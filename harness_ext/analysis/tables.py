"""The records of a run as rows of plain values: one per question, per turn, and per score.

Every way out of the records, data frames and files alike, takes its rows from here, so that columns have the same names
and meanings everywhere. Texts are those of the records; what shows them makes them safe.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness_ext.analysis.transcript_view import readable
from harness_ext.records import Completion, Decision, Loglikelihood, Transcript, Turn, Usage
from harness_ext.records.run_directory import read_transcripts
from harness_ext.records.usage import SeatCost

KEYS = {
    "task": "the name of the task",
    "doc_id": "lm-eval's number of the document",
    "doc_hash": "the hash of the document",
    "repeat": "the number of the repeat, from 0",
    "request": "the position among the document's requests, from 0",
}
QUESTIONS = {
    **KEYS,
    "asked": "the context; chat messages as `role: text`",
    "text": "the final text; empty if the question failed",
    "stop": "why the protocol stopped",
    "failure": "why there is no answer; null if there is one",
    "turns": "the number of turns",
    "accepted": "whether the last verdict accepted its draft; null without a verdict",
    "malformed_turns": "how many verdicts or answers could not be read",
    "cut": "how many replies their token limit ended",
    "prompt_tokens": "the tokens that were read; null if unknown, as all counts",
    "cached_tokens": "those of them that a cache supplied",
    "completion_tokens": "the tokens that were written",
    "thinking_tokens": "those of them in which a model thought",
    "seconds": "shares of the wall time of the calls",
    "details": "what the protocol recorded, as JSON; null if nothing",
}
TURNS = {
    **KEYS,
    "turn": "the number of the turn, from 0",
    "seat": "the seat that was called",
    "kind": "the protocol's name for the call",
    "text": "what the model wrote; empty if it was asked to score, check or decide",
    "thought": "what it thought before that; empty without",
    "finish": "how the text ended: `stop`, `length` or null",
    "accepted": "whether the protocol read an acceptance; null if it looked for none",
    "malformed": "whether it could not read what it looked for; null if it looked for nothing",
    "probability": "the probability that the draft is right, of a verdict that has one",
    "answer": "the answer that the protocol read; null if it looked for none, or found none",
    "rule": "the rule that read the verdict or the answer",
    "choice": "the option that a decision chose",
    "logprob": "the log-probability of the text that was scored",
    "prompt_tokens": "the tokens that were read",
    "cached_tokens": "those of them that a cache supplied",
    "completion_tokens": "the tokens that were written",
    "seconds": "the call's share of wall time",
    "reused": "whether the call store, or an equal call, answered",
    "notes": "what was done to prompt and reply, separated by commas",
    "verdict": "everything that the protocol read, as JSON; null if nothing",
    "key": "the key of the call in the call store",
}
SCORES = {
    "task": KEYS["task"],
    "doc_id": KEYS["doc_id"],
    "doc_hash": KEYS["doc_hash"],
    "repeat": "the repeat; null if the filter scores all of them together",
    "metric": "the name of the metric",
    "filter": "the name of the filter",
    "round": "the number of the round, from 0, which is the first draft",
    "last": "whether it is the last one: the score of the final text",
    "value": "the score; null if it is no number",
    "other": "a score that is no number, as JSON, such as the pair of which an F1 score is made; null otherwise",
    "target": "the gold target; several are separated by ` | `",
}

TYPES: dict[str, type] = {
    **dict.fromkeys({*QUESTIONS, *TURNS, *SCORES}, str),
    **dict.fromkeys(("doc_id", "repeat", "request", "turns", "turn", "malformed_turns", "cut", "round"), int),
    **dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens"), int),
    **dict.fromkeys(("thinking_tokens", "seconds", "probability", "logprob", "value"), float),
    **dict.fromkeys(("accepted", "malformed", "reused", "last"), bool),
}
"""What the values of each column are, wherever they are not null."""


def question_rows(run: Path) -> Iterator[dict[str, Any]]:
    """Yield a run's questions, with the columns of `QUESTIONS`, without holding all of them in memory."""
    for transcript in read_transcripts(run):
        yield question_row(transcript)


def turn_rows(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the turns of a run's questions, with the columns of `TURNS`."""
    for transcript in read_transcripts(run):
        for number, turn in enumerate(transcript.turns):
            yield {**_keys(transcript), "turn": number, **_turn(turn)}


def score_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the scores of a run's answers after each round, with the columns of `SCORES`.

    rows: the lines of its `scores.jsonl`.
    """
    for row in rows:
        about = {"task": row["task"], "doc_id": row["doc_id"], "doc_hash": row["doc_hash"]}
        target = " | ".join(map(str, row["target"]))
        for key, entry in row["filters"].items():
            units = entry["answers"]
            separately = len(units) == len(row["draws"])
            for unit, states in enumerate(units):
                repeat = row["draws"][unit]["repeat"] if separately else None
                for number, state in enumerate(states):
                    for metric, value in state.items():
                        yield {
                            **about, "repeat": repeat, "metric": metric, "filter": key, "round": number,
                            "last": number == len(states) - 1, **_score(value), "target": target,
                        }  # fmt: skip


def question_row(transcript: Transcript) -> dict[str, Any]:
    """Return the row of a question, with the columns of `QUESTIONS`."""
    usage = Usage.total(SeatCost().usage(turn) for turn in transcript.turns)
    verdicts = [turn.verdict["accepted"] for turn in transcript.turns if turn.verdict and "accepted" in turn.verdict]
    return {
        **_keys(transcript),
        "asked": readable(transcript.context),
        "text": transcript.text,
        "stop": transcript.stop,
        "failure": None if transcript.failure is None else transcript.failure.message,
        "turns": len(transcript.turns),
        "accepted": bool(verdicts[-1]) if verdicts else None,
        "malformed_turns": sum(bool(turn.unread) for turn in transcript.turns),
        "cut": sum(turn.finish == "length" for turn in transcript.turns),
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "thinking_tokens": None if usage.thinking_tokens is None else float(usage.thinking_tokens),
        "seconds": float(usage.seconds),
        "details": None if transcript.details is None else _json(dict(transcript.details)),
    }


def _keys(transcript: Transcript) -> dict[str, Any]:
    return {
        "task": transcript.task, "doc_id": transcript.doc_id, "doc_hash": transcript.doc_hash,
        "repeat": transcript.repeat, "request": transcript.index,
    }  # fmt: skip


def _turn(turn: Turn) -> dict[str, Any]:
    result, verdict = turn.result, turn.verdict or {}
    answer, probability, rule = (verdict.get(name) for name in ("answer", "probability", "rule"))
    return {
        "seat": turn.seat,
        "kind": turn.kind,
        "text": turn.text,
        "thought": result.thought if isinstance(result, Completion) else "",
        "finish": turn.finish,
        "accepted": bool(verdict["accepted"]) if "accepted" in verdict else None,
        "malformed": turn.unread,
        "probability": float(probability) if isinstance(probability, int | float) else None,
        "answer": None if answer is None else str(answer),
        "rule": None if rule is None else str(rule),
        "choice": result.choice if isinstance(result, Decision) else None,
        "logprob": result.logprob if isinstance(result, Loglikelihood) else None,
        "prompt_tokens": result.prompt_tokens,
        "cached_tokens": result.cached_tokens,
        "completion_tokens": result.completion_tokens,
        "seconds": float(result.seconds),
        "reused": turn.reused,
        "notes": ", ".join((*turn.notes, *result.notes)),
        "verdict": None if turn.verdict is None else _json(dict(turn.verdict)),
        "key": turn.key,
    }


def _score(value: Any) -> dict[str, Any]:
    known = isinstance(value, bool | int | float)
    return {"value": float(value) if known else None, "other": None if known or value is None else _json(value)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
