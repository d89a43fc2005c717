"""The state of a debate: who said what, what each agent is shown, and how the agents influenced each other."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from harness_ext.models.debating.graph import Graph
from harness_ext.models.debating.options import DebateOptions
from harness_ext.models.debating.transcript import title
from harness_ext.options import PromptText
from harness_ext.protocol import Question, Seat, Seats
from harness_ext.protocol.wording import with_system
from harness_ext.reading import AnswerForm, Reading, Vote, answer_form, cut_run_on, read_answer, same_answer, vote
from harness_ext.reading.recorded import to_record
from harness_ext.records import Completion, Message

_STANCE = re.compile(r"\s*[*_`\"']*(agree|disagree)\b[*_`\"']*[.:!,]?[*_`\"']*\s*", re.IGNORECASE)
_OWN_NAME = re.compile(r"\s*[*_]*(?:agent|judge)\s?\d*[*_]*:[*_]*\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One contribution to a debate.

    seat: the seat that made it.
    round: the round, from 0 for the first answers.
    completion: the model's reply.
    text: the text, without what the reply says on behalf of other agents.
    answer: the answer in the text; None if it cannot be read, and for the devil's advocate.
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

    options: the options of the debate.
    question: the question.
    seats: its seats.
    agents: the agents, in the order in which they speak.
    said: all utterances, by seat.
    histories: what each seat was sent and replied, by seat.
    personas: the persona of each seat that has one.
    totals: the debate's counts.
    agreement: the share of the most common answer, by round.
    """

    options: DebateOptions
    question: Question
    seats: Seats
    agents: list[Seat]
    said: dict[str, list[Utterance]] = field(default_factory=dict)
    histories: dict[str, list[Message]] = field(default_factory=dict)
    personas: dict[str, str] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    agreement: dict[int, float] = field(default_factory=dict)

    @cached_property
    def form(self) -> AnswerForm:
        """Return what the question asks for, so that votes read replies as the task's score does."""
        return answer_form(self.question.text)

    @cached_property
    def devil(self) -> Seat | None:
        """Return the devil's advocate, or None if there is none."""
        return None if self.options.devil is None else self.seats[f"agent{self.options.devil}"]

    @cached_property
    def voters(self) -> list[Seat]:
        """Return the agents that answer the task: all but the devil's advocate."""
        return [agent for agent in self.agents if agent is not self.devil]

    @cached_property
    def graph(self) -> Graph | None:
        """Return who reads whom, or None if everybody reads everybody else."""
        return self.options.who_reads_whom

    def newest(self) -> list[Utterance]:
        """Return the latest answer of each agent that has given one, in the order of the agents."""
        return [self.said[a.name][-1] for a in self.voters if self.said.get(a.name)]

    def heard_by(self, listener: Seat) -> list[Utterance]:
        """Return the latest utterances of those whom an agent reads, in the order of the agents."""
        names = [agent.name for agent in self.agents]
        place = names.index(listener.name)
        if self.options.topology == "ring":
            names = [names[place - 1]]
        elif self.graph is not None:
            heard = self.graph.heard_by(_number(listener))
            names = [agent.name for agent in self.agents if _number(agent) in heard]
        return [self.said[name][-1] for name in names if name != listener.name and self.said.get(name)]

    async def draft(self, agent: Seat, round_: int = 0) -> Utterance:
        """Let an agent answer the task alone.

        Without a persona, that is exactly the call that lm-eval's own model would make.

        agent: the agent.
        round_: the round that the answer counts for. Default 0.
        """
        persona, context = self.personas.get(agent.name), self.question.context
        draft = await agent.generate(
            context if persona is None else with_system(persona, self.question.conversation()), kind="draft"
        )
        return self._listen(agent, draft, round_, [], self._task(agent))

    async def drafts(self, agents: Sequence[Seat], round_: int = 0) -> None:
        """Let those of the agents that have not spoken yet answer the task alone, at the same time."""
        await asyncio.gather(*(self.draft(agent, round_) for agent in agents if agent.name not in self.said))

    async def reply(self, agent: Seat, heard: Sequence[Utterance], round_: int) -> Utterance:
        """Let an agent respond to others.

        agent: the agent.
        heard: the utterances that it responds to.
        round_: the round, from 1.
        """
        prompt = self.options.stance_user if self.options.consensus == "verdict" else self.options.others_user
        listed = self.listed(heard, agent, round_)
        messages = self.prompt(agent, self.fill(prompt, listed))
        opened = [Message("assistant", self.question.prefix)] if self.question.prefix else []
        reply = await agent.generate([*messages, *opened], kind="reply")
        utterance = self._listen(agent, reply, round_, heard, messages)
        self.seats.note(reply, heard=[other.seat for other in listed])
        self._count_position(utterance, listed)
        return utterance

    async def replies(self, agents: Sequence[Seat], round_: int) -> None:
        """Let agents respond at the same time to what was said before; one that reads nobody has nothing to add."""
        heard = [(agent, self.heard_by(agent)) for agent in agents]
        await asyncio.gather(*(self.reply(agent, others, round_) for agent, others in heard if others))

    async def object(self, round_: int) -> None:
        """Let the devil's advocate, if there is one, argue against what the agents whom it reads have answered."""
        if self.devil is None or not (heard := self.heard_by(self.devil)):
            return
        listed = self.listed(heard, self.devil, round_)
        messages = self.prompt(self.devil, self.fill(self.options.devil_user, listed))
        objection = await self.devil.generate(messages, kind="objection")
        text = cut_run_on(objection.text)[0]
        self.said.setdefault(self.devil.name, []).append(Utterance(self.devil.name, round_, objection, text, None))
        self.histories[self.devil.name] = [*messages, self.devil.own_turn(replace(objection, text=text))]
        # It is no answer, so that it has no `round`, by which turns with answers are known.
        self.seats.note(objection, in_round=round_, heard=[other.seat for other in listed])
        self.totals["objections"] += 1

    def prompt(self, seat: Seat, text: str) -> list[Message]:
        """Return the task, the seat's own history and then `text`.

        What the seat was sent before is a prefix of this, so prefix caches apply.
        """
        if history := self.histories.get(seat.name):
            return [*history, Message("user", text)]
        *before, last = self._task(seat)
        return [*before, Message("user", f"{last.content.rstrip()}\n\n{text}")]

    def fill(self, prompt: PromptText, heard: Sequence[Utterance]) -> str:
        """Return a prompt with what others said, and with the task's demand."""
        return prompt.fill(others=self.shown(heard), demand=self.question.demand)

    def listed(self, heard: Sequence[Utterance], reader: Seat, round_: int) -> list[Utterance]:
        """Return utterances in the order in which a reader sees them in a round."""
        listed = list(heard)
        if self.options.listed == "shuffled":
            self.seats.random(f"listed for {reader.name} in round {round_}").shuffle(listed)
        return listed

    def shown(self, utterances: Sequence[Utterance]) -> str:
        """Return others' utterances as they are shown to an agent."""
        named = self.options.authors == "named"
        return "\n\n".join(
            f'{title(s.seat) if named else f"Agent {number}"}:\n"""\n{self.visible(s)}\n"""'
            for number, s in enumerate(utterances, start=1)
        )

    def visible(self, utterance: Utterance) -> str:
        """Return what agents see of an utterance: all of it, or only its answer."""
        if self.options.see == "rationale" or (self.devil is not None and utterance.seat == self.devil.name):
            return self.question.shown(utterance.text)
        return utterance.answer.written if utterance.answer else "(no readable answer)"

    def vote(self, weights: Sequence[float] | None = None, round_: int | None = None) -> tuple[Vote, list[Utterance]]:
        """Let the agents' answers vote, and return the result with the utterances that took part.

        weights: the weights of these utterances. Default None: all are equal.
        round_: counts the answers of this round. Default None: the latest answers.
        """
        utterances = self.newest()
        if round_ is not None:
            utterances = [s for a in self.voters for s in self.said.get(a.name, []) if s.round == round_]
        return vote([s.answer for s in utterances], weights), utterances

    def candidates(self) -> list[Utterance]:
        """Return the latest answers without those that mean the same as an earlier one."""
        found: list[Utterance] = []
        for utterance in self.newest():
            if not any(other.text == utterance.text or same_answer(other.answer, utterance.answer) for other in found):
                found.append(utterance)
        return found

    def agreed(self) -> bool:
        """Return whether the latest utterances amount to the consensus that ends the debate."""
        if self.options.consensus == "answers":
            return self.same_answers()
        # Agents that answer at the same time may each agree with what another one has just given up.
        agreeing = [utterance for utterance in self.newest() if utterance.agrees]
        return self.options.is_quorum(_alike(agreeing), len(self.voters))

    def agreed_in_a_row(self, count: int) -> bool:
        """Return whether so many agents suffice that agreed one after the other with the text before them."""
        return self.options.is_quorum(min(count + 1, _alike(self.newest())), len(self.voters))

    def same_answers(self) -> bool:
        """Return whether enough of the latest answers are the same."""
        most = max((votes for _, votes in self.vote()[0].counts), default=0.0)
        return self.options.is_quorum(round(most), len(self.voters))

    def end_round(self, round_: int) -> None:
        """Record how far the agents agree: the share of the most common answer."""
        result, utterances = self.vote()
        self.agreement[round_] = max((n for _, n in result.counts), default=0.0) / len(utterances)

    def agreement_by_round(self) -> dict[str, float]:
        """Return how far the agents agreed after each round. A debate that has ended keeps its last value."""
        known = sorted(self.agreement)
        last = self.options.max_rounds + (self.options.gate == "pair")  # the others answer after the last round
        return {
            f"agreement_round_{r}": self.agreement[max(k for k in known if k <= r)]
            for r in range(last + 1)
            if known and r >= known[0]
        }

    def _task(self, agent: Seat) -> list[Message]:
        """Return the task as messages, after the agent's persona if it has one."""
        messages = list(self.question.messages)
        persona = self.personas.get(agent.name)
        return messages if persona is None else with_system(persona, messages)

    def _listen(
        self, agent: Seat, completion: Completion, round_: int, heard: Sequence[Utterance], messages: list[Message]
    ) -> Utterance:
        before = self.said.setdefault(agent.name, [])
        text, ran_on = cut_run_on(completion.text)
        stances = self.options.consensus == "verdict"
        agrees: bool | None = None
        if heard:
            if own_name := _OWN_NAME.match(text):
                text = text[own_name.end() :]
            if stances and (stance := _STANCE.match(text)):
                agrees, text = stance[1].lower() == "agree", text[stance.end() :]
            # An empty reply adopts the text that it agrees with, or repeats the agent's own previous text.
            if not text.strip():
                texts = [other.text for other in heard if self.devil is None or other.seat != self.devil.name]
                if agrees and _alike(heard) < len(heard):
                    agrees = None  # those whom it agrees with contradict each other
                text = texts[-1] if agrees and texts else before[-1].text if before else text
        answer = read_answer(self.question.prefix + text, form=self.form, pattern=self.options.answer_pattern)
        utterance = Utterance(agent.name, round_, completion, text, answer, agrees)
        if agrees and heard and all(_alike([utterance, other]) < 2 for other in heard):
            utterance = replace(utterance, agrees=None)  # it contradicts those whom it agrees with
        self._count(utterance, before[-1] if before else None, heard, ran_on)
        before.append(utterance)
        own = agent.own_turn(replace(completion, text=cut_run_on(completion.text)[0]))
        self.histories[agent.name] = [*messages, own]
        return utterance

    def _count(self, utterance: Utterance, before: Utterance | None, heard: Sequence[Utterance], ran_on: bool) -> None:
        stances = self.options.consensus == "verdict"
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
        if stances and heard:
            verdict["agrees"] = utterance.agrees
        self.seats.note(utterance.completion, **verdict)
        self.totals.update(
            speeches=1,
            cut_run_on=int(ran_on),
            unparsable=int(utterance.answer is None),
            malformed_stances=int(stances and bool(heard) and utterance.agrees is None),
            replies=int(before is not None),
            changed=int(changed),
            challenged=int(challenged),
            conformed=int(conformed),
        )

    def _count_position(self, utterance: Utterance, listed: Sequence[Utterance]) -> None:
        """Count which of several different answers an agent gives after it has read them: the first, or the last."""
        answers = [other.answer for other in listed if other.answer is not None]
        if len(answers) > 1 and not same_answer(answers[0], answers[-1]):
            self.totals["positions"] += 1
            self.totals["gave_first"] += same_answer(utterance.answer, answers[0])
            self.totals["gave_last"] += same_answer(utterance.answer, answers[-1])


def _alike(utterances: Sequence[Utterance]) -> int:
    """Return how many of the utterances do not contradict each other.

    Texts that are worded in different ways may mean the same, so that only other answers contradict each other.
    """
    known = [u.answer for u in utterances if u.answer is not None and u.answer.kind != "text"]
    most = max((votes for _, votes in vote(known).counts), default=0.0)
    return round(most) + len(utterances) - len(known)


def _number(agent: Seat) -> int:
    return int(agent.name.removeprefix("agent"))
