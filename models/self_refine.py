"""Self-refine: a model answers, criticises its own answer and refines it, until it finds nothing to improve.

After Madaan et al., "Self-Refine: Iterative Refinement with Self-Feedback" (arXiv 2303.17651), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.refining import Drafts, read_review
from harness_ext.options import PromptText, check_rounds, prompt
from harness_ext.protocol import Message, Protocol, Question, Role, Seats
from harness_ext.records import Solution


@dataclass(frozen=True)
class SelfRefine(Protocol):
    """The options of `self_refine`.

    max_rounds: the largest number of refinements; 0 is the baseline. Default 4, as in the paper.
    history: what a refinement is made from: all drafts and critiques so far, as in the paper (`all`), or only the
        latest (`latest`). Default `all`.
    critique_max_tokens: the length limit of a critique, in tokens. Default 256.
    """

    max_rounds: int = 4
    history: Literal["all", "latest"] = "all"
    critique_max_tokens: int = 256
    critique_user: PromptText = prompt(lambda: CRITIQUE_USER, "asks for a critique of a draft")
    refine_user: PromptText = prompt(lambda: REFINE_USER, "asks for a refinement")

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task, criticises its answer and refines it"),
        "critic": Role("criticises the student's answers in its place", optional=True),
    }

    def __post_init__(self) -> None:
        if self.max_rounds < 0 or self.critique_max_tokens < 1:
            raise ValueError("`max_rounds` must be 0 or more, and `critique_max_tokens` 1 or more")
        check_rounds(self.max_rounds, "max_rounds")

    async def solve(self, question: Question, seats: Seats) -> Solution:
        critic = seats.either("critic", "student")
        drafts = await Drafts.first(question, seats.student)
        for _ in range(self.max_rounds):
            asked = self.critique_user.fill(task=question.text, draft=question.shown(drafts.texts[-1]))
            critique, verdict = await read_review(seats, critic, [Message("user", asked)], self.critique_max_tokens)
            if verdict.accepted:
                return drafts.end("accepted")
            refine = self.refine_user.fill(critique=critique.strip(), demand=question.demand)
            if stop := await drafts.refine(refine, history=self.history == "all", ends_on_repeat=False):
                return drafts.end(stop)
        return drafts.end("max_rounds")


class SelfRefineLM(ProtocolLM):
    """`lm_eval --model self_refine --model_args student=<spec>`."""

    protocol = SelfRefine


CRITIQUE_USER = '''\
This is a task, and an answer to it.

The task:
"""
{task}
"""

The answer:
"""
{draft}
"""

Check the answer step by step. If it is right and nothing in it needs to change, begin your reply with the single word `Correct.` Otherwise begin it with the single word `Incorrect.`, then say what is wrong and how it could be improved, but do not write the improved answer.'''  # noqa: E501

REFINE_USER = '''\
Feedback on your answer:
"""
{critique}
"""

Write an improved answer that takes the feedback into account, in the same style and format. Mention neither the feedback nor your previous answer.

{demand}'''  # noqa: E501
