"""`harness-ext doctor --seat`: what the server of a seat can do, as seen in tiny requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace

from harness_ext.backends.base import DecideRequest, GenerateRequest, Request, ScoreRequest, VerifyRequest
from harness_ext.backends.http_client import NotOffered
from harness_ext.backends.openai import OpenAIBackend, make_openai_backend
from harness_ext.backends.openai_probe import CONTINUED, PLAIN, USER, Prober
from harness_ext.backends.openai_wire import WirePrompt
from harness_ext.backends.registry import SERVED, parse_spec
from harness_ext.cli.findings import Finding, State
from harness_ext.config.run_options import SeatOptions
from harness_ext.decisions import Predicate, decision_prompt, labels_of
from harness_ext.errors import CallFailed, LoadError
from harness_ext.options import known_names
from harness_ext.records import Completion, Decision, Message, Source

NO_MODEL = "harness-ext-no-such-model"
STATE, QUESTION = "2 + 2 = 4", Predicate("Is it true?")
SOURCES: Mapping[Source, str] = {
    "endpoint": "decisions endpoint",
    "logprobs": "probabilities of the first token",
    "constrained": "forced choice",
}


def seat(text: str) -> Iterator[Finding]:
    """Report what each server of a seat does.

    text: the seat as in lm-eval's model arguments, with its options: `teacher=openai:<model>@<url>,teacher.wait=60`.
    """
    try:
        name, backends = backends_of(text)
    except ValueError as error:
        yield Finding("problem", str(error))
        return
    logging.getLogger("harness_ext").setLevel(logging.ERROR)  # what a run would warn of is in the report
    for backend in backends:
        yield Finding("ok", f"{name}: {backend.name}")
        yield from asyncio.run(_all(backend))


def backends_of(text: str) -> tuple[str, list[OpenAIBackend]]:
    """Return the name of a seat and a backend for each of its servers. Raises ValueError with cause and remedy."""
    from lm_eval.utils import simple_parse_args_string

    name, equals, _ = text.partition("=")
    given = simple_parse_args_string(text)
    if not equals or name not in given:
        raise ValueError(f"`{text}` names no seat: write `--seat <seat>=openai:<model>@<base url>`")
    if strange := [key for key in given if key != name and not key.startswith(f"{name}.")]:
        raise ValueError(f"`{strange[0]}` is no option of `{name}`: write `{name}.<option>=<value>` after its model")
    options = {key.removeprefix(f"{name}."): value for key, value in given.items() if key != name}
    own = known_names(SeatOptions)  # they concern the run, not the server
    options = {key: value for key, value in options.items() if key.partition(".")[0] not in own}
    spec = parse_spec(str(given[name]), options)
    if spec.backend != SERVED:
        raise ValueError(f"`{name}` is no served seat: `--seat` looks at `openai:<model>@<base url>`")
    whole = make_openai_backend(spec.name, options)
    return name, [OpenAIBackend(whole.model, (url,), whole.options) for url in whole.urls]


async def _all(backend: OpenAIBackend) -> list[Finding]:
    """Return what is found at both endpoints. What only the endpoint of the seat lacks is a problem."""
    found = []
    for endpoint, look in (("chat", _chat), ("completions", _text)):
        # Options that the other endpoint does not take.
        kept = {"reasoning_effort": "auto", "thinking": "auto"} if endpoint == "completions" else {"tokenizer": ""}
        options = replace(backend.options, endpoint=endpoint, max_retries=1, **kept)  # type: ignore[arg-type]
        there = OpenAIBackend(backend.model, backend.urls, options)
        try:
            async with there.connect_prober() as prober:
                async for finding in look(there, prober):
                    found.append(finding)  # noqa: PERF401  (what was found before an error counts)
        except (CallFailed, LoadError, NotOffered) as error:
            state: State = "problem" if endpoint == backend.options.endpoint else "note"
            found.append(Finding(state, f"`endpoint={endpoint}`: {error}"))
    return found


async def _chat(backend: OpenAIBackend, prober: Prober) -> AsyncIterator[Finding]:
    counts = await prober.tiny(USER)
    yield Finding("ok", "chat: answers")
    for finding in _counted(counts, prober.served.known.limit):
        yield finding
    try:
        await prober.tiny(USER, model=NO_MODEL)
    except (CallFailed, LoadError, NotOffered):
        yield Finding("ok", "model names: a wrong one is refused")
    else:
        yield Finding("note", f"model names: ignored, so check that the server runs {backend.model}")
    if await prober.merges_system():
        why = prober.served.known.merged
        yield Finding("note", f"system messages: merged into the first user message ({why})")
    else:
        yield Finding("ok", "system messages: accepted")
    yield await _continues(prober, counts)
    reply = await prober.ask(GenerateRequest(WirePrompt([USER]), {"max_gen_toks": 32, "until": []}))
    thinks = isinstance(reply, Completion) and reply.thought
    yield Finding("ok", f"thoughts: {'reported apart from the answer' if thinks else 'none apart from the answer'}")
    for source, title in SOURCES.items():
        yield await _decides(backend, prober, source, title)


def _counted(counts: Completion, limit: str) -> Iterator[Finding]:
    if counts.prompt_tokens is None or counts.completion_tokens is None:
        yield Finding("note", "token counts: not reported, so they are unknown in the records")
        return
    cached = "with" if counts.cached_tokens is not None else "without"
    yield Finding("ok", f"token counts: reported, {cached} cached tokens")
    if counts.completion_tokens > 1:
        yield Finding("note", f"length of replies: `{limit}=1` gave {counts.completion_tokens} tokens")
    else:
        yield Finding("ok", f"length of replies: limited by `{limit}`")


async def _continues(prober: Prober, counts: Completion) -> Finding:
    why, known = await prober.why_not_continued(), prober.served.known
    if why:
        return Finding("note", f"beginnings of replies: not continued ({why})")
    if known.not_continued is None:
        return Finding("note", "beginnings of replies: unknown whether they are continued, since a request failed")
    if not known.repeats and counts.prompt_tokens is None:
        return Finding("note", "beginnings of replies: unknown whether they are continued, without token counts")
    return Finding("ok", f"beginnings of replies: continued{', and repeated in the reply' if known.repeats else ''}")


async def _decides(backend: OpenAIBackend, prober: Prober, source: Source, title: str) -> Finding:
    prompt = backend.render_decision([Message("user", decision_prompt(STATE, QUESTION))])
    labels = tuple(prompt.lead + label for label in labels_of(QUESTION))
    request = DecideRequest(prompt.text, QUESTION.options, labels, (source,), QUESTION, STATE)
    known = prober.served.known
    try:
        decision = await prober.ask(request)
    except (CallFailed, LoadError) as error:
        reasons = [f"{way.name}: {said}" for (way, _), said in known.missing.items() if way.source == source]
        return Finding("note", f"{title}: not offered ({'; '.join(reasons) or error})")
    assert isinstance(decision, Decision)
    names = ", ".join(way.name for way in known.proven if way.source == source)
    return Finding("ok", f"{title}: {names}")


async def _text(backend: OpenAIBackend, prober: Prober) -> AsyncIterator[Finding]:
    reply = await prober.ask(GenerateRequest(PLAIN, {"max_gen_toks": 1, "until": []}))
    yield Finding("ok", "completions: answers")
    if reply.completion_tokens is None:
        yield Finding("note", "completions: no token counts, so they are unknown in the records")
    requests: list[tuple[str, Request]] = [("log-probabilities of a prompt", ScoreRequest(PLAIN, CONTINUED))]
    if backend.tokens is not None:
        draft = backend.tokens.encode(CONTINUED)[:1]
        requests.append(("verification of drafts", VerifyRequest(PLAIN, {}, (), draft)))
    for title, request in requests:
        try:
            await prober.answer(request)
        except (CallFailed, LoadError) as error:
            yield Finding("note", f"{title}: not offered ({error})")
        else:
            yield Finding("ok", f"{title}: returned")
