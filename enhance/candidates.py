"""Candidate answers per prompt: sampled or found by diverse beam search, without near-duplicates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness_ext.backends.hf_beams import beam_settings
from harness_ext.protocol import Capability, Message, Protocol, Question, Role, Seats
from harness_ext.records import Solution


@dataclass(frozen=True)
class Candidates(Protocol):
    """Asks the student for several answers per prompt.

    k: number of answers per prompt, at least 2. Default 8.
    method: `sample`, or `diverse_beams` for a diverse beam search with `k` groups of one beam, as in
        github.com/BertilBraun/Master-Thesis. Default `sample`.
    temperature: temperature of sampling. Default 0.8.
    top_p: nucleus of sampling. Default 1.
    diversity_penalty: what a token's log-probability (natural) loses for every earlier group that chose it at the same
        step of the beam search. Default 0.8.
    as_chat: whether to send the prompt as a user message instead of a text to continue. Default false.
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
            raise ValueError("`k` must be 2 or more, because a preference is between two answers")
        if self.method == "sample" and self.temperature <= 0:
            raise ValueError("`temperature` must be above 0, because greedy decoding gives only one answer")

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
    """Return the candidates without blank ones and without near-duplicates of earlier ones.

    A candidate is a near-duplicate if more than the share `threshold` of its distinct words occurs in an earlier
    candidate. With a threshold of 1, only candidates with the same words in the same order are near-duplicates.
    """
    kept: list[str] = []
    for candidate in candidates:
        words = candidate.split()
        if words and not any(_alike(words, other.split(), threshold) for other in kept):
            kept.append(candidate)
    return kept


def _alike(new: list[str], old: list[str], threshold: float) -> bool:
    return new == old or len(set(new) & set(old)) / len(set(new)) > threshold
