"""Checks that `speculative_pair` with `unit=token,accept=greedy` writes the teacher's greedy text, and counts passes.

    HARNESS_EXT_DATA=<folder> python benchmarks/speculative.py --questions 200 --alone 20 \\
        --output benchmarks/results/speculative.json

The questions are evenly spaced training rows of the ten bAbI tasks whose words the embedded pair can read; it was not
trained on them. First, the protocol's texts are compared with those of `skyline`, in float32 and padded batches. Then
`--alone` of the questions are answered one by one, because transformers' assisted generation takes one question at a
time: with the teacher's plain decoding, with assisted generation and with the protocol, counting the teacher's forward
passes. CPU seconds are reported as well, because other work on the machine disturbs wall times.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measured import embedded, publish_measured
from protocol import run

from harness_ext.backends.hf import HFBackend
from harness_ext.embedded import model_path
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.models.skyline import Skyline
from harness_ext.models.speculative_pair import SpeculativePair
from harness_ext.protocol import Question, SeatSetup

TASKS = (1, 2, 6, 7, 8, 9, 10, 11, 12, 13)
UNTIL = ["\nHere are the context sentences:"]


def questions(count: int, most: int) -> list[Question]:
    """Return `count` questions from evenly spaced training rows of `TASKS`, with at most `most` tokens per reply."""
    path = Path(os.environ["HARNESS_EXT_DATA"]) / "babi" / "train.jsonl"
    rows = [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if row["task"] in TASKS]
    chosen = [rows[i * len(rows) // count] for i in range(count)]
    settings = {"until": UNTIL, "max_gen_toks": most, "do_sample": False}
    contexts = [INSTRUCTION + story_text(row["passage"].splitlines(), row["question"]) for row in chosen]
    return [Question(context, settings, "babi", i, str(i)) for i, context in enumerate(contexts)]


def seat(name: str, batch_size: int) -> SeatSetup:
    """Return a seat of the embedded pair with its model loaded."""
    backend = HFBackend({"pretrained": str(model_path(name)), "batch_size": batch_size, "device": "cpu"})
    backend.load()
    backend.loaded = True
    return SeatSetup(backend)


@contextmanager
def counted(model: Any) -> Iterator[Counter[str]]:
    """Count the forward passes of a model."""
    passes: Counter[str] = Counter()
    hook = model.register_forward_hook(lambda *_: passes.update(["passes"]))
    try:
        yield passes
    finally:
        hook.remove()


def timed(work: Callable[[], list[str]]) -> tuple[list[str], dict[str, float]]:
    """Return the result of `work`, and the wall and CPU seconds it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    texts = work()
    return texts, {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }


def together(asked: list[Question], batch_size: int) -> dict[str, Any]:
    """Compare all texts with those of `skyline`, in batches."""
    seats = {name: seat(name, batch_size) for name in ("student", "teacher")}
    found: dict[str, Any] = {}

    def texts(protocol: Any, **chosen: SeatSetup) -> list[str]:
        found["transcripts"] = run(protocol, chosen, asked)[1]
        return [t.text for t in found["transcripts"]]

    plain, plain_time = timed(lambda: texts(Skyline(), teacher=seats["teacher"]))
    teacher_tokens = [t.turns[0].result.completion_tokens for t in found["transcripts"]]
    ours, our_time = timed(lambda: texts(SpeculativePair(unit="token", accept="greedy"), **seats))
    details = [t.details for t in found["transcripts"]]
    passes = sum(d["totals"]["passes"] for d in details)
    return {
        "questions": len(asked),
        "texts_that_differ": sum(a != b for a, b in zip(plain, ours, strict=True)),
        "teacher_tokens": sum(teacher_tokens),
        "teacher_passes": passes,
        "passes_per_token": round(passes / sum(teacher_tokens), 3),
        "questions_with_fewer_passes_than_tokens": sum(
            d["totals"]["passes"] < n for d, n in zip(details, teacher_tokens, strict=True)
        ),
        "tokens_approved": sum(d["totals"]["units_accepted"] for d in details),
        "plain": plain_time,
        "speculative_pair": our_time,
    }


def alone(asked: list[Question]) -> list[dict[str, Any]]:
    """Answer questions one by one in three ways."""
    import torch

    seats = {name: seat(name, 1) for name in ("student", "teacher")}
    lms = {name: setup.backend.lm for name, setup in seats.items()}  # type: ignore[attr-defined]
    teacher = lms["teacher"]

    def generate(**more: Any) -> list[str]:
        texts = []
        for question in asked:
            ids = torch.tensor([teacher.tok_encode(question.context)])
            mask, most = torch.ones_like(ids), question.gen_kwargs["max_gen_toks"]
            with torch.no_grad():
                out = teacher.model.generate(
                    ids, attention_mask=mask, max_new_tokens=most, do_sample=False, use_cache=True, **more
                )
            new = out[0, ids.shape[1] :].tolist()
            texts.append(seats["teacher"].backend.tokens.read(new, question.gen_kwargs)[0])  # type: ignore[union-attr]
        return texts

    def protocol() -> list[str]:
        return [t.text for q in asked for t in run(SpeculativePair(unit="token", accept="greedy"), seats, [q])[1]]

    ways: dict[str, Callable[[], list[str]]] = {
        "teacher, plain": generate,
        "transformers, assisted": lambda: generate(assistant_model=lms["student"].model),
        "speculative_pair": protocol,
    }
    rows, reference = [], list[str]()
    for name, work in ways.items():
        with counted(teacher.model) as passes:
            texts, seconds = timed(work)
        reference = reference or texts
        differ = sum(a != b for a, b in zip(reference, texts, strict=True))
        rows.append({"way": name, "teacher_passes": passes["passes"], "texts_that_differ": differ, **seconds})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--alone", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--most-tokens", type=int, default=200)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    asked = questions(args.questions, args.most_tokens)
    step = max(1, len(asked) // max(1, args.alone))
    result = {
        "batches": together(asked, args.batch_size),
        "batch_size": args.batch_size,
        "alone": alone(asked[::step][: args.alone]),
        "alone_questions": args.alone,
    }
    publish_measured(result, args.output, embedded())


if __name__ == "__main__":
    main()
