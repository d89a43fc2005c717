"""Feedback: a student answers, a teacher reviews the answer, and the student refines it until the teacher accepts.

After the feedback setting on bAbI of github.com/racia/research-project (one worked exchange: answer, review, refine).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import exp
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.options import PromptText
from harness_ext.protocol import Capability, Message, Protocol, Question, Role, Seat, Seats
from harness_ext.reading import Verdict, read_verdict, read_verdict_system0
from harness_ext.records import Completion, Solution


@dataclass(frozen=True)
class FeedbackPair(Protocol):
    """The options of `feedback_pair`. Prompts are given as files.

    max_rounds: the largest number of refinements; 0 is the baseline. Default 15.
    verdict: `text` reads the review (docs/reading.md). `logprob` compares the probabilities of the two verdicts, and
        lets the teacher explain a rejection. `system0` counts words exactly as the bAbI feedback setting did.
        Default `text`.
    on_malformed: how a review without a verdict counts: as a rejection (`reject`) or an acceptance (`accept`), or it is
        asked for once more with a reminder of the form, and then counts as a rejection (`retry`). Default `reject`.
    max_malformed: how many malformed reviews in a row end a question with its latest draft: they say nothing that the
        student could act on. 0 does not end it. Default 2.
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
    recheck_user: the prompt that asks for a refinement after a malformed review, which is not quoted.
    """

    max_rounds: int = 15
    verdict: Literal["text", "logprob", "system0"] = "text"
    on_malformed: Literal["reject", "accept", "retry"] = "reject"
    max_malformed: int = 2
    teacher_sees: Literal["task", "rounds"] = "task"
    student_sees: Literal["review", "verdict"] = "review"
    review_max_tokens: int = 256
    review_system: PromptText = field(default_factory=lambda: PromptText(REVIEW_SYSTEM))
    review_user: PromptText = field(default_factory=lambda: PromptText(REVIEW_USER))
    review_again: PromptText = field(default_factory=lambda: PromptText(REVIEW_AGAIN))
    review_reminder: PromptText = field(default_factory=lambda: PromptText(REVIEW_REMINDER))
    refine_user: PromptText = field(default_factory=lambda: PromptText(REFINE_USER))
    recheck_user: PromptText = field(default_factory=lambda: PromptText(RECHECK_USER))

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task and refines its answer"),
        "teacher": Role("reviews the student's answer"),
    }

    def __post_init__(self) -> None:
        if min(self.max_rounds, self.max_malformed) < 0 or self.review_max_tokens < 1:
            raise ValueError("`max_rounds` and `max_malformed` must be 0 or more, and `review_max_tokens` 1 or more")

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        teacher: set[Capability] = {"generate", "score", "continue"} if self.verdict == "logprob" else {"generate"}
        return {"student": frozenset({"generate"}), "teacher": frozenset(teacher)}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        drafts = [await seats.student.generate(question.context, kind="draft")]
        reviews: list[str] = []
        malformed = 0
        for _ in range(self.max_rounds):
            review, verdict = await self._review(question, seats, drafts, reviews)
            if verdict.accepted:
                return Solution(drafts[-1].text, "accepted")
            malformed = malformed + 1 if verdict.malformed else 0
            if malformed and malformed == self.max_malformed:
                return Solution(drafts[-1].text, "malformed_reviews")
            refine = self._refine_prompt(question, seats.student, review, verdict)
            conversation = question.conversation(seats.student.own_turn(drafts[-1]), Message("user", refine))
            refined = await seats.student.generate(conversation, kind="refine")
            if not refined.text.strip():
                return Solution(drafts[-1].text, "empty_refinement")
            known = any(refined.text == draft.text for draft in drafts)
            if known and self.teacher_sees == "task" and not seats.student.samples():
                return Solution(refined.text, "cycle")  # the same draft would get the same review again
            drafts.append(refined)
            reviews.append(review)
        return Solution(drafts[-1].text, "max_rounds")

    def _refine_prompt(self, question: Question, student: Seat, review: str, verdict: Verdict) -> str:
        if verdict.malformed:
            return self.recheck_user.fill(demand=question.demand)
        prompt = student.prompt("refine_user", self.refine_user, REFINE_USER)
        return prompt.fill(review=review if self.student_sees == "review" else REJECTION, demand=question.demand)

    async def _review(
        self, question: Question, seats: Seats, drafts: list[Completion], reviews: list[str]
    ) -> tuple[str, Verdict]:
        """Return the teacher's review of the latest draft, and its verdict."""
        messages = self._review_messages(question, drafts, reviews)
        if self.verdict == "logprob":
            return await self._review_by_probability(seats.teacher, seats, messages)
        limits = seats.teacher.limits(self.review_max_tokens)
        for attempt in range(2):
            review = await seats.teacher.generate(messages, kind="review", gen_kwargs=limits)
            verdict = read_verdict_system0(review.text) if self.verdict == "system0" else read_verdict(review.text)
            if verdict.malformed and self.on_malformed == "accept":
                verdict = replace(verdict, accepted=True)
            seats.note(review, accepted=verdict.accepted, rule=verdict.rule, malformed=verdict.malformed)
            if not (verdict.malformed and self.on_malformed == "retry") or attempt:
                break
            messages = [*messages, Message("assistant", review.text), Message("user", self.review_reminder)]
        return review.text.strip(), verdict

    async def _review_by_probability(self, teacher: Seat, seats: Seats, messages: list[Message]) -> tuple[str, Verdict]:
        """Compare the teacher's probabilities of the two verdicts. If it rejects, let it write the review."""
        yes, no = await teacher.score(messages, ["Correct.", "Incorrect."], kind="verdict")
        accepted = yes > no
        # `min`, since `exp` overflows above 709.
        seats.note_last(accepted=accepted, rule="logprob", probability=1 / (1 + exp(min(no - yes, 700))))
        if accepted:
            return "Correct.", Verdict(True, "logprob")
        opening = "Incorrect.\nHint:"
        limits = teacher.limits(self.review_max_tokens)
        hint = await teacher.generate([*messages, Message("assistant", opening)], kind="review", gen_kwargs=limits)
        return f"{opening} {hint.text.strip()}", Verdict(False, "logprob")

    def _review_messages(self, question: Question, drafts: list[Completion], reviews: list[str]) -> list[Message]:
        first = 0 if self.teacher_sees == "rounds" else len(drafts) - 1
        messages = [
            Message("system", self.review_system),
            Message(
                "user", self.review_user.fill(task=question.text, draft=(question.prefix + drafts[first].text).strip())
            ),
        ]
        for review, draft in zip(reviews[first:], drafts[first + 1 :], strict=True):
            again = self.review_again.fill(draft=(question.prefix + draft.text).strip())
            messages += [Message("assistant", review), Message("user", again)]
        return messages


class FeedbackPairLM(ProtocolLM):
    """`lm_eval --model feedback_pair --model_args student=<spec>,teacher=<spec>,…`."""

    protocol = FeedbackPair


REJECTION = "Incorrect."
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

Follow the feedback, but mention neither it nor your previous answer. Write a corrected answer in the same style and format.

{demand}'''  # noqa: E501

RECHECK_USER = """\
Check your answer once more. Correct it where it is wrong, and keep it where it is right. Mention neither the check nor your previous answer.

{demand}"""  # noqa: E501
