"""What every measurement says of the machine it was made on, and how its result is shown and kept."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine_and_load() -> dict[str, Any]:
    """Return the machine, and its load averages now."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": [round(x, 1) for x in os.getloadavg()],
    }


def machine_at_start() -> str:
    """Return the machine and its load; called before a measurement, whose own load it must not count."""
    return f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"


def versions() -> dict[str, str]:
    """Return the versions that timings depend on."""
    return {"python": platform.python_version(), **{n: version(n) for n in ("torch", "transformers", "lm_eval")}}


def publish(result: Any, output: Path | None) -> None:
    """Print a result as JSON and write it to `output`, if that is given."""
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if output:
        output.write_text(text)
