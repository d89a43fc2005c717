"""Chain of verification: a draft, questions that check its facts, answers to them, and a revised draft.

After Dhuliawala et al., "Chain-of-Verification Reduces Hallucination in Large Language Models" (arXiv 2309.11495).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.asking import ask
from harness_ext.models.refining import Drafts
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Protocol, Question, Role, Seats
from harness_ext.reading.question_lists import finished_items, read_questions
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
        drafts = await Drafts.first(question, seats.student)
        draft, is_joint = drafts.texts[-1], self.variant == "joint"
        if not draft.strip():
            return drafts.end("empty_draft")
        plan = await drafts.ask(self.joint_user if is_joint else self.plan_user, "plan", self.check_max_tokens)
        planned = [] if is_joint else read_questions(plan.text, whole=plan.finish != "length")
        chosen = planned[: self.max_questions]
        findings = finished_items(plan.text, plan.finish) if is_joint else await self._answered(seats, draft, chosen)
        seats.note(plan, malformed=not findings)
        totals = {"questions_left_out": len(planned) - len(chosen), "without_questions": int(not findings)}
        if not findings:
            return drafts.end("no_questions", totals=totals)
        revise = self.revise_user.fill(findings=findings, demand=question.demand)
        is_empty = await drafts.refine(revise, ends_on_repeat=False)
        return drafts.end("empty_revision" if is_empty else "revised", totals=totals)

    async def _answered(self, seats: Seats, draft: str, chosen: list[str]) -> str:
        """Return the check questions with their answers, as the student is shown them; empty if there are none."""
        checker, limit = seats.either("checker", "student"), self.check_max_tokens

        async def check(asked: str, gap: str = "\n") -> str:
            answer = (await ask(checker, self.check_user.fill(questions=asked), "check", limit)).text.strip()
            if self.variant == "factor_revise":
                compare = self.compare_user.fill(draft=draft, question=asked, answer=answer)
                answer += f"\nCompared with your answer: {(await ask(checker, compare, 'compare', limit)).text.strip()}"
            return f"{asked}{gap}{answer}"

        if self.variant == "two_step" and chosen:
            return await check("\n".join(f"{n}. {one}" for n, one in enumerate(chosen, start=1)), gap="\n\n")
        return "\n\n".join(await asyncio.gather(*map(check, chosen)))


class ChainOfVerificationLM(ProtocolLM):
    """`lm_eval --model chain_of_verification --model_args student=<spec>`."""

    protocol = ChainOfVerification


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
Questions that check your answer, with their answers:
"""
{findings}
"""

Where this contradicts your answer, correct it; keep what is right. Write the final answer in the same style and format, and mention neither the questions nor your previous answer.

{demand}'''  # noqa: E501
