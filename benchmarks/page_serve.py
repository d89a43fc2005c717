"""The tables of servers that runs start, made from the committed results."""

from __future__ import annotations

from typing import Any

from page_tables import load, table

SERVE = """\
## Protocols through servers that a run starts

    HARNESS_EXT_DATA=<folder> python benchmarks/serve.py --model smollm2 --llama <llama-server> \\
        --vllm <environment>/bin/python --output benchmarks/results/serve.json

SmolLM2-135M-Instruct on GSM8K and CREAK, with all seats on one server ([engines.md](engines.md)). vLLM and
`transformers serve` get the weights in float32, and llama.cpp the quantised file that they were converted from, so its
texts differ. It runs without its cache of prompts, since it computes differently with more or less of a prompt in it.
`texts equal to hf` counts final texts that are those of an `hf` seat. Engines that return no log-probabilities of
prompts can neither verify nor score. `speculative_pair` with a judge does not know the tokens of a served reply: it
divides it at words and shares out the length limit by words, so its texts end up to three tokens earlier or later than
those of an `hf` seat. `transformers serve` decides verdicts by its decisions endpoint, and cannot continue a reply.
Other work ran beside it, so the seconds do not compare.
"""

KILLED = """\
`feedback_pair` with written verdicts again: the process of the run is killed (SIGKILL), then its server, and the third
start ends it. `replies` are those that the server's log counts, without the probes of each start. More of them than
calls were given in vain; that can be no more than were in flight at the two kills.
"""

POOL = """\
`feedback_pair` on one llama.cpp server, and on a pool of two of which one is killed halfway:
"""

THROUGHPUT = """\
## What `feedback_pair` adds to its calls on a server

    HARNESS_EXT_DATA=<folder> python benchmarks/serve_throughput.py --model smollm2 --vllm <environment>/bin/python \\
        --output benchmarks/results/serve_throughput.json

The seconds of the protocol through vLLM, and of the same calls sent as one flat batch to the same server, with as many
in flight. `efficiency` is the second divided by the first; 1 is perfect.
"""


def serve_part() -> str:
    """Return the tables of protocols, kills and the pool."""
    result = load("serve.json")
    runs = [
        {
            "engine": engine,
            "protocol": case,
            "calls": found["calls"],
            "seconds": found["seconds"],
            "texts equal to hf": f"{found['texts equal to hf']} of {found['texts']}" if "texts" in found else "–",
            "scores": ", ".join(f"{name.partition(',')[0]} {value:.2f}" for name, value in found["scores"].items()),
        }
        for engine, cases in result["runs"].items()
        for case, found in cases.items()
    ]
    kills = [{"engine": engine, **found} for engine, found in result["kills"].items()]
    parts = [table(runs)]
    if kills:
        parts += [KILLED, table(kills)]
    if "pool" in result:
        parts += [POOL, table([_pool_row(name, result["pool"][name]) for name in ("one", "two")])]
        parts.append(f"{result['pool']['equal transcripts']} of {result['questions']} transcripts are equal.\n")
    if result["not run"]:
        parts.append(f"Not run: {', '.join(result['not run'])}.\n")
    return "\n".join(parts)


def _pool_row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    faults = ", ".join(f"{fault} {count}" for fault, count in found["faults"].items())
    return {"servers": name, "calls": found["calls"], "replies": found["replies"], "faults": faults or "none"}


def throughput_part() -> str:
    """Return the table of the throughput."""
    result = load("serve_throughput.json")
    words = f"{result['questions']} questions, {result['concurrent']} requests in flight.\n"
    return f"{table(result['rows'])}\n{words}"
