"""Chain of verification: a draft, questions that check its facts, answers to them, and a revised draft.

After Dhuliawala et al., "Chain-of-Verification Reduces Hallucination in Large Language Models" (arXiv 2309.11495).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Message, Protocol, Question, Role, Seats
from harness_ext.records import Solution


@dataclass(frozen=True)
class ChainOfVerification(Protocol):
    """The options of `chain_of_verification`.

    variant: who answers the check questions with what in view. Default `factored`.
        `joint`: the questions and their answers are written in one reply, after the draft.
        `two_step`: the questions are answered in one call that does not see the draft.
        `factored`: each question is answered in a call of its own that sees neither the draft nor other questions.
        `factor_revise`: as `factored`, and each answer is then compared with the draft in a call of its own.
    max_questions: the largest number of check questions that are answered; further ones are counted. Default 5.
    check_max_tokens: the length limit of questions and of answers to them, in tokens. Default 256.
    """

    variant: Literal["joint", "two_step", "factored", "factor_revise"] = "factored"
    max_questions: int = 5
    check_max_tokens: int = 256
    plan_user: PromptText = prompt(lambda: PLAN_USER, "asks for check questions")
    joint_user: PromptText = prompt(lambda: JOINT_USER, "asks for check questions with their answers (`variant=joint`)")
    check_user: PromptText = prompt(lambda: CHECK_USER, "asks for answers to check questions")
    compare_user: PromptText = prompt(
        lambda: COMPARE_USER, "compares an answer with the draft (`variant=factor_revise`)"
    )
    revise_user: PromptText = prompt(lambda: REVISE_USER, "asks for the revised answer")

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task, plans check questions and revises its answer"),
        "checker": Role("answers the check questions in the student's place", optional=True),
    }

    def __post_init__(self) -> None:
        if self.max_questions < 1 or self.check_max_tokens < 1:
            raise ValueError("`max_questions` and `check_max_tokens` must be 1 or more")

    async def solve(self, question: Question, seats: Seats) -> Solution:
        student = seats.student
        draft = await student.generate(question.context, kind="draft")
        if not draft.text.strip():
            return Solution(draft.text, "empty_draft")
        asked = self.joint_user if self.variant == "joint" else self.plan_user
        plan = await student.generate(
            [*question.messages, student.own_turn(draft), Message("user", asked)],
            kind="plan",
            gen_kwargs=student.limits(self.check_max_tokens),
        )
        if self.variant == "joint":
            findings, left_out = plan.text.strip(), 0
        else:
            planned = numbered(plan.text, whole=plan.finish != "length")
            left_out = max(0, len(planned) - self.max_questions)
            findings = await self._answered(question, seats, draft.text, planned[: self.max_questions])
        seats.note(plan, malformed=not findings)
        totals = {"questions_left_out": left_out, "without_questions": int(not findings)}
        if not findings:
            return Solution(draft.text, "no_questions", {"totals": totals})
        revise = self.revise_user.fill(findings=findings, demand=question.demand)
        revised = await student.generate(
            question.conversation(student.own_turn(draft), Message("user", revise)), kind="refine"
        )
        if not revised.text.strip():
            return Solution(draft.text, "empty_revision", {"totals": totals})
        return Solution(revised.text, "revised", {"totals": totals})

    async def _answered(self, question: Question, seats: Seats, draft: str, planned: list[str]) -> str:
        """Return the check questions with their answers, as the student is shown them; empty if there are none."""
        checker = seats.either("checker", "student")
        limits = checker.limits(self.check_max_tokens)

        async def ask(text: str, kind: str) -> str:
            return (await checker.generate([Message("user", text)], kind=kind, gen_kwargs=limits)).text.strip()

        async def check(one: str) -> str:
            answer = await ask(self.check_user.fill(questions=one), "check")
            if self.variant == "factor_revise":
                compared = self.compare_user.fill(draft=draft, question=one, answer=answer)
                answer = f"{answer}\n{await ask(compared, 'compare')}"
            return f"{one}\n{answer}"

        if self.variant == "two_step" and planned:
            listed = "\n".join(f"{n}. {one}" for n, one in enumerate(planned, start=1))
            return f"{listed}\n\n{await ask(self.check_user.fill(questions=listed), 'check')}"
        return "\n\n".join(await asyncio.gather(*map(check, planned)))


def numbered(text: str, whole: bool = True) -> list[str]:
    """Return the questions in a list, without their numbers and without what follows their question marks.

    text: the list. Its lines with a question mark are the questions, of which those in the list count alone if there
        are any. A list without a question mark is one of statements to check.
    whole: whether it is complete. Default True. Of one that was cut off, an unfinished question does not count.
    """
    lines = [line.strip() for line in text.splitlines()]
    if not whole and lines and not lines[-1].endswith("?"):
        del lines[-1]
    items = [match[1].strip() for line in lines if (match := _ITEM.match(line))]
    for group in (items, lines):
        if asked := [match[1] for one in group if (match := _ASKED.match(one))]:
            return [*dict.fromkeys(one.replace("**", "") if one.count("**") % 2 else one for one in asked)]
    return [*dict.fromkeys(items)]


class ChainOfVerificationLM(ProtocolLM):
    """`lm_eval --model chain_of_verification --model_args student=<spec>`."""

    protocol = ChainOfVerification


_ITEM = re.compile(
    r"(?:\*\*)?(?:Q(?:uestion)?\s*)?(?:\(?\d{1,2}\\?[.):](?=\D)|[-*•](?=\s))(?:\*\*)?\s*(.*\S)", re.IGNORECASE
)
_ASKED = re.compile(r"(.*[?？])")
PLAN_USER = """\
Write short questions with which somebody else can check your answer: about each fact and each step that it depends on. Write one question per line, numbered and with a question mark. Each must be understandable by itself, without the task and the answer. Write nothing else."""  # noqa: E501
JOINT_USER = """\
Write short questions that check your answer: about each fact and each step that it depends on. Write one question per line, numbered and with a question mark, and after it what the right answer to it is. Write nothing else."""  # noqa: E501
CHECK_USER = """\
Answer briefly and precisely.

{questions}"""
COMPARE_USER = '''\
A text says:
"""
{draft}
"""

A question about it: {question}
The answer was found to be: {answer}

Does the text agree with this answer? Reply in one sentence: it agrees, it contradicts it, or it says nothing about it.'''  # noqa: E501
REVISE_USER = '''\
Questions that check your answer were answered separately:
"""
{findings}
"""

Where this contradicts your answer, correct it; keep what is right. Write the final answer in the same style and format, and mention neither the questions nor your previous answer.

{demand}'''  # noqa: E501
