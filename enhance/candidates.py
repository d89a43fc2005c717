"""K candidate answers to each prompt: sampled, or found by diverse beam search; near-duplicates dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness_ext.backends.beams import beam_settings
from harness_ext.protocol import Capability, Message, Protocol, Question, Role
from harness_ext.records import Solution
from harness_ext.seats import Seats


@dataclass(frozen=True)
class Candidates(Protocol):
    """`k` answers of the student to a prompt.

    `method=sample` draws them at `temperature` and `top_p`. `method=diverse_beams` is a diverse beam search with `k`
    groups of one beam, each token paying `diversity_penalty` (natural-log units) for every earlier group that took it
    at the same step, as in github.com/BertilBraun/Master-Thesis.
    """

    k: int = 8
    method: Literal["sample", "diverse_beams"] = "sample"
    temperature: float = 0.8
    top_p: float = 1.0
    diversity_penalty: float = 0.8
    as_chat: bool = False

    roles: ClassVar[Mapping[str, Role]] = {"student": Role("writes the candidate answers")}

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ValueError("`k` must be 2 or more: a preference is between two answers")
        if self.method == "sample" and self.temperature <= 0:
            raise ValueError("`temperature` must be above 0: greedy decoding gives one answer, not `k`")

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        beams: frozenset[Capability] = frozenset({"generate", "diverse_beams"})
        return {"student": beams if self.method == "diverse_beams" else frozenset({"generate"})}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        prompt = [Message("user", question.context)] if self.as_chat else question.context
        settings = [self._settings(question.gen_kwargs, i) for i in range(self.k)]
        calls = (seats.student.generate(prompt, kind="candidate", gen_kwargs=one) for one in settings)
        replies = await asyncio.gather(*calls)
        return Solution(replies[0].text)

    def _settings(self, more: Mapping[str, Any], number: int) -> dict[str, Any]:
        if self.method == "diverse_beams":
            plain = {name: value for name, value in more.items() if name not in ("temperature", "top_p")}
            return beam_settings(self.k, number, self.diversity_penalty, plain)
        return {**more, "do_sample": True, "temperature": self.temperature, "top_p": self.top_p}


def distinct(candidates: Sequence[str], threshold: float = 0.95) -> list[str]:
    """Return the candidates without blank ones and near-duplicates, the first of these kept.

    A candidate is one when more than `threshold` of its different words are in an earlier one; with a threshold of 1,
    when it has the same words in the same order.
    """
    kept: list[str] = []
    for candidate in candidates:
        words = candidate.split()
        if words and not any(_alike(words, other.split(), threshold) for other in kept):
            kept.append(candidate)
    return kept


def _alike(new: list[str], old: list[str], threshold: float) -> bool:
    return new == old or len(set(new) & set(old)) / len(set(new)) > threshold
