"""A server on loopback that makes decisions: both endpoints, first-token probabilities and forced choices.

It validates requests as strictly as real servers do: unknown fields, wrong types and limits are refused.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from servers import Server, completion, text_of

ENDPOINTS = ("systemone", "decisions")
CHAT_FIELDS = {
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "seed", "logprobs", "stop",
    "top_logprobs", "chat_template_kwargs", "continue_final_message", "add_generation_prompt",
}  # fmt: skip


class Refused(Exception):
    """A request that a real server would refuse."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def shares_for(state: str, options: Sequence[str]) -> list[float]:
    """Return probabilities that depend on the state and each option alone, rounded as servers do."""
    weights = [1 + hashlib.sha256(f"{state}|{option}".encode()).digest()[0] for option in options]
    return [round(weight / sum(weights), 4) for weight in weights]


class DecisionsServer(Server):
    """A `Server` that also answers typed questions.

    shares: called with the state and the options; returns their probabilities, or None to refuse the question.
    lacks: what the server has not got: the status and message with which it refuses a path.
    tokens: called with the prompt; returns the likeliest first tokens with their probabilities. Default None: it
        ignores `logprobs`, as `transformers serve` does.
    obeys: the fields whose constraints it obeys.
    ignores: the fields that it takes and ignores; those that it does not know are refused.
    rejects: fields that it refuses although other servers know them.
    most_tokens: the largest number of tokens whose log-probabilities it reports.
    edit: called with the path and the JSON of a reply; returns what is sent instead.
    plan: called with the path; returns a fault to commit, or None.
    """

    def __init__(
        self,
        *,
        shares: Callable[[str, Sequence[str]], Sequence[float] | None] = shares_for,
        lacks: Mapping[str, tuple[int, str]] | None = None,
        tokens: Callable[[str], Mapping[str, float]] | None = None,
        obeys: Sequence[str] = (),
        ignores: Sequence[str] = (),
        rejects: Sequence[str] = (),
        most_tokens: int = 20,
        edit: Callable[[str, Any], Any] = lambda path, data: data,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.shares, self.lacks, self.tokens, self.edit = shares, dict(lacks or {}), tokens, edit
        self.obeys, self.ignores, self.rejects, self.most_tokens = set(obeys), set(ignores), set(rejects), most_tokens

    def asked(self) -> Counter[str]:
        """Return the number of requests by path."""
        return Counter(path.removeprefix("/v1/") for path in self.paths)

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        path = request.path.removeprefix("/v1/")
        fault = self.plan(path)
        if fault is not None:
            self.faults[fault] += 1
            return await self._misbehave(fault, request, {})
        try:
            if path in self.lacks:
                raise Refused(*self.lacks[path])
            make = {"systemone": self._systemone, "decisions": self._decisions}.get(path, self._chat)
            data = self.edit(path, make(body))
        except Refused as refused:
            message = {"error": {"message": str(refused), "code": refused.status}}
            return web.json_response(message, status=refused.status)
        return web.Response(text=json.dumps(data), content_type="application/json", headers=self.headers)

    # -- System One ------------------------------------------------------------------------------------------------

    def _systemone(self, body: dict[str, Any]) -> dict[str, Any]:
        only(body, {"model", "state", "questions"}, 422)
        answers = {name: self._noul(body["state"], question) for name, question in body["questions"].items()}
        words = len(json.dumps(body).split())
        return {"model": body["model"], "answers": answers, "usage": {"input_tokens": words, "output_tokens": 0}}

    def _noul(self, state: str, question: dict[str, Any]) -> dict[str, Any]:
        only(question, {"type", "instructions", "criteria"}, 422)
        kind, criteria = question["type"], question.get("criteria")
        if kind == "noul":
            if not set(criteria or {}) <= {"true", "false"}:
                raise Refused(422, "criteria may describe true and false")
            return {"type": "noul", "noul": self._shares_of(state, ["true", "false"])[0]}
        if not isinstance(criteria, dict if kind == "choice" else list):
            raise Refused(422, f"criteria of a {kind} question")
        options = list(criteria) if kind == "choice" else [str(i) for i in range(len(criteria))]
        if len(options) > (26 if kind == "choice" else 10):
            raise Refused(422, f"this model reads at most 26 options for a {kind} question, got {len(options)}")
        shares = self._shares_of(state, options)
        best = options[shares.index(max(shares))]
        found = {"type": kind, "confidence": 0.5, "probabilities": dict(zip(options, shares, strict=True))}
        if kind == "choice":
            return {**found, "choice": best}
        legend = dict(zip(options, criteria, strict=True))
        return {**found, "score": sum(i * p for i, p in enumerate(shares)), "legend": legend}

    def _shares_of(self, state: str, options: Sequence[str]) -> Sequence[float]:
        found = self.shares(state, options)
        if found is None:
            raise Refused(400, "System One has no refusals")
        return found

    # -- the Decisions API -------------------------------------------------------------------------------------------

    def _decisions(self, body: dict[str, Any]) -> dict[str, Any]:
        only(body, {"model", "input", "questions"}, 400)
        if not isinstance(body["input"], str) or not 1 <= len(body["questions"]) <= 400:
            raise Refused(400, "input and questions")
        words = len(json.dumps(body).split())
        return {
            "model": body["model"],
            "answers": [self._decision(body["input"], question) for question in body["questions"]],
            "usage": {
                "input_tokens": words,
                "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
                "output_tokens": 7,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": words + 7,
            },
        }

    def _decision(self, state: str, question: dict[str, Any]) -> dict[str, Any]:
        kind = question["type"]
        own: dict[str, set[str]] = {"predicate": set(), "choice": {"choices"}, "score": {"levels"}}
        only(question, {"type", "name", "instructions"} | own[kind], 400, optional={"name"})
        if kind == "predicate":
            options: list[Any] = ["true", "false"]
        elif kind == "choice":
            options = [entry["value"] for entry in question["choices"]]
            for entry in question["choices"]:
                only(entry, {"value", "description"}, 400, optional={"description"})
            if not 2 <= len(options) <= 255 or len(set(options)) < len(options):
                raise Refused(400, "choices")
        else:
            options = [entry["label"] for entry in question["levels"]]
            for entry in question["levels"]:
                only(entry, {"label", "description"}, 400, optional={"description"})
        named = {"name": question.get("name")}
        numbers = [str(i) for i in range(len(options))]
        shares = self.shares(state, numbers if kind == "score" else options)
        if shares is None:
            return {"type": "refusal", **named}
        if kind == "predicate":
            return {"type": kind, "probability": shares[0], **named}
        best = shares.index(max(shares))
        if kind == "choice":
            pairs = [{"value": o, "probability": p} for o, p in zip(options, shares, strict=True)]
            return {"type": kind, "choice": options[best], "confidence": 0.4, "probabilities": pairs, **named}
        rated = [
            {"value": i, "label": o, "probability": p} for i, (o, p) in enumerate(zip(options, shares, strict=True))
        ]
        score = sum(i * p for i, p in enumerate(shares))
        return {"type": kind, "score": score, "confidence": 0.4, "probabilities": rated, **named}

    # -- chat and text -----------------------------------------------------------------------------------------------

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        known = (CHAT_FIELDS | self.obeys | self.ignores) - self.rejects
        if unknown := set(body) - known:
            raise Refused(400, f"Unrecognized request arguments supplied: {', '.join(sorted(unknown))}")
        count = body.get("top_logprobs", body.get("logprobs") if "prompt" in body else None)
        if count is not None and count > self.most_tokens:
            raise Refused(400, f"the number of logprobs must be at most {self.most_tokens}")
        if constraint := self.obeys & set(body):
            return completion(self._forced(constraint.pop(), body), body)
        said = self.reply(text_of(body))
        data = completion(said, body) if isinstance(said, str) else said
        if body.get("logprobs") and self.tokens is not None:
            likeliest = sorted(self.tokens(text_of(body)).items(), key=lambda pair: -pair[1])[:count]
            data["choices"][0]["logprobs"] = logprobs_of(dict(likeliest), chat="messages" in body)
        return data

    def _forced(self, constraint: str, body: dict[str, Any]) -> str:
        value = body[constraint]
        rng = random.Random(body.get("seed", 0))
        if constraint == "structured_outputs":
            return str(rng.choice(value["choice"]))
        schema = value["json_schema"]["schema"]
        if schema["type"] == "string":
            return json.dumps(rng.choice(schema["enum"]))
        ((name, inner),) = schema["properties"].items()
        return json.dumps({name: rng.choice(inner["enum"])})


def only(found: Mapping[str, Any], known: set[str], status: int, optional: set[str] | None = None) -> None:
    """Refuse unknown and missing fields."""
    if unknown := set(found) - known:
        raise Refused(status, f"unknown fields {sorted(unknown)}")
    if missing := known - set(found) - (optional or set()) - {"criteria"}:
        raise Refused(status, f"missing fields {sorted(missing)}")


def logprobs_of(tokens: Mapping[str, float], chat: bool) -> dict[str, Any]:
    """Return the log-probabilities of first tokens as chat servers report them, or as vLLM does for text."""
    from math import log

    values = {token: log(p) if p else -9999.0 for token, p in tokens.items()}
    if not chat:
        first = next(iter(values))
        return {"tokens": [first], "token_logprobs": [values[first]], "top_logprobs": [values], "text_offset": [0]}
    entries = [{"token": t, "bytes": list(t.encode()), "logprob": v} for t, v in values.items()]
    return {"content": [{**entries[0], "top_logprobs": entries}]}
