"""Tasks that score given texts instead of reading replies: choices, single log-likelihoods, whole texts.

A protocol reasons once per question. One seat then scores every choice after the task, the final rationale and a
closing phrase: the two stages of Kojima et al., "Large Language Models are Zero-Shot Reasoners", arXiv 2205.11916.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from harness_ext.bridge.choice_decisions import decide_choices
from harness_ext.config.run_options import RunOptions
from harness_ext.options import PromptText
from harness_ext.protocol import Message, Protocol, Question, Role, Seats, SeatSetup
from harness_ext.protocol.inner import ProtocolBackend, Solver
from harness_ext.reading import cut_run_on
from harness_ext.records import Loglikelihood, Solution, Transcript
from harness_ext.records.chat import ChatContext

ChoiceScore = tuple[float, bool]


@dataclass(frozen=True)
class Reasoning:
    """How a run reasons before it scores choices.

    invitation: the text after the task that asks for a rationale.
    closing: the text between the rationale and a choice.
    max_tokens: the token limit of the rationale.
    """

    invitation: PromptText
    closing: PromptText
    max_tokens: int

    @classmethod
    def of(cls, options: RunOptions) -> Reasoning | None:
        """Return how a run with these options reasons about choices, or None if it scores them as lm-eval does."""
        return cls(options.reason_user, options.closing, options.reason_max_tokens) if options.reason == "on" else None

    @property
    def gen_kwargs(self) -> dict[str, Any]:
        """Return the generation settings of the rationale."""
        return {"until": ["\nQuestion:", "\nQ:"], "max_gen_toks": self.max_tokens, "do_sample": False}

    def question(self, question: Question) -> Question:
        """Return the question that asks for a rationale instead of a choice."""
        if not isinstance(question.context, ChatContext):
            # A plain context may end in an open bracket for the choice (`The answer is (`), after which a model would
            # answer at once. So that cue is removed here, and `prompt` restores the bracket in front of the choices.
            context = f"{_CUE.sub('', question.context).rstrip()} {self.invitation}"
            return replace(question, context=context, continuations=())
        *before, last = question.messages
        history = [*before, Message("user", f"{last.content.rstrip()}\n\n{self.invitation}")]
        context = ChatContext.of([{"role": m.role, "content": m.content} for m in history])
        return replace(question, context=context, continuations=())

    def prompt(self, question: Question, rationale: str) -> str | list[Message]:
        """Return the prompt that every choice continues: the task, the rationale and the closing phrase."""
        asked = self.question(question)
        reasons = cut_run_on(rationale)[0].strip()
        if not isinstance(question.context, ChatContext):
            opener = question.context.rstrip()[-1:]
            return f"{asked.context} {reasons}\n{self.closing}{f' {opener}' if opener in _OPENERS else ''}"
        closing = question.prefix.strip() or self.closing
        return [*asked.messages, Message("assistant", f"{reasons}\n\n{closing}")]

    def continuation(self, question: Question, choice: str) -> str:
        """Return a choice as it continues the closing phrase."""
        # Tokenizers attach a space to the word that follows it, so ` A` and `A` are different tokens with different
        # probabilities. lm-eval drops the space under a chat template, where a choice begins the reply; here it always
        # continues a sentence. Only after an opening bracket is a choice without a space the natural continuation.
        joined = choice[:1].isspace() or question.context.rstrip()[-1:] in _OPENERS
        return choice if joined and not isinstance(question.context, ChatContext) else f" {choice.lstrip()}"


_OPENERS = tuple("([{")
_CUE = re.compile(r"\s*(?:the (?:correct )?answer is:?)?\s*[(\[{]\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Choose(Protocol):
    """Scores a question's `continuations`, after a protocol has reasoned about the question.

    protocol: writes the rationale.
    answering: the seat that scores each continuation.
    reasoning: how to reason. If None, or if there is nothing to reason about (one continuation, or no context), the
        seat scores lm-eval's own request, unchanged.
    decides: whether the seat answers one question with the continuations as its options, instead of scoring each.
        Default False.
    """

    protocol: Protocol
    answering: str
    reasoning: Reasoning | None
    decides: bool = False

    roles: ClassVar[Mapping[str, Role]] = {}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        seat = seats[self.answering]
        if self.decides and self.reasoning is None:
            await decide_choices(seat, question, "", SCORED)
            return Solution("", "decided")
        if self.reasoning is None or not offers_choices(question):
            await seat.loglikelihood(question.context, question.continuations, kind=SCORED)
            return Solution("", "scored")
        result = await self.protocol.solve(self.reasoning.question(question), seats)
        solution = result if isinstance(result, Solution) else Solution(result.text)
        if self.decides:
            await decide_choices(seat, question, cut_run_on(solution.text)[0].strip(), SCORED)
            return solution
        choices = [self.reasoning.continuation(question, c) for c in question.continuations]
        await seat.loglikelihood(self.reasoning.prompt(question, solution.text), choices, kind=SCORED)
        return solution


@dataclass(frozen=True)
class Whole(Protocol):
    """Scores whole texts (lm-eval's `loglikelihood_rolling`)."""

    answering: str

    roles: ClassVar[Mapping[str, Role]] = {}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        await seats[self.answering].loglikelihood_rolling(question.context, kind=SCORED)
        return Solution("", "scored")


SCORED = "choice"


def scores_of(transcript: Transcript) -> list[ChoiceScore]:
    """Return each continuation's log-probability, and whether greedy decoding would produce it."""
    turns = [turn for turn in transcript.turns if turn.kind == SCORED]
    for turn in turns:
        if turn.verdict is not None and "scores" in turn.verdict:  # a decision has those of all choices
            return [(float(logprob), bool(greedy)) for logprob, greedy in turn.verdict["scores"]]
    results = (turn.result for turn in turns)
    return [(result.logprob, bool(result.greedy)) for result in results if isinstance(result, Loglikelihood)]


def choice_questions(
    questions: Iterator[tuple[int, Question, str]], reasoning: Reasoning | None
) -> list[tuple[list[int], Question]]:
    """Return lm-eval's `loglikelihood` requests as questions, each with the positions of its requests.

    questions: the requests with their positions and continuations. All continuations of one context of one document
        become one question.
    reasoning: how to reason about questions that offer choices, or None to score them directly.
    """
    groups: dict[tuple[Any, ...], tuple[list[int], Question, list[str]]] = {}
    for position, question, continuation in questions:
        key = (question.task, question.doc_id, question.doc_hash, question.repeat, question.context)
        positions, _, continuations = groups.setdefault(key, ([], question, []))
        positions.append(position)
        continuations.append(continuation)
    found = []
    for positions, question, continuations in groups.values():
        whole = replace(question, continuations=tuple(continuations))
        # The settings are part of a question's identity, so a resumed run with another rationale length asks it again.
        if reasoning is not None and offers_choices(whole):
            whole = replace(whole, gen_kwargs=reasoning.gen_kwargs)
        found.append((positions, whole))
    return found


def offers_choices(question: Question) -> bool:
    """Return whether there is something to reason about: several continuations of a context that is not empty."""
    # An empty context is the unconditional request of metrics such as `acc_mutual_info`: the model scores the choice
    # after its beginning-of-sequence token alone, and a rationale would turn that into a conditional probability.
    return len(question.continuations) > 1 and bool(question.context)


def scoring_seat(protocol: Solver, seats: Mapping[str, SeatSetup]) -> str:
    """Return the seat that scores choices: the one that the protocol names, or else its first.

    If a protocol takes that seat, it is the scoring seat of that protocol (`student.student`).
    """
    name = protocol.answers or next(iter(seats))
    backend = seats[name].backend
    if not isinstance(backend, ProtocolBackend):
        return name
    return f"{name}.{scoring_seat(backend.protocol, backend.seats)}"
