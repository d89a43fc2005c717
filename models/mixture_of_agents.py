"""Mixture of agents: layers of proposers, each of which reads the answers of the layer before, and an aggregator.

After Wang et al., "Mixture-of-Agents Enhances Large Language Model Capabilities" (arXiv 2406.04692).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.drawing import check_sampling, sampling_settings
from harness_ext.options import PromptText, check_rounds, prompt
from harness_ext.protocol import Message, Protocol, Question, Role, Seats
from harness_ext.protocol.wording import with_system
from harness_ext.records import Completion, Solution


@dataclass(frozen=True)
class MixtureOfAgents(Protocol):
    """The options of `mixture_of_agents`.

    layers: the number of layers, with that of the aggregator, as the paper counts them: with 1, the aggregator answers
        alone. Default 3.
    temperature: the temperature of the proposers, unless the task's own settings sample. Default 0.7, as in the paper.
    """

    layers: int = 3
    temperature: float = 0.7
    synthesize_system: PromptText = prompt(
        lambda: SYNTHESIZE_SYSTEM, "the system message that shows a model the answers of the layer before"
    )

    team: ClassVar[tuple[str, Role] | None] = ("proposer", Role("proposes answers, in all layers but the last"))
    roles: ClassVar[Mapping[str, Role]] = {"aggregator": Role("writes the final answer")}
    answers: ClassVar[str | None] = "aggregator"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError("`layers` must be 1 or more")
        check_rounds(self.layers, "layers")
        check_sampling(self.temperature, 1.0)

    @property
    def samples(self) -> bool:
        return self.temperature > 0 and self.layers > 1

    async def solve(self, question: Question, seats: Seats) -> Solution:
        proposers, aggregator = seats.team("proposer"), seats.aggregator
        proposals: list[Completion] = []
        for layer in range(1, self.layers):
            proposals = await asyncio.gather(
                *(
                    seat.generate(
                        self._prompt(question, proposals),
                        kind="draft" if layer == 1 else "propose",
                        gen_kwargs=sampling_settings(question, seat, self.temperature, 1.0),
                    )
                    for seat in proposers
                )
            )
            for proposal in proposals:
                seats.note(proposal, layer=layer)
        final = await aggregator.generate(self._prompt(question, proposals), kind="aggregate")
        if final.text.strip() or not proposals:
            return Solution(final.text, "aggregated")
        return Solution(proposals[0].text, "silent_aggregator")

    def _prompt(self, question: Question, proposals: Sequence[Completion]) -> str | list[Message]:
        """Return the task; with the answers of the layer before, if there was one, in a system message."""
        written = [text for one in proposals if (text := question.shown(one.text))]
        if not written:
            return question.context
        shown = "\n\n".join(f'{n}.\n"""\n{text}\n"""' for n, text in enumerate(written, start=1))
        return with_system(self.synthesize_system.fill(answers=shown), question.conversation())


class MixtureOfAgentsLM(ProtocolLM):
    """`lm_eval --model mixture_of_agents --model_args proposers=[<spec>,<spec>],aggregator=<spec>`."""

    protocol = MixtureOfAgents


SYNTHESIZE_SYSTEM = """\
Several models have answered the task that follows. Write one answer that is better than each of theirs.
Judge their answers critically, since some of them may be wrong or one-sided, and do not just repeat them. Your answer must be complete, right and in the form that the task asks for. Do not mention the other answers.

Their answers:

{answers}"""  # noqa: E501
