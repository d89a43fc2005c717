"""What `lm_eval run` costs before its first call, with served seats and with lm-eval's own client.

`python benchmarks/startup.py` measures this; `python benchmarks/startup_first_call.py` prints it alone. A server on
loopback answers. The numbers are those of the client at the moment at which it opens its first connection to the
server: processor time (user and system), wall time since it was started, the largest resident memory so far, and which
large packages are loaded.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopback import serve_reply

HEAVY = ("torch", "transformers", "datasets", "scipy", "pandas", "sklearn")
TASK = ("--tasks", "babi_stories", "--limit", "1")
# lm-eval imports torch in order to seed it; the third number is torch's.
UNSEEDED = ("--seed", "0,1234,None,1234")

# Runs `lm_eval` and writes a report when the process opens its first connection to the server's port.
PROBE = f"""
import resource, runpy, sys, time

HEAVY = {HEAVY!r}
report, port = sys.argv[1], int(sys.argv[2])
told = False

def watch(event, args):
    global told
    if told or event != "socket.connect" or not isinstance(args[1], tuple) or args[1][1] != port:
        return
    told = True
    used = resource.getrusage(resource.RUSAGE_SELF)
    import json
    found = {{
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "reached": time.time(),
        "peak_rss_mib": used.ru_maxrss / 1024,
        "loaded": [name for name in HEAVY if name in sys.modules],
    }}
    with open(report, "w") as file:
        json.dump(found, file)

sys.addaudithook(watch)
sys.argv = ["lm_eval", *sys.argv[3:]]
runpy.run_module("lm_eval", run_name="__main__", alter_sys=True)
"""


def first_call(runs: int) -> list[dict[str, Any]]:
    """Return one row per kind of run: the least processor time and the medians of the rest, over `runs` runs of it.

    Other work on the machine only ever adds to processor time, so the least of several is the best estimate.
    """
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        kinds = _kinds(f"http://127.0.0.1:{port}/v1")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
        for turn in range(runs + 1):
            for name, arguments in kinds.items():
                report = _run(port, arguments)
                if turn:  # the first one compiles files and fills the disk's cache
                    found[name].append(report)
    finally:
        server.terminate()
        server.wait()
    return [{"run": name, **_summary(reports)} for name, reports in found.items()]


def _kinds(url: str) -> Mapping[str, tuple[str, ...]]:
    seats = f"student=openai:m@{url},teacher=openai:m@{url},progress=off"
    ours = ("--model", "feedback_pair", "--model_args", seats, *TASK)
    client = f"model=m,base_url={url}/chat/completions"
    stock = ("--model", "local-chat-completions", "--model_args", client, "--apply_chat_template", *TASK)
    return {
        "feedback_pair, served seats": ours,
        "local-chat-completions": stock,
        "feedback_pair, served seats, torch not seeded": (*ours, *UNSEEDED),
        "local-chat-completions, torch not seeded": (*stock, *UNSEEDED),
    }


def _run(port: int, arguments: tuple[str, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        # Runs and stores go to the working directory, which is a fresh one: no reply may come from an earlier run.
        command = [sys.executable, "-c", PROBE, str(report), str(port), "run", *arguments]
        started = time.time()
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode or not report.exists():
            raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(report.read_text())
    found["wall_seconds"] = found.pop("reached") - started
    return found


def _summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    loaded = {tuple(report["loaded"]) for report in reports}
    return {
        "cpu_seconds": round(min(report["cpu_seconds"] for report in reports), 2),
        "wall_seconds": round(statistics.median(report["wall_seconds"] for report in reports), 2),
        "peak_rss_mib": round(statistics.median(report["peak_rss_mib"] for report in reports)),
        "loaded": sorted({name for names in loaded for name in names}, key=HEAVY.index),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        asyncio.run(serve_reply("Answer: 1", 3))
    else:
        print(json.dumps(first_call(runs=3), indent=2))
