"""Measures the pair on one GPU: two seats, four bits, and verdicts by probability against written ones.

    python benchmarks/gpu.py --output benchmarks/results/gpu.json

The built-in pair answers the stories in full precision, in bfloat16 and with a teacher in four bits, with written and
with decided verdicts. Then a model of the shape of Qwen2.5-1.5B with random weights, which costs what the real one
does, decides on prompts and writes reviews of a fixed length.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from measured import embedded, publish_measured

SHAPE = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 8192,
}
SEATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"student.dtype": "bfloat16", "teacher.dtype": "bfloat16"},
    "teacher in 4 bits": {"teacher.load_in_4bit": True, "teacher.bnb_4bit_compute_dtype": "bfloat16"},
}


def stories(device: str, limit: int, batch_size: int) -> list[dict[str, Any]]:
    """Return the figures of the built-in pair on the stories, for each precision and both kinds of verdict."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    import harness_ext.tasks
    from harness_ext.models.feedback_pair import FeedbackPairLM

    tasks = TaskManager(include_path=str(Path(harness_ext.tasks.__path__[0])), include_defaults=False)
    rows = []
    for name, arguments in SEATS.items():
        for verdict in ("text", "auto"):
            with tempfile.TemporaryDirectory() as folder:
                lm = FeedbackPairLM(
                    batch_size=batch_size, device=device, run_dir=folder, store="off", progress="off", verdict=verdict,
                    **arguments,
                )  # fmt: skip
                started = time.perf_counter()
                found = lm_eval.simple_evaluate(
                    model=lm, tasks=["babi_stories"], limit=limit, task_manager=tasks, bootstrap_iters=0
                )
                seconds = time.perf_counter() - started
                summary = json.loads((Path(folder) / "summary.json").read_text())
            assert found is not None
            teacher = summary["usage"]["teacher"]["total"]
            rows.append(
                {
                    "seats": name,
                    "verdict": verdict,
                    "questions": found["n-samples"]["babi_stories"]["effective"],
                    "exact_match": found["results"]["babi_stories"]["exact_match,none"],
                    "seconds": round(seconds, 1),
                    "reviews": summary["reviews"]["total"],
                    "malformed": summary["reviews"]["malformed"],
                    "teacher": {k: teacher[k] for k in ("calls", "prompt_tokens", "completion_tokens")},
                    "teacher_seconds": round(teacher["seconds"], 2),
                }
            )
    return rows


def verdicts(device: str, count: int, new_tokens: int) -> list[dict[str, Any]]:
    """Return how many verdicts per second a model of real size decides, and how many it writes."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from harness_ext.backends.base import DecideRequest, GenerateRequest
    from harness_ext.backends.hf import make_hf_backend
    from harness_ext.embedded import model_path
    from harness_ext.models.feedback_pair import FeedbackPair
    from harness_ext.records import Message

    pair = FeedbackPair()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        AutoTokenizer.from_pretrained(model_path("teacher")).save_pretrained(folder)
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)
        for batch_size in (1, 8, 32):
            backend = make_hf_backend(folder, {"device": device, "dtype": "bfloat16", "batch_size": batch_size})
            backend.load()
            prompts = [
                backend.render(
                    [
                        Message("system", pair.review_system),
                        Message("user", pair.review_user.fill(task=f"Story {n}. " * 20, draft=f"Step {n}. " * 40)),
                    ]
                ).text
                for n in range(count)
            ]
            tokens = sum(len(backend.lm.tok_encode(prompt)) for prompt in prompts) / count
            decide = [DecideRequest(p, ("true", "false"), ("Correct.", "Incorrect.")) for p in prompts]
            # A random model never ends a reply, so every review has the same length.
            write = [GenerateRequest(p, {"until": [], "max_gen_toks": new_tokens, "do_sample": False}) for p in prompts]
            backend.decide(decide[:batch_size], lambda i, d: None)  # the first batch compiles and allocates
            seconds: dict[str, float] = {}
            started = time.perf_counter()
            backend.decide(decide, lambda i, d: None)
            seconds["decide"] = (time.perf_counter() - started) / count
            started = time.perf_counter()
            backend.generate(write[: count // 8], lambda i, c: None)
            seconds["write"] = (time.perf_counter() - started) / (count // 8)
            rows.append(
                {
                    "batch_size": batch_size,
                    "prompt_tokens": round(tokens),
                    "decided_per_second": round(1 / seconds["decide"], 1),
                    "written_per_second": round(1 / seconds["write"], 2),
                    "review_tokens": new_tokens,
                }
            )
            del backend
    return rows


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--limit", type=int, default=600, help="stories")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--verdicts", type=int, default=256)
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = {
        "gpu": torch.cuda.get_device_name() if args.device.startswith("cuda") else None,
        "stories": stories(args.device, args.limit, args.batch_size),
    }
    publish_measured(result, args.output, embedded())
    result["verdicts"] = verdicts(args.device, args.verdicts, args.new_tokens)
    publish_measured(result, args.output, embedded())


if __name__ == "__main__":
    main()
