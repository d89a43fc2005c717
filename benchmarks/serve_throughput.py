"""Measures what `feedback_pair` adds to the time of its own calls on a vLLM server that the run starts.

    HARNESS_EXT_DATA=<folder> python benchmarks/serve_throughput.py --model smollm2 --vllm <environment>/bin/python \\
        --output benchmarks/results/serve_throughput.json

The protocol answers GSM8K's questions, and all its calls are sent once more to the same server as one flat batch, by a
client that does nothing else, with as many in flight. The server keeps no prompts: those of the flat batch would all be
known from the protocol's run. The first run, in which the server still compiles, does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of `feedback_pair` through vLLM, and of the same calls as one flat batch."""
    import aiohttp
    from decoding import questions, solve

    from harness_ext.backends.http_client import Client
    from harness_ext.backends.openai import OpenAIBackend
    from harness_ext.backends.registry import make_backend, parse_spec
    from harness_ext.models.feedback_pair import FeedbackPair
    from harness_ext.protocol import SeatSetup

    options = {
        "serve.engine": "vllm", "serve.python": args.vllm, "serve.context": 2048,
        "serve.args": f"--no-enable-prefix-caching {args.vllm_args}",
        "serve.slots": args.concurrent, "serve.devices": args.devices, "num_concurrent": args.concurrent,
    }  # fmt: skip
    if args.devices == "cpu":
        options |= {"serve.threads": args.threads, "serve.memory": 0.25}
    backend = make_backend(parse_spec(f"serve:{args.folder}", options))
    assert isinstance(backend, OpenAIBackend)
    seats = {name: SeatSetup(backend) for name in ("student", "teacher")}
    asked, protocol = questions(args.questions, args.most), FeedbackPair(max_rounds=1, review_max_tokens=args.most)
    requests: list[tuple[str, bytes]] = []  # all of them: decisions are made by requests of their own
    original = Client.post
    rows = []

    async def flat(sent: Sequence[tuple[str, bytes]]) -> float:
        slots = asyncio.Semaphore(args.concurrent)
        async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:

            async def one(path: str, body: bytes) -> None:
                async with slots, session.post(f"{backend.urls[0]}/{path}", data=body) as response:
                    await response.read()
                    response.raise_for_status()

            started = time.perf_counter()
            await asyncio.gather(*(one(path, body) for path, body in sent))
            return time.perf_counter() - started

    async def recording(client: Client, path: str, body: bytes, *more: Any, **options: Any) -> Any:
        requests.append((path, body))
        return await original(client, path, body, *more, **options)

    Client.post = recording  # type: ignore[method-assign]
    for repetition in range(args.repetitions + 1):
        requests.clear()
        transcripts, seconds = solve(protocol, seats, asked)
        written = sum(t.result.completion_tokens or 0 for one in transcripts for t in one.turns)
        alone = asyncio.run(flat(list(requests)))
        row = {"calls": len(requests), "tokens": written, "seconds": round(seconds["wall"], 2), "flat": round(alone, 2)}
        row["efficiency"] = round(alone / seconds["wall"], 3)
        print(json.dumps(row), flush=True)
        if repetition:
            rows.append(row)
    return {"questions": args.questions, "concurrent": args.concurrent, "most": args.most, "rows": rows}


def main() -> None:
    from measured import model_folder, publish_measured

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="a name of benchmarks/models.py, or a folder")
    parser.add_argument("--vllm", required=True, help="an interpreter that has vLLM")
    parser.add_argument("--vllm_args", default="", help="further arguments of vLLM's server")
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--most", type=int, default=32, help="length limit of replies, in tokens")
    parser.add_argument("--concurrent", type=int, default=8, help="requests in flight")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    args.folder = model_folder(args.model)
    publish_measured(measure(args), args.output, {"model": args.folder})


if __name__ == "__main__":
    main()
