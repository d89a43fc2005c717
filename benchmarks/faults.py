"""Kills runs at random moments while their server misbehaves, and counts what was lost, repeated or changed.

    python benchmarks/faults.py --kills 4 --output benchmarks/results/faults.json

Every protocol answers stories with seats on a local server that commits all kinds of faults. It runs once undisturbed,
and once more in which it is killed (SIGKILL, with all its processes) again and again until it ends, with one process
and with two. `asked_twice` counts replies that the server gave a second time although the client had stored the first;
a reply that was under way when its client was killed is not among them. Transcripts and scores have to be equal.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from loopback import serve_chat
from measured import publish_measured

PROTOCOLS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "feedback_pair": {"max_rounds": 2, "verdict": "text"},
    "feedback_pair, decisions": {"max_rounds": 2, "verdict": "auto"},
    "speculative_pair": {"unit": "step", "accept": "judge", "max_corrections": 2},
    "debate": {"topology": "all", "max_rounds": 2},
    "self_consistency": {"k": 3, "temperature": 0.8},
}
SEATS = {
    "baseline": ("student",),
    "debate": ("agent1", "agent2"),
    "self_consistency": ("student",),
}
FAULTS = ("http_429", "http_500", "http_503", "timeout", "connection", "bad_json", "no_choices", "wrong_type", "empty")
SHARE = 0.1  # of all requests that fail
PATIENCE = 5.0  # seconds until a request of a client times out
QUESTIONS = 30


# -- the server ----------------------------------------------------------------------------------------------------


def reply_to(body: dict[str, Any]) -> str:
    """Return the reply to a request, which depends on nothing but the request."""
    number = int.from_bytes(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()[:6], "big")
    asked = body["messages"][-1]["content"]
    if "which you rate" in asked:
        return str(1 + number % 9)
    if "The student answered" in asked or "The student was given" in asked:
        return f"Correct. {number:x}" if number % 3 == 0 else f"Incorrect.\nHint: look at line {number % 9}."
    return f"Reasoning: {number:x} leads there.\nIt follows.\nAnswer: {('kitchen', 'garden', 'office')[number % 3]}"


async def serve(path: Path, seed: int) -> None:
    """Print the port, answer chat requests with faults, and log a line for each fault and each reply given."""
    from aiohttp import web

    rng = random.Random(seed)

    def note(kind: str, body: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
        with path.open("a") as file:
            file.write(f"{kind} {digest}\n")

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        await asyncio.sleep(0.01)
        fault = rng.choice(FAULTS) if rng.random() < SHARE else None
        text = reply_to(body)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": message}
        if body.get("logprobs"):
            share = 0.7 if len(text) % 2 else 0.3
            labels = (text, "0") if text.isdecimal() and text != "0" else ("Correct", "Incorrect")
            shares = ((labels[0], share), (labels[1], 1 - share))
            tops = [{"token": token, "logprob": log(part)} for token, part in shares]
            choice["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops}]}
        data: dict[str, Any] = {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}
        if fault is None:
            response = web.json_response(data)
            await response.prepare(request)
            note("answered", body)
            return response
        note(fault, body)
        if fault.startswith("http_"):
            return web.json_response({"error": "no"}, status=int(fault[5:]), headers={"Retry-After": "0.1"})
        if fault == "timeout":
            await asyncio.sleep(PATIENCE + 1)
        if fault == "connection":
            assert request.transport is not None
            request.transport.abort()
        if fault == "bad_json":
            return web.Response(text=json.dumps(data)[:-5], content_type="application/json")
        if fault == "wrong_type":
            message["content"] = 5
            choice["logprobs"] = 5  # a decision does not look at the text
        return web.json_response(data if fault == "wrong_type" else {} if fault == "empty" else {**data, "choices": []})

    await serve_chat(answer)


@contextmanager
def server(path: Path, seed: int) -> Iterator[str]:
    """Run the server in a process of its own, and provide its address."""
    command = [sys.executable, __file__, "--serve", str(path), "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


# -- the runs ------------------------------------------------------------------------------------------------------


def evaluate(protocol: str, url: str, folder: Path) -> None:
    """Run one evaluation in this process (or, under a launcher, in this one of several)."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    import harness_ext.tasks

    model = protocol.partition(",")[0]
    seats = SEATS.get(model, ("student", "teacher"))
    arguments: dict[str, Any] = dict(PROTOCOLS[protocol])
    for seat in seats:
        arguments |= {seat: f"openai:{seat}@{url}", f"{seat}.timeout": PATIENCE, f"{seat}.max_retries": 30}
        arguments[f"{seat}.num_concurrent"] = 4
    arguments |= {"run_dir": str(folder / "run"), "store": str(folder / "store"), "progress": "off"}
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=["babi_stories"],
        limit=QUESTIONS,
        task_manager=TaskManager(include_path=str(Path(harness_ext.tasks.__path__[0])), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=True,
    )
    if found is not None:
        (folder / "results.json").write_text(json.dumps(found["results"], sort_keys=True))


def start(protocol: str, url: str, folder: Path, processes: int, port: int) -> subprocess.Popen[str]:
    """Start a run in a process group of its own."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    command = [*launcher, __file__, "--evaluate", protocol, "--url", url, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    output = (folder / "log").open("a")
    return subprocess.Popen(command, stdout=output, stderr=output, text=True, env=environment, start_new_session=True)


def events(path: Path) -> list[tuple[str, str]]:
    """Return what the server noted: the kind of each event, and the digest of its request."""
    if not path.exists():
        return []
    return [(kind, digest) for kind, _, digest in (line.partition(" ") for line in path.read_text().splitlines())]


def stored(folder: Path) -> int:
    """Return how many calls the store of a run holds."""
    from harness_ext.records.call_store import CallStore

    store = CallStore(folder / "store")
    try:
        return len(store)
    finally:
        store.close()


def transcripts(folder: Path) -> list[Any]:
    """Return the transcripts of a run without what depends on the run, in the order of their questions."""
    from harness_ext.records.run_directory import read_transcripts

    found = []
    for transcript in sorted(read_transcripts(folder / "run"), key=lambda t: t.identity):
        data = transcript.to_json()
        for turn in data["turns"]:
            del turn["timing"]
        found.append(data)
    return found


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started; a launcher starts its processes in sessions of their own."""
    import psutil

    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)
    process.wait()


@dataclass
class Campaign:
    """What happened to one run that was killed until it ended."""

    killed: int = 0
    lost: int = 0
    repeated: int = 0


def kill_until_done(
    protocol: str, url: str, noted: Path, folder: Path, processes: int, kills: int, rng: Any
) -> Campaign:
    """Start a run again and again, killing it after a random number of further replies, until it ends."""
    campaign = Campaign()
    calls = max(1, len([1 for kind, _ in events(noted) if kind == "answered"]))
    noted.unlink(missing_ok=True)
    for number in range(kills + 1):
        before = len(events(noted))
        process = start(protocol, url, folder, processes, 29_600 + number)
        wanted = before + rng.randint(1, max(1, 2 * calls // kills))
        while process.poll() is None and (number == kills or len(events(noted)) < wanted):
            time.sleep(0.005)
        if process.poll() is not None:
            break
        time.sleep(rng.random() * 0.05)
        kill_all(process)
        campaign.killed += 1
        time.sleep(0.2)  # the server finishes what it was answering
        answered = sum(kind == "answered" for kind, _ in events(noted))
        campaign.lost = answered - stored(folder) if (folder / "store").exists() else answered
    if process.returncode != 0:
        raise RuntimeError(f"{protocol}: the run failed; see {folder / 'log'}\n{(folder / 'log').read_text()[-3000:]}")
    counts = Counter(digest for kind, digest in events(noted) if kind == "answered")
    campaign.repeated = sum(count - 1 for count in counts.values())
    return campaign


def measure(protocol: str, processes: int, kills: int, seed: int, base: Path) -> dict[str, Any]:
    """Run a protocol undisturbed and killed, and return what was counted."""
    noted, rng = base / "server.log", random.Random(seed)
    whole, killed = base / "whole", base / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    with server(noted, seed) as url:
        process = start(protocol, url, whole, processes, 29_599)
        if process.wait() != 0:
            raise RuntimeError(f"{protocol}: {(whole / 'log').read_text()[-3000:]}")
        campaign = kill_until_done(protocol, url, noted, killed, processes, kills, rng)
        faults = Counter(kind for kind, _ in events(noted) if kind != "answered")
    results = [(folder / "results.json").read_text() for folder in (whole, killed)]
    return {
        "protocol": protocol,
        "processes": processes,
        "kills_survived": campaign.killed,
        "faults_met": sum(faults.values()),
        "calls": stored(killed),
        "lost_in_flight": campaign.lost,
        "asked_twice": max(0, campaign.repeated - campaign.lost),
        "equal_transcripts": transcripts(whole) == transcripts(killed),
        "equal_scores": results[0] == results[1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), choices=PROTOCOLS)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--kills", type=int, default=4, help="of each protocol and number of processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", choices=PROTOCOLS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.serve:
        asyncio.run(serve(args.serve, args.seed))
    if args.evaluate:
        evaluate(args.evaluate, args.url, args.folder)
        return
    result: dict[str, Any] = {"runs": []}
    for protocol in args.protocols:
        for processes in args.processes:
            with tempfile.TemporaryDirectory() as folder:
                result["runs"].append(measure(protocol, processes, args.kills, args.seed, Path(folder)))
            publish_measured(result, args.output)


if __name__ == "__main__":
    main()
