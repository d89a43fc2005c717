"""Runs all protocols with the embedded pair on bAbI's test rows, and tabulates exact match, tokens and wall time.

    HARNESS_EXT_DATA=<folder> python benchmarks/protocols_table.py --output benchmarks/results/protocols_table

The pair was trained on the prompts of `feedback_pair` and on continuing partial replies, but not on the prompts of a
debate. Its debates only show that the protocol works and what it costs.

Each run starts without a store, so that its wall time includes all its calls. `self_consistency` draws as many samples
as cost the same number of output tokens as `feedback_pair`. The scores are those of the task `babi_reasoning`, with
95 % Wilson intervals. Finally, `harness-ext compare` compares the runs with the baseline question by question, with
questions about the same story as clusters.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measured import machine_at_start, versions
from scipy.stats import binomtest

SIX_TASKS = (1, 6, 9, 11, 12, 13)
# Rows of the same story begin with the same line; rows of different stories seldom do.
FIRST_LINE = "{{passage.split('\\n')[0]}}"
RUNS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("baseline", {}),
    "feedback_pair": ("feedback_pair", {}),
    "self_consistency": ("self_consistency", {"k": "auto:{feedback_pair}"}),
    **{
        f"speculative_pair {unit} {accept}": ("speculative_pair", {"unit": unit, "accept": accept})
        for unit in ("token", "step", "chunk")
        for accept in ("greedy", "topk")
    },
    "debate turns": ("debate", {"topology": "turns"}),
    "debate all": ("debate", {"topology": "all"}),
    "skyline": ("skyline", {}),
}


@dataclass(frozen=True)
class Line:
    """The results of a run.

    run: name of the run.
    questions: number of questions.
    right: share of correct answers.
    low, high: its 95 % interval.
    written: completion tokens per question by seat; None if they were not counted.
    read_and_written: prompt and completion tokens per question; None if they were not counted.
    seconds: wall time of the run.
    stops: number of questions by the reason why they ended.
    options: options of the protocol.
    """

    run: str
    questions: int
    right: float
    low: float
    high: float
    written: dict[str, float | None]
    read_and_written: float | None
    seconds: float
    stops: dict[str, int]
    options: dict[str, Any]


def evaluate(runs: Sequence[str], tasks: Sequence[int], limit: int | None, batch_size: int, folder: Path) -> list[Line]:
    """Run the protocols one after the other.

    runs: names of the runs.
    tasks: numbers of the bAbI tasks.
    limit: rows per task, or None for all.
    batch_size: questions per batch.
    folder: folder for the run directories.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager, lines = TaskManager(), list[Line]()
    # A warm-up question, so that the first run is not charged for importing everything.
    warm = {"store": "off", "run_dir": str(directory(folder, "warm up"))}
    lm_eval.simple_evaluate("baseline", warm, [f"babi_reasoning_{tasks[0]}"], limit=1, task_manager=manager)
    for label in runs:
        model, options = RUNS[label]
        where = {name: str(directory(folder, name)) for name in RUNS}
        arguments = {n: v.format(**where) if isinstance(v, str) else v for n, v in options.items()}
        started = time.perf_counter()
        results = lm_eval.simple_evaluate(
            model=model,
            model_args={**arguments, "store": "off", "run_dir": where[label], "model": label},
            tasks=[f"babi_reasoning_{n}" for n in tasks],
            limit=limit,
            batch_size=batch_size,
            bootstrap_iters=0,
            task_manager=manager,
        )
        right = [float(s["exact_match"]) for samples in results["samples"].values() for s in samples]
        lines.append(line(label, right, time.perf_counter() - started, directory(folder, label)))
        print(json.dumps(asdict(lines[-1])), flush=True)
    return lines


def directory(folder: Path, label: str) -> Path:
    """Return the directory of a run."""
    return folder / label.replace(" ", "_")


def line(label: str, right: Sequence[float], seconds: float, run: Path) -> Line:
    """Return the results of a run from its scores and its records.

    label: name of the run.
    right: the score of each question.
    seconds: wall time of the run.
    run: its run directory.
    """
    summary = json.loads((run / "summary.json").read_text())
    interval = binomtest(round(sum(right)), len(right)).proportion_ci(method="wilson")
    totals = {seat: usage["total"] for seat, usage in summary["usage"].items()}
    read = [_sum(total["prompt_tokens"], total["completion_tokens"]) for total in totals.values()]
    return Line(
        label,
        len(right),
        sum(right) / len(right),
        float(interval.low),
        float(interval.high),
        {seat: _share(total["completion_tokens"], len(right)) for seat, total in totals.items()},
        None if None in read else sum(n for n in read if n is not None) / len(right),
        seconds,
        summary["stops"],
        {n: v for n, v in _options(run).items() if n in ("k", "unit", "accept", "topology", "max_rounds")},
    )


def _options(run: Path) -> dict[str, Any]:
    options: dict[str, Any] = json.loads((run / "config.json").read_text())["identity"]["options"]
    return options


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _share(count: int | None, of: int) -> float | None:
    return None if count is None else count / of


def table(lines: Sequence[Line]) -> str:
    """Return the lines as Markdown."""
    rows = [
        "| run | exact match (95 %) | written tokens per question | all tokens per question | seconds |",
        "| --- " * 5 + "|",
    ]
    for entry in lines:
        written = ", ".join(f"{seat} {'?' if n is None else f'{n:.1f}'}" for seat, n in entry.written.items())
        every = "?" if entry.read_and_written is None else f"{entry.read_and_written:.0f}"
        name = f"{entry.run} (k={entry.options['k']})" if "k" in entry.options else entry.run
        share = f"{entry.right:.3f} ({entry.low:.3f}–{entry.high:.3f})"
        rows.append(f"| {name} | {share} | {written} | {every} | {entry.seconds:.0f} |")
    return "\n".join(rows) + "\n"


def against_baseline(runs: Sequence[str], folder: Path, output: Path | None) -> None:
    """Compare the runs with `harness-ext compare`.

    runs: names of the runs.
    folder: folder with the run directories.
    output: folder for `compare.md` and `compare.json`; None only prints the table.
    """
    from harness_ext.analysis.compare.command import main as compare

    files = [] if output is None else ["--output", str(output / "compare.md"), "--output", str(output / "compare.json")]
    named = [f"{label}={directory(folder, label)}" for label in runs]
    status = compare([*named, "--metric", "exact_match", "--cluster", FIRST_LINE, *files])
    if status:
        raise SystemExit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="default: all")
    parser.add_argument("--tasks", nargs="+", type=int, default=list(SIX_TASKS), help="numbers of the bAbI tasks")
    parser.add_argument("--limit", type=int, help="rows per task; default: all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--keep", type=Path, help="folder to keep the run directories in")
    parser.add_argument("--output", type=Path, help="folder for protocols_table.json and protocols_table.md")
    args = parser.parse_args()
    machine = machine_at_start()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        lines = evaluate(args.runs, args.tasks, args.limit, args.batch_size, folder)
        print(table(lines))
        if args.output is not None:
            args.output.mkdir(parents=True, exist_ok=True)
        against_baseline(args.runs, folder, args.output)
    if args.output is not None:
        result = {"runs": [asdict(entry) for entry in lines], "machine": machine, "versions": versions()}
        (args.output / "protocols_table.json").write_text(json.dumps(result, indent=2) + "\n")
        (args.output / "protocols_table.md").write_text(table(lines))


if __name__ == "__main__":
    main()
