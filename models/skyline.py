"""Skyline: the teacher alone, through the same engine, records and accounting as every protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.protocol import Protocol, Question, Role, Seats
from harness_ext.records import Completion


@dataclass(frozen=True)
class Skyline(Protocol):
    """One draft by the teacher."""

    roles: ClassVar[Mapping[str, Role]] = {"teacher": Role("answers the task alone")}

    @property
    def passes_through(self) -> bool:
        return True

    async def solve(self, question: Question, seats: Seats) -> Completion:
        return await seats.teacher.generate(question.context, kind="draft")


class SkylineLM(ProtocolLM):
    """`lm_eval --model skyline --model_args teacher=<spec>`."""

    protocol = Skyline
