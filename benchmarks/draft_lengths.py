"""Measures speculative decoding by the length of its drafts, beside llama.cpp's own draft decoding of the same pair.

    HARNESS_EXT_DATA=<folder> python benchmarks/draft_lengths.py --student qwen-0.5b --teacher qwen-1.5b \\
        --output benchmarks/results/draft_lengths_qwen.json

`--student` and `--teacher` are names of `benchmarks/models.py` or folders. GSM8K test questions are answered one at a
time, with the chat template, by

- the teacher alone, and `speculative_pair unit=token,accept=greedy` with each of `--lengths` as `draft_tokens`, on `hf`
  seats in float32, and transformers' assisted generation. The texts of a pair are compared with the teacher's.
- the seconds of a pass of each model over several new tokens after a prompt, which decide how long drafts should be.
- llama.cpp's server with the teacher alone, and with the student as its draft model and drafts of the same lengths, in
  the 4 bits of the GGUF files. Only if both models are names.

A pair of one model needs `--noise`, which disturbs the student's weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from decoding import apart, assisted, each, questions, seat, watched
from engines import build
from measured import model_folder, publish_measured

from models import MODELS, Progress, fetch, models_folder

STARTED_WITHIN = 300  # seconds
PASSES, PROMPT, TIMES = (1, 2, 3, 4, 6, 9, 17), 150, 4


def pass_seconds(model: Any) -> dict[str, float]:
    """Return the seconds of a pass over several new tokens after a prompt, by their number: the least of some tries."""
    import torch

    found: dict[str, float] = {}
    with torch.inference_mode():
        ids = torch.arange(PROMPT, device=model.device)[None] + 100
        cache = model(ids, use_cache=True).past_key_values
        for tokens in PASSES:
            seconds = []
            for _ in range(TIMES):
                started = time.perf_counter()
                model(ids[:, :tokens], past_key_values=cache, use_cache=True).logits.sum().item()
                seconds.append(time.perf_counter() - started)
                cache.crop(-tokens)
            found[str(tokens)] = round(min(seconds), 4)
    return found


def by_transformers(args: argparse.Namespace, student: Path, teacher: Path) -> dict[str, Any]:
    """Return the seconds, passes and equal texts of each length on `hf` seats, and the seconds of single passes."""
    from harness_ext.models.skyline import Skyline
    from harness_ext.models.speculative_pair import SpeculativePair

    setups = {
        "student": seat(str(student), 1, args.noise, args.device),
        "teacher": seat(str(teacher), 1, device=args.device),
    }
    asked = questions(args.questions, args.most)
    plain, seconds = each(Skyline(), {"teacher": setups["teacher"]}, asked, True)
    tokens = sum(one.turns[-1].result.completion_tokens or 0 for one in plain)
    rows = [{"way": "the teacher alone", "seconds": seconds["wall"], "tokens": tokens, "teacher_passes": tokens}]
    models = [setups[name].backend.lm.model for name in ("teacher", "student")]
    with watched(models[0]) as passes, watched(models[1]) as drafts:
        found = assisted(setups["teacher"].backend, setups["student"].backend, asked)
    rows.append(
        {"way": "assisted generation", "seconds": found["wall"], "tokens": tokens, "teacher_passes": passes["passes"],
         "student_passes": drafts["passes"]}
    )  # fmt: skip
    print(json.dumps(rows), flush=True)
    for length in args.lengths:
        protocol = SpeculativePair(unit="token", accept="greedy", draft_tokens=length)
        with watched(models[0]) as passes, watched(models[1]) as drafts:
            texts, seconds = each(protocol, setups, asked, True)
        rows.append(
            {
                "way": f"draft_tokens={length}",
                "seconds": seconds["wall"],
                "tokens": tokens,
                "teacher_passes": passes["passes"],
                "student_passes": drafts["passes"],
                "equal": sum(a.text == b.text for a, b in zip(plain, texts, strict=True)),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    passes_by_role = {
        role: apart(partial(pass_seconds, model)) for role, model in zip(("teacher", "student"), models, strict=True)
    }
    return {"transformers": rows, "pass_seconds": passes_by_role}


def by_llamacpp(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the seconds of each length with llama.cpp's own draft decoding."""
    folder = models_folder()
    program = build(folder, Progress("llama-server"))
    student, teacher = (fetch(MODELS[name], folder) for name in (args.student, args.teacher))
    rows = []
    for length in (0, *(length for length in args.lengths if isinstance(length, int))):
        drafts = ["--model-draft", str(student), "--spec-type", "draft-simple", "--spec-draft-n-max", str(length)]
        with server([str(program), "--model", str(teacher), *(drafts if length else [])]) as url:
            ask(url, "Hello", 8)
            seconds, tokens, drafted, accepted = 0.0, 0, 0, 0
            for question in questions(args.questions, args.most):
                started = time.perf_counter()
                found = ask(url, question.context.messages[-1].content, args.most)
                seconds += time.perf_counter() - started
                tokens += found["usage"]["completion_tokens"]
                drafted += found["timings"].get("draft_n", 0)
                accepted += found["timings"].get("draft_n_accepted", 0)
        way = f"drafts of at most {length}" if length else "the teacher alone"
        rows.append(
            {"way": way, "seconds": round(seconds, 2), "tokens": tokens, "drafted": drafted, "accepted": accepted}
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


@contextmanager
def server(command: Sequence[str]) -> Iterator[str]:
    """Run llama.cpp's server until the block ends; return its address."""
    from harness_ext.serving.process import HOST, Port, is_healthy

    port = Port()
    url = f"http://{HOST}:{port.number}"
    with tempfile.TemporaryFile() as log:
        words = [*command, "--port", str(port.number), "--parallel", "1", "--ctx-size", "4096"]
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + STARTED_WITHIN
            while not is_healthy(f"{url}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"llama.cpp's server does not start:\n{log.read()[-2000:].decode()}")
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait()
            port.release()


def ask(url: str, question: str, most: int) -> dict[str, Any]:
    """Return the server's greedy reply to a question, with its counts."""
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": most, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def length_of(text: str) -> int | str:
    """Return a draft's length: a number, or `auto`."""
    return text if text == "auto" else int(text)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--most", type=int, default=64, help="length limit of replies, in tokens")
    parser.add_argument("--lengths", nargs="+", type=length_of, default=[1, 2, 4, 8, 16, "auto"])
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--device", default="cpu", help="device of both seats (default: cpu)")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    folders = {name: model_folder(getattr(args, name)) for name in ("student", "teacher")}
    result: dict[str, Any] = {name: Path(getattr(args, name)).name for name in ("student", "teacher")}
    result |= {"questions": args.questions, "most": args.most, "noise": args.noise}
    if args.student in MODELS and args.teacher in MODELS and not args.noise:
        result["llama.cpp"] = by_llamacpp(args)
    result |= by_transformers(args, **folders)
    publish_measured(result, args.output, folders)


if __name__ == "__main__":
    main()
