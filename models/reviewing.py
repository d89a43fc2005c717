"""How a teacher reviews a student's drafts: whether they are right, by probability or by its text, and why not."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Any, ClassVar, Literal

from harness_ext.decisions import Predicate, openings_digest, parts_of, question_digest
from harness_ext.decisions.questions import NO, YES
from harness_ext.errors import ConfigurationError
from harness_ext.models.asking import is_yes
from harness_ext.models.refining import read_review
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Capability, Message, Protocol, Question, Role, Seat, Seats, SeatSetup
from harness_ext.reading import Verdict, read_verdict, read_verdict_system0
from harness_ext.records import Completion, Solution


@dataclass(frozen=True)
class Reviewing(Protocol):
    """Base of protocols whose seat `teacher` reviews the drafts of the seat `student`, and the options of its reviews.

    verdict: how it is decided whether a draft is right (docs/protocols.md). Default `auto`.
        `auto`: by how probable the teacher finds it that its review begins with `Correct.`; the review of a rejected
            draft is then written from there. A teacher without such probabilities writes its review, which is read.
        `decision`: by a yes/no question of its own, which decisions endpoints and decision models answer too.
        `text`: the review is written, and its verdict is read (docs/reading.md).
        `system0`: as `text`, but words are counted exactly as the bAbI feedback setting did.
    accept_at: the least probability at which a draft is accepted; `auto` is the mean probability of the run's first
        drafts. Default 0.5.
    verdict_order: what comes before the verdict. Default `decision_first`.
        `decision_first`: nothing.
        `critique_first`: the teacher's review, which the verdict takes into account.
        `solve_first`: the teacher's own answer to the task, which it sees when it reviews.
    on_malformed: how a review without a verdict counts: as a rejection (`reject`) or an acceptance (`accept`), or it is
        asked for once more with a reminder of the form, and then counts as a rejection (`retry`). Default `reject`.
    teacher_sees: whether the teacher sees only the task and the latest draft (`task`), or also earlier drafts and its
        reviews (`rounds`). Default `task`.
    review_max_tokens: the length limit of a review, in tokens. Default 256.
    """

    verdict: Literal["auto", "decision", "text", "system0"] = "auto"
    accept_at: float | Literal["auto"] = 0.5
    verdict_order: Literal["decision_first", "critique_first", "solve_first"] = "decision_first"
    on_malformed: Literal["reject", "accept", "retry"] = "reject"
    teacher_sees: Literal["task", "rounds"] = "task"
    review_max_tokens: int = 256
    review_system: PromptText = prompt(lambda: REVIEW_SYSTEM, "the teacher's system message")
    review_user: PromptText = prompt(lambda: REVIEW_USER, "asks for a review")
    review_again: PromptText = prompt(lambda: REVIEW_AGAIN, "asks for a review of a refinement (`teacher_sees=rounds`)")
    review_reminder: PromptText = prompt(
        lambda: REVIEW_REMINDER, "asks again for a malformed review (`on_malformed=retry`)"
    )
    hint_user: PromptText = prompt(
        lambda: HINT_USER, "asks a teacher that cannot continue a reply for the review of a rejected draft"
    )
    critique_system: PromptText = prompt(
        lambda: CRITIQUE_SYSTEM,
        "the teacher's system message if it reviews before the verdict (`verdict_order=critique_first`)",
    )
    verdict_user: PromptText = prompt(lambda: VERDICT_USER, "asks for the verdict after such a review")
    own_answer: PromptText = prompt(
        lambda: OWN_ANSWER, "shows the teacher its own answer (`verdict_order=solve_first`)"
    )
    verdict_question: PromptText = prompt(lambda: IS_CORRECT, "the yes/no question (`verdict=decision`)")

    def __post_init__(self) -> None:
        if self.review_max_tokens < 1:
            raise ValueError("`review_max_tokens` must be 1 or more")
        if self.accept_at != "auto" and not 0 <= self.accept_at <= 1:
            raise ValueError("`accept_at` is a probability from 0 to 1, or `auto`")
        if self.accept_at != 0.5 and not self._decides:
            raise ValueError(f"`verdict={self.verdict}` has no probability for `accept_at`: use `auto` or `decision`")

    @property
    def _decides(self) -> bool:
        return self.verdict in ("auto", "decision")

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        needed: dict[str, frozenset[Capability]] = {seat: frozenset({"generate"}) for seat in ("student", "teacher")}
        if self._decides:
            # The opening of a review is no typed question, so only a model that writes texts can be asked for it.
            needed["judge"] = frozenset({"decide" if self.verdict == "decision" else "generate"})
        return needed

    @property
    def pilot(self) -> Protocol | None:
        return FirstVerdicts(replace(self, accept_at=0.5)) if self.accept_at == "auto" else None

    def informed(self, details: Sequence[Mapping[str, Any]]) -> Reviewing:
        found = [p for one in details if (p := one["probability"]) is not None]
        if not found:
            raise ConfigurationError(
                ["`accept_at=auto`: none of the first drafts has a probability: set `accept_at`, or use `verdict=text`"]
            )
        return replace(self, accept_at=fsum(found) / len(found))

    def remarks(self, seats: Mapping[str, SeatSetup]) -> list[str]:
        judge = _decider(seats)
        if judge not in seats:
            return []
        if self.verdict != "decision" or self.accept_at == "auto" or seats[judge].calibration is not None:
            return []
        return [
            f"the probabilities of `{judge}` are not calibrated, and chat models tend to say yes (`verdict=decision`): "
            f"calibrate them (`harness-ext calibrate`, then `{judge}.calibration=<file>`), or set `accept_at`"
        ]

    def resolved(self, seats: Mapping[str, SeatSetup]) -> Reviewing:
        decider = seats.get(_decider(seats))
        calibration = None if decider is None else decider.calibration
        if calibration is not None and calibration.question != self._digest():
            raise ValueError(
                "the calibration was fitted on another question: other prompts, `verdict` or `verdict_order`. Fit one "
                "on a run with these options (`harness-ext calibrate`)"
            )
        return self

    def _wording(self) -> tuple[str, ...]:
        """Return the texts that make up the question whether a draft is right, apart from task and draft."""
        shown = {
            "decision_first": (self.review_system,),
            "critique_first": (self.critique_system, self.verdict_user),
            "solve_first": (self.review_system, self.own_answer),
        }
        return (*shown[self.verdict_order], self.review_user)

    def _digest(self) -> str:
        if self.verdict == "decision":
            return question_digest(*parts_of(Predicate(self.verdict_question)))
        return openings_digest(self._wording(), OPENINGS)

    async def review(
        self, question: Question, seats: Seats, drafts: Sequence[str], reviews: Sequence[str]
    ) -> tuple[str, Verdict]:
        """Return the review of the latest draft, and its verdict.

        question: the question.
        seats: its seats.
        drafts: all drafts, the latest last.
        reviews: the reviews of those before it.
        """
        messages, critique, verdict = await self.first_verdict(question, seats, drafts, reviews)
        if critique is not None:
            if verdict is None:
                _, verdict = await self._written(seats, messages, VERDICT_TOKENS)
            seats.note(critique, rejects=not verdict.accepted)
            return critique.text.strip(), verdict
        if verdict is None:
            return await self._written(seats, messages, self.review_max_tokens)
        return await self._explanation(seats.teacher, messages, verdict), verdict

    async def first_verdict(
        self, question: Question, seats: Seats, drafts: Sequence[str], reviews: Sequence[str]
    ) -> tuple[list[Message], Completion | None, Verdict | None]:
        """Return the conversation that asks for a review of the latest draft, the critique if it comes first, and the
        verdict by probability; None if it must be written and read."""
        teacher = seats.teacher
        state = {"task": question.text, "answer": question.shown(drafts[-1])}
        messages = self._messages(question, drafts, reviews)
        critique = None
        if self.verdict_order == "solve_first":
            state["own answer"] = (await teacher.generate(question.context, kind="solve")).text.strip()
            own = self.own_answer.fill(answer=state["own answer"])
            messages[-1] = replace(messages[-1], content=f"{messages[-1].content}\n\n{own}")
        elif self.verdict_order == "critique_first":
            messages[0] = Message("system", self.critique_system)
            limits = teacher.limits(self.review_max_tokens)
            critique = await teacher.generate(messages, kind="critique", gen_kwargs=limits)
            state["review"] = critique.text.strip()
            messages += [teacher.own_turn(critique), Message("user", self.verdict_user)]
        return messages, critique, await self._decision(seats, state, messages) if self._decides else None

    def _messages(self, question: Question, drafts: Sequence[str], reviews: Sequence[str]) -> list[Message]:
        first = 0 if self.teacher_sees == "rounds" else len(drafts) - 1
        asked = self.review_user.fill(task=question.text, draft=question.shown(drafts[first]))
        messages = [Message("system", self.review_system), Message("user", asked)]
        for review, draft in zip(reviews[first:], drafts[first + 1 :], strict=True):
            again = self.review_again.fill(draft=question.shown(draft))
            messages += [Message("assistant", review), Message("user", again)]
        return messages

    async def _decision(self, seats: Seats, state: Mapping[str, str], messages: list[Message]) -> Verdict | None:
        """Return the verdict by the probability that the draft is right, or None if it must be written and read.

        It must be if the model has no such probabilities, or meant to write neither opening.
        """
        judge = seats.either("judge", "teacher")
        if self.verdict == "decision":
            asked = {"correct": Predicate(self.verdict_question)}
            decision = (await judge.decide(state, asked, kind="verdict"))["correct"]
        else:
            found = await judge.openings(messages, OPENINGS, kind="verdict", wording=self._wording())
            if found is None or found.choice is None:
                return None
            decision = found
        probability = decision.probability(YES)
        malformed = decision.choice is None
        assert self.accept_at != "auto"
        accepted = is_yes(decision, self.accept_at) or (malformed and self.on_malformed == "accept")
        seats.note(
            decision,
            accepted=accepted,
            rule=decision.source,
            malformed=malformed,
            probability=probability,
            threshold=None if probability is None else self.accept_at,
        )
        return Verdict(accepted, decision.source, malformed)

    async def _explanation(self, teacher: Seat, messages: list[Message], verdict: Verdict) -> str:
        """Return the review of a draft whose verdict is known: only a rejection is explained."""
        if verdict.accepted or verdict.malformed:
            return ACCEPTANCE if verdict.accepted else ""
        limits = teacher.limits(self.review_max_tokens)
        if "continue" in teacher.backend.capabilities:
            opening = f"{REJECTION}\nHint:"
            hint = await teacher.generate([*messages, Message("assistant", opening)], kind="review", gen_kwargs=limits)
            return f"{opening} {hint.text.strip()}"
        conversation = [*messages, Message("assistant", REJECTION), Message("user", self.hint_user)]
        written = (await teacher.generate(conversation, kind="review", gen_kwargs=limits)).text.strip()
        return written if written.startswith(REJECTION) else f"{REJECTION}\n{written}"

    async def _written(self, seats: Seats, messages: list[Message], max_tokens: int) -> tuple[str, Verdict]:
        """Return the review that the teacher writes, and the verdict that is read in it."""
        read = read_verdict_system0 if self.verdict == "system0" else read_verdict
        accepts = self.on_malformed == "accept"
        review, verdict = await read_review(
            seats, seats.teacher, messages, max_tokens, read=read, accepts_malformed=accepts
        )
        if verdict.malformed and self.on_malformed == "retry":
            messages = [*messages, Message("assistant", review), Message("user", self.review_reminder)]
            review, verdict = await read_review(seats, seats.teacher, messages, max_tokens, read=read)
        return review.strip(), verdict


def _decider(seats: Container[str]) -> str:
    """Return the name of the seat that decides whether an answer is right."""
    return "judge" if "judge" in seats else "teacher"


@dataclass(frozen=True)
class FirstVerdicts(Protocol):
    """The pilot of `accept_at=auto`: how probable it is that a first draft is right.

    options: the options of the run.
    """

    options: Reviewing

    roles: ClassVar[Mapping[str, Role]] = {}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        draft = await seats.student.generate(question.context, kind="draft")
        await self.options.first_verdict(question, seats, [draft.text], [])
        verdict = seats.turns[-1].verdict or {}
        return Solution(draft.text, details={"probability": verdict.get("probability")})


ACCEPTANCE, REJECTION = "Correct.", "Incorrect."
OPENINGS = {YES: ACCEPTANCE, NO: REJECTION}
VERDICT_TOKENS = 16  # the length limit of a verdict that follows a review
IS_CORRECT = "Is the student's final answer correct?"
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

HINT_USER = """\
Go on with your review, in the form given above: one clear hint at the mistake, two sentences at most, then the main problem, briefly. Do not state the correct answer."""  # noqa: E501

CRITIQUE_SYSTEM = """\
You are a strict, logical and attentive teacher. You check a student's answer to a task.
Go through it step by step. Say in a few sentences what is right and what is wrong, and give one clear hint at the first mistake, if there is one. Never state the correct answer."""  # noqa: E501

VERDICT_USER = """\
Is the student's answer correct? Reply with the single word `Correct.` or `Incorrect.`"""

OWN_ANSWER = '''\
You answered the same task yourself, which may be wrong as well:
"""
{answer}
"""'''
