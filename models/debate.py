"""Debate: several agents answer, read each other's answers and answer again, until they agree.

`topology=turns` is the two-sided debate of github.com/madScientist10/aris_assignment_EAI, with the stopping rule that
it lacks. `topology=all` is that of Du et al., "Improving Factuality and Reasoning in Language Models through Multiagent
Debate" (arXiv 2305.14325).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.debating import state as debating
from harness_ext.models.debating.decision import Decision, FinalAnswer
from harness_ext.models.debating.picking import is_settled
from harness_ext.models.debating.state import DebateState, Utterance
from harness_ext.options import PromptText, check_rounds
from harness_ext.protocol import Capability, Protocol, Question, Role, Seat, Seats, SeatSetup
from harness_ext.reading import all_agree, check_pattern, cut_run_on, read_choice_of
from harness_ext.records import Solution, Transcript


@dataclass(frozen=True)
class Debate(Protocol):
    """The options of `debate`. Prompts are given as files.

    topology: who speaks when, and who reads whom. Default `turns`.
        `turns`: the first agent answers, then the others and it take turns to read all others and answer.
        `all`: all answer at once, then each reads all others.
        `ring`: as `all`, but each reads only the agent before it.
        `judge`: as `all`, and after each round a judge may close the debate.
    max_rounds: the largest number of rounds after the first answers. Default 2.
    consensus: what ends a debate early: all answers are equal (`answers`), or all agents say that they agree
        (`verdict`). Default `answers`.
    decision: whose answer is final. Default `auto`: `last` for `turns`, `judge` for `judge`, otherwise `vote`.
        `last`: that of the last speaker.
        `vote`: the most common answer.
        `weighted`: the answer with the largest sum of weights.
        `judge`: the judge's own answer.
    weights: the weights for `decision=weighted` (`2:1:1`). Default None: by how sure each agent says it is.
    see: whether agents see others' whole texts (`rationale`) or only their answers (`answer`). Default `rationale`.
    order: the order in which agents speak and are listed: `fixed`, or by document `rotated` or `shuffled`. Default
        `fixed`.
    answer_pattern: a regular expression whose last match (its first group) is a reply's answer. Default None: the
        built-in patterns.
    others_user: the prompt that shows an agent others' answers.
    stance_user: the same for `consensus=verdict`.
    judge_by: how the judge decides. `text`: it writes the final answer. `choice`: it picks one of the agents' answers,
        which it sees in both orders; with `topology=judge`, a yes/no question after each round asks whether it is clear
        which one is right. Default `text`.
    ruling_user: the prompt that lets the judge close the debate (`topology=judge`).
    judge_user: the prompt that asks the judge for the final answer.
    confidence_user: the prompt that asks an agent how sure it is (`decision=weighted` without `weights`).
    """

    topology: Literal["turns", "all", "ring", "judge"] = "turns"
    max_rounds: int = 2
    consensus: Literal["answers", "verdict"] = "answers"
    decision: Literal["auto", "last", "vote", "weighted", "judge"] = "auto"
    weights: str | None = None
    see: Literal["rationale", "answer"] = "rationale"
    order: Literal["fixed", "rotated", "shuffled"] = "fixed"
    answer_pattern: str | None = None
    judge_by: Literal["text", "choice"] = "text"
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
        check_rounds(self.max_rounds, "max_rounds")
        if self.topology == "judge" and self.decision not in ("auto", "judge"):
            raise ValueError(
                "`topology=judge` ends with the judge's answer: leave `decision` out, or use `topology=all`"
            )
        if self.judge_by == "choice" and self._decision != "judge":
            raise ValueError("`judge_by=choice` needs a judge: use `topology=judge` or `decision=judge`")
        if self.weights is not None and (
            self.decision != "weighted" or not re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?)+", self.weights)
        ):
            raise ValueError("`weights` takes one number per agent (`2:1:1`), and needs `decision=weighted`")

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        needs: dict[str, frozenset[Capability]] = {"agent": frozenset({"generate"})}
        return {**needs, "judge": frozenset({"generate"})} if self._decision == "judge" else needs

    def resolved(self, seats: Mapping[str, SeatSetup]) -> Debate:
        agents = sum(name != "judge" for name in seats)
        if self.weights is not None and self.weights.count(":") + 1 != agents:
            raise ValueError(f"`weights={self.weights}`: there are {agents} agents, and each needs one weight")
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
        state = DebateState(
            question, seats, agents, self.answer_pattern, self.consensus == "verdict", self.see == "rationale"
        )
        stop = await (self._in_turn(state) if self.topology == "turns" else self._in_rounds(state))
        final = FinalAnswer(
            rule=self._decision,
            in_turn=self.topology == "turns",
            max_rounds=self.max_rounds,
            weights=self.weights,
            judge_by=self.judge_by,
            judge_user=self.judge_user,
            confidence_user=self.confidence_user,
        )
        return await final.of(state, stop)

    def _ordered(self, agents: list[Seat], question: Question, seats: Seats) -> list[Seat]:
        if self.order == "rotated":
            first = (question.doc_id + question.repeat) % len(agents)
            return [*agents[first:], *agents[:first]]
        if self.order == "shuffled":
            seats.random("order").shuffle(agents)
        return agents

    async def _in_turn(self, state: DebateState) -> str:
        """Let the agents speak one at a time, each reading the latest texts of all others.

        The first agent speaks last in each round.
        """
        first, *rest = state.agents
        await state.draft(first)
        agreeing = 0
        for round_ in range(1, self.max_rounds + 1):
            for agent in [*rest, first]:
                heard = [s for s in state.newest() if s.seat != agent.name]
                utterance = await state.reply(agent, heard, self._show(state, heard), round_)
                # With `consensus=verdict`, all others must have agreed in a row, so that nobody has changed the text
                # since.
                agreeing = agreeing + 1 if utterance.agrees else 0
                all_spoke = len(state.newest()) == len(state.agents)
                said_so = self.consensus == "verdict" and agreeing >= len(rest)
                if said_so or (self.consensus == "answers" and all_spoke and self._agreed(state)):
                    state.end_round(round_)
                    return "agreed"
            state.end_round(round_)
        return "max_rounds"

    async def _in_rounds(self, state: DebateState) -> str | Utterance:
        """Let all agents speak at once, each reading what others said in the round before."""
        await asyncio.gather(*(state.draft(agent) for agent in state.agents))
        state.end_round(0)
        for round_ in range(1, self.max_rounds + 1):
            if self._agreed(state):
                return "agreed"
            if self.topology == "judge" and self.judge_by == "choice":
                if await is_settled(state):
                    return "settled"
            elif self.topology == "judge" and (closing := await self._ask_judge(state)):
                return closing
            before = state.newest()
            heard = [self._audible(before, i) for i in range(len(before))]
            await asyncio.gather(
                *(state.reply(a, h, self._show(state, h), round_) for a, h in zip(state.agents, heard, strict=True))
            )
            state.end_round(round_)
        return "agreed" if self._agreed(state) else "max_rounds"

    def _agreed(self, state: DebateState) -> bool:
        newest = state.newest()
        if self.consensus == "verdict":
            return all(utterance.agrees for utterance in newest)
        return all_agree([utterance.answer for utterance in newest])

    def _audible(self, utterances: Sequence[Utterance], listener: int) -> list[Utterance]:
        if self.topology == "ring":
            return [utterances[listener - 1]]
        return [utterance for i, utterance in enumerate(utterances) if i != listener]

    def _show(self, state: DebateState, heard: Sequence[Utterance]) -> str:
        prompt = self.stance_user if self.consensus == "verdict" else self.others_user
        return state.fill(prompt, heard)

    async def _ask_judge(self, state: DebateState) -> Utterance | None:
        """Ask the judge to close the debate, and return its final text, or None if the debate stays open."""
        judge = state.seats.judge
        messages = state.prompt(judge, state.fill(self.ruling_user, state.newest()))
        ruling = await judge.generate(messages, kind="ruling")
        state.histories[judge.name] = [*messages, judge.own_turn(ruling)]
        is_open = not ruling.text.strip() or read_choice_of(ruling.text, ["open"]) is not None
        state.seats.note(ruling, closes=not is_open)
        return None if is_open else Utterance("judge", len(state.agreement), ruling, cut_run_on(ruling.text)[0], None)


class DebateLM(ProtocolLM):
    """`lm_eval --model debate --model_args agents=[<spec>,<spec>],topology=all`."""

    protocol = Debate


OTHERS_USER = """\
These are other answers to the same task:

{others}

Check them against your own reasoning, and say what is wrong with whose. Then write your own best answer, complete and in the form that the task asks for.

{demand}"""  # noqa: E501
STANCE_USER = """\
These are other answers to the same task:

{others}

Check them against your own reasoning. Begin your reply with the single word `Agree.` if you agree with them, or `Disagree.` if you do not. Then write your own best answer, complete and in the form that the task asks for.

{demand}"""  # noqa: E501
RULING_USER = """\
Several agents debate this task. Their newest answers:

{others}

If the debate should go on, reply with the single word `Open.` If it is clear which answer is right, or if more debate will not help, write the final answer yourself, complete and in the form that the task asks for.

{demand}"""  # noqa: E501
JUDGE_USER = """\
Several agents have debated this task. Their last answers:

{others}

You decide. Write the final answer, complete and in the form that the task asks for.

{demand}"""
CONFIDENCE_USER = """\
How sure are you that your last answer is right? Reply with a whole number from 0 (surely wrong) to 100 (surely right), and nothing else."""  # noqa: E501
