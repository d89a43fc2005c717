"""Measures what the engine adds to the calls of `feedback_pair`, with the embedded pair on generated stories.

    python benchmarks/protocol.py efficiency --questions 64 256 1024
    python benchmarks/protocol.py original   --questions 64
    python benchmarks/protocol.py invariance --questions 96
    python benchmarks/protocol.py repeat     --questions 1024

`--output FILE` writes the result as JSON. Only `repeat` uses a call store.

- `efficiency`: the wall time of the run's own calls, repeated as one flat batch per model, divided by the wall time of
  the run. `chain_bound` is the same quotient for a run that only waits for the question with the longest chain of
  calls; no run can exceed it.
- `original`: the same calls in the published way, one question after the other with one `generate` per call.
  `speed_up` is the wall time of that divided by the wall time of the run.
- `invariance`: compares drafts at several batch sizes and windows with drafts at batch size 1: the number of texts that
  differ, and the largest difference in log-probability, in float32 and bfloat16.
- `repeat`: repeats a finished run on the same store, and reports the calls made and the seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measured import embedded, publish_measured

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, ScoreRequest
from harness_ext.backends.hf import HFBackend
from harness_ext.embedded import model_path
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.engine.engine import Engine
from harness_ext.models.baseline import Baseline
from harness_ext.models.feedback_pair import FeedbackPair
from harness_ext.protocol import Protocol, Question, SeatSetup
from harness_ext.records import Completion, Transcript
from harness_ext.records.call_store import CallStore

SETTINGS = {"until": ["\nHere are the context sentences:"], "max_gen_toks": 300, "do_sample": False}


class Recorder(HFBackend):
    """An `hf` backend that records its requests."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self.asked: list[GenerateRequest] = []

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        self.asked += requests
        super().generate(requests, deliver)


def seat(name: str, batch_size: int, dtype: str = "float32") -> SeatSetup:
    """Return a seat of the embedded pair with its model loaded.

    name: `student` or `teacher`.
    batch_size: requests per batch.
    dtype: data type of the weights. Default `float32`.
    """
    args = {"pretrained": str(model_path(name)), "batch_size": batch_size, "device": "cpu", "dtype": dtype}
    backend = Recorder(args)
    backend.load()
    backend.loaded = True
    return SeatSetup(backend)


def questions(count: int) -> list[Question]:
    """Return questions about generated stories that are not training rows."""
    from harness_ext.tasks.babi_stories.rows import draw

    rows = draw(seed=7_000_000, count=count, lines=(2, 10))
    contexts = [INSTRUCTION + story_text(row["passage"].splitlines(), row["question"]) for row in rows]
    return [Question(context, SETTINGS, "bench", i, str(i)) for i, context in enumerate(contexts)]


def run(
    protocol: Protocol, seats: dict[str, SeatSetup], asked: list[Question], **engine: Any
) -> tuple[float, list[Transcript]]:
    """Run a protocol; return its wall time in seconds and the transcripts in the order of the questions.

    protocol: the protocol.
    seats: the seats by name.
    asked: the questions.
    engine: arguments of the engine.
    """
    transcripts: dict[int, Transcript] = {}
    started = time.perf_counter()
    Engine(**engine).run(protocol, seats, asked, transcripts.__setitem__)
    seconds = time.perf_counter() - started
    failed = [t.failure for t in transcripts.values() if t.failure]
    if failed:
        raise RuntimeError(f"{len(failed)} questions failed, the first: {failed[0]}")
    return seconds, [transcripts[i] for i in range(len(asked))]


def flat(backend: Backend, requests: Sequence[GenerateRequest]) -> float:
    """Return the wall time, in seconds, of all requests in one call of the backend."""
    started = time.perf_counter()
    backend.generate(list(requests), lambda i, completion: None)
    return time.perf_counter() - started


def efficiency(counts: list[int], batch_size: int) -> list[dict[str, Any]]:
    rows = []
    for count in counts:
        seats = {name: seat(name, batch_size) for name in ("student", "teacher")}
        seconds, transcripts = run(FeedbackPair(), seats, questions(count))
        asked = {name: list(_recorder(setup).asked) for name, setup in seats.items()}
        flat_seconds = sum(flat(setup.backend, asked[name]) for name, setup in seats.items())
        longest = max(transcripts, key=lambda t: len(t.turns))
        by_prompt = {name: {r.prompt: r for r in requests} for name, requests in asked.items()}
        chain = sum(
            flat(seats[name].backend, [request])
            for name, requests in _chain(longest, by_prompt).items()
            for request in requests
        )
        rows.append(
            {
                "questions": count,
                "calls": sum(map(len, asked.values())),
                "run_seconds": round(seconds, 2),
                "flat_seconds": round(flat_seconds, 2),
                "efficiency": round(flat_seconds / seconds, 3),
                "longest_chain_turns": len(longest.turns),
                "chain_seconds": round(chain, 2),
                "chain_bound": round(min(1.0, flat_seconds / chain), 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def _recorder(setup: SeatSetup) -> Recorder:
    assert isinstance(setup.backend, Recorder)
    return setup.backend


def _chain(
    transcript: Transcript, by_prompt: dict[str, dict[str, GenerateRequest]]
) -> dict[str, list[GenerateRequest]]:
    """Return the requests of one question by seat, found by the question's story in their prompts."""
    chain: dict[str, list[GenerateRequest]] = {}
    story = transcript.context.removeprefix(INSTRUCTION).strip()
    for name, requests in by_prompt.items():
        count = sum(turn.seat == name for turn in transcript.turns)
        chain[name] = [request for prompt, request in requests.items() if story in prompt][:count]
    return chain


def original(counts: list[int], batch_size: int) -> list[dict[str, Any]]:
    rows = []
    for count in counts:
        seats = {name: seat(name, batch_size) for name in ("student", "teacher")}
        seconds, _ = run(FeedbackPair(), seats, questions(count))
        singles = {name: seat(name, 1) for name in seats}
        started = time.perf_counter()
        for name, setup in seats.items():
            for request in list(_recorder(setup).asked):
                singles[name].backend.generate([request], lambda i, completion: None)
        alone = time.perf_counter() - started
        rows.append(
            {
                "questions": count,
                "run_seconds": round(seconds, 2),
                "one_by_one_seconds": round(alone, 2),
                "speed_up": round(alone / seconds, 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


def invariance(counts: list[int], batch_size: int) -> list[dict[str, Any]]:
    rows = []
    for dtype in ("float32", "bfloat16"):
        asked = questions(counts[0])
        reference, scores = _texts(asked, 1, len(asked), dtype)
        for size, window in ((batch_size, len(asked)), (8, len(asked)), (batch_size, 16)):
            texts, other = _texts(asked, size, window, dtype)
            rows.append(
                {
                    "dtype": dtype,
                    "batch_size": size,
                    "window": window,
                    "questions": len(asked),
                    "texts_that_differ": sum(a != b for a, b in zip(reference, texts, strict=True)),
                    "largest_logprob_difference": max(abs(a - b) for a, b in zip(scores, other, strict=True)),
                }
            )
            print(rows[-1], flush=True)
    return rows


def _texts(asked: list[Question], batch_size: int, window: int, dtype: str) -> tuple[list[str], list[float]]:
    setup = seat("student", batch_size, dtype)
    _, transcripts = run(Baseline(), {"student": setup}, asked, window=window)
    scores = [0.0] * len(asked)

    def scored(index: int, completion: Completion) -> None:
        scores[index] = completion.logprob or 0.0

    setup.backend.score([ScoreRequest(q.context, "Reasoning: 1 Mary.\nAnswer: garden") for q in asked], scored)
    return [t.text for t in transcripts], scores


def repeat(counts: list[int], batch_size: int) -> list[dict[str, Any]]:
    rows = []
    for count in counts:
        asked = questions(count)
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                seats = {name: seat(name, batch_size) for name in ("student", "teacher")}
                store = CallStore(Path(folder))
                seconds, transcripts = run(FeedbackPair(), seats, asked, store=store)
                store.close()
                rows.append(
                    {
                        "questions": count,
                        "turns": sum(len(t.turns) for t in transcripts),
                        "calls_made": sum(len(_recorder(s).asked) for s in seats.values()),
                        "seconds": round(seconds, 3),
                    }
                )
                print(rows[-1], flush=True)
    return rows


MEASURES = {f.__name__: f for f in (efficiency, original, invariance, repeat)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("measure", choices=list(MEASURES))
    parser.add_argument("--questions", type=int, nargs="+", default=[64], help="numbers of questions to measure with")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = {
        "measure": args.measure,
        "batch_size": args.batch_size,
        "rows": MEASURES[args.measure](args.questions, args.batch_size),
    }
    publish_measured(result, args.output, embedded())


if __name__ == "__main__":
    main()
