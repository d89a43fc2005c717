"""The state of a debate: who said what, what each agent is shown, and how the agents influenced each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from harness_ext.options import PromptText
from harness_ext.protocol import Question, Seat, Seats
from harness_ext.reading import AnswerForm, Reading, Vote, answer_form, cut_run_on, read_answer, same_answer, vote
from harness_ext.reading.recorded import to_record
from harness_ext.records import Completion, Message, Transcript
from harness_ext.records.chat import context_messages

_STANCE = re.compile(r"\s*[*_`\"']*(agree|disagree)\b[*_`\"']*[.:!,]?[*_`\"']*\s*", re.IGNORECASE)
_OWN_NAME = re.compile(r"\s*[*_]*(?:agent|judge)\s?\d*[*_]*:[*_]*\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One contribution to a debate.

    seat: the seat that made it.
    round: the round, from 0 for the first answers.
    completion: the model's reply.
    text: the text, without what the reply says on behalf of other agents.
    answer: the answer in the text; None if it cannot be read.
    agrees: whether it agrees with what it responds to. Default None: not asked, or malformed.
    """

    seat: str
    round: int
    completion: Completion
    text: str
    answer: Reading | None
    agrees: bool | None = None


@dataclass
class DebateState:
    """The state of the debate on one question.

    question: the question.
    seats: its seats.
    agents: the agents, in the order in which they speak.
    pattern: a regular expression for answers. Default None: the built-in patterns.
    stances: whether replies begin with `Agree.` or `Disagree.`. Default False.
    see_all: whether agents see others' whole texts, not only their answers. Default True.
    said: all utterances, by seat.
    histories: what each seat was sent and replied, by seat.
    totals: the debate's counts.
    agreement: the share of the most common answer, by round.
    """

    question: Question
    seats: Seats
    agents: list[Seat]
    pattern: str | None = None
    stances: bool = False
    see_all: bool = True
    said: dict[str, list[Utterance]] = field(default_factory=dict)
    histories: dict[str, list[Message]] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    agreement: dict[int, float] = field(default_factory=dict)

    @cached_property
    def form(self) -> AnswerForm:
        """Return what the question asks for, so that votes read replies as the task's score does."""
        return answer_form(self.question.text)

    def newest(self) -> list[Utterance]:
        """Return the latest utterance of each agent that has spoken, in the order of the agents."""
        return [self.said[a.name][-1] for a in self.agents if self.said.get(a.name)]

    async def draft(self, agent: Seat) -> Utterance:
        """Let an agent answer the task alone, with exactly the call that lm-eval's own model would make."""
        draft = await agent.generate(self.question.context, kind="draft")
        return self._listen(agent, draft, 0, [], [*self.question.messages])

    async def reply(self, agent: Seat, heard: Sequence[Utterance], text: str, round_: int) -> Utterance:
        """Let an agent respond to others.

        agent: the agent.
        heard: the utterances that it responds to.
        text: the message that shows it these utterances.
        round_: the round, from 1.
        """
        messages = self.prompt(agent, text)
        opened = [Message("assistant", self.question.prefix)] if self.question.prefix else []
        reply = await agent.generate([*messages, *opened], kind="reply")
        return self._listen(agent, reply, round_, heard, messages)

    def prompt(self, seat: Seat, text: str) -> list[Message]:
        """Return the task, the seat's own history and then `text`.

        What the seat was sent before is a prefix of this, so prefix caches apply.
        """
        if history := self.histories.get(seat.name):
            return [*history, Message("user", text)]
        *before, last = self.question.messages
        return [*before, Message("user", f"{last.content.rstrip()}\n\n{text}")]

    def fill(self, prompt: PromptText, heard: Sequence[Utterance]) -> str:
        """Return a prompt with what others said, and with the task's demand."""
        return prompt.fill(others=self.shown(heard), demand=self.question.demand)

    def shown(self, utterances: Sequence[Utterance]) -> str:
        """Return others' utterances as they are shown to an agent."""
        return "\n\n".join(f'{title(s.seat)}:\n"""\n{self._visible(s)}\n"""' for s in utterances)

    def vote(self, weights: Sequence[float] | None = None, round_: int | None = None) -> tuple[Vote, list[Utterance]]:
        """Let the agents' answers vote, and return the result with the utterances that took part.

        weights: the weights of the agents. Default None: all are equal.
        round_: counts the answers of this round. Default None: the latest answers.
        """
        utterances = self.newest()
        if round_ is not None:
            utterances = [s for a in self.agents for s in self.said.get(a.name, []) if s.round == round_]
        return vote([s.answer for s in utterances], weights), utterances

    def end_round(self, round_: int) -> None:
        """Record how far the agents agree: the share of the most common answer."""
        result, utterances = self.vote()
        self.agreement[round_] = max((n for _, n in result.counts), default=0.0) / len(utterances)

    def agreement_by_round(self, rounds: int) -> dict[str, float]:
        """Return how far the agents agreed after each round. A debate that has ended keeps its last value."""
        known = sorted(self.agreement)
        return {
            f"agreement_round_{r}": self.agreement[max(k for k in known if k <= r)]
            for r in range(rounds + 1)
            if known and r >= known[0]
        }

    def _listen(
        self, agent: Seat, completion: Completion, round_: int, heard: Sequence[Utterance], messages: list[Message]
    ) -> Utterance:
        before = self.said.setdefault(agent.name, [])
        text, ran_on = cut_run_on(completion.text)
        agrees: bool | None = None
        if heard:
            if own_name := _OWN_NAME.match(text):
                text = text[own_name.end() :]
            if self.stances and (stance := _STANCE.match(text)):
                agrees, text = stance[1].lower() == "agree", text[stance.end() :]
            # An empty reply adopts the text that it agrees with, or repeats the agent's own previous text.
            if not text.strip():
                text = heard[-1].text if agrees else before[-1].text if before else text
        answer = read_answer(self.question.prefix + text, form=self.form, pattern=self.pattern)
        utterance = Utterance(agent.name, round_, completion, text, answer, agrees)
        self._count(utterance, before[-1] if before else None, heard, ran_on)
        before.append(utterance)
        own = agent.own_turn(replace(completion, text=cut_run_on(completion.text)[0]))
        self.histories[agent.name] = [*messages, own]
        return utterance

    def _visible(self, utterance: Utterance) -> str:
        if self.see_all:
            return (self.question.prefix + utterance.text).strip()
        return utterance.answer.written if utterance.answer else "(no readable answer)"

    def _count(self, utterance: Utterance, before: Utterance | None, heard: Sequence[Utterance], ran_on: bool) -> None:
        own = before.answer if before else None
        others = [s.answer for s in heard if s.answer is not None and not same_answer(s.answer, own)]
        challenged = own is not None and bool(others)
        conformed = challenged and any(same_answer(utterance.answer, other) for other in others)
        changed = before is not None and utterance.answer is not None and not same_answer(utterance.answer, own)
        verdict: dict[str, Any] = {"round": utterance.round, **to_record(utterance.answer)}
        if challenged:
            verdict["conformed"] = conformed
        if ran_on:
            verdict["cut_run_on"] = True
        if self.stances and heard:
            verdict["agrees"] = utterance.agrees
        self.seats.note(utterance.completion, **verdict)
        self.totals.update(
            speeches=1,
            cut_run_on=int(ran_on),
            unparsable=int(utterance.answer is None),
            malformed_stances=int(self.stances and bool(heard) and utterance.agrees is None),
            replies=int(before is not None),
            changed=int(changed),
            challenged=int(challenged),
            conformed=int(conformed),
        )


def title(seat: str) -> str:
    """Return a seat's name as agents see it: `agent2` is `Agent 2`."""
    return re.sub(r"(\d+)$", r" \1", seat).capitalize()


def write_up(transcript: Transcript) -> str:
    """Return a debate in readable form: the question, the utterances in order and the final text.

    The layout is that of github.com/madScientist10/aris_assignment_EAI, without the gold answer, which protocols do not
    see. Control characters are replaced, so that a terminal can display the text.
    """
    question = context_messages(transcript.context)[-1].content
    utterances = "\n\n".join(f"{title(t.seat)} ({t.kind}): {t.text.strip()}" for t in transcript.turns)
    result = transcript.text if transcript.failure is None else f"(failed: {transcript.failure.message})"
    text = (
        f"Question {transcript.doc_id} of {transcript.task}, repeat {transcript.repeat}:\n{question}\n\n"
        f"Debate result:\n{utterances}\n\nEnded by: {transcript.stop}\nFinal answer:\n{result}\n{'-' * 50}\n\n"
    )
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
