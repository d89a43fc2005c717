"""How a teacher judges a student's draft: the table of acceptance policies.

A policy is given a draft that follows the approved beginning of a reply, divided into units. It judges the draft in one
pass of the teacher: how many units are approved, and, if the pass itself shows it, what the teacher would have written
instead of the first rejected one.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness_ext.backends.base import Backend
from harness_ext.models.speculative.policy import Policy
from harness_ext.models.speculative.text_policies import Judge, Reward
from harness_ext.models.speculative.token_policies import Greedy, Prob, Sampled, TopK, TopP

POLICIES: Mapping[str, type[Policy]] = {
    policy.name: policy for policy in (Greedy, TopK, Prob, TopP, Sampled, Judge, Reward)
}


def table() -> str:
    """Return what each policy needs from the seats, as a Markdown table (the same as in docs/speculative.md)."""
    lines = [
        "| accept | a unit is approved if | threshold | student | teacher | reward | unit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, policy in POLICIES.items():
        needs = [", ".join(sorted(seat)) or "–" for seat in (policy.student, policy.teacher, policy.third)]
        if policy.one_vocabulary:
            needs[1] += "; the student's vocabulary"
        default = "–" if policy.default is None else f"{policy.default:g}"
        lines.append(f"| `{name}` | {policy.rule} | {default} | {' | '.join(needs)} | {', '.join(policy.units)} |")
    return "\n".join(lines)


def vocabulary_problem(policy: type[Policy], student: Backend, teacher: Backend) -> str | None:
    """Return what is wrong with two models' vocabularies under a policy, or None."""
    if not policy.one_vocabulary or student.tokens is None or teacher.tokens is None:
        return None
    if student.tokens.vocabulary == teacher.tokens.vocabulary:
        return None
    return (
        f"`accept={policy.name}` needs models with the same vocabulary, and those of {student.name} and {teacher.name} "
        "differ: use models of one family, or another `accept`"
    )
