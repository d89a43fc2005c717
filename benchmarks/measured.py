"""Helpers of the benchmarks: facts about the machine, and printing and saving of results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine_and_load() -> dict[str, Any]:
    """Return the machine and its current load averages."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": [round(x, 1) for x in os.getloadavg()],
    }


def machine_at_start() -> str:
    """Return the machine and its load. Call it before a measurement, so that its own load does not count."""
    return f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"


def commit() -> str:
    """Return the commit of the repository that this script is in, with `-dirty` if its files were changed since."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return found.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Return the versions of the software that affects timings."""
    return {"python": platform.python_version(), **{n: version(n) for n in ("torch", "transformers", "lm_eval")}}


def publish(result: Any, output: Path | None) -> None:
    """Print a result as JSON and, if `output` is given, write it there."""
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if output:
        output.write_text(text)
