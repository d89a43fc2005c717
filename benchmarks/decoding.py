"""Measures `hf` seats before and after continuous batches, kept states and short drafts, in the same run.

    git worktree add --detach ../before 67ff529
    HARNESS_EXT_DATA=<folder> python benchmarks/decoding.py --before ../before --student smollm2 --teacher smollm2 \\
        --output benchmarks/results/decoding.json

`--student` and `--teacher` are names of `benchmarks/models.py` or folders. Every measurement is a process of its own
that imports the checkout it measures. On GSM8K test questions, with the chat template
and in float32:

- `feedback_pair`: tokens per second of the whole protocol, and the share of the rows of all steps that wrote a token of
  a reply, beside the rate of a flat batch, in which every row writes 128 tokens.
- replies of three lengths, in static batches, by the seat, and by transformers' own continuous batching.
- five-shot prompts: how many prompt tokens are read, and the seconds.
- `speculative_pair unit=token,accept=greedy`, one question at a time and in batches, with the student's weights
  disturbed by `--noise` if both seats have the same model: passes of the teacher per token, student tokens that were
  thrown away, seconds beside the teacher's plain decoding and transformers' assisted generation, and whether the texts
  are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FLAT_TOKENS = 128


def questions(count: int, most: int, shots: int = 0, split: str = "test") -> list[Any]:
    """Return GSM8K's questions of a split as conversations, after `shots` training questions with their answers."""
    from harness_ext.protocol import Question
    from harness_ext.records.chat import ChatContext

    folder = Path(os.environ["HARNESS_EXT_DATA"]) / "gsm8k"
    rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:count]]
    examples = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()[:shots]]
    before = [message(*pair) for row in examples for pair in (("user", row["question"]), ("assistant", row["answer"]))]
    settings = {"until": [], "max_gen_toks": most, "do_sample": False}
    return [
        Question(ChatContext.of([*before, message("user", row["question"])]), settings, "gsm8k", i, str(i))
        for i, row in enumerate(rows)
    ]


def message(role: str, content: str) -> dict[str, str]:
    """Return a message in lm-eval's form."""
    return {"role": role, "content": content}


def seat(folder: str, batch_size: int, noise: float = 0.0, device: str = "cpu") -> Any:
    """Return a loaded seat, whose weights are disturbed by noise of this share of their spread."""
    import torch

    from harness_ext.backends.hf import HFBackend
    from harness_ext.protocol import SeatSetup

    backend = HFBackend({"pretrained": folder, "batch_size": batch_size, "device": device, "dtype": "float32"})
    apart(backend.load)
    backend.loaded = True
    if noise:
        torch.manual_seed(0)
        backend.fingerprint += f" noise {noise}"

        def disturb() -> None:
            with torch.no_grad():
                for weights in backend.lm.model.parameters():
                    weights += noise * weights.std() * torch.randn_like(weights)

        apart(disturb)
    return SeatSetup(backend)


def seats_of(args: argparse.Namespace, batch_size: int, noise: float = 0.0) -> dict[str, Any]:
    """Return both seats; the noise is the student's."""
    student = seat(args.student, batch_size, noise, args.device)
    return {"student": student, "teacher": seat(args.teacher, batch_size, device=args.device)}


def apart(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a thread of its own, as a run loads and calls its models: Python threads that
    have computed slow each other down as long as they exist."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@contextmanager
def watched(model: Any) -> Iterator[Counter[str]]:
    """Count a model's passes, and the rows of those that read one token each."""
    counts: Counter[str] = Counter()

    def count(_: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        counts["passes"] += 1
        counts["read"] += ids.numel()
        counts["rows"] += len(ids) if ids.shape[1] == 1 else 0

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        hook.remove()


def solve(protocol: Any, seats: dict[str, Any], asked: Sequence[Any]) -> tuple[list[Any], dict[str, float]]:
    """Return the transcripts of a protocol, and the wall and CPU seconds."""
    from harness_ext.engine.engine import Engine

    done: dict[int, Any] = {}
    for setup in seats.values():
        if states := getattr(setup.backend, "states", None):
            states.clear()  # what an earlier measurement has read would be a head start
    wall, cpu = time.perf_counter(), time.process_time()
    Engine().run(protocol, seats, asked, done.__setitem__)
    seconds = {"wall": round(time.perf_counter() - wall, 2), "cpu": round(time.process_time() - cpu, 2)}
    return [done[i] for i in range(len(asked))], seconds


def tokens(transcripts: Sequence[Any], field: str) -> int:
    """Return the sum of a count of tokens over all calls."""
    return sum(getattr(turn.result, field) or 0 for transcript in transcripts for turn in transcript.turns)


def feedback(args: argparse.Namespace) -> dict[str, Any]:
    """Measure a whole protocol beside a flat batch."""
    from harness_ext.backends.base import GenerateRequest
    from harness_ext.models.feedback_pair import FeedbackPair

    setups = seats_of(args, args.batch_size)
    asked = questions(args.questions, args.most)
    model = setups["teacher"].backend.lm.model
    with watched(model) as counts:
        transcripts, seconds = solve(FeedbackPair(max_rounds=2), setups, asked)
    written = tokens(transcripts, "completion_tokens")
    teacher = [t for one in transcripts for t in one.turns if t.seat == "teacher"]
    flat = setups["teacher"].backend
    prompts = [flat.render(question.context).text for question in asked[: args.batch_size]]
    wanted = {"until": [], "max_gen_toks": FLAT_TOKENS, "min_new_tokens": FLAT_TOKENS, "do_sample": False}
    flat.passes_through = True
    started = time.perf_counter()
    flat.generate([GenerateRequest(prompt, wanted) for prompt in prompts], lambda *_: None)
    return {
        "seconds": seconds,
        "written": written,
        "tokens_per_second": round(written / seconds["wall"], 1),
        "teacher_rows_that_wrote": round(
            sum(t.result.completion_tokens or 0 for t in teacher) / max(1, counts["rows"]), 3
        ),
        "prompt_tokens": tokens(transcripts, "prompt_tokens"),
        "cached_tokens": tokens(transcripts, "cached_tokens"),
        "flat_tokens_per_second": round(len(prompts) * FLAT_TOKENS / (time.perf_counter() - started), 1),
        "texts": [transcript.text for transcript in transcripts],
    }


def uneven(args: argparse.Namespace) -> dict[str, Any]:
    """Measure replies of three lengths: in static batches, by transformers' continuous batching, and by the seat."""
    from harness_ext.backends.base import GenerateRequest

    backend = seat(args.teacher, args.batch_size, device=args.device).backend
    lm, lengths = backend.lm, (args.most // 8, args.most // 4, args.most)
    prompts = [backend.render(question.context).text for question in questions(args.questions, args.most)]
    wanted = [(prompt, lengths[i % 3]) for i, prompt in enumerate(prompts)]

    def static() -> None:
        for start in range(0, len(wanted), args.batch_size):
            some = wanted[start : start + args.batch_size]
            longest = max(length for _, length in some)
            ids, mask = (part.to(lm.device) for part in lm.tok_batch_encode([prompt for prompt, _ in some]))
            how = {"max_new_tokens": longest, "min_new_tokens": longest, "do_sample": False}
            lm.model.generate(ids, attention_mask=mask, pad_token_id=lm.tokenizer.pad_token_id, **how)

    def own() -> None:
        settings = [{"max_gen_toks": length, "min_new_tokens": length} for _, length in wanted]
        requests = [
            GenerateRequest(prompt, {"until": [], "do_sample": False, **more})
            for (prompt, _), more in zip(wanted, settings, strict=True)
        ]
        backend.generate(requests, lambda *_: None)

    def transformers() -> None:
        with lm.model.continuous_batching_context_manager(warmup=False) as manager:
            for prompt, length in wanted:
                manager.add_request(lm.tok_encode(prompt), max_new_tokens=length, eos_token_id=-1)
            ended = 0
            for result in manager:
                ended += result.is_finished()
                if ended == len(wanted):
                    return

    seconds = {}
    for name, way in (("static batches", static), ("seat", own), ("transformers' continuous batching", transformers)):
        started = time.perf_counter()
        way()
        seconds[name] = round(time.perf_counter() - started, 2)
    return {"tokens": sum(length for _, length in wanted), "seconds": seconds}


def five_shot(args: argparse.Namespace) -> dict[str, Any]:
    """Measure prompts that begin alike, and a conversation's next turn."""
    from harness_ext.models.feedback_pair import FeedbackPair

    setups = seats_of(args, args.batch_size)
    transcripts, seconds = solve(FeedbackPair(max_rounds=1), setups, questions(args.questions, 64, shots=5))
    return {
        "seconds": seconds,
        "written": tokens(transcripts, "completion_tokens"),
        "prompt_tokens": tokens(transcripts, "prompt_tokens"),
        "cached_tokens": tokens(transcripts, "cached_tokens"),
        "texts": [transcript.text for transcript in transcripts],
    }


def speculation(args: argparse.Namespace) -> dict[str, Any]:
    """Measure speculative decoding beside the teacher's plain decoding and transformers' assisted generation."""
    from harness_ext.models.skyline import Skyline
    from harness_ext.models.speculative_pair import SpeculativePair

    result: dict[str, Any] = {}
    asked = questions(args.questions, args.most)
    for batch_size in (1, args.batch_size):
        noise = args.noise if args.student == args.teacher else 0.0
        setups = seats_of(args, batch_size, noise)
        teacher, student = setups["teacher"].backend, setups["student"].backend
        some = asked if batch_size > 1 else asked[: args.alone]
        ours = batch_size == 1  # one question in flight at a time
        plain, plain_seconds = each(Skyline(), {"teacher": setups["teacher"]}, some, ours)
        with watched(teacher.lm.model) as counts, watched(student.lm.model) as drafts:
            found, seconds = each(SpeculativePair(unit="token", accept="greedy"), setups, some, ours)
        length = sum(t.turns[-1].result.completion_tokens or 0 for t in plain)
        row = {
            "questions": len(some),
            "equal": sum(a.text == b.text for a, b in zip(plain, found, strict=True)),
            "tokens": length,
            "plain_seconds": plain_seconds,
            "seconds": seconds,
            "times_plain": round(seconds["wall"] / plain_seconds["wall"], 2),
            "teacher_passes": counts["passes"],
            "passes_per_token": round(counts["passes"] / length, 3),
            "teacher_read": counts["read"],
            "student_passes": drafts["passes"],
        }
        if batch_size == 1:
            row["assisted_seconds"] = assisted(teacher, student, some)
        result[f"batch_{batch_size}"] = row
    return result


def each(
    protocol: Any, setups: dict[str, Any], asked: Sequence[Any], alone: bool
) -> tuple[list[Any], dict[str, float]]:
    """Return the transcripts and seconds of a protocol, with one question at a time if `alone`."""
    if not alone:
        return solve(protocol, setups, asked)
    transcripts, total = [], Counter[str]()
    for question in asked:
        found, seconds = solve(protocol, setups, [question])
        transcripts += found
        total.update(seconds)  # type: ignore[arg-type]
    return transcripts, {name: round(value, 2) for name, value in total.items()}


def assisted(teacher: Any, student: Any, asked: Sequence[Any]) -> dict[str, float]:
    """Return the seconds of transformers' assisted generation."""
    import torch

    def write() -> None:
        for question in asked:
            ids = torch.tensor([teacher.lm.tok_encode(teacher.render(question.context).text)], device=teacher.device)
            with torch.no_grad():
                teacher.lm.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=question.gen_kwargs["max_gen_toks"],
                    do_sample=False,
                    assistant_model=student.lm.model,
                )

    wall, cpu = time.perf_counter(), time.process_time()
    apart(write)
    return {"wall": round(time.perf_counter() - wall, 2), "cpu": round(time.process_time() - cpu, 2)}


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "feedback": feedback,
    "uneven": uneven,
    "five_shot": five_shot,
    "speculation": speculation,
}


def measured_in(checkout: Path, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return a measurement of a checkout, made in a process of its own."""
    from measured import environment_of

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--only", name, "--output", str(output), *common(args)]
        subprocess.run(command, env=environment_of(checkout), check=True, cwd=folder)
        found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def common(args: argparse.Namespace) -> list[str]:
    """Return the arguments that a measurement's process is given."""
    names = ("student", "teacher", "questions", "alone", "most", "batch_size", "noise", "device")
    return [part for name in names for part in (f"--{name}", str(getattr(args, name)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--alone", type=int, default=8, help="questions that are answered one at a time")
    parser.add_argument("--most", type=int, default=256, help="length limit of replies, in tokens")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--device", default="cpu", help="device of both seats (default: cpu)")
    parser.add_argument("--before", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("--measure", nargs="+", choices=list(MEASUREMENTS), default=list(MEASUREMENTS))
    parser.add_argument("--only", choices=list(MEASUREMENTS), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.only:
        args.output.write_text(json.dumps(MEASUREMENTS[args.only](args)), encoding="utf-8")
        return
    from measured import model_folder, publish_measured

    args.student, args.teacher = (str(model_folder(name)) for name in (args.student, args.teacher))
    result: dict[str, Any] = {"questions": args.questions, "batch_size": args.batch_size, "most": args.most}
    folders = {"student": Path(args.student), "teacher": Path(args.teacher)}
    for name in args.measure:
        sides = {"before": args.before, "after": ROOT} if args.before else {"after": ROOT}
        found = {side: measured_in(checkout, name, args) for side, checkout in sides.items()}
        texts = [one.pop("texts") for one in found.values() if "texts" in one]
        if len(texts) == 2:
            found["equal"] = sum(a == b for a, b in zip(*texts, strict=True))  # type: ignore[assignment]
        result[name] = found
        print(json.dumps({name: found}), flush=True)
        if args.output:  # what is measured stays, if a later measurement is interrupted
            publish_measured(result, args.output, folders)
    if not args.output:
        publish_measured(result, None, folders)


if __name__ == "__main__":
    main()
