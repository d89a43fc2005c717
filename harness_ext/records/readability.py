"""How much of what each seat wrote could be used: empty replies, unfinished thoughts, decisions that were not read."""

from __future__ import annotations

from dataclasses import dataclass

from harness_ext.records.results import Completion
from harness_ext.records.transcript import Turn

UNFINISHED = "thought_unfinished"  # the note of a reply that ended within its thought
LEAST_DECISIONS = 5
LARGE_SHARE = 0.2  # of the decisions that were not read: from here on a run warns


@dataclass
class SeatReadability:
    """The counts of one seat.

    replies: how many texts it wrote.
    empty: how many of them had no answer.
    unfinished: how many of these ended within a thought.
    decisions: in how many the protocol looked for a decision (a verdict, a rating, a vote).
    unread: in how many of these it found none.
    votes: how many of the decisions were answers that vote.
    """

    replies: int = 0
    empty: int = 0
    unfinished: int = 0
    decisions: int = 0
    unread: int = 0
    votes: int = 0

    def add(self, turn: Turn) -> None:
        """Count one turn."""
        if not isinstance(turn.result, Completion):
            return
        self.replies += 1
        self.empty += not turn.text.strip()
        self.unfinished += UNFINISHED in turn.notes
        if turn.unread is not None:
            self.decisions += 1
            self.unread += turn.unread
            self.votes += "malformed" not in (turn.verdict or {})

    def warnings(self, seat: str) -> list[str]:
        """Return what is wrong with the seat's replies, each with its remedies."""
        found = []
        if self.replies and self.empty == self.replies:
            within = f", {self.unfinished} of them within an unfinished thought" if self.unfinished else ""
            found.append(
                f"`{seat}`: all {self.replies} replies are empty{within}. Raise the length limit (`--gen_kwargs "
                f"max_gen_toks=…`, for reviews `{seat}.thought_tokens=…`), check the task's stop sequences, or name "
                f"the marks around its thoughts (`{seat}.thought_start=…,{seat}.thought_end=…`)"
            )
        elif self.decisions >= LEAST_DECISIONS and self.unread >= LARGE_SHARE * self.decisions:
            share = f"{self.unread} of {self.decisions} ({self.unread / self.decisions:.0%})"
            if self.votes == self.decisions:
                found.append(
                    f"`{seat}`: {share} answers could not be read, so they had no vote. State the form of the answer "
                    "in the task, or give `answer_pattern=<regular expression>`; `harness-ext read` shows how a reply "
                    "is read"
                )
            else:
                found.append(
                    f"`{seat}`: {share} verdicts or ratings could not be read. Is it a chat model, and is its chat "
                    f"template used (`{seat}.chat=on`)? A base model does not follow the form that is asked for; "
                    "`verdict=logprob` compares probabilities instead. `harness-ext read` shows how a reply is read"
                )
        return found
