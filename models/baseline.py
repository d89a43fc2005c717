"""Baseline: the student alone, through the same engine, records and accounting as every protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.protocol import Protocol, Question, Role, Seats
from harness_ext.records import Completion


@dataclass(frozen=True)
class Baseline(Protocol):
    """One draft by the student: exactly the call that lm-eval's own model would make."""

    roles: ClassVar[Mapping[str, Role]] = {"student": Role("answers the task alone")}

    @property
    def passes_through(self) -> bool:
        return True

    async def solve(self, question: Question, seats: Seats) -> Completion:
        return await seats.student.generate(question.context, kind="draft")


class BaselineLM(ProtocolLM):
    """`lm_eval --model baseline --model_args student=<spec>`."""

    protocol = Baseline
