"""lm-eval's requests (`Instance` objects) as questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness_ext.documents import document_hash
from harness_ext.images import Image
from harness_ext.protocol import Question
from harness_ext.seats import SeatSetup


def questions_of(requests: Sequence[Any]) -> Iterator[tuple[int, Question]]:
    """Yield lm-eval's `generate_until` Instances as questions, with their positions in the list.

    lm-eval lists an Instance once for each repeat, so the n-th sight of an object is its n-th draw; sights beyond its
    own `repeats` pad the ranks of a distributed run to equal lengths, and are left out.
    """
    for position, request, repeat in _draws(requests):
        context, gen_kwargs = request.args[:2]
        yield position, _question(request, repeat, context, gen_kwargs)


def continuations_of(requests: Sequence[Any]) -> Iterator[tuple[int, Question, str]]:
    """Yield `loglikelihood` Instances likewise, with the text to be scored."""
    for position, request, repeat in _draws(requests):
        context, continuation = request.args[:2]
        yield position, _question(request, repeat, context, {}), continuation


def texts_of(requests: Sequence[Any]) -> Iterator[tuple[int, Question]]:
    """Yield `loglikelihood_rolling` Instances likewise: the text to be scored is the context."""
    for position, request, repeat in _draws(requests):
        yield position, _question(request, repeat, request.args[0], {})


def count_draws(requests: Sequence[Any]) -> int:
    """Return how many draws the requests ask for, padding left out."""
    return sum(1 for _ in _draws(requests))


def spread_to_padding(requests: Sequence[Any], answers: Mapping[int, Any]) -> list[Any]:
    """Return the answers in the order of the requests; padding gets the first answer of its request."""
    first: dict[int, Any] = {}
    for position, request in enumerate(requests):
        if position in answers:
            first.setdefault(id(request), answers[position])
    return [answers[p] if p in answers else first[id(request)] for p, request in enumerate(requests)]


def media_problems(requests: Sequence[Any], seats: Mapping[str, SeatSetup], scored: bool) -> list[str]:
    """Return what stands in the way of the pictures and sounds that the requests carry."""
    kinds = {name for request in requests for part in request.args[2:] if isinstance(part, Mapping) for name in part}
    problems = [
        f"the task hands over {kind}, which no seat takes: only images are" for kind in sorted(kinds - {"visual"})
    ]
    if "visual" not in kinds:
        return problems
    if scored:
        return [*problems, "no backend scores texts after images: use a generative form of the task"]
    return problems + [
        f"`{name}`: the task has images, and {setup.backend.name} takes none: name a model that does "
        f"(`hf-multimodal:<model>`), or write `{name}.images=off` to give it the text alone"
        for name, setup in seats.items()
        if setup.images != "off" and "images" not in setup.backend.capabilities
    ]


def _draws(requests: Sequence[Any]) -> Iterator[tuple[int, Any, int]]:
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
