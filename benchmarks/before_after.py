"""Measures the cost of a call and of the start before and after a change, in the same run.

    git worktree add --detach ../before 67ff529
    python benchmarks/before_after.py --before ../before --output benchmarks/results/before_after.json

Two measurements, each in a process of its own that imports the checkout it measures: `overhead.py` (the engine's own
processor time per call) and `startup_first_call.py` (what `lm_eval run` costs before its first call to a served model).
The checkouts take turns, `--repeats` times, and the least processor time counts, since other work on the machine only
ever adds to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measured import ROOT, environment_of, publish_measured


def call(environment: dict[str, str], questions: int) -> dict[str, Any]:
    """Return the engine's cost per call, when a model answers it and when the call store does."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "result.json")
        command = [sys.executable, str(ROOT / "benchmarks" / "overhead.py"), "--questions", str(questions)]
        subprocess.run([*command, "--output", str(output)], env=environment, check=True, cwd=folder)
        found = json.loads(output.read_text(encoding="utf-8"))
    return {
        "cpu_ms_a_fresh_call": found["first_run"]["cpu_ms_a_call"],
        "of_it_the_store": found["first_run"]["store_cpu_ms_a_call"],
        "cpu_ms_a_stored_call": found["repeated_run"]["cpu_ms_a_call"],
    }


def start(environment: dict[str, str]) -> dict[str, Any]:
    """Return what a run with served seats costs before its first call, and what lm-eval's own client costs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "benchmarks" / "startup_first_call.py")]
        done = subprocess.run(command, env=environment, check=True, cwd=folder, capture_output=True, text=True)
    return {
        f"{row['run']}, {unit}": row[name]
        for row in json.loads(done.stdout)
        for unit, name in (("CPU seconds", "cpu_seconds"), ("MiB", "peak_rss_mib"))
    }


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the commit to compare with")
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    environments = {"before": environment_of(args.before), "after": environment_of(ROOT)}
    found: dict[str, dict[str, Any]] = {side: {} for side in environments}
    for _ in range(args.repeats):
        for side, environment in environments.items():
            for name, value in call(environment, args.questions).items():
                found[side][name] = min(value, found[side].get(name, value))
    for side, environment in environments.items():
        found[side] |= start(environment)
    publish_measured({"questions": args.questions, **found}, args.output)


if __name__ == "__main__":
    main()
