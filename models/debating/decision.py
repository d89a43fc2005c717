"""How the final answer of a debate is found: the last speaker's, by vote, or by a judge."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from harness_ext.models.debating.picking import pick
from harness_ext.models.debating.state import DebateState, Utterance
from harness_ext.options import PromptText
from harness_ext.protocol import Message
from harness_ext.reading import cut_run_on, read_confidence
from harness_ext.records import Solution

Decision = Literal["last", "vote", "weighted", "judge"]

# Weights of confidences, as in ReConcile (Chen et al., arXiv 2309.13007): the least confidence, and its weight.
CONFIDENCE_WEIGHTS = ((1.0, 1.0), (0.9, 0.8), (0.8, 0.5), (0.61, 0.3), (0.0, 0.1))


@dataclass(frozen=True)
class FinalAnswer:
    """The rule that picks the final answer.

    rule: whose answer is final.
    in_turn: whether agents spoke one at a time, the first of them last in each round.
    max_rounds: the largest number of rounds.
    weights: the weights for `weighted` (`2:1:1`); None: by how sure each agent says it is.
    judge_by: whether the judge writes the final answer (`text`) or picks one of the agents' (`choice`).
    judge_user: the prompt that asks the judge for the final answer.
    confidence_user: the prompt that asks an agent how sure it is.
    """

    rule: Decision
    in_turn: bool
    max_rounds: int
    weights: str | None
    judge_by: Literal["text", "choice"]
    judge_user: PromptText
    confidence_user: PromptText

    async def of(self, state: DebateState, stop: str | Utterance) -> Solution:
        """Return the solution of a debate.

        state: the debate when it ended.
        stop: why it ended, or the text of the judge that closed it.
        """
        if isinstance(stop, Utterance):
            return self._close(state, stop, "settled")
        rule = "vote" if stop == "agreed" and self.rule in ("judge", "weighted") else self.rule
        if rule == "judge" and self.judge_by == "choice":
            if picked := await pick(state):
                return self._close(state, picked, stop if stop == "settled" else "judge")
            state.totals["silent_judge"] += 1
        elif rule == "judge":
            judge = state.seats.judge
            messages = state.prompt(judge, state.fill(self.judge_user, state.newest()))
            opened = [Message("assistant", state.question.prefix)] if state.question.prefix else []
            ruling = await judge.generate([*messages, *opened], kind="ruling")
            if text := cut_run_on(ruling.text)[0].strip():
                return self._close(state, Utterance("judge", len(state.agreement), ruling, text, None), "judge")
            state.totals["silent_judge"] += 1
        if rule == "last":
            return self._close(state, self._last(state), stop)
        weights = await self._weights(state) if rule == "weighted" else None
        result, utterances = state.vote(weights)
        if result.winner is None:
            return self._close(state, self._last(state), "unparsable")
        state.totals["ties"] += result.tie
        return self._close(state, utterances[result.winner], "tie" if result.tie else stop)

    def _last(self, state: DebateState) -> Utterance:
        """Return the last utterance; if the utterances of a round were simultaneous, the last agent's."""
        agents = state.agents[1:] + state.agents[:1] if self.in_turn else state.agents
        newest = {s.seat: s for s in state.newest()}
        spoken = [(newest[a.name].round, i, newest[a.name]) for i, a in enumerate(agents) if a.name in newest]
        return max(spoken, key=lambda entry: entry[:2])[2]

    async def _weights(self, state: DebateState) -> list[float]:
        """Return the agents' weights: the given ones, or from how sure each agent says it is.

        Confidences are scaled as in ReConcile (Chen et al., arXiv 2309.13007). An agent that states none has the
        smallest weight.
        """
        if self.weights is not None:
            given = [float(weight) for weight in self.weights.split(":")]
            return [given[int(agent.name.removeprefix("agent")) - 1] for agent in state.agents]
        said = await asyncio.gather(
            *(
                a.generate(state.prompt(a, self.confidence_user), kind="confidence", gen_kwargs=a.limits(8))
                for a in state.agents
            )
        )
        found = [read_confidence(completion.text) for completion in said]
        for completion, confidence in zip(said, found, strict=True):
            state.seats.note(completion, confidence=confidence, malformed=confidence is None)
        state.totals["malformed_confidences"] += found.count(None)
        return [_scaled(confidence or 0.0) for confidence in found]

    def _close(self, state: DebateState, utterance: Utterance, stop: str) -> Solution:
        final = utterance.completion
        state.seats.note(final, kept=final.completion_tokens)
        result, utterances = state.vote(round_=0)
        first = utterances[result.winner].seat if result.winner is not None else None
        totals = {**state.totals, "agreed": int(stop == "agreed"), **state.agreement_by_round(self.max_rounds)}
        details = {"author": utterance.seat, "round0_vote": first, "round0_tie": result.tie, "totals": totals}
        return Solution(utterance.text, stop, details)


def _scaled(confidence: float) -> float:
    return next(weight for least, weight in CONFIDENCE_WEIGHTS if confidence >= least)
