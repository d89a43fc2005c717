"""Measures what the start-up file costs, and what `lm_eval run` costs before its first call to a served model.

    python benchmarks/startup.py [--runs 200] [--output benchmarks/results/startup.json]

The start-up file is measured at interpreter start, at every import, and for `lm_eval --help`.

Interpreter starts are measured alternately in two fresh virtual environments that differ only in the start-up files, so
that other work on the machine affects both. Times are milliseconds of processor time (user and system), which is less
sensitive to other work than wall time; `wall_difference` is given for comparison. A difference is the mean of the
paired differences, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from dataclasses import dataclass
from pathlib import Path

from measured import publish_measured
from startup_first_call import first_call

from harness_ext.analysis.statistics.paired import estimate
from harness_ext.bridge import startup

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="pairs of interpreter starts")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "startup.json")
    options = parser.parse_args()

    results = {
        "system": system(),
        "interpreter_start": interpreter_start(options.runs),
        "each_import_of_another_module": {"nanoseconds": round(import_overhead_ns())},
        "lm_eval_help": lm_eval_help(max(5, options.runs // 10)),
        "first_call": first_call(max(3, options.runs // 20)),
    }
    print(json.dumps(results, indent=2))
    publish_measured(results, options.output)


def system() -> dict[str, object]:
    """Return what the times depend on."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "lm_eval": importlib.metadata.version("lm_eval"),
        "harness_ext": importlib.metadata.version("harness-ext"),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def interpreter_start(runs: int) -> dict[str, object]:
    """Time `python -c pass` with and without the start-up files."""
    with tempfile.TemporaryDirectory() as folder:
        pythons = {}
        for name in ("without", "with"):
            environment = Path(folder, name.ljust(7, "_"))
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
            pythons[name] = environment / "bin" / "python"
        site = next(pythons["with"].parent.parent.glob("lib/python*/site-packages"))
        shutil.copy(ROOT / "harness_ext" / "bridge" / "startup.py", site / "harness_ext_startup.py")
        for name in ("harness_ext.pth", "harness_ext.start"):
            shutil.copy(ROOT / "build_backend" / name, site)
        # pip compiles files when it installs them.
        subprocess.run([pythons["with"], "-m", "compileall", "-q", site], check=True)

        samples = in_turns({name: ([python, "-c", "pass"], {}) for name, python in pythons.items()}, runs)
        return {"pairs": runs, **compared(samples), "importtime_of_the_module": importtime(pythons["with"])}


def importtime(python: Path) -> float:
    """Return the time of the start-up module by `-X importtime` in milliseconds, as the median of 20 starts."""
    found = []
    for _ in range(20):
        done = subprocess.run([python, "-X", "importtime", "-c", "pass"], capture_output=True, text=True, check=True)
        found.append(int(re.findall(r"(\d+) \|\s+harness_ext_startup", done.stderr)[0]) / 1000)
    return round(statistics.median(found), 3)


def import_overhead_ns() -> float:
    """Return how long the import hook takes for an unrelated module, in nanoseconds: the best of five measurements."""
    hook = startup.PluginHook()
    return min(timeit.repeat(lambda: hook.find_spec("json"), number=100_000, repeat=5)) / 100_000 * 1e9


def lm_eval_help(runs: int) -> dict[str, object]:
    """Time `lm_eval --help` in this environment with the hook on and off."""
    command = [sys.executable, "-m", "lm_eval", "--help"]
    off, on = {"HARNESS_EXT_NO_PLUGINS": "1"}, {"HARNESS_EXT_NO_PLUGINS": ""}
    return {"pairs": runs, **compared(in_turns({"without": (command, off), "with": (command, on)}, runs))}


@dataclass(frozen=True)
class Run:
    """The processor time and wall time of a process, in milliseconds."""

    processor: float
    wall: float


def timed(command: list[object], variables: dict[str, str]) -> Run:
    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run((used.ru_utime + used.ru_stime) * 1000, wall * 1000)


def in_turns(commands: dict[str, tuple[list[object], dict[str, str]]], runs: int) -> dict[str, list[Run]]:
    """Run the commands alternately, `runs` times each after a warm-up."""
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, (command, variables) in commands.items():
            run = timed(command, variables)
            if turn:
                found[name].append(run)
    return found


def compared(runs: dict[str, list[Run]]) -> dict[str, object]:
    pairs = list(zip(runs["without"], runs["with"], strict=True))
    differences = [b.processor - a.processor for a, b in pairs]
    found = estimate(differences, None)
    return {
        "without": round(statistics.median(a.processor for a, _ in pairs), 2),
        "with": round(statistics.median(b.processor for _, b in pairs), 2),
        "difference": round(found.value, 3),
        "interval": [round(found.interval.low, 3), round(found.interval.high, 3)],
        "wall_difference": round(statistics.fmean(b.wall - a.wall for a, b in pairs), 3),
    }


if __name__ == "__main__":
    main()
