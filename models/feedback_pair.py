"""Feedback: a student answers, a teacher reviews the answer, and the student refines it until the teacher accepts.

After the feedback setting on bAbI of github.com/racia/research-project (one worked exchange: answer, review, refine).
How the teacher reviews an answer is in models/reviewing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.refining import Drafts
from harness_ext.models.reviewing import REJECTION, Reviewing
from harness_ext.options import PromptText, check_rounds, prompt
from harness_ext.protocol import Protocol, Question, Role, Seats, SeatSetup
from harness_ext.reading import Verdict
from harness_ext.records import Solution


@dataclass(frozen=True)
class FeedbackPair(Reviewing):
    """The options of `feedback_pair`, in addition to those of `Reviewing`.

    max_rounds: the largest number of refinements; 0 is the baseline. Default 15.
    max_malformed: how many malformed reviews in a row end a question with its latest draft: they say nothing that the
        student could act on. 0 does not end it. Default 2.
    student_sees: whether the student sees the review, or only that its answer was rejected (`verdict`, a control).
        Default `review`.
    """

    max_rounds: int = 15
    max_malformed: int = 2
    student_sees: Literal["review", "verdict"] = "review"
    refine_user: PromptText = prompt(lambda: REFINE_USER, "asks for a refinement")
    recheck_user: PromptText = prompt(
        lambda: RECHECK_USER, "asks for a refinement after a malformed review, which is not quoted"
    )

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task and refines its answer"),
        "teacher": Role("reviews the student's answer"),
        "judge": Role("decides for the teacher whether an answer is right", frozenset({"decide"}), optional=True),
    }

    def __post_init__(self) -> None:
        if min(self.max_rounds, self.max_malformed) < 0:
            raise ValueError("`max_rounds` and `max_malformed` must be 0 or more")
        check_rounds(self.max_rounds, "max_rounds")
        super().__post_init__()

    @property
    def passes_through(self) -> bool:
        return self.max_rounds == 0

    @property
    def spare(self) -> frozenset[str]:
        return frozenset({"teacher"}) if self.max_rounds == 0 else frozenset()

    @property
    def pilot(self) -> Protocol | None:
        return super().pilot if self.max_rounds else None

    def remarks(self, seats: Mapping[str, SeatSetup]) -> list[str]:
        return super().remarks(seats) if self.max_rounds else []

    async def solve(self, question: Question, seats: Seats) -> Solution:
        drafts = await Drafts.first(question, seats.student)
        reviews: list[str] = []
        malformed = 0
        for _ in range(self.max_rounds):
            review, verdict = await self.review(question, seats, drafts.texts, reviews)
            if verdict.accepted:
                return drafts.end("accepted")
            malformed = malformed + 1 if verdict.malformed else 0
            if malformed and malformed == self.max_malformed:
                return drafts.end("malformed_reviews")
            refine = self._refine_prompt(question, seats, review, verdict)
            # A draft that comes back gets the same review again, unless the teacher sees what came before it.
            if stop := await drafts.refine(refine, ends_on_repeat=self.teacher_sees == "task"):
                return drafts.end(stop)
            reviews.append(review)
        return drafts.end("max_rounds")

    def _refine_prompt(self, question: Question, seats: Seats, review: str, verdict: Verdict) -> str:
        if verdict.malformed:
            return self.recheck_user.fill(demand=question.demand)
        asked = seats.student.prompt("refine_user", self.refine_user, REFINE_USER)
        return asked.fill(review=review if self.student_sees == "review" else REJECTION, demand=question.demand)


class FeedbackPairLM(ProtocolLM):
    """`lm_eval --model feedback_pair --model_args student=<spec>,teacher=<spec>,…`."""

    protocol = FeedbackPair


REFINE_USER = '''\
Your teacher found a mistake in your answer. The feedback:
"""
{review}
"""

Follow the feedback, but mention neither it nor your previous answer. Write a corrected answer in the same style and format.

{demand}'''  # noqa: E501

RECHECK_USER = """\
Check your answer once more. Correct it where it is wrong, and keep it where it is right. Mention neither the check nor your previous answer.

{demand}"""  # noqa: E501
