"""The options of `speculative_pair`, what they exclude, and the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness_ext.backends.base import Backend
from harness_ext.models.speculative.policies import POLICIES, table, vocabulary_problem
from harness_ext.models.speculative.policy import Policy
from harness_ext.models.speculative.text_policies import Judge
from harness_ext.models.speculative.units import Unit
from harness_ext.options import PromptText, check_rounds, prompt
from harness_ext.protocol import Capability, Protocol, Role


@dataclass(frozen=True)
class SpeculativeOptions(Protocol):
    """The options of `speculative_pair`.

    unit: what is approved or replaced as a whole: a `token`, a `step` or a `chunk` of `chunk_tokens` tokens. Default
        `token`.
    accept: the rule by which the teacher approves units (`docs/speculative.md`). Default `topk`.
    threshold: the rule's threshold. Default None: that of the rule.
    chunk_tokens: the length of a chunk, in tokens. Default 32.
    draft_tokens: how many tokens the student writes before the teacher looks at them: a number, `rest` for the rest of
        its answer, or `auto`. `auto` is the length that promises the most tokens in the time that both models take
        (`Drafting`) if the text is the teacher's own whatever the student writes (`greedy`, `sampled`), and elsewhere
        `rest`. Default `auto`.
    max_corrections: the largest number of corrections; 0 is the baseline. It does not apply to `greedy` and `sampled`,
        whose text is the teacher's own. Default 15.
    on_malformed: whether a unit whose rating has no number is rejected (`reject`) or approved (`accept`). Default
        `reject`.
    judge_max_tokens: the length limit of a rating, in tokens. Default 1.
    """

    unit: Unit = "token"
    accept: Literal["greedy", "topk", "prob", "topp", "sampled", "judge", "reward"] = "topk"
    threshold: float | None = None
    chunk_tokens: int = 32
    draft_tokens: int | Literal["auto", "rest"] = "auto"
    max_corrections: int = 15
    on_malformed: Literal["reject", "accept"] = "reject"
    judge_max_tokens: int = 1
    judge_system: PromptText = prompt(lambda: JUDGE_SYSTEM, "the system message that explains ratings (`accept=judge`)")
    judge_user: PromptText = prompt(lambda: JUDGE_USER, "asks for the rating of a unit")
    correct_user: PromptText = prompt(
        lambda: CORRECT_USER, "asks a teacher that cannot continue a reply for the next unit"
    )
    resume_user: PromptText = prompt(
        lambda: RESUME_USER, "asks a student that cannot continue a reply for the rest of its answer"
    )

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task and continues after corrections"),
        "teacher": Role("approves the student's answer unit by unit, and corrects it"),
        "reward": Role("scores units (`accept=reward`)"),
    }

    def __post_init__(self) -> None:
        policy = POLICIES[self.accept]
        if self.chunk_tokens < 1 or self.max_corrections < 0 or self.judge_max_tokens < 1:
            raise ValueError(
                "`chunk_tokens` and `judge_max_tokens` must be 1 or more, and `max_corrections` must be 0 or more"
            )
        check_rounds(self.max_corrections, "max_corrections")
        if isinstance(self.draft_tokens, int) and self.draft_tokens < 1:
            raise ValueError("`draft_tokens` must be 1 or more, `auto` or `rest`")
        if isinstance(self.draft_tokens, int) and not policy.exact:
            raise ValueError(
                f"`draft_tokens={self.draft_tokens}` needs a rule under which the text is the teacher's own "
                f"(`accept=greedy` or `accept=sampled`): `accept={self.accept}` judges whole answers"
            )
        if self.unit not in policy.units:
            units = " or ".join(f"`unit={unit}`" for unit in policy.units)
            raise ValueError(f"`accept={self.accept}` cannot judge `unit={self.unit}`: use {units}\n{table()}")
        if self.threshold is not None and not policy.valid(self.threshold):
            what = "takes no threshold" if policy.default is None else f"needs another threshold ({policy.rule})"
            raise ValueError(f"`threshold={self.threshold:g}`: `accept={self.accept}` {what}\n{table()}")

    @property
    def policy(self) -> Policy:
        """Return the acceptance policy with its threshold."""
        kind = POLICIES[self.accept]
        threshold = self.threshold if self.threshold is not None else kind.default or 0
        if kind is not Judge:
            return kind(threshold)
        keep = self.on_malformed == "accept"
        return Judge(threshold, self.judge_system, self.judge_user, JUDGE_OPENING, self.judge_max_tokens, keep)

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        policy = POLICIES[self.accept]
        third = {"reward": policy.third} if policy.third else {}
        return {"student": policy.student, "teacher": policy.teacher, **third}

    @property
    def spare(self) -> frozenset[str]:
        # Without corrections, the student's draft stands without a judgement, unless the rule is exact.
        return frozenset() if self.max_corrections or self.policy.exact else frozenset({"teacher", "reward"})

    def problems(self, seats: Mapping[str, Backend]) -> list[str]:
        lacks = [seat for seat, needed in self.needs().items() if seat in seats and seats[seat].lacks(needed)]
        found = [f"what `accept={self.accept}` and the other rules need from the seats:\n{table()}"] if lacks else []
        if {"student", "teacher"} <= seats.keys():
            found += filter(None, [vocabulary_problem(POLICIES[self.accept], seats["student"], seats["teacher"])])
        return found


JUDGE_OPENING = "Rating from 0 to 9: "
JUDGE_SYSTEM = """\
You are a strict, logical and attentive teacher. A student answers a task step by step, and you rate one step of the answer.
Rate whether the step is correct, follows from the task and the steps before it, and helps to answer the task.
Reply with a single digit from 0 (wrong or useless) to 9 (certainly right), and nothing else."""  # noqa: E501

JUDGE_USER = '''\
The student was given this task:
"""
{task}
"""

The answer so far, which is approved:
"""
{approved}
"""

The next step of the answer, which you rate:
"""
{unit}
"""'''

CORRECT_USER = '''\
This is the beginning of an answer to the task above:
"""
{approved}
"""

Write the next step of this answer, and nothing else. Begin where it ends; repeat nothing of it.'''

RESUME_USER = '''\
Your teacher found a mistake in your answer. This is the part of it that is right, the last words being your teacher's own:
"""
{approved}
"""

Go on from this point to the end of the answer, in the same style and format. Write only what comes after that part; repeat nothing of it, and mention neither the teacher nor the correction.'''  # noqa: E501
