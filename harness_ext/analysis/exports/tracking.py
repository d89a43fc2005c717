"""What experiment trackers are told about a run: settings, figures, curves over rounds, and a table of transcripts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any

from harness_ext.analysis.exports.runs import ExportedRun, described, plain, settings, words_of
from harness_ext.analysis.scoring.replay import numeric
from harness_ext.analysis.transcript_view import readable, verdict_words

FIGURES = {"lm_eval": "", "first_draft": " first draft", "oracle": " oracle", "vote": " vote"}
_NAME = re.compile(r"[^\w./ -]")  # what MLflow does not allow in names
LONGEST_NAME = 250
ROWS = 10_000  # of a table, which is in memory as a whole
USAGE = ("calls", "prompt_tokens", "completion_tokens", "seconds", "flops", "price")


@dataclass(frozen=True)
class Tracked:
    """A run as trackers take it.

    name: its name.
    settings: the settings by dotted name.
    figures: the summary, by name.
    curves: for each round, from 0, the figures after it by name.
    """

    name: str
    settings: Mapping[str, str | int | float | bool]
    figures: Mapping[str, float]
    curves: tuple[Mapping[str, float], ...]


def tracked(run: ExportedRun) -> Tracked:
    """Return what trackers are told about a run, without its transcripts."""
    about = {name: run.config.get(name) for name in ("label", "started", "versions", "seeds", "seats", "run")}
    identity = run.config.get("identity") or {}
    flat = _flat(
        {**about, "protocol": identity.get("protocol"), "options": identity.get("options"), "folder": run.path}
    )
    figures, rounds = _summary(run), list[dict[str, float]]()
    for task, found in run.figures.get("tasks", {}).items():
        for metric, values in found["metrics"].items():
            name = name_of(f"{task}/{described(metric)}")
            figures |= {name + end: v for key, end in FIGURES.items() if (v := _finite(values.get(key))) is not None}
            for number, value in enumerate(values["rounds"]):
                if (after := _finite(value)) is not None:
                    rounds += [{} for _ in range(len(rounds), number + 1)]
                    rounds[number][f"{name} by round"] = after
    return Tracked(run.label, flat, figures, tuple(rounds))


def transcript_rows(run: ExportedRun) -> Iterator[dict[str, Any]]:
    """Yield a row for each question: what was asked, what everybody said, the final text, and the scores by round."""
    for question in run.questions():
        transcript = question.transcript
        said = [
            f"{turn.seat} {turn.kind} {verdict_words(turn)}".rstrip() + f"\n{words_of(turn)}"
            for turn in transcript.turns
        ]
        yield {
            "task": plain(transcript.task),
            "document": question.id,
            "repeat": transcript.repeat,
            "asked": plain(readable(transcript.context)),
            "transcript": plain("\n\n".join(said)),
            "text": plain(transcript.text),
            "stop": plain(transcript.stop),
            "failure": "" if transcript.failure is None else plain(transcript.failure.message),
            "target": " | ".join(question.targets),
            "scores": "; ".join(f"{described(m)}: {_arrows(values)}" for m, values in (question.scores or {}).items()),
        }


def transcript_tables(run: ExportedRun) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the rows in tables of at most `ROWS` rows, which is what is in memory at once, with their names."""
    rows, number = transcript_rows(run), 1
    while part := list(islice(rows, ROWS)):
        yield ("transcripts" if number == 1 else f"transcripts_{number}"), part
        number += 1


def name_of(text: str) -> str:
    """Return a text as the name of a figure that every tracker takes: MLflow wants the form of a relative path."""
    parts = _NAME.sub("_", plain(text)).split("/")
    return "/".join(part.strip(". ") or "_" for part in parts)[:LONGEST_NAME].rstrip(". /")


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables for a while; None removes one."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _summary(run: ExportedRun) -> dict[str, float]:
    summary = run.summary
    found = {
        name: summary.get(name) for name in ("questions", "answered", "failed", "turns_per_question", "unfinished")
    }
    found |= {f"rounds {name}": (summary.get("rounds") or {}).get(name) for name in ("mean", "max")}
    found |= {name.replace("_", " "): rate for name, rate in (summary.get("reviews") or {}).items()
              if name.endswith("_rate")}  # fmt: skip
    for seat, kinds in (summary.get("usage") or {}).items():
        total = kinds.get("total") or {}
        found |= {name_of(f"usage/{seat} {name}"): total.get(name) for name in USAGE}
    return {name: v for name, value in found.items() if (v := _finite(value)) is not None}


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name, without credentials and without those that are unset."""
    found: dict[str, Any] = {}
    for key, one in value.items():
        name = name_of(f"{above}{key}")
        if isinstance(one, Mapping):
            found |= _flat(one, f"{name}.")
        elif one is not None:
            safe = settings(one)
            found[name] = ", ".join(map(str, safe)) if isinstance(safe, list) else safe
    return found


def _finite(value: Any) -> float | None:
    found = numeric(value)
    return None if found is None or not isfinite(found) else found


def _arrows(values: tuple[Any, ...]) -> str:
    return " → ".join(f"{number:.3g}" if (number := numeric(v)) is not None else plain(str(v)) for v in values)
