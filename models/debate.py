"""Debate: several agents answer, read each other, answer again, until they agree.

`turns` is the two-sided debate of github.com/madScientist10/aris_assignment_EAI with the stop it lacks; `all` is
Du et al., "Improving Factuality and Reasoning in Language Models through Multiagent Debate" (arXiv 2305.14325).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from harness_ext import debating
from harness_ext.answers import all_agree, check_pattern, cut_run_on
from harness_ext.debating import Floor, Speech
from harness_ext.lm import ProtocolLM
from harness_ext.options import PromptText
from harness_ext.protocol import Capability, Message, Protocol, Question, Role
from harness_ext.records import Solution, Transcript
from harness_ext.seats import Seat, Seats, SeatSetup

Decision = Literal["last", "vote", "weighted", "judge"]


@dataclass(frozen=True)
class Debate(Protocol):
    """Options of `debate`; prompts are given as files.

    `topology=turns`: the first agent answers, then the others and it in turn read what was said and improve it; `all`:
    all answer at once, then read all others; `ring`: each reads the one before it; `judge`: as `all`, and after each
    round a judge may close. `max_rounds` bounds the rounds after the first answers. It stops when all answers agree, or
    with `consensus=verdict` when all agents say so. `decision` picks the answer: the last speaker's, the vote's, the
    vote weighted by `weights` (`2:1:1`) or else by how sure each agent says it is, or a judge's (`auto`: `last` for
    turns, `judge` for judge, else `vote`). `see=answer` shows others' answers without their reasons. `order` is the
    order in which agents speak and are listed.
    """

    topology: Literal["turns", "all", "ring", "judge"] = "turns"
    max_rounds: int = 2
    consensus: Literal["answers", "verdict"] = "answers"
    decision: Literal["auto", "last", "vote", "weighted", "judge"] = "auto"
    weights: str | None = None
    see: Literal["rationale", "answer"] = "rationale"
    order: Literal["fixed", "rotated", "shuffled"] = "fixed"
    answer_pattern: str | None = None
    others_user: PromptText = field(default_factory=lambda: PromptText(OTHERS_USER))
    stance_user: PromptText = field(default_factory=lambda: PromptText(STANCE_USER))
    ruling_user: PromptText = field(default_factory=lambda: PromptText(RULING_USER))
    judge_user: PromptText = field(default_factory=lambda: PromptText(JUDGE_USER))
    confidence_user: PromptText = field(default_factory=lambda: PromptText(CONFIDENCE_USER))

    team: ClassVar[tuple[str, Role] | None] = ("agent", Role("takes part in the debate"))
    roles: ClassVar[Mapping[str, Role]] = {"judge": Role("closes the debate")}
    readable: ClassVar[str | None] = "debates.txt"
    answers: ClassVar[str | None] = "agent1"

    def __post_init__(self) -> None:
        check_pattern(self.answer_pattern)
        if self.max_rounds < 0:
            raise ValueError("`max_rounds` must be 0 or more")
        if self.topology == "judge" and self.decision not in ("auto", "judge"):
            raise ValueError(
                "`topology=judge` ends with the judge's answer: leave `decision` out, or use `topology=all`"
            )
        if self.weights is not None and (
            self.decision != "weighted" or not re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?)+", self.weights)
        ):
            raise ValueError("`weights` are numbers, one an agent (`2:1:1`), and go with `decision=weighted`")

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        needs: dict[str, frozenset[Capability]] = {"agent": frozenset({"generate"})}
        return {**needs, "judge": frozenset({"generate"})} if self._decision == "judge" else needs

    def resolved(self, seats: Mapping[str, SeatSetup]) -> Debate:
        agents = sum(name != "judge" for name in seats)
        if self.weights is not None and self.weights.count(":") + 1 != agents:
            raise ValueError(f"`weights={self.weights}`: there are {agents} agents, and each needs one")
        return self

    def write_up(self, transcript: Transcript) -> str:
        return debating.write_up(transcript)

    @property
    def _decision(self) -> Decision:
        if self.decision != "auto":
            return self.decision
        return "last" if self.topology == "turns" else "judge" if self.topology == "judge" else "vote"

    async def solve(self, question: Question, seats: Seats) -> Solution:
        agents = self._ordered(seats.team("agent"), question, seats)
        floor = Floor(
            question, seats, agents, self.answer_pattern, self.consensus == "verdict", self.see == "rationale"
        )
        stop = await (self._in_turn(floor) if self.topology == "turns" else self._in_rounds(floor))
        return await self._decide(floor, stop)

    def _ordered(self, agents: list[Seat], question: Question, seats: Seats) -> list[Seat]:
        if self.order == "rotated":
            first = (question.doc_id + question.repeat) % len(agents)
            return [*agents[first:], *agents[:first]]
        if self.order == "shuffled":
            seats.random("order").shuffle(agents)
        return agents

    async def _in_turn(self, floor: Floor) -> str:
        """One speaks at a time and reads what all others said last; the first one closes each round."""
        first, *rest = floor.agents
        await floor.draft(first)
        agreeing = 0
        for round_ in range(1, self.max_rounds + 1):
            for agent in [*rest, first]:
                heard = [s for s in floor.newest() if s.seat != agent.name]
                speech = await floor.reply(agent, heard, self._show(floor, heard), round_)
                agreeing = agreeing + 1 if speech.agrees else 0
                all_spoke = len(floor.newest()) == len(floor.agents)
                said_so = self.consensus == "verdict" and agreeing >= len(rest)
                if said_so or (self.consensus == "answers" and all_spoke and self._agreed(floor)):
                    floor.end_round(round_)
                    return "agreed"
            floor.end_round(round_)
        return "max_rounds"

    async def _in_rounds(self, floor: Floor) -> str | Speech:
        """All speak at once, each reading what others said in the round before."""
        await asyncio.gather(*(floor.draft(agent) for agent in floor.agents))
        floor.end_round(0)
        for round_ in range(1, self.max_rounds + 1):
            if self._agreed(floor):
                return "agreed"
            if self.topology == "judge" and (closing := await self._rule(floor)):
                return closing
            before = floor.newest()
            heard = [self._audible(before, i) for i in range(len(before))]
            await asyncio.gather(
                *(floor.reply(a, h, self._show(floor, h), round_) for a, h in zip(floor.agents, heard, strict=True))
            )
            floor.end_round(round_)
        return "agreed" if self._agreed(floor) else "max_rounds"

    def _agreed(self, floor: Floor) -> bool:
        newest = floor.newest()
        if self.consensus == "verdict":
            return all(speech.agrees for speech in newest)
        return all_agree([speech.answer for speech in newest])

    def _audible(self, speeches: Sequence[Speech], listener: int) -> list[Speech]:
        if self.topology == "ring":
            return [speeches[listener - 1]]
        return [speech for i, speech in enumerate(speeches) if i != listener]

    def _show(self, floor: Floor, heard: Sequence[Speech]) -> str:
        prompt = self.stance_user if self.consensus == "verdict" else self.others_user
        return prompt.fill(others=floor.shown(heard))

    async def _rule(self, floor: Floor) -> Speech | None:
        """Ask the judge whether it can close the debate; it then writes the final text."""
        judge = floor.seats.judge
        messages = floor.prompt(judge, self.ruling_user.fill(others=floor.shown(floor.newest())))
        ruling = await judge.generate(messages, kind="ruling")
        floor.histories[judge.name] = [*messages, Message("assistant", ruling.text)]
        is_open = not ruling.text.strip() or re.match(r"[\s*_`\"']*open\b[\s*_`\"'.!:]*", ruling.text, re.IGNORECASE)
        floor.seats.note(ruling, closes=not is_open)
        return None if is_open else Speech("judge", len(floor.agreement), ruling, cut_run_on(ruling.text)[0], None)

    async def _decide(self, floor: Floor, stop: str | Speech) -> Solution:
        if isinstance(stop, Speech):
            return self._close(floor, stop, "settled")
        decision = "vote" if stop == "agreed" and self._decision in ("judge", "weighted") else self._decision
        if decision == "judge":
            judge = floor.seats.judge
            messages = floor.prompt(judge, self.judge_user.fill(others=floor.shown(floor.newest())))
            opened = [Message("assistant", floor.question.prefix)] if floor.question.prefix else []
            ruling = await judge.generate([*messages, *opened], kind="ruling")
            if text := cut_run_on(ruling.text)[0].strip():
                return self._close(floor, Speech("judge", len(floor.agreement), ruling, text, None), "judge")
            floor.totals["silent_judge"] += 1
        if decision == "last":
            return self._close(floor, self._last(floor), stop)
        weights = await self._weights(floor) if decision == "weighted" else None
        result, speeches = floor.vote(weights)
        if result.winner is None:
            return self._close(floor, self._last(floor), "unparsable")
        floor.totals["ties"] += result.tie
        return self._close(floor, speeches[result.winner], "tie" if result.tie else stop)

    def _last(self, floor: Floor) -> Speech:
        """Return the last speech; where a round's came at once, the last agent's."""
        agents = floor.agents[1:] + floor.agents[:1] if self.topology == "turns" else floor.agents
        newest = {s.seat: s for s in floor.newest()}
        spoken = [(newest[a.name].round, i, newest[a.name]) for i, a in enumerate(agents) if a.name in newest]
        return max(spoken, key=lambda entry: entry[:2])[2]

    async def _weights(self, floor: Floor) -> list[float]:
        """Return the agents' weights: those given, or from how sure each says it is, scaled as in ReConcile (Chen et
        al., arXiv 2309.13007); who does not say has the least."""
        if self.weights is not None:
            given = [float(weight) for weight in self.weights.split(":")]
            return [given[int(agent.name.removeprefix("agent")) - 1] for agent in floor.agents]
        settings = {"until": [], "max_gen_toks": 8, "do_sample": False}
        said = await asyncio.gather(
            *(
                a.generate(floor.prompt(a, self.confidence_user), kind="confidence", gen_kwargs=settings)
                for a in floor.agents
            )
        )
        found = [re.search(r"(?<![\d.-])(100|\d{1,2})(?!\d|\.\d)", completion.text) for completion in said]
        floor.totals["malformed_confidences"] += found.count(None)
        return [_scaled(int(match[1])) if match else _scaled(0) for match in found]

    def _close(self, floor: Floor, speech: Speech, stop: str) -> Solution:
        final = speech.completion
        floor.seats.note(final, kept=final.completion_tokens)
        result, speeches = floor.vote(round_=0)
        first = speeches[result.winner].seat if result.winner is not None else None
        totals = {**floor.totals, "agreed": int(stop == "agreed"), **floor.agreement_by_round(self.max_rounds)}
        details = {"author": speech.seat, "round0_vote": first, "round0_tie": result.tie, "totals": totals}
        return Solution(speech.text, stop, details)


def _scaled(percent: int) -> float:
    return next(weight for least, weight in CONFIDENCE_WEIGHTS if percent >= least)


class DebateLM(ProtocolLM):
    """`lm_eval --model debate --model_args agents=[<spec>,<spec>],topology=all`."""

    protocol = Debate


CONFIDENCE_WEIGHTS = ((100, 1.0), (90, 0.8), (80, 0.5), (61, 0.3), (0, 0.1))
OTHERS_USER = """\
These are other answers to the same task:

{others}

Check them against your own reasoning, and say what is wrong with whose. Then write your own best answer, complete and in the form that the task asks for."""  # noqa: E501
STANCE_USER = """\
These are other answers to the same task:

{others}

Check them against your own reasoning. Begin your reply with the single word `Agree.` if you agree with them, or `Disagree.` if you do not. Then write your own best answer, complete and in the form that the task asks for."""  # noqa: E501
RULING_USER = """\
Several agents debate this task. Their newest answers:

{others}

If it is clear which answer is right, or if more debate will not help, write the final answer yourself, complete and in the form that the task asks for. If the debate should go on, reply with the single word `Open.`"""  # noqa: E501
JUDGE_USER = """\
Several agents have debated this task. Their last answers:

{others}

You decide. Write the final answer, complete and in the form that the task asks for."""
CONFIDENCE_USER = """\
How sure are you that your last answer is right? Reply with a whole number from 0 (surely wrong) to 100 (surely right), and nothing else."""  # noqa: E501
