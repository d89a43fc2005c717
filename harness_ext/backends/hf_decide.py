"""Decisions of lm-eval's `HFLM`: one forward pass per prompt, from which the probability of every label is read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import takewhile
from typing import Any, NamedTuple

from harness_ext.backends.base import CANNOT_DECIDE, DecideRequest, Deliver
from harness_ext.backends.hf_states import States, reading
from harness_ext.decisions import Predicate, Score
from harness_ext.errors import CallFailed
from harness_ext.records import Decision

# Rows that are read together even with a batch size of 1: a decision keeps the logits of a single position, and rows
# about the same state share most of their tokens.
LEAST_ROWS = 8


class _Row(NamedTuple):
    """The tokens of a request's prompt, and the token of each label after them."""

    ids: list[int]
    labels: list[int]
    number: int
    request: DecideRequest


def decide(lm: Any, states: States, requests: Sequence[DecideRequest], deliver: Deliver) -> None:
    """Answer requests from the log-probabilities of the token after each prompt.

    Rows about the same state are read together, and otherwise rows of similar length.
    The probabilities are those of the labels alone, which is what the decision pipeline of transformers returns.
    """
    import torch

    for batch in _batches(lm, [_row(lm, i, request) for i, request in enumerate(requests)]):
        started = time.perf_counter()
        found: dict[int, tuple[int, Any]] = {}
        with reading(lm, states):
            for read in states.read([row.ids for row in batch], [1] * len(batch)):
                found[read.index] = read.cached, torch.log_softmax(read.logits[-1].float(), dim=-1)
        share = (time.perf_counter() - started) / len(batch)
        for i, row in enumerate(batch):
            cached, logprobs = found[i]
            known = logprobs[torch.tensor(row.labels, device=logprobs.device)]
            shares = torch.softmax(known.double(), dim=-1).tolist()
            options = row.request.options
            deliver(
                row.number,
                Decision.likeliest(
                    options,
                    tuple(shares),
                    "logprobs",
                    label_mass=min(1.0, float(known.exp().sum())),
                    prompt_tokens=len(row.ids),
                    cached_tokens=cached,
                    completion_tokens=0,
                    seconds=share,
                ),
            )


def label_tokens(lm: Any, labels: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the tokens with which all labels begin, and the token by which each differs from the others.

    Raises CallFailed if one token does not tell the labels apart.
    """
    encoded = [lm.tok_encode(label, add_special_tokens=False) for label in labels]
    shared = encoded[0][: _shared(min(encoded), max(encoded))]
    rests = [ids[len(shared) :] for ids in encoded]
    firsts = [rest[0] for rest in rests if rest and rest[0] != lm.tokenizer.unk_token_id]
    if len(set(firsts)) < len(labels):
        raise CallFailed(CANNOT_DECIDE, f"the labels {list(labels)} do not begin with different tokens of the model")
    return shared, firsts


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two rows begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _row(lm: Any, index: int, request: DecideRequest) -> _Row:
    shared, labels = label_tokens(lm, request.labels)
    encoded, _ = lm.tok_batch_encode([request.prompt], left_truncate_len=lm.max_length - len(shared) - 1)
    return _Row([*encoded[0].tolist(), *shared], labels, index, request)


def _batches(lm: Any, rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    longest: dict[str, int] = {}
    for row in rows:
        longest[row.request.state] = max(len(row.ids), longest.get(row.request.state, 0))

    def place(row: _Row) -> tuple[int, str, int]:
        state = row.request.state
        return (longest[state] if state else len(row.ids), state, len(row.ids))

    ordered = sorted(rows, key=place, reverse=True)
    size = max(LEAST_ROWS, int(lm.batch_size))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def decide_by_pipeline(pipeline: Any, requests: Sequence[DecideRequest], deliver: Deliver) -> None:
    """Answer typed questions with the decision pipeline of the transformers library, one at a time.

    It reads what a decision model brings along: its own labels, temperature, template or head (`decision.json`).
    """
    for index, request in enumerate(requests):
        started = time.perf_counter()
        try:
            inputs = pipeline.preprocess(pipeline_request(request))
        except ValueError as error:
            raise CallFailed(CANNOT_DECIDE, f"the model's decision settings refuse this question: {error}") from error
        answer = pipeline.postprocess(pipeline.forward(inputs))["question"]
        if isinstance(request.question, Predicate):
            shares = (answer["noul"], 1 - answer["noul"])
        else:
            shares = tuple(answer["probabilities"][option] for option in request.options)
        deliver(
            index,
            Decision.likeliest(
                request.options,
                shares,
                "logprobs",
                prompt_tokens=sum(prompt["input_ids"].shape[-1] for prompt, _ in inputs["prompts"]),
                cached_tokens=0,
                completion_tokens=0,
                seconds=time.perf_counter() - started,
            ),
        )


def pipeline_request(request: DecideRequest) -> dict[str, Any]:
    """Return a typed question in the form of System One (`/v1/systemone`)."""
    question = request.question
    assert question is not None
    described = {o: d or None for o, d in zip(question.options, question.descriptions, strict=True)}
    asked: dict[str, Any] = {"type": question.type, "instructions": question.instructions, "criteria": described}
    if isinstance(question, Predicate):
        asked["type"] = "noul"
        if not any(described.values()):
            del asked["criteria"]
    elif isinstance(question, Score):
        asked["criteria"] = list(question.levels)
    return {"state": request.state, "questions": {"question": asked}}


def make_pipeline(lm: Any) -> Any:
    """Return the decision pipeline around a loaded `HFLM`."""
    from transformers.pipelines.decision import DecisionPipeline

    return DecisionPipeline(model=lm.model, tokenizer=pipeline_tokenizer(lm.tokenizer), device=lm.device)


def pipeline_tokenizer(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer for the decision pipeline, which adds tokens of its own.

    The pipeline asks for the whole vocabulary at each question, which takes longer than the rest of its work on the
    prompt. The copy keeps it.
    """
    from transformers.decision import DecisionConfig

    copied = deepcopy(tokenizer)
    DecisionConfig(chat_template="{{ state }}").prepare_inputs(
        {"state": "", "questions": {"it": {"type": "noul"}}}, copied
    )  # adds the tokens
    vocabulary = copied.get_vocab()
    copied.get_vocab = lambda: vocabulary
    return copied
