"""Measures the embedded pair on bAbI's test rows, and whether feedback helps, with controls, intervals and tests.

    HARNESS_EXT_DATA=<folder> python benchmarks/embedded_pair.py --output benchmarks/results/embedded_pair

The scores are those of the task `babi_reasoning`. The runs are `baseline`, `skyline`, `feedback_pair`, and
`feedback_pair` with each review truncated to its first word (`student_sees=verdict`), which shows how much the verdict
alone gives away. The pools are the six tasks that the pair was made for (1, 6, 9, 11, 12, 13), the four of them that
are not yes/no questions (1, 11, 12, 13), and the two that are (6, 9). The difference to the baseline is tested with the
exact McNemar test over rows. Its 95 % interval is a bootstrap over stories, because rows of the same story share most
of their text.

A hint names the answer if a rejecting review contains the gold answer as a word.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from harness_ext.records.run_directory import read_transcripts

POOLS = {"six tasks": (1, 6, 9, 11, 12, 13), "not yes/no": (1, 11, 12, 13), "yes/no": (6, 9)}
RUNS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("baseline", {}),
    "skyline": ("skyline", {}),
    "feedback_pair": ("feedback_pair", {}),
    "verdict only": ("feedback_pair", {"student_sees": "verdict"}),
}
RESAMPLES = 10_000


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


@dataclass(frozen=True)
class Difference:
    """A run compared with the baseline on the same rows.

    difference: difference in accuracy.
    low, high: its 95 % interval.
    wrong_to_right, right_to_wrong: number of rows that changed.
    p_value: p-value of the exact McNemar test.
    """

    difference: float
    low: float
    high: float
    wrong_to_right: int
    right_to_wrong: int
    p_value: float


def compare(rows: Sequence[Row], run: str, seed: int = 0) -> Difference:
    """Compare a run with the baseline; `seed` is that of the bootstrap."""
    gained = sum(r.right[run] > r.right["baseline"] for r in rows)
    lost = sum(r.right[run] < r.right["baseline"] for r in rows)
    stories = sorted({(r.task, r.story) for r in rows})
    number = {story: i for i, story in enumerate(stories)}
    sums, sizes = np.zeros(len(stories)), np.zeros(len(stories))
    for row in rows:
        sums[number[row.task, row.story]] += row.right[run] - row.right["baseline"]
        sizes[number[row.task, row.story]] += 1
    drawn = np.random.default_rng(seed).integers(len(stories), size=(RESAMPLES, len(stories)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Difference(float(sums.sum() / sizes.sum()), float(low), float(high), gained, lost, float(p_value))


def evaluate(
    tasks: Sequence[int], limit: int | None, batch_size: int, folder: Path
) -> tuple[list[Row], dict[str, Any]]:
    """Run everything; return the rows, and the summary of each run with its counts of hints.

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
            model_args={**arguments, "store": str(folder / "calls"), "run_dir": str(folder / label.replace(" ", "_"))},
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


def report(rows: Sequence[Row], summaries: Mapping[str, Any]) -> str:
    """Return all results as Markdown."""
    lines = ["| task | rows | stories | " + " | ".join(RUNS) + " |", "| --- | --- | --- |" + " --- |" * len(RUNS)]
    tasks = sorted({r.task for r in rows})
    groups = [(str(n), (n,)) for n in tasks] + [(name, pool) for name, pool in POOLS.items() if set(pool) <= set(tasks)]
    for name, pool in groups:
        part = [r for r in rows if r.task in pool]
        stories = len({(r.task, r.story) for r in part})
        scores = " | ".join(f"{accuracy(part, run):.3f}" for run in RUNS)
        lines.append(f"| {name} | {len(part)} | {stories} | {scores} |")
    deviation = {run: np.std([accuracy([r for r in rows if r.task == n], run) for n in tasks], ddof=1) for run in RUNS}
    lines.append("| standard deviation over tasks | | | " + " | ".join(f"{deviation[run]:.3f}" for run in RUNS) + " |")
    lines += [
        "",
        "| pool | run | difference to baseline (95 %, by story) | wrong to right | right to wrong | McNemar p |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, pool in POOLS.items():
        part = [r for r in rows if r.task in pool]
        for run in RUNS if set(pool) <= set(tasks) else ():
            if run != "baseline":
                d = compare(part, run)
                lines.append(
                    f"| {name} | {run} | {d.difference:+.3f} ({d.low:+.3f} to {d.high:+.3f}) "
                    f"| {d.wrong_to_right} | {d.right_to_wrong} | {d.p_value:.2g} |"
                )
    hints = summaries["feedback_pair"]["hints"]
    lines += [
        "",
        f"{hints['naming_the_answer']} of {hints['rejecting_reviews']} rejecting reviews name the gold answer.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=list(range(1, 21)))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="folder for call store and run directories, to resume from later")
    parser.add_argument("--output", type=Path, help="write <output>.md and <output>.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, summaries = evaluate(args.tasks, args.limit, args.batch_size, args.folder or Path(folder))
    text = report(rows, summaries)
    print(text)
    if args.output:
        args.output.with_suffix(".md").write_text(text)
        content = {"summaries": summaries, "rows": [asdict(r) for r in rows]}
        args.output.with_suffix(".json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
