"""Tasks that score texts instead of reading replies: choices, single log-likelihoods, whole texts.

A protocol reasons once a question; then one seat scores every choice, given the task, the final rationale and a closing
phrase (the two stages of Kojima et al., "Large Language Models are Zero-Shot Reasoners", arXiv 2205.11916).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from harness_ext.answers import cut_run_on
from harness_ext.chat import ChatContext
from harness_ext.options import PromptText
from harness_ext.protocol import Message, Protocol, Question, Role
from harness_ext.records import Solution, Transcript
from harness_ext.seats import Seats

Score = tuple[float, bool]


@dataclass(frozen=True)
class Reasoning:
    """How a run reasons before it scores choices: what invites reasons, how long they are, what closes them."""

    invitation: PromptText
    closing: PromptText
    max_tokens: int

    @property
    def gen_kwargs(self) -> dict[str, Any]:
        """Return the settings of the rationale."""
        return {"until": ["\nQuestion:", "\nQ:"], "max_gen_toks": self.max_tokens, "do_sample": False}

    def question(self, question: Question) -> Question:
        """Return the question that asks for a rationale instead of a choice."""
        if not isinstance(question.context, ChatContext):
            context = f"{_CUE.sub('', question.context).rstrip()} {self.invitation}"
            return replace(question, context=context, continuations=())
        *before, last = question.messages
        history = [*before, Message("user", f"{last.content.rstrip()}\n\n{self.invitation}")]
        context = ChatContext.of([{"role": m.role, "content": m.content} for m in history])
        return replace(question, context=context, continuations=())

    def prompt(self, question: Question, rationale: str) -> str | list[Message]:
        """Return the task, the rationale and what the choices follow."""
        asked = self.question(question)
        said = cut_run_on(rationale)[0].strip()
        if not isinstance(question.context, ChatContext):
            opener = question.context.rstrip()[-1:]
            return f"{asked.context} {said}\n{self.closing}{f' {opener}' if opener in _OPENERS else ''}"
        closing = question.prefix.strip() or self.closing
        return [*asked.messages, Message("assistant", f"{said}\n\n{closing}")]

    def continuation(self, question: Question, choice: str) -> str:
        """Return a choice as it follows the closing phrase: lm-eval leaves out the blank under a chat template."""
        joined = choice[:1].isspace() or question.context.rstrip()[-1:] in _OPENERS
        return choice if joined and not isinstance(question.context, ChatContext) else f" {choice.lstrip()}"


_OPENERS = tuple("([{")
_CUE = re.compile(r"\s*(?:the (?:correct )?answer is:?)?\s*[(\[{]\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Choose(Protocol):
    """Answers a question's `continuations`: a protocol reasons, then the seat `answering` scores each of them.

    Without `reasoning`, and where there is nothing to reason about (one continuation, or no context), the seat scores
    what lm-eval asks, unchanged.
    """

    protocol: Protocol
    answering: str
    reasoning: Reasoning | None

    roles: ClassVar[Mapping[str, Role]] = {}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        seat = seats[self.answering]
        if self.reasoning is None or not question.gen_kwargs:
            await seat.weigh(question.context, question.continuations, kind=SCORED)
            return Solution("", "scored")
        result = await self.protocol.solve(self.reasoning.question(question), seats)
        solution = result if isinstance(result, Solution) else Solution(result.text)
        choices = [self.reasoning.continuation(question, c) for c in question.continuations]
        await seat.weigh(self.reasoning.prompt(question, solution.text), choices, kind=SCORED)
        return solution


@dataclass(frozen=True)
class Whole(Protocol):
    """Scores whole texts (lm-eval's `loglikelihood_rolling`)."""

    answering: str

    roles: ClassVar[Mapping[str, Role]] = {}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        await seats[self.answering].weigh_whole(question.context, kind=SCORED)
        return Solution("", "scored")


SCORED = "choice"


def scores_of(transcript: Transcript) -> list[Score]:
    """Return the log-probability of each continuation of a question, and whether greedy decoding writes it."""
    return [
        (float(t.completion.logprob or 0.0), bool(t.completion.greedy)) for t in transcript.turns if t.kind == SCORED
    ]


def choice_questions(
    questions: Iterator[tuple[int, Question, str]], gen_kwargs: Mapping[str, Any] | None
) -> list[tuple[list[int], Question]]:
    """Return lm-eval's `loglikelihood` requests as questions, each with the places of its requests.

    `questions` are requests one by one, with place and continuation. Several continuations of one context of one
    document are one question; with `gen_kwargs` it is reasoned about, unless its context is empty.
    """
    groups: dict[tuple[Any, ...], tuple[list[int], Question, list[str]]] = {}
    for place, question, continuation in questions:
        key = (question.task, question.doc_id, question.doc_hash, question.repeat, question.context)
        places, _, continuations = groups.setdefault(key, ([], question, []))
        places.append(place)
        continuations.append(continuation)
    return [
        (
            places,
            replace(
                question,
                continuations=tuple(said),
                gen_kwargs=gen_kwargs if gen_kwargs and len(said) > 1 and question.context else {},
            ),
        )
        for places, question, said in groups.values()
    ]


def scoring_seat(protocol: Protocol, seats: Iterable[str]) -> str:
    """Return the seat that scores: the one the protocol names, or its first."""
    return protocol.answers or next(iter(seats))


INVITATION = "Let's think step by step."
CLOSING = "Therefore, the answer is"
