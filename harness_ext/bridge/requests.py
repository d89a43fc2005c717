"""Converts lm-eval's requests (`Instance` objects) into questions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness_ext.backends.settings import settings_problems
from harness_ext.bridge.document_hash import document_hash
from harness_ext.protocol import Question, SeatSetup
from harness_ext.records.images import Image


def questions_of(requests: Sequence[Any]) -> Iterator[tuple[int, Question]]:
    """Yield lm-eval's `generate_until` requests as questions with their positions in the list, without padding."""
    for position, request, repeat in _draws(requests):
        context, gen_kwargs = request.args[:2]
        yield position, _question(request, repeat, context, gen_kwargs)


def continuations_of(requests: Sequence[Any]) -> Iterator[tuple[int, Question, str]]:
    """Yield `loglikelihood` requests in the same way, each with the text to score."""
    for position, request, repeat in _draws(requests):
        context, continuation = request.args[:2]
        yield position, _question(request, repeat, context, {}), continuation


def texts_of(requests: Sequence[Any]) -> Iterator[tuple[int, Question]]:
    """Yield `loglikelihood_rolling` requests in the same way; the text to score is the context."""
    for position, request, repeat in _draws(requests):
        yield position, _question(request, repeat, request.args[0], {})


def count_draws(requests: Sequence[Any]) -> int:
    """Return how many draws the requests ask for, without padding."""
    return sum(1 for _ in _draws(requests))


def spread_to_padding(requests: Sequence[Any], answers: Mapping[int, Any]) -> list[Any]:
    """Return the answers in the order of the requests; padding repeats the first answer to its request."""
    first: dict[int, Any] = {}
    for position, request in enumerate(requests):
        if position in answers:
            first.setdefault(id(request), answers[position])
    return [answers[p] if p in answers else first[id(request)] for p, request in enumerate(requests)]


def media_problems(requests: Sequence[Any], seats: Mapping[str, SeatSetup], scored: bool) -> list[str]:
    """Return the reasons why the seats cannot process the images or other media of the requests.

    requests: lm-eval's requests.
    seats: the seats that would receive the media.
    scored: whether the requests ask for log-likelihoods.
    """
    kinds = {name for request in requests for part in request.args[2:] if isinstance(part, Mapping) for name in part}
    problems = [
        f"the task passes {kind}, which no seat accepts: use a task with text and images only"
        for kind in sorted(kinds - {"visual"})
    ]
    if "visual" not in kinds:
        return problems
    if scored:
        return [*problems, "no backend can score text after images: use a generative version of the task"]
    return problems + [
        f"`{name}`: the task has images, which {setup.backend.name} does not accept: name a model that does "
        f"(`hf-multimodal:<model>`), or give `{name}.images=off` to send it the text only"
        for name, setup in seats.items()
        if setup.images != "off" and "images" not in setup.backend.capabilities
    ]


def setting_problems(requests: Sequence[Any]) -> list[str]:
    """Return what is wrong with the generation settings of `generate_until` requests, each problem once."""
    given = {json.dumps(r.args[1], sort_keys=True, default=str): (r.task_name, r.args[1]) for r in requests}
    return [
        f"task {task}: {problem}. Change it in the task or in `--gen_kwargs`"
        for task, settings in given.values()
        for problem in settings_problems(settings)
    ]


def _draws(requests: Sequence[Any]) -> Iterator[tuple[int, Any, int]]:
    """Yield position, request and draw number of every request that is not padding."""
    # lm-eval lists the same Instance object once per repeat, so the n-th occurrence of an object is its n-th draw.
    # Objects are compared by identity: two documents of a task may be equal, and are still asked separately.
    # In a distributed run, lm-eval pads the lists of all ranks to equal lengths with further copies of an Instance.
    # Occurrences beyond its `repeats` are such padding; asking them would add draws that no document has.
    seen: dict[int, int] = {}
    for position, request in enumerate(requests):
        repeat = seen[id(request)] = seen.get(id(request), -1) + 1
        if repeat < (request.repeats or 1):
            yield position, request, repeat


def _question(request: Any, repeat: int, context: str, gen_kwargs: Mapping[str, Any]) -> Question:
    media = next((part for part in request.args[2:] if isinstance(part, Mapping)), {})
    return Question(
        context=context,
        gen_kwargs=gen_kwargs,
        task=str(request.task_name or ""),
        doc_id=int(request.doc_id or 0),
        doc_hash=document_hash(request.doc),
        repeat=repeat,
        index=int(request.idx),
        images=tuple(Image.of(picture) for picture in media.get("visual") or ()),
    )
