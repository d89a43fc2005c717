"""Feedback: a student answers, a teacher reviews the answer, and the student refines it until the teacher accepts.

After the feedback setting on bAbI of github.com/racia/research-project (one worked exchange: answer, review, refine).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.options import PromptText
from harness_ext.protocol import Capability, Message, Protocol, Question, Role, Seat, Seats, reply_of
from harness_ext.reading.verdicts import Verdict, read_verdict
from harness_ext.records import Solution


@dataclass(frozen=True)
class FeedbackPair(Protocol):
    """The options of `feedback_pair`. Prompts are given as files.

    max_rounds: the largest number of refinements; 0 is the baseline. Default 15.
    verdict: `text` reads the review: its first word, then looser wording. `logprob` compares the probabilities of the
        two verdicts, and lets the teacher explain a rejection. Default `text`.
    on_malformed: how a review without a verdict counts: as a rejection (`reject`) or an acceptance (`accept`), or it is
        asked for once more with a reminder of the form, and then counts as a rejection (`retry`). Default `reject`.
    teacher_sees: whether the teacher sees only the task and the latest draft (`task`), or also earlier drafts and its
        reviews (`rounds`). Default `task`.
    student_sees: whether the student sees the review, or only that its answer was rejected (`verdict`, a control).
        Default `review`.
    review_max_tokens: the length limit of a review, in tokens. Default 256.
    review_system: the teacher's system message.
    review_user: the prompt that asks for a review.
    review_again: the prompt that asks for a review of a refinement (`teacher_sees=rounds`).
    review_reminder: the prompt that asks again for a malformed review (`on_malformed=retry`).
    refine_user: the prompt that asks for a refinement.
    """

    max_rounds: int = 15
    verdict: Literal["text", "logprob"] = "text"
    on_malformed: Literal["reject", "accept", "retry"] = "reject"
    teacher_sees: Literal["task", "rounds"] = "task"
    student_sees: Literal["review", "verdict"] = "review"
    review_max_tokens: int = 256
    review_system: PromptText = field(default_factory=lambda: PromptText(REVIEW_SYSTEM))
    review_user: PromptText = field(default_factory=lambda: PromptText(REVIEW_USER))
    review_again: PromptText = field(default_factory=lambda: PromptText(REVIEW_AGAIN))
    review_reminder: PromptText = field(default_factory=lambda: PromptText(REVIEW_REMINDER))
    refine_user: PromptText = field(default_factory=lambda: PromptText(REFINE_USER))

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task and refines its answer"),
        "teacher": Role("reviews the student's answer"),
    }

    def __post_init__(self) -> None:
        if self.max_rounds < 0 or self.review_max_tokens < 1:
            raise ValueError("`max_rounds` must be 0 or more, and `review_max_tokens` must be 1 or more")

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        teacher: set[Capability] = {"generate", "score", "continue"} if self.verdict == "logprob" else {"generate"}
        return {"student": frozenset({"generate"}), "teacher": frozenset(teacher)}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        draft = await seats.student.generate(question.context, kind="draft")
        drafts, reviews = [draft.text], list[str]()
        for _ in range(self.max_rounds):
            review, verdict = await self._review(question, seats, drafts, reviews)
            if verdict.accepted:
                return Solution(drafts[-1], "accepted")
            shown = review if self.student_sees == "review" else REJECTION
            refine = Message("user", self.refine_user.fill(review=shown))
            conversation = question.conversation(reply_of(question, drafts[-1]), refine)
            refined = await seats.student.generate(conversation, kind="refine")
            if not refined.text.strip():
                return Solution(drafts[-1], "empty_refinement")
            if refined.text in drafts and self.teacher_sees == "task" and not seats.student.samples():
                return Solution(refined.text, "cycle")  # the same draft would get the same review again
            drafts.append(refined.text)
            reviews.append(review)
        return Solution(drafts[-1], "max_rounds")

    async def _review(
        self, question: Question, seats: Seats, drafts: list[str], reviews: list[str]
    ) -> tuple[str, Verdict]:
        """Return the teacher's review of the latest draft, and its verdict."""
        messages = self._review_messages(question, drafts, reviews)
        if self.verdict == "logprob":
            return await self._review_by_probability(seats.teacher, seats, messages)
        for attempt in range(2):
            review = await seats.teacher.generate(messages, kind="review", gen_kwargs=self._limits)
            verdict = read_verdict(review.text)
            if verdict.malformed and self.on_malformed == "accept":
                verdict = Verdict(True, verdict.rule, malformed=True)
            seats.note(review, accepted=verdict.accepted, rule=verdict.rule, malformed=verdict.malformed)
            if not (verdict.malformed and self.on_malformed == "retry") or attempt:
                break
            messages = [*messages, Message("assistant", review.text), Message("user", self.review_reminder)]
        return review.text.strip() or NO_REVIEW, verdict

    async def _review_by_probability(self, teacher: Seat, seats: Seats, messages: list[Message]) -> tuple[str, Verdict]:
        """Compare the teacher's probabilities of the two verdicts. If it rejects, let it write the review."""
        yes, no = await teacher.score(messages, ["Correct.", "Incorrect."], kind="verdict")
        accepted = yes > no
        # `min`, since `exp` overflows above 709.
        seats.note_last(accepted=accepted, rule="logprob", probability=1 / (1 + exp(min(no - yes, 700))))
        if accepted:
            return "Correct.", Verdict(True, "logprob")
        opening = "Incorrect.\nHint:"
        hint = await teacher.generate(
            [*messages, Message("assistant", opening)], kind="review", gen_kwargs=self._limits
        )
        return f"{opening} {hint.text.strip()}", Verdict(False, "logprob")

    def _review_messages(self, question: Question, drafts: list[str], reviews: list[str]) -> list[Message]:
        first = 0 if self.teacher_sees == "rounds" else len(drafts) - 1
        messages = [
            Message("system", self.review_system),
            Message("user", self.review_user.fill(task=question.text, draft=(question.prefix + drafts[first]).strip())),
        ]
        for review, draft in zip(reviews[first:], drafts[first + 1 :], strict=True):
            again = self.review_again.fill(draft=(question.prefix + draft).strip())
            messages += [Message("assistant", review), Message("user", again)]
        return messages

    @property
    def _limits(self) -> dict[str, object]:
        return {"until": [], "max_gen_toks": self.review_max_tokens, "do_sample": False}


class FeedbackPairLM(ProtocolLM):
    """`lm_eval --model feedback_pair --model_args student=<spec>,teacher=<spec>,…`."""

    protocol = FeedbackPair


REJECTION = "Incorrect."
NO_REVIEW = "The answer was not accepted. Check it again."
REVIEW_REMINDER = """\
That was in neither of the two forms. Begin your reply with the single word `Correct.` or `Incorrect.`, then go on as told."""  # noqa: E501
REVIEW_SYSTEM = """\
You are a strict, logical and attentive teacher. You check a student's answer to a task.
Reply in exactly one of these two forms.

If the reasoning and the answer are correct:
Correct.
<an explanation, if you like>

If anything is wrong:
Incorrect.
Hint: <one clear hint at the mistake, two sentences at most>
Issue: <the main problem, briefly>

Never state the correct answer."""

REVIEW_USER = '''\
The student was given this task:
"""
{task}
"""

The student answered:
"""
{draft}
"""'''

REVIEW_AGAIN = '''\
The student revised the answer:
"""
{draft}
"""'''

REFINE_USER = '''\
Your teacher found a mistake in your answer. The feedback:
"""
{review}
"""

Write a corrected answer in the same style and format. Follow the feedback, but mention neither it nor your previous answer.'''  # noqa: E501
