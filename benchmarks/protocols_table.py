"""Runs all protocols with the embedded pair on bAbI's test rows, and tabulates exact match, tokens and wall time.

    HARNESS_EXT_DATA=<folder> python benchmarks/protocols_table.py --output benchmarks/results/protocols_table
    HARNESS_EXT_DATA=<folder> python benchmarks/protocols_table.py --student small_student --runs baseline \\
        feedback_pair "verdict only" "second look" self_consistency skyline \\
        --output benchmarks/results/protocols_table_small

`verdict only` and `second look` are controls of `feedback_pair`: the student sees no more of a review than its verdict,
or is asked to look at its answer again without any review, up to as many times as `feedback_pair` may.

The pair was trained on the prompts of `feedback_pair` and on continuing partial replies, but not on the prompts of a
debate. Its debates only show that the protocol works and what it costs.

Each run starts without a store, so that its wall time includes all its calls. `self_consistency` draws as many samples
as cost the same number of output tokens as `feedback_pair`. The scores are those of the task `babi_reasoning`. Finally,
`harness-ext compare` compares the runs with the baseline question by question, with questions about the same story as
clusters, in all intervals and tests.
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

from embedded_seats import STUDENTS, embedded_seats
from measured import embedded, publish_measured

from harness_ext.analysis.clustering import cluster_of
from harness_ext.analysis.statistics.paired import estimate
from harness_ext.models.feedback_pair import FeedbackPair

SIX_TASKS = (1, 6, 9, 11, 12, 13)
YES_NO = (6, 9)
# Rows of the same story begin with the same line; rows of different stories seldom do.
FIRST_LINE = "{{passage.split('\\n')[0]}}"
RUNS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("baseline", {}),
    "feedback_pair": ("feedback_pair", {}),
    "verdict only": ("feedback_pair", {"student_sees": "verdict"}),
    "second look": ("second_look", {"rounds": FeedbackPair().max_rounds}),
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
    pools: share of correct answers to yes/no questions and to others, as far as there are any.
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
    pools: dict[str, float]
    written: dict[str, float | None]
    read_and_written: float | None
    seconds: float
    stops: dict[str, int]
    options: dict[str, Any]


def evaluate(
    student: str, runs: Sequence[str], tasks: Sequence[int], limit: int | None, batch_size: int, folder: Path
) -> list[Line]:
    """Run the protocols one after the other.

    student: name of the embedded student.
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
            model_args={
                **embedded_seats(model, student),
                **arguments,
                "store": "off",
                "run_dir": where[label],
                "model": label,
            },
            tasks=[f"babi_reasoning_{n}" for n in tasks],
            limit=limit,
            batch_size=batch_size,
            bootstrap_iters=0,
            task_manager=manager,
        )
        lines.append(line(label, results["samples"], time.perf_counter() - started, directory(folder, label)))
        print(json.dumps(asdict(lines[-1])), flush=True)
    return lines


def directory(folder: Path, label: str) -> Path:
    """Return the directory of a run."""
    return folder / label.replace(" ", "_")


def line(label: str, samples: Mapping[str, Sequence[Mapping[str, Any]]], seconds: float, run: Path) -> Line:
    """Return the results of a run from its samples and its records.

    label: name of the run.
    samples: lm-eval's samples, by task.
    seconds: wall time of the run.
    run: its run directory.
    """
    summary = json.loads((run / "summary.json").read_text())
    scores = {task: [float(sample["exact_match"]) for sample in some] for task, some in samples.items()}
    right = [score for task in scores.values() for score in task]
    stories = [cluster_of(FIRST_LINE, task, sample["doc"]) for task, some in samples.items() for sample in some]
    yes_no = [score for n in YES_NO for score in scores.get(f"babi_reasoning_{n}", ())]
    others = [score for task, some in scores.items() if int(task.rpartition("_")[2]) not in YES_NO for score in some]
    interval = estimate(right, (0.0, 1.0), stories).interval
    totals = {seat: usage["total"] for seat, usage in summary["usage"].items()}
    read = [_sum(total["prompt_tokens"], total["completion_tokens"]) for total in totals.values()]
    return Line(
        label,
        len(right),
        sum(right) / len(right),
        interval.low,
        interval.high,
        {name: sum(some) / len(some) for name, some in (("not yes/no", others), ("yes/no", yes_no)) if some},
        {seat: _share(total["completion_tokens"], len(right)) for seat, total in totals.items()},
        None if None in read else sum(n for n in read if n is not None) / len(right),
        seconds,
        summary["stops"],
        {
            n: v
            for n, v in _options(run).items()
            if n in ("k", "unit", "accept", "topology", "max_rounds", "rounds", "student_sees")
        },
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
        "| run | exact match (95 %) | not yes/no | yes/no | written tokens per question | all tokens per question "
        "| seconds |",
        "| --- " * 7 + "|",
    ]
    for entry in lines:
        written = ", ".join(f"{seat} {'?' if n is None else f'{n:.1f}'}" for seat, n in entry.written.items())
        every = "?" if entry.read_and_written is None else f"{entry.read_and_written:.0f}"
        name = f"{entry.run} (k={entry.options['k']})" if "k" in entry.options else entry.run
        share = f"{entry.right:.3f} ({entry.low:.3f}–{entry.high:.3f})"
        pools = " | ".join(
            f"{entry.pools[pool]:.3f}" if pool in entry.pools else "" for pool in ("not yes/no", "yes/no")
        )
        rows.append(f"| {name} | {share} | {pools} | {written} | {every} | {entry.seconds:.0f} |")
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
    parser.add_argument("--student", choices=STUDENTS, default=STUDENTS[0], help="default: %(default)s")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="default: all")
    parser.add_argument("--tasks", nargs="+", type=int, default=list(SIX_TASKS), help="numbers of the bAbI tasks")
    parser.add_argument("--limit", type=int, help="rows per task; default: all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--keep", type=Path, help="folder to keep the run directories in")
    parser.add_argument("--output", type=Path, help="folder for protocols_table.json, compare.json and compare.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        lines = evaluate(args.student, args.runs, args.tasks, args.limit, args.batch_size, folder)
        print(table(lines))
        if args.output is not None:
            args.output.mkdir(parents=True, exist_ok=True)
        against_baseline(args.runs, folder, args.output)
    if args.output is not None:
        files = [args.output / name for name in ("compare.json", "compare.md")]
        weights = embedded(args.student, "teacher")
        publish_measured(
            {"runs": [asdict(entry) for entry in lines]}, args.output / "protocols_table.json", weights, files
        )


if __name__ == "__main__":
    main()
