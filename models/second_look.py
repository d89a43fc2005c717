"""Second look: a student answers, and is asked to check its own answer without being told anything about it.

After the intrinsic self-correction of Huang et al., "Large Language Models Cannot Self-Correct Reasoning Yet"
(arXiv 2310.01798). It is the control of `feedback_pair`: as many tries, but no feedback and no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.refining import Drafts
from harness_ext.options import PromptText, check_rounds, prompt
from harness_ext.protocol import Protocol, Question, Role, Seats
from harness_ext.records import Solution


@dataclass(frozen=True)
class SecondLook(Protocol):
    """The options of `second_look`.

    rounds: how often the student is asked to look again; 0 is the baseline. Default 1.
    """

    rounds: int = 1
    look_user: PromptText = prompt(lambda: LOOK_USER, "asks the student to look again")

    roles: ClassVar[Mapping[str, Role]] = {"student": Role("answers the task and checks its answer")}

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError("`rounds` must be 0 or more")
        check_rounds(self.rounds, "rounds")

    async def solve(self, question: Question, seats: Seats) -> Solution:
        look = seats.student.prompt("look_user", self.look_user, LOOK_USER).fill(demand=question.demand)
        drafts = await Drafts.first(question, seats.student)
        for _ in range(self.rounds):
            if stop := await drafts.refine(look):
                unchanged = stop == "cycle" and drafts.texts[-1] == drafts.texts[-2]
                return drafts.end("unchanged" if unchanged else stop)
        return drafts.end("rounds")


class SecondLookLM(ProtocolLM):
    """`lm_eval --model second_look --model_args student=<spec>,rounds=2`."""

    protocol = SecondLook


LOOK_USER = """\
Your answer could be right or wrong. Check it carefully. Correct it where it is wrong, and keep it where it is right. Mention neither the check nor your previous answer.

{demand}"""  # noqa: E501
