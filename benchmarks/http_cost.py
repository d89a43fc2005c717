"""Measures the client's CPU time per call of a served seat, against a local server, with records and call store.

    python benchmarks/http_cost.py --questions 5000 --output benchmarks/results/http_cost.json

The server is a separate process that answers immediately, so the CPU time is that of the client alone: engine, store,
records and HTTP. For comparison, `aiohttp alone` sends the same bodies with the HTTP library that the seats use.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from loopback import serve_reply
from measured import publish_measured

REPLY = "Reasoning: 2 Mary went there, 4 she took the milk along. So the milk is in the garden.\nAnswer: garden"
CONTEXT = "\n".join(f"{i} Mary went to the garden and John stayed where he was." for i in range(1, 21))
CONCURRENT = 64


def context(number: int) -> str:
    return f"{CONTEXT}\nQuestion {number}: Where is the milk?"


async def send_all(url: str, number: int) -> None:
    """Send the request bodies of a run with aiohttp alone."""
    import aiohttp

    slots = asyncio.Semaphore(CONCURRENT)

    async def one(session: aiohttp.ClientSession, i: int) -> None:
        message = {"role": "user", "content": context(i)}
        body = json.dumps({"messages": [message], "model": "m", "max_tokens": 64, "temperature": 0.0}).encode()
        async with slots, session.post(f"{url}/chat/completions", data=body) as response:
            json.loads(await response.read())

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session, i) for i in range(number)))


def measured(calls: int, run: Any) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return {
        "cpu_ms_a_call": round(1e3 * (time.process_time() - cpu) / calls, 4),
        "wall_ms_a_call": round(1e3 * (time.perf_counter() - wall) / calls, 4),
    }


def answer(url: str, questions: int, folder: Path) -> dict[str, float]:
    """Run `baseline` against the server. Creating the model and lm-eval's request objects is not measured."""
    from lm_eval.api.instance import Instance

    from harness_ext.models.baseline import BaselineLM

    asked = [
        Instance("generate_until", {"n": i}, (context(i), {"until": ["\n\n"], "max_gen_toks": 64}), i, ("task", i, 1))
        for i in range(questions)
    ]
    student = {"student": f"openai:m@{url}", "student.num_concurrent": CONCURRENT}
    lm = BaselineLM(**student, store=str(folder / "store"), run_dir=folder / "run", progress="off")
    answers: list[str] = []
    result = measured(questions, lambda: answers.extend(lm.generate_until(asked)))
    if answers != [REPLY] * questions or len(lm.session.store or ()) != questions:
        raise RuntimeError("the run lost or changed replies")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve_reply(REPLY, 30))
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        with tempfile.TemporaryDirectory() as folder:
            answer(url, 50, Path(folder) / "warm-up")
            rows = [
                {"client": "a served seat, records and store on", **answer(url, args.questions, Path(folder))},
                {
                    "client": "aiohttp alone",
                    **measured(args.questions, lambda: asyncio.run(send_all(url, args.questions))),
                },
            ]
    finally:
        server.terminate()
        server.wait()
    result = {
        "questions": args.questions,
        "num_concurrent": CONCURRENT,
        "rows": rows,
    }
    publish_measured(result, args.output)


if __name__ == "__main__":
    main()
