"""A scripted model whose tokens are characters; it generates, continues token ids and verifies by a distribution."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, Tokens, VerifyRequest
from harness_ext.reading.steps import steps
from harness_ext.records import Completion, Finish, Message, Verification
from harness_ext.records.chat import plain_form

END = "\0"
Distribution = Mapping[str, float]
Model = Callable[[str, str], Distribution]


def says(text: str, otherwise: str = END) -> Model:
    """Return a model that writes `text` whatever the prompt is. After any other text, it writes `otherwise`."""

    def model(prompt: str, reply: str) -> Distribution:
        likely = (text + END)[len(reply)] if text.startswith(reply) and len(reply) <= len(text) else otherwise
        return {likely: 0.9, "?": 0.06, "!": 0.04} if likely not in "?!" else {likely: 0.9, ".": 0.1}

    return model


class CharTokens(Tokens):
    """Characters are the tokens, and their code points the ids; 0 ends a reply."""

    def __init__(self, vocabulary: str = "characters", shift: int = 0) -> None:
        self.vocabulary, self.shift = vocabulary, shift

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(ord(c) + self.shift for c in text)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i - self.shift) for i in ids if i != self.shift)

    def limit(self, gen_kwargs: Mapping[str, Any]) -> int:
        return int(gen_kwargs.get("max_gen_toks", 256))

    def read(self, ids: Sequence[int], gen_kwargs: Mapping[str, Any]) -> tuple[str, bool]:
        ids = list(ids)[: self.limit(gen_kwargs)]
        end = self.shift in ids
        text = self.decode(ids[: ids.index(self.shift)] if end else ids)
        cut = min((text.split(stop)[0] for stop in gen_kwargs.get("until", []) if stop), key=len, default=text)
        return cut, end or cut != text or len(ids) >= self.limit(gen_kwargs)


class CharBackend(Backend):
    """Writes the likeliest character of `model(prompt, reply so far)`, or draws one if the settings sample.

    `asked` lists the requests of every batch.
    """

    token_counts = "exact"
    parameters = 1_000

    def __init__(self, model: Model, name: str, tokens: CharTokens | None = None, abilities: str = "all") -> None:
        super().__init__()
        self.model, self.name, self.device, self.fingerprint = model, name, name, f"chars:{name}"
        self.tokens = tokens or CharTokens()
        self.capabilities = frozenset({"generate", "continue", "verify", "distribution"})
        self.random = random.Random(name)
        self.asked: list[list[Any]] = []
        if abilities == "chat":
            self.capabilities, self.tokens = frozenset({"generate"}), None
        elif abilities == "text":
            self.capabilities, self.tokens = frozenset({"generate", "continue"}), None

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    @property
    def chat_default(self) -> bool:
        return True

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        return Prompt(plain_form(messages))

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        self.asked.append(list(requests))
        tokens = self.tokens or CharTokens()
        for i, request in enumerate(requests):
            reply, begun, finish = list(request.reply or ()), len(request.reply or ()), "stop"
            while True:
                distribution = self.model(request.prompt, tokens.decode(reply))
                if request.gen_kwargs.get("do_sample"):
                    char = self.random.choices(list(distribution), list(distribution.values()))[0]
                else:
                    char = max(distribution, key=lambda c: distribution[c])
                reply.append(ord(char) + tokens.shift)
                text, ended = tokens.read(reply, request.gen_kwargs)
                new = tokens.decode(reply[begun:])
                only_done = (request.only == "step" and len(steps(new)) > 1) or len(reply) - begun == request.only
                if ended or only_done:
                    full = tokens.limit(request.gen_kwargs) <= len(reply) and reply[-1] != tokens.shift
                    finish = "length" if full and text == tokens.decode(reply) else "stop" if ended else ""
                    break
            new = text[len(tokens.decode(reply[:begun])) :]
            kept = request.keep_ids or request.reply is not None
            ids = tuple(reply[begun:]) if kept and self.tokens is not None else None
            how: Finish | None = finish or None  # type: ignore[assignment]
            deliver(
                i,
                Completion(
                    new,
                    how,
                    prompt_tokens=len(request.prompt) + begun,
                    cached_tokens=0,
                    completion_tokens=len(reply) - begun,
                    ids=ids,
                ),
            )

    def verify(self, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
        self.asked.append(list(requests))
        for i, request in enumerate(requests):
            read = len(request.prompt) + len(request.reply) + len(request.draft)
            deliver(i, replace(self._verification(request), prompt_tokens=read, cached_tokens=0, completion_tokens=1))

    def _verification(self, request: VerifyRequest) -> Verification:
        assert self.tokens is not None
        shift, reply = self.tokens.shift, list(request.reply)
        logprobs, ranks, above, best = [], [], [], []
        instead = {}
        for position in range(len(request.draft) + 1):
            found = dict(self.model(request.prompt, self.tokens.decode(reply)))
            order = sorted(found, key=lambda c: -found[c])
            best.append((ord(order[0]) + shift, math.log(found[order[0]])))
            if order[0] == END:
                other = order[1] if len(order) > 1 else "?"
                instead[position] = (ord(other) + shift, math.log(found.get(other, 1e-9)))
            if position == len(request.draft):
                break
            char = chr(request.draft[position] - shift)
            own = found.get(char, 0.0)
            logprobs.append(math.log(own) if own else -1000.0)
            ranks.append(order.index(char) if char in order else len(order) + 7)
            above.append(sum(p for c, p in found.items() if p > own))
            reply.append(request.draft[position])
        drawn = []
        for point in request.uniforms:
            char = next((c for c, end in zip(found, accumulate(found.values()), strict=True) if point < end), order[0])
            drawn.append((ord(char) + shift, math.log(found[char])))
        candidates = [found.get(chr(c - shift), 0.0) for c in request.candidates]
        return Verification(
            tuple(logprobs), tuple(ranks), tuple(above), tuple(best), instead,
            order.index(END) if END in order else None, drawn=tuple(drawn),
            candidates=tuple(math.log(p) if p else -1000.0 for p in candidates),
        )  # fmt: skip
