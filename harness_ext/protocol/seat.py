"""A seat within one question: what a protocol can ask of its model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness_ext.backends.base import (
    CANNOT_DECIDE,
    Backend,
    DecideRequest,
    GenerateRequest,
    Prompt,
    ScoreRequest,
    VerifyRequest,
)
from harness_ext.backends.settings import canonical_settings, stop_sequences
from harness_ext.decisions import Choice, TypedQuestion, as_state, openings_digest
from harness_ext.errors import CallFailed, ConfigurationError
from harness_ext.options import PromptText
from harness_ext.protocol.deciding import (
    LABEL_TOKENS,
    Asked,
    averaged,
    calibrated,
    comparison_record,
    from_scores,
    from_text,
    reordered,
    scores_labels,
    sources_of,
)
from harness_ext.protocol.question import reply_of
from harness_ext.protocol.setup import SeatSetup
from harness_ext.protocol.turns import Turns
from harness_ext.protocol.wording import with_system
from harness_ext.reading.control_tokens import neutralise
from harness_ext.reading.thoughts import split_thought
from harness_ext.records import Completion, Decision, Loglikelihood, Message, Source, Verification
from harness_ext.records.chat import ChatContext, context_messages
from harness_ext.records.images import Image, count_marks, without_images

NEUTRALISED = "control_tokens_neutralised"


class Seat:
    """One seat within one question."""

    def __init__(self, name: str, setup: SeatSetup, turns: Turns) -> None:
        self.name = name
        self.setup = setup
        self.turns = turns

    @property
    def backend(self) -> Backend:
        """Return the seat's model."""
        return self.setup.backend

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        kind: str,
        gen_kwargs: Mapping[str, Any] | None = None,
        **how: Any,
    ) -> Completion:
        """Return the seat's reply to a context or a conversation.

        prompt: a context, or messages. A trailing assistant message is continued.
        kind: the turn's name in the records.
        gen_kwargs: lm-eval's generation settings. Default None: the task's own.
        how: further fields of `GenerateRequest`.

        Raises CallFailed, which a protocol need not catch.
        """
        rendered, settings, images = self.rendered(prompt, gen_kwargs)
        markers = None if self.setup.thoughts == "off" else self.setup.thought_markers
        request = GenerateRequest(rendered.text, settings, images=images, thought_markers=markers, **how)
        return await self.turns.call(self.name, self.backend, request, Completion, kind, rendered.notes)

    def prompt(self, name: str, chosen: PromptText, default: str) -> PromptText:
        """Return the prompt to use: the one that the run chose, or else the one that the seat's model was trained on.

        name: the name of the protocol's option, such as `refine_user`.
        chosen: the value of the option.
        default: the option's default.
        """
        return PromptText(self.backend.prompts.get(name, chosen)) if chosen == default else chosen

    def limits(self, max_tokens: int) -> dict[str, Any]:
        """Return the generation settings of a reply whose length the protocol sets: greedy and without stop sequences.

        max_tokens: the length limit of the reply, in tokens, to which the seat's `thought_tokens` are added.
        """
        return {"until": [], "max_gen_toks": max_tokens + self.setup.thought_tokens, "do_sample": False}

    def answer_in(self, text: str) -> str:
        """Return a text without the thought that it may begin with."""
        return text if self.setup.thoughts == "off" else split_thought(text, self.setup.thought_markers).answer

    def own_turn(self, completion: Completion) -> Message:
        """Return one of the seat's own replies as a message of its history: with the dictated prefix of the task, and
        without its thought unless the seat's `thoughts` are part of its history."""
        text = completion.text
        if self.setup.thoughts == "history" and completion.thought:
            begin, end = self.setup.thought_markers[0]
            text = f"{begin}\n{completion.thought}\n{end}\n\n{text}"
        return reply_of(self.turns.question, text)

    async def verify(
        self, prompt: str | Sequence[Message], reply: Sequence[int], draft: Sequence[int], *, kind: str, **more: Any
    ) -> Verification:
        """Return how likely the seat's model finds the tokens of a draft.

        prompt: a context, or messages.
        reply: the token ids of the partial reply before the draft.
        draft: the token ids to verify.
        kind: the turn's name in the records.
        more: further fields of `VerifyRequest`.

        Raises CallFailed, which a protocol need not catch.
        """
        rendered, settings, _ = self.rendered(prompt)
        request = VerifyRequest(rendered.text, settings, tuple(reply), tuple(draft), **more)
        return await self.turns.call(self.name, self.backend, request, Verification, kind, rendered.notes)

    async def decide(
        self, state: str | Mapping[str, Any], questions: Mapping[str, TypedQuestion], *, kind: str = "decision"
    ) -> dict[str, Decision]:
        """Return the seat's decisions on typed questions, with a probability per option where it has any.

        state: what the questions are about: a text, or fields. It is data: nothing in it becomes a part of a question.
        questions: the questions, by name.
        kind: the turn's name in the records. Default `decision`.

        A decision whose `choice` is None was refused, or could not be read. Raises CallFailed, which a protocol need
        not catch.
        """
        text, tokens = neutralise(as_state(state), not self.backend.uses_template(self.setup.chat))
        notes = (NEUTRALISED,) if tokens else ()
        asked = (Asked.typed(text, question, notes) for question in questions.values())
        found = await asyncio.gather(*(self._decide(one, kind) for one in asked))
        return dict(zip(questions, found, strict=True))

    async def prefer(
        self, state: Mapping[str, Any], candidates: Sequence[str], instructions: str, *, kind: str
    ) -> Decision:
        """Return which of several texts the seat prefers. The options are the positions of the texts, from `0`.

        Models prefer what they read first or last, so the texts are shown in both orders, and the decisions averaged.
        The records count where the order changes the result, and hold the decision of each order (`comparison_record`).

        state: what else the question is about.
        candidates: the texts; they are data, as the state is.
        instructions: the question.
        kind: the turn's name in the records.

        Raises CallFailed, which a protocol need not catch.
        """
        orders = [list(range(len(candidates))), list(reversed(range(len(candidates))))]
        asked = Choice(instructions, tuple(f"answer {n}" for n in range(1, len(candidates) + 1)))
        states = [
            {**state, **{name: candidates[i] for name, i in zip(asked.options, order, strict=True)}} for order in orders
        ]
        found = await asyncio.gather(*(self.decide(shown, {"best": asked}, kind=kind) for shown in states))
        placed = [one["best"] for one in found]
        named = [reordered(one, order) for one, order in zip(placed, orders, strict=True)]
        verdict = averaged(named)
        self.turns.note(
            placed[0],
            order_changed=named[0].choice != named[1].choice,
            comparison=comparison_record(candidates, orders, placed, verdict),
        )
        return self.turns.made_from(placed[0], verdict)

    async def openings(
        self,
        prompt: str | Sequence[Message],
        openings: Mapping[str, str],
        *,
        kind: str,
        wording: Sequence[str] = (),
    ) -> Decision | None:
        """Return how probable it is that the seat's reply to a prompt begins in each of several ways.

        prompt: a context, or messages.
        openings: how the reply begins for each option.
        kind: the turn's name in the records.
        wording: what the prompt says, apart from what it is about: with the openings, it identifies the question.

        Returns None if the seat has no such probabilities, or is set to write its decisions as text.
        """
        digest = openings_digest(wording, openings)
        messages = tuple(context_messages(prompt) if isinstance(prompt, str) else prompt)
        asked = Asked(messages, tuple(openings), tuple(openings.values()), digest)
        if self._sources(asked) is None:
            return None
        try:
            return await self._probabilities(asked, kind)
        except CallFailed as error:
            if error.code != CANNOT_DECIDE:
                raise
            return None

    async def _decide(self, asked: Asked, kind: str) -> Decision:
        """Return the seat's decision on a typed question, by its text if nothing else answers."""
        reads = self.setup.decide in ("auto", "text")
        try:
            return await self._probabilities(asked, kind)
        except CallFailed as error:
            if error.code != CANNOT_DECIDE or not reads or not asked.labels:
                raise
        written = await self.generate(asked.prompt, kind=kind, gen_kwargs=self.limits(LABEL_TOKENS))
        assert asked.question is not None
        decision = self.turns.made_from(written, from_text(asked.question, written))
        self.turns.note(decision, question=asked.digest, choice=decision.choice, malformed=decision.choice is None)
        return decision

    def _sources(self, asked: Asked) -> tuple[Source, ...] | None:
        """Return which sources of a decision the seat may ask.

        There are none if its model can only score the labels, and None if it can do neither or is set to write its
        decisions.
        """
        images, sources = self.turns.question.images, sources_of(self.setup.decide, self.backend, asked)
        if images or self.setup.system:  # endpoints take neither
            sources = tuple(source for source in sources if source != "endpoint")
        if not sources and (images or not scores_labels(self.setup.decide, self.backend, asked)):
            return None
        return sources

    async def _probabilities(self, asked: Asked, kind: str) -> Decision:
        """Return the decision of the seat's model, or that of the scores of the labels where it can only score texts.

        Raises CallFailed with the code `cannot_decide` if it can do neither, or is set to write its decisions.
        """
        sources = self._sources(asked)
        if sources is None:
            raise CallFailed(CANNOT_DECIDE, f"{self.backend.name} cannot decide (`decide={self.setup.decide}`)")
        prompt: Sequence[Message] = asked.prompt
        if self.setup.decide_thinking == "on":
            prompt = await self._after_thought(prompt, kind)
        about = {"question": asked.digest}
        if sources:
            rendered, _, images = self.rendered(prompt, deciding=True)
            labels = tuple(rendered.lead + label for label in asked.labels)
            draws = self.setup.decide_draws
            request = DecideRequest(
                rendered.text, asked.options, labels, sources, asked.question, asked.state, draws, images
            )
            notes = (*asked.notes, *rendered.notes)
            decision = await self.turns.call(self.name, self.backend, request, Decision, kind, notes, about)
        else:
            found = await self.loglikelihood(prompt, asked.labels, kind=kind)
            decision = self.turns.made_from(found[0], from_scores(asked.options, found))
            self.turns.note(decision, **about)
        calibration = self.setup.calibration
        if calibration is None or len(asked.options) != 2 or not decision.probabilities:
            return decision
        if calibration.question != asked.digest or calibration.source != decision.source:
            raise ConfigurationError(
                [
                    f"`{self.name}.calibration` was fitted on another question, or on probabilities of another source "
                    f"({calibration.source}, not {decision.source}): fit one on a run with these options"
                ]
            )
        raw = decision.probability(asked.options[0])
        self.turns.note(decision, raw=raw)
        return self.turns.made_from(decision, calibrated(decision, calibration))

    async def _after_thought(self, prompt: Sequence[Message], kind: str) -> list[Message]:
        """Return a prompt followed by what the seat thinks about it."""
        begin, end = self.setup.thought_markers[0]
        limits = {**self.limits(0), "until": [end]}
        thought = await self.generate(prompt, kind=f"{kind}_thought", gen_kwargs=limits)
        written = (thought.thought or thought.text).strip()
        return [*prompt, Message("assistant", f"{begin}\n{written}\n{end}\n\n")]

    def rendered(
        self,
        prompt: str | Sequence[Message],
        gen_kwargs: Mapping[str, Any] | None = None,
        deciding: bool = False,
    ) -> tuple[Prompt, Mapping[str, Any], tuple[Image, ...]]:
        """Return a prompt as this seat's model reads it, the settings, and the prompt's images.

        The settings include the stop sequences that the prompt's format needs. `deciding` renders the prompt of a
        decision, which the model makes without thinking first.
        """
        prompt, images, notes = self._addressed(prompt)
        if not isinstance(prompt, str):
            prompt, found = self._neutralised(prompt)
            notes = (*notes, *found)
        render = self.setup.backend.render_decision if deciding else self.setup.backend.render
        rendered = render(prompt, self.setup.chat)
        if notes:
            rendered = replace(rendered, notes=(*notes, *rendered.notes))
        settings = self._settings(gen_kwargs)
        if rendered.stops:
            settings = {**settings, "until": [*stop_sequences(settings), *rendered.stops]}
        return rendered, settings, images

    def _neutralised(self, messages: Sequence[Message]) -> tuple[list[Message], tuple[str, ...]]:
        """Return a conversation in which no control token that a model wrote can begin a turn, and a note if one could.

        The task's own messages stay as they are.
        """
        plain = not self.setup.backend.uses_template(self.setup.chat)
        own = frozenset(self.turns.question.messages)
        found = [(m.content, 0) if m in own else neutralise(m.content, plain) for m in messages]
        count = sum(number for _, number in found)
        neutral = [replace(m, content=text) if number else m for m, (text, number) in zip(messages, found, strict=True)]
        return neutral, (NEUTRALISED,) if count else ()

    def samples(self, gen_kwargs: Mapping[str, Any] | None = None) -> bool:
        """Return whether a reply under these settings (by default the task's own) is sampled."""
        return canonical_settings(self._settings(gen_kwargs), self.setup.backend.default_max_gen_toks)[1]

    def _settings(self, gen_kwargs: Mapping[str, Any] | None) -> Mapping[str, Any]:
        settings = self.turns.question.gen_kwargs if gen_kwargs is None else gen_kwargs
        return {**settings, **self.setup.gen_kwargs} if self.setup.gen_kwargs else settings

    def _addressed(
        self, prompt: str | Sequence[Message]
    ) -> tuple[str | Sequence[Message], tuple[Image, ...], tuple[str, ...]]:
        """Return a prompt with the seat's own settings for system message and images applied, its images, and notes."""
        is_context = prompt is self.turns.question.context
        is_plain = isinstance(prompt, str) and not isinstance(prompt, ChatContext)
        if self.setup.system:
            prompt = f"{self.setup.system}\n\n{prompt}" if is_plain else with_system(self.setup.system, prompt)
        images = self.turns.question.images
        marks = count_marks(prompt) if images else 0
        if not images or (not marks and not is_context):
            return prompt, (), ()
        if not marks or marks % len(images):
            raise CallFailed(
                "protocol",
                f"the task provides {len(images)} images, and its text contains {marks} `<image>` marks: give its text "
                "one mark per image",
            )
        if self.setup.images == "off":
            messages = without_images(context_messages(prompt) if isinstance(prompt, str) else prompt)
            return messages[0].content if is_plain else messages, (), ("image_left_out",)
        return prompt, images * (marks // len(images)), ()

    async def score(self, prompt: str | Sequence[Message], continuations: Sequence[str], *, kind: str) -> list[float]:
        """Return the natural log-probability of each continuation after the prompt, with one call per continuation."""
        return [result.logprob for result in await self.loglikelihood(prompt, continuations, kind=kind)]

    async def loglikelihood(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, kind: str
    ) -> list[Loglikelihood]:
        """Return each continuation's log-probability after the prompt, and whether greedy decoding would produce it."""
        rendered, _, _ = self.rendered(prompt)
        requests = [ScoreRequest(rendered.text, rendered.lead + continuation) for continuation in continuations]
        return await asyncio.gather(
            *(
                self.turns.call(
                    self.name,
                    self.backend,
                    request,
                    Loglikelihood,
                    kind,
                    rendered.notes,
                    {"continuation": continuation},
                )
                for request, continuation in zip(requests, continuations, strict=True)
            )
        )

    async def loglikelihood_rolling(self, text: str, *, kind: str) -> Loglikelihood:
        """Return the log-probability of a whole text, in windows of the model's context length."""
        return await self.turns.call(self.name, self.backend, ScoreRequest(text, "", rolling=True), Loglikelihood, kind)
