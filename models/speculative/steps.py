"""The steps that a seat writes after a partial reply."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from harness_ext.models.speculative.partial_reply import Continuation, PartialReply, continue_reply
from harness_ext.models.speculative.trace import GenerationTrace
from harness_ext.models.speculative.units import split_steps
from harness_ext.protocol import Question, Seat


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a reply.

    unit: what its author wrote.
    reply: the reply with it.
    ends: whether its author would end the reply there.
    """

    unit: Continuation
    reply: PartialReply
    ends: bool

    @property
    def text(self) -> str:
        """Return its text, without the blanks around it."""
        return self.unit.text.strip()


async def write_steps(
    question: Question, seat: Seat, reply: PartialReply, trace: GenerationTrace, *, kind: str, most: int = 1
) -> list[Step]:
    """Return the first steps of how a seat continues a reply; none if it ends it.

    question: the question.
    seat: the seat, whose model can continue a reply.
    reply: the reply.
    trace: counts the call.
    kind: the turn's name in the records.
    most: the largest number of steps. Default 1.
    """
    found = (await continue_reply(seat, question, reply, "", kind=kind, only="step")).within(reply)
    trace.source(found.completion, found.seam)
    pieces = found.pieces(reply)
    sizes, finish = split_steps(pieces), found.completion.finish
    # A model that ends after a step has begun the next one, and one that was cut off has not finished its last.
    whole = len(sizes) if finish == "stop" else max(1, len(sizes) - 1) if finish == "length" else 1
    steps: list[Step] = []
    for number, (end, size) in enumerate(zip(accumulate(sizes), sizes, strict=True), start=1):
        unit = found.part(pieces, end - size, end)
        if number > min(whole, most) or not unit.text.strip():
            break
        begun = steps[-1].reply if steps else reply
        steps.append(Step(unit, begun.extended_by(unit), finish == "stop" and number == len(sizes)))
    return steps
