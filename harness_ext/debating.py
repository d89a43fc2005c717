"""The floor of a debate: who has said what, what each is shown, and the figures of how they moved each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness_ext.answers import Answer, Vote, cut_run_on, read_answer, same_answer, vote
from harness_ext.chat import context_messages
from harness_ext.protocol import Question, reply_of
from harness_ext.records import Completion, Message, Transcript
from harness_ext.seats import Seat, Seats

_STANCE = re.compile(r"\s*[*_`\"']*(agree|disagree)\b[*_`\"']*[.:!,]?[*_`\"']*\s*", re.IGNORECASE)
_OWN_NAME = re.compile(r"\s*[*_]*(?:agent|judge)\s?\d*[*_]*:[*_]*\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Speech:
    """One contribution: its text as cut, its answer, whether it agreed (None: not asked, or malformed)."""

    seat: str
    round: int
    completion: Completion
    text: str
    answer: Answer | None
    agrees: bool | None = None


@dataclass
class Floor:
    """The state of one question's debate. `agents` are in the order in which they speak.

    `stances` says that replies begin with `Agree.` or `Disagree.`, `see_all` that others' whole texts are shown, not
    only their answers.
    """

    question: Question
    seats: Seats
    agents: list[Seat]
    pattern: str | None = None
    stances: bool = False
    see_all: bool = True
    said: dict[str, list[Speech]] = field(default_factory=dict)
    histories: dict[str, list[Message]] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    agreement: dict[int, float] = field(default_factory=dict)

    def newest(self) -> list[Speech]:
        """Return the newest speech of each agent that has spoken, in the order of the agents."""
        return [self.said[a.name][-1] for a in self.agents if self.said.get(a.name)]

    async def draft(self, agent: Seat) -> Speech:
        """Let an agent answer the task alone: the very call that lm-eval's own model would make."""
        draft = await agent.generate(self.question.context, kind="draft")
        return self._listen(agent, draft, 0, [], [*self.question.messages])

    async def reply(self, agent: Seat, heard: Sequence[Speech], text: str, round_: int) -> Speech:
        """Let an agent answer others; `text` is the message that shows it what they said."""
        messages = self.prompt(agent, text)
        opened = [Message("assistant", self.question.prefix)] if self.question.prefix else []
        reply = await agent.generate([*messages, *opened], kind="reply")
        return self._listen(agent, reply, round_, heard, messages)

    def prompt(self, seat: Seat, text: str) -> list[Message]:
        """Return the task, then the seat's own history, then `text`: what was sent before is a prefix of it."""
        if history := self.histories.get(seat.name):
            return [*history, Message("user", text)]
        *before, last = self.question.messages
        return [*before, Message("user", f"{last.content.rstrip()}\n\n{text}")]

    def shown(self, speeches: Sequence[Speech]) -> str:
        """Return what others said, as an agent is shown it."""
        return "\n\n".join(f'{title(s.seat)}:\n"""\n{self._visible(s)}\n"""' for s in speeches)

    def vote(self, weights: Sequence[float] | None = None, round_: int | None = None) -> tuple[Vote, list[Speech]]:
        """Count the votes of all agents' newest answers, or of those given in one round."""
        speeches = self.newest()
        if round_ is not None:
            speeches = [s for a in self.agents for s in self.said.get(a.name, []) if s.round == round_]
        return vote([s.answer for s in speeches], weights), speeches

    def end_round(self, round_: int) -> None:
        """Note how far the agents agree: the share of the commonest answer."""
        result, speeches = self.vote()
        self.agreement[round_] = max((n for _, n in result.counts), default=0.0) / len(speeches)

    def agreement_by_round(self, rounds: int) -> dict[str, float]:
        """Return how far the agents agreed after each round; a debate that has ended stays as it is."""
        known = sorted(self.agreement)
        return {
            f"agreement_round_{r}": self.agreement[max(k for k in known if k <= r)]
            for r in range(rounds + 1)
            if known and r >= known[0]
        }

    def _listen(
        self, agent: Seat, completion: Completion, round_: int, heard: Sequence[Speech], messages: list[Message]
    ) -> Speech:
        before = self.said.setdefault(agent.name, [])
        text, ran_on = cut_run_on(completion.text)
        agrees: bool | None = None
        if heard:
            if own_name := _OWN_NAME.match(text):
                text = text[own_name.end() :]
            if self.stances and (stance := _STANCE.match(text)):
                agrees, text = stance[1].lower() == "agree", text[stance.end() :]
            if not text.strip():  # nothing new: it goes along, or stays with what it had said
                text = heard[-1].text if agrees else before[-1].text if before else text
        answer = read_answer(self.question.prefix + text, self.pattern)
        speech = Speech(agent.name, round_, completion, text, answer, agrees)
        self._count(speech, before[-1] if before else None, heard, ran_on)
        before.append(speech)
        self.histories[agent.name] = [*messages, reply_of(self.question, cut_run_on(completion.text)[0])]
        return speech

    def _visible(self, speech: Speech) -> str:
        if self.see_all:
            return (self.question.prefix + speech.text).strip()
        return speech.answer.text if speech.answer else "(no readable answer)"

    def _count(self, speech: Speech, before: Speech | None, heard: Sequence[Speech], ran_on: bool) -> None:
        own = before.answer if before else None
        others = [s.answer for s in heard if s.answer is not None and not same_answer(s.answer, own)]
        challenged = own is not None and bool(others)
        conformed = challenged and any(same_answer(speech.answer, other) for other in others)
        changed = before is not None and speech.answer is not None and not same_answer(speech.answer, own)
        verdict: dict[str, Any] = {"round": speech.round, "answer": speech.answer.text if speech.answer else None}
        if ran_on:
            verdict["cut_run_on"] = True
        if self.stances and heard:
            verdict["agrees"] = speech.agrees
        self.seats.note(speech.completion, **verdict)
        self.totals.update(
            speeches=1,
            cut_run_on=int(ran_on),
            unparsable=int(speech.answer is None),
            malformed_stances=int(self.stances and bool(heard) and speech.agrees is None),
            replies=int(before is not None),
            changed=int(changed),
            challenged=int(challenged),
            conformed=int(conformed),
        )


def title(seat: str) -> str:
    """Return a seat's name as agents read it: `agent2` is `Agent 2`."""
    return re.sub(r"(\d+)$", r" \1", seat).capitalize()


def write_up(transcript: Transcript) -> str:
    """Return a debate as a person reads it: the question, the speeches in turn, the final text.

    The layout is that of the debate system of github.com/madScientist10/aris_assignment_EAI, without the gold answer,
    which no model sees. Control characters are replaced, so that a terminal can show it.
    """
    question = context_messages(transcript.context)[-1].content
    speeches = "\n\n".join(f"{title(t.seat)} ({t.kind}): {t.completion.text.strip()}" for t in transcript.turns)
    result = transcript.text if transcript.failure is None else f"(failed: {transcript.failure.message})"
    text = (
        f"Question {transcript.doc_id} of {transcript.task}, repeat {transcript.repeat}:\n{question}\n\n"
        f"Debate result:\n{speeches}\n\nEnded by: {transcript.stop}\nFinal answer:\n{result}\n{'-' * 50}\n\n"
    )
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
