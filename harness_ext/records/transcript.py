"""Transcripts: everything that was said about a question, in frozen dataclasses that convert to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness_ext.records.results import CallResult, Completion, Finish, Verification, read_result
from harness_ext.terminal import clean

Identity = tuple[str, int, str, int, int, str]


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a seat within a question.

    seat: the seat that was called.
    kind: the protocol's name for the call (draft, review, refine, …).
    key: the call's key in the store.
    result: the result. Its `seconds` and `faults` depend on the run, everything else on the question alone.
    verdict: what the protocol read from the result, as JSON values.
    notes: what was done to the prompt (`system_merged`, …).
    reused: whether the result came from the store or was shared with an identical call; depends on the run.
    inner: how a protocol that takes the seat came to the result, whose tokens and seconds are those of all calls behind
        it. Default None: a model takes the seat.
    """

    seat: str
    kind: str
    key: str
    result: CallResult
    verdict: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    reused: bool = False
    inner: Inner | None = None

    @property
    def calls(self) -> tuple[Turn, ...]:
        """Return the calls of models behind this turn: itself, or those of the protocol that takes its seat.

        The seats of that protocol have this seat's name before theirs (`student.teacher`).
        """
        if self.inner is None:
            return (self,)
        below = (call for turn in self.inner.turns for call in turn.calls)
        return tuple(replace(call, seat=f"{self.seat}.{call.seat}") for call in below)

    @property
    def text(self) -> str:
        """Return the text that the model wrote; empty if it was asked to score or verify one."""
        return self.result.text if isinstance(self.result, Completion) else ""

    @property
    def finish(self) -> Finish | None:
        """Return how the text ended, if that is known."""
        return self.result.finish if isinstance(self.result, Completion) else None

    @property
    def is_part(self) -> bool:
        """Return whether the protocol noted that the text is a part of an answer, although its kind is that of one."""
        return bool((self.verdict or {}).get("part"))

    @property
    def unread(self) -> bool | None:
        """Return whether the protocol could not read what it looked for in the text; None if it looked for nothing."""
        verdict = self.verdict or {}
        if "malformed" in verdict:
            return bool(verdict["malformed"])
        return verdict["answer"] is None if "answer" in verdict else None

    def to_json(self) -> dict[str, Any]:
        """Return the turn as it is written to transcripts. Everything that depends on the run is under `timing`.

        Token ids and the results of a verification are left out: the call store has them.
        """
        result = self.result
        if isinstance(result, Verification):
            found = {"text": "", "verified": len(result.ranks), **CallResult.to_json(result)}
        else:
            found = result.to_json()
            found.pop("ids", None)
        timing = {"seconds": round(found.pop("seconds", 0.0), 6), "reused": self.reused}
        if faults := found.pop("faults", None):
            timing["faults"] = faults
        notes = [*self.notes, *found.pop("notes", ())]
        return {
            "seat": self.seat,
            "kind": self.kind,
            **found,
            **({"verdict": dict(self.verdict)} if self.verdict is not None else {}),
            **({"notes": notes} if notes else {}),
            "key": self.key,
            "timing": timing,
            **({"inner": self.inner.to_json()} if self.inner is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Turn:
        """Parse what `to_json` returned; fields that only a newer version knows are left out."""
        rest = dict(data)
        timing = rest.pop("timing")
        seat, kind, key = rest.pop("seat"), rest.pop("kind"), rest.pop("key")
        verdict, notes = rest.pop("verdict", None), tuple(rest.pop("notes", ()))
        inner = None if (found := rest.pop("inner", None)) is None else Inner.from_json(found)
        # Version 1 did not write `verified`: there, only the kind tells a verification from an empty text.
        unmarked = kind == "verify" and not rest["text"] and "finish" not in rest
        if rest.pop("verified", None) is not None or unmarked:
            rest["checks"] = {"logprobs": [], "ranks": [], "above": [], "best": [], "instead": [], "drawn": []}
        result = read_result(
            {**rest, "seconds": timing["seconds"], "faults": timing.get("faults", ())}, known_only=True
        )
        return cls(seat, kind, key, result, verdict, notes, timing["reused"], inner)


@dataclass(frozen=True, slots=True)
class Inner:
    """How a protocol that takes a seat came to one of the seat's replies.

    turns: its turns, in which its own seats were called.
    stop: why it stopped (`Solution.stop`); `failed` or `cancelled` without a reply.
    details: what it recorded besides (`Solution.details`). Default None.
    """

    turns: tuple[Turn, ...]
    stop: str
    details: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        details = {} if self.details is None else {"details": dict(self.details)}
        return {"stop": self.stop, **details, "turns": [turn.to_json() for turn in self.turns]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Inner:
        """Parse what `to_json` returned."""
        return cls(tuple(Turn.from_json(turn) for turn in data["turns"]), data["stop"], data.get("details"))


@dataclass(frozen=True, slots=True)
class Solution:
    """What a protocol returns for a question.

    text: the final text.
    stop: why the protocol stopped (`accepted`, `max_rounds`, …). Default `done`.
    details: what the protocol records in addition to its turns, as JSON values. The numbers under its key `totals` are
        summed over all questions. Default None.
    """

    text: str
    stop: str = "done"
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question has no answer.

    code: the kind of failure, by which summaries count.
    message: the cause.
    faults: what went wrong in each attempt of the call. Default: none.
    """

    code: str
    message: str
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", clean(self.message))  # it may quote an exception of any library


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything that was said about one question.

    task: the name of the task.
    doc_id, doc_hash: lm-eval's number and hash of the document.
    repeat: the number of the repeat, from 0.
    index: the request's position among those of its document, from 0.
    question: a hash of context and generation settings.
    context: the context.
    turns: the answered calls, in the order in which the protocol made them.
    text: the final text.
    stop: why the protocol stopped.
    failure: why there is no answer; None if there is one.
    details: the protocol's own records (`Solution.details`).
    """

    task: str
    doc_id: int
    doc_hash: str
    repeat: int
    index: int
    question: str
    context: str
    turns: tuple[Turn, ...]
    text: str
    stop: str
    failure: Failure | None = None
    details: Mapping[str, Any] | None = None

    @property
    def calls(self) -> tuple[Turn, ...]:
        """Return all calls of models: the turns, with those of protocols that take seats in the place of their replies.

        Whatever counts what a question cost goes by these.
        """
        return tuple(call for turn in self.turns for call in turn.calls)

    @property
    def identity(self) -> Identity:
        """Return what identifies this question within an evaluation."""
        return (self.task, self.doc_id, self.doc_hash, self.repeat, self.index, self.question)

    def to_json(self) -> dict[str, Any]:
        """Return one line of `transcripts.jsonl`."""
        return {
            "task": self.task,
            "doc_id": self.doc_id,
            "doc_hash": self.doc_hash,
            "repeat": self.repeat,
            "index": self.index,
            "question": self.question,
            "status": "ok" if self.failure is None else "failed",
            "stop": self.stop,
            "text": self.text,
            **({"failure": asdict(self.failure)} if self.failure else {}),
            **({"details": dict(self.details)} if self.details is not None else {}),
            "context": self.context,
            "turns": [turn.to_json() for turn in self.turns],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Transcript:
        """Parse what `to_json` returned. Raises KeyError or TypeError for anything else."""
        failure = data.get("failure")
        return cls(
            task=data["task"],
            doc_id=data["doc_id"],
            doc_hash=data["doc_hash"],
            repeat=data["repeat"],
            index=data["index"],
            question=data["question"],
            context=data["context"],
            turns=tuple(Turn.from_json(t) for t in data["turns"]),
            text=data["text"],
            stop=data["stop"],
            failure=Failure(**{**failure, "faults": tuple(failure.get("faults", ()))}) if failure else None,
            details=data.get("details"),
        )
