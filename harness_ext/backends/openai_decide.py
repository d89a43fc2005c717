"""Decisions of served models: which ways to ask for one a server has, in which order they are tried."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from harness_ext.backends.base import CANNOT_DECIDE, DecideRequest
from harness_ext.backends.decision_wire import Format
from harness_ext.backends.first_token import read_first_token
from harness_ext.backends.forced_choice import Constraint, frequencies, read_forced, room_for, seed_of
from harness_ext.backends.http_client import Lacks, NotOffered, Poster, Scope
from harness_ext.backends.openai_known import Served, Shape, Way
from harness_ext.backends.openai_wire import WirePrompt, messages_field, wire_body
from harness_ext.errors import CallFailed
from harness_ext.records import CallResult, Decision, Source, add

log = logging.getLogger("harness_ext")

NO_SUCH_PATH = frozenset({404, 405, 501})
REFUSED = frozenset({400, 403, 422})
# How many of the likeliest tokens are asked for. Most servers report up to 20; some, and OpenAI for text, up to 5.
TOP_TOKENS = (20, 5)
MOST_DRAWS = 4  # of a first token that the server can report
THINKING = "chat_template_kwargs"
# What servers write if their endpoint cannot answer with this model, or not in these labels; they share no error code.
NOT_THIS_MODEL = re.compile(
    r"\b(single|one)[ -]tokens?\b|\bunsupported\b|not (currently )?support|does not exist|not available"
    r"|not a decision model",
    re.IGNORECASE,
)
# The fields that make a reply a decision, by which servers that do not take them name them.
FIELDS = {
    "logprobs": re.compile("logprob"),
    "constrained": re.compile("response_format|schema|structured_output|grammar|guided"),
}
REMEDY = {
    "endpoint": "with `/v1/systemone` or `/v1/decisions`",
    "logprobs": "that returns log-probabilities (vLLM and llama.cpp do)",
    "constrained": "that can restrict a reply to a list (vLLM and llama.cpp can)",
}


class Decider:
    """Asks a server for decisions, over one connection.

    A way that has not answered yet is tried by one request at a time, while others wait for what it finds out.

    served: the model.
    client: the connection.
    """

    def __init__(self, served: Served, client: Poster) -> None:
        self.served = served
        self.client = client
        self._locks: defaultdict[Way, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def decide(self, request: DecideRequest) -> Decision:
        """Return the decision of the first source that the server has and that reports one of the labels.

        Raises CallFailed, with the code `cannot_decide` if the server has none of them, and LoadError.
        """
        unusable: list[NotOffered] = []
        reasons: list[str] = []
        undecided: Decision | None = None
        for way in self._ways(request):
            try:
                decision = await self._ask(way, request)
            except NotOffered as lacking:
                unusable.append(lacking)
                reasons.append(f"{way.name}: {lacking}")
                continue
            if decision.choice is None and not decision.refused and way.source == "logprobs":
                # None of the labels is among the likeliest tokens. A forced choice still is one.
                undecided = decision
                continue
            if undecided is None:
                self._say(f"decisions come from {way.name} (`{way.source}`) now")
            else:
                read = add(undecided.prompt_tokens, decision.prompt_tokens)
                decision = replace(decision, prompt_tokens=read, label_mass=undecided.label_mass)
            return _with_spent(decision, unusable)
        if undecided is not None:
            return _with_spent(undecided, unusable)
        self._say("no other source of decisions is left")
        why = "; ".join(reasons) or "it has no source that can answer such a question"
        servers = ", or one ".join(REMEDY[source] for source in request.sources if source in REMEDY)
        raise CallFailed(
            CANNOT_DECIDE,
            f"{self.served.name} cannot make this decision ({why}): set `decide=auto` or `decide=text`, or use a "
            f"server {servers or 'with another model'}",
            faults=tuple(fault for lacking in unusable for fault in lacking.faults),
        )

    def _ways(self, request: DecideRequest) -> Iterator[Way]:
        for source in request.sources:
            if source == "endpoint" and request.question is None:
                continue
            if source != "endpoint" and not request.labels:
                continue
            yield from (way for way in self.served.ways if way.source == source)

    async def _ask(self, way: Way, request: DecideRequest) -> Decision:
        """Return the answer that a way gives. Raises NotOffered if the server has not got it, CallFailed, LoadError."""
        known, shape = self.served.known, shape_of(request)
        if way not in known.proven and known.lacks(way, shape) is None:
            async with self._locks[way]:
                if way not in known.proven and known.lacks(way, shape) is None:
                    return await self._find_out(way, request)
        if (reason := known.lacks(way, shape)) is not None:
            raise NotOffered("server", reason)
        return await self._find_out(way, request)

    async def _find_out(self, way: Way, request: DecideRequest) -> Decision:
        """Return the answer that a way gives, and remember whether the server has it."""
        known = self.served.known
        try:
            decision = await self._send(way, request)
        except NotOffered as lacking:
            # One strange reply does not disprove a way that has answered. But chance can make a reply seem to obey a
            # constraint, and one that does not obey disproves it.
            stays = way in known.proven and way.source != "constrained" and lacking.scope == "server"
            if lacking.scope != "request" and not stays:
                known.missing[way, None if lacking.scope == "server" else shape_of(request)] = str(lacking)
            raise
        known.proven.add(way)
        return decision

    def _say(self, now: str) -> None:
        """Tell the user about the ways that the server was found to lack, once each, and what happens instead."""
        known = self.served.known
        if new := [key for key in known.missing if key not in known.said]:
            known.said.update(new)
            parts = []
            for way, shape in new:
                extent = "" if shape is None else f" for a {shape[0]} with {shape[1]} options"
                parts.append(f"{way.name}{extent} ({known.missing[way, shape]})")
            log.warning("%s does not offer %s: %s", self.served.name, ", ".join(parts), now)

    # -- requests ------------------------------------------------------------------------------------------------

    async def _send(self, way: Way, request: DecideRequest) -> Decision:
        if way.detail is None:
            return await self._by_first_token(request)
        if isinstance(way.detail, Format):
            return await self._by_endpoint(way, way.detail, request)
        if not request.draws:
            return await self._by_force(way.detail, request, None)
        # One after the other, since the engine counts this request as one in flight.
        return frequencies([await self._by_force(way.detail, request, draw) for draw in range(request.draws)])

    async def _by_endpoint(self, way: Way, wire: Format, request: DecideRequest) -> Decision:
        if wire.most_options is not None and len(request.options) > wire.most_options:
            raise NotOffered("shape", f"it takes {wire.most_options} options, not {len(request.options)}")
        fields = {"model": self.served.model, **wire.fields(request)}
        body = json.dumps({name: value for name, value in fields.items() if name not in self.served.omit}).encode()
        is_proven = way in self.served.known.proven

        def lacks(status: int, text: str) -> Scope | None:
            # A server that has answered before is expected to do so again: the run ends rather than go on differently.
            if status in NO_SUCH_PATH and not is_proven:
                return "server"
            return "shape" if status in REFUSED and NOT_THIS_MODEL.search(text) else None

        return await self._post(wire.path, body, lambda data: wire.read(data, request), lacks, request)

    async def _by_first_token(self, request: DecideRequest) -> Decision:
        """Return the decision of the first token's probabilities, of as many tokens as the server reports."""
        known, refusals = self.served.known, list[NotOffered]()
        for count in TOP_TOKENS if known.top_tokens is None else (known.top_tokens,):
            asked = {"logprobs": True, "top_logprobs": count} if self.served.is_chat else {"logprobs": count}
            # Which token is drawn does not change the probabilities, and another one may be reported.
            for draw in (None, *range(MOST_DRAWS)):
                fields = {self.served.known.limit: 1, **asked, **drawn(request, draw)}
                try:
                    decision = await self._by_prompt("logprobs", fields, read_first_token, request)
                except NotOffered as raised:
                    refusals.append(raised)
                    if raised.scope != "request":
                        break
                else:
                    known.top_tokens = count
                    return _with_spent(decision, refusals)
            if refusals[-1].spent is not None:  # it takes this number of tokens, and something else is missing
                break
        raise refusals[-1]

    async def _by_force(self, constraint: Constraint, request: DecideRequest, draw: int | None) -> Decision:
        fields = {self.served.known.limit: room_for(request.labels), constraint.field: constraint.value(request.labels)}
        fields |= drawn(request, draw)
        return await self._by_prompt("constrained", fields, partial(read_forced, constraint=constraint), request)

    async def _by_prompt(
        self, source: Source, fields: Mapping[str, Any], read: Callable[..., Decision], request: DecideRequest
    ) -> Decision:
        """Return what the reply to the request's prompt states.

        source: the source, whose fields a server names that does not take them.
        fields: the request fields that the source needs.
        read: converts the reply's JSON, given the request, to a decision.
        request: the request.

        A reasoning model is asked not to think. The field that does this is left out once a server has rejected it.
        """
        served, known = self.served, self.served.known
        fields = {"model": served.model, "temperature": 0.0, **fields}
        if isinstance(request.prompt, WirePrompt) and request.prompt.is_open:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        if served.is_chat and not served.hosted and THINKING not in served.omit | known.dropped:
            fields[THINKING] = {"enable_thinking": False}
        optional = THINKING in fields and THINKING not in known.taken

        def lacks(status: int, text: str) -> Scope | None:
            return "server" if status in REFUSED | {501} and FIELDS[source].search(text) else None

        def rejects(status: int, text: str) -> Scope | None:
            return "server" if status in REFUSED else None

        def reading(data: Any) -> Decision:
            if optional:
                (known.taken if THINKING in fields else known.dropped).add(THINKING)
            return read(data, request=request)

        async def post(lacks: Lacks) -> Decision:
            prompt = f'"prompt": {json.dumps(request.prompt)}'
            if served.is_chat:
                prompt = messages_field(request.prompt, request.images)
            path = "chat/completions" if served.is_chat else "completions"
            return await self._post(path, wire_body(prompt, fields, served.omit), reading, lacks, request)

        if not optional:
            return await post(lacks)
        try:
            return await post(rejects)
        except NotOffered as refusal:
            named = FIELDS[source].search(str(refusal)) and THINKING not in str(refusal)
            if named or refusal.spent is not None:  # something else is missing
                raise
            del fields[THINKING]
            return _with_spent(await post(lacks), [refusal])

    async def _post(
        self, path: str, body: bytes, read: Callable[[Any], CallResult], lacks: Lacks, request: DecideRequest
    ) -> Decision:
        result = await self.client.post(path, body, read, lacks, affinity=request.affinity)
        assert isinstance(result, Decision)
        return result


def shape_of(request: DecideRequest) -> Shape:
    """Return what requests for which a server is equally able have in common."""
    kind = "reply" if request.question is None else request.question.type
    return kind, len(request.options), request.labels


def drawn(request: DecideRequest, draw: int | None) -> dict[str, Any]:
    """Return the request fields with which a token is drawn; none for the likeliest one."""
    return {} if draw is None else {"temperature": 1.0, "seed": seed_of(request, draw)}


def _with_spent(decision: Decision, unusable: Sequence[NotOffered]) -> Decision:
    """Return a decision with the tokens and faults of the replies before it that could not be used."""
    counts: dict[str, Any] = {
        name: getattr(decision, name) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    }
    for lacking in unusable:
        if lacking.spent is not None:
            spent: Mapping[str, Any] = lacking.spent
            counts = {name: add(total, spent[name]) for name, total in counts.items()}
    faults = (fault for lacking in unusable for fault in lacking.faults)
    return replace(decision, faults=(*faults, *decision.faults), **counts)
