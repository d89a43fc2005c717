"""Measures the embedded pair on bAbI's test rows, and whether feedback helps, with controls, intervals and tests.

    HARNESS_EXT_DATA=<folder> python benchmarks/embedded_pair.py --output benchmarks/results/embedded_pair.json
    HARNESS_EXT_DATA=<folder> python benchmarks/embedded_pair.py --student small_student \\
        --output benchmarks/results/embedded_pair_small.json

The scores are those of the task `babi_reasoning`. The runs are `baseline`, `skyline`, `feedback_pair`, and two
controls. `verdict only` is `feedback_pair` with each review truncated to its first word (`student_sees=verdict`), which
shows how much the verdict alone gives away. `second look` is `second_look` with as many rounds as `feedback_pair` may
take, which shows how much the student gains from being asked again without any feedback. The pools are the six tasks
that the pair was made for (1, 6, 9, 11, 12, 13), the four of them that are not yes/no questions (1, 11, 12, 13), and
the two that are (6, 9). Differences to the baseline, their intervals and tests are those of `harness-ext compare`, with
stories as clusters, because rows of the same story share most of their text.

A hint names the answer if a rejecting review contains the gold answer as a word.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from embedded_seats import STUDENTS, embedded_seats
from measured import embedded, publish_measured

from harness_ext.analysis.statistics.paired import PairedDifference, paired_difference
from harness_ext.models.feedback_pair import FeedbackPair
from harness_ext.records.run_directory import read_transcripts

POOLS = {"six tasks": (1, 6, 9, 11, 12, 13), "not yes/no": (1, 11, 12, 13), "yes/no": (6, 9)}
RUNS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("baseline", {}),
    "skyline": ("skyline", {}),
    "feedback_pair": ("feedback_pair", {}),
    "verdict only": ("feedback_pair", {"student_sees": "verdict"}),
    "second look": ("second_look", {"rounds": FeedbackPair().max_rounds}),
}


@dataclass(frozen=True)
class Row:
    """A test row.

    task: number of the task.
    story: number of the story.
    right: the score of each run, 0 or 1.
    """

    task: int
    story: int
    right: Mapping[str, float]


def compare(rows: Sequence[Row], run: str) -> PairedDifference:
    """Compare a run with the baseline on the same rows, with stories as clusters."""
    first, second = ([row.right[name] for row in rows] for name in ("baseline", run))
    return paired_difference(first, second, (0.0, 1.0), [(row.task, row.story) for row in rows])


def evaluate(
    student: str, tasks: Sequence[int], limit: int | None, batch_size: int, folder: Path
) -> tuple[list[Row], dict[str, Any]]:
    """Run everything; return the rows, and the summary of each run with its counts of hints.

    student: name of the embedded student.
    tasks: numbers of the bAbI tasks.
    limit: rows per task, or None for all.
    batch_size: questions per batch.
    folder: folder for call store and run directories.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    names = {f"babi_reasoning_{n}": n for n in tasks}
    right: dict[tuple[int, int], dict[str, float]] = {}
    passages: dict[tuple[int, int], str] = {}
    gold: dict[tuple[str, int], str] = {}
    summaries: dict[str, Any] = {}
    for label, (model, arguments) in RUNS.items():
        results = lm_eval.simple_evaluate(
            model=model,
            model_args={
                **embedded_seats(model, student),
                **arguments,
                "store": str(folder / "calls"),
                "run_dir": str(folder / label.replace(" ", "_")),
            },
            tasks=list(names),
            limit=limit,
            batch_size=batch_size,
            bootstrap_iters=0,
            task_manager=manager,
        )
        for name, samples in results["samples"].items():
            for sample in samples:
                key = (names[name], sample["doc_id"])
                right.setdefault(key, {})[label] = float(sample["exact_match"])
                passages[key] = sample["doc"]["passage"]
                gold[name, sample["doc_id"]] = sample["doc"]["answer"]
        information = results["config"]["harness_ext"]
        summaries[label] = {**information["summary"], "hints": _hints(Path(information["run"]), gold)}
        print(label, {n: r["exact_match,none"] for n, r in results["results"].items()}, flush=True)
    rows, story, before = [], 0, ("", 0)
    for key in sorted(right):
        if before[1] != key[0] or not passages[key].startswith(before[0]):
            story += 1
        before = (passages[key], key[0])
        rows.append(Row(key[0], story, right[key]))
    return rows, summaries


def _hints(run: Path, gold: Mapping[tuple[str, int], str]) -> dict[str, int]:
    """Count rejecting reviews, and those of them that name the gold answer."""
    rejecting = naming = 0
    for transcript in read_transcripts(run):
        answer = re.escape(gold[transcript.task, transcript.doc_id].strip())
        for turn in transcript.turns:
            if turn.verdict is not None and not turn.verdict.get("accepted", True):
                rejecting += 1
                naming += bool(re.search(rf"\b{answer}\b", turn.text, re.IGNORECASE))
    return {"rejecting_reviews": rejecting, "naming_the_answer": naming}


def accuracy(rows: Sequence[Row], run: str) -> float:
    """Return the share of rows that a run answered correctly."""
    return sum(r.right[run] for r in rows) / len(rows)


def report(result: Mapping[str, Any]) -> str:
    """Return a result as Markdown: scores, differences to the baseline and hints."""
    rows = [Row(**row) for row in result["rows"]]
    runs, tasks = list(rows[0].right), sorted({r.task for r in rows})
    pools = {name: pool for name, pool in POOLS.items() if set(pool) <= set(tasks)}
    lines = [f"| task | rows | stories | {' | '.join(runs)} |", "| --- " * (3 + len(runs)) + "|"]
    for name, pool in [*((str(n), (n,)) for n in tasks), *pools.items()]:
        part = [r for r in rows if r.task in pool]
        stories = len({(r.task, r.story) for r in part})
        scores = " | ".join(f"{accuracy(part, run):.3f}" for run in runs)
        lines.append(f"| {name} | {len(part)} | {stories} | {scores} |")
    if len(tasks) > 1:
        spread = [stdev(accuracy([r for r in rows if r.task == n], run) for n in tasks) for run in runs]
        lines.append(f"| standard deviation over tasks | | | {' | '.join(f'{one:.3f}' for one in spread)} |")
    lines += [
        "",
        "| pool | run | difference to baseline (95 %) | wrong to right | right to wrong | p |",
        "| --- " * 6 + "|",
    ]
    for name, pool in pools.items():
        part = [r for r in rows if r.task in pool]
        for run in (run for run in runs if run != "baseline"):
            d = compare(part, run)
            interval = f"{d.interval.low:+.3f} to {d.interval.high:+.3f}"
            lines.append(f"| {name} | {run} | {d.value:+.3f} ({interval}) | {d.up} | {d.down} | {d.p_value:.2g} |")
    hints = result["summaries"]["feedback_pair"]["hints"]
    named = f"{hints['naming_the_answer']} of {hints['rejecting_reviews']} rejecting reviews name the gold answer."
    return "\n".join([*lines, "", "Intervals and p-values: sign-flip test over stories.", "", named]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", choices=STUDENTS, default=STUDENTS[0], help="default: %(default)s")
    parser.add_argument("--tasks", type=int, nargs="+", default=list(range(1, 21)))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="folder for call store and run directories, to resume from later")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, summaries = evaluate(args.student, args.tasks, args.limit, args.batch_size, args.folder or Path(folder))
    result = {"summaries": summaries, "rows": [asdict(row) for row in rows]}
    print(report(result))
    if args.output is not None:
        publish_measured(result, args.output.with_suffix(".json"), embedded(args.student, "teacher"))


if __name__ == "__main__":
    main()
