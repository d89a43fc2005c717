"""Measures `harness-ext enhance` on real rows and on generated stories, with the embedded models.

    python benchmarks/enhance.py throughput --rows 192 --output benchmarks/results/enhance_throughput.json
    python benchmarks/enhance.py creak --rows 200 --output benchmarks/results/enhance_creak.json
    python benchmarks/enhance.py stories --rows 300 --output benchmarks/results/enhance_stories.json

- `throughput`: the time of `annotate` from the input file to the checked output, of the same calls as one flat batch of
  the same model, and of the published way with one `generate` per row. They run alternately, and the fastest of
  `--repeats` counts. Because other work on the machine disturbs wall times, CPU times are reported as well.
- `creak` (requires HARNESS_EXT_DATA): `prepare` on all training rows, and the teacher's replies to the three prompts of
  the first rows. The embedded teacher knows only stories, so its texts on CREAK are noise, which the checks must flag.
- `stories`: checks of rationales against the gold answers, and preferences between four candidates of the embedded
  student, judged by the embedded teacher's reviews, by its comparisons of pairs, and by gold answers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measured import embedded, publish_measured

from harness_ext.backends.base import GenerateRequest
from harness_ext.backends.hf import HFBackend
from harness_ext.embedded import model_path
from harness_ext.enhance.annotate import Annotate, AnnotateJob, annotate, settings
from harness_ext.enhance.candidates import Candidates
from harness_ext.enhance.checks import CONTAMINATION, FLAGS
from harness_ext.enhance.postprocess import finish
from harness_ext.enhance.preferences import PreferenceJob, write_candidates, write_judgements, write_pairs
from harness_ext.enhance.prepare import prepare
from harness_ext.enhance.running import plan_seats
from harness_ext.enhance.templates import load_templates
from harness_ext.enhance.tournament import Tournament
from harness_ext.tasks.babi_stories.rows import draw

SEED = 9_000_000  # seed of stories that are neither training nor test rows
PROMPTS = ("cot_text", "error_text", "fundamental_text")


def stories(folder: Path, rows: int) -> Path:
    """Generate stories of 2 to 6 lines and add the teacher's prompts; return the file."""
    raw = folder / "raw.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in draw(SEED, rows, (2, 6))))
    prepare(raw, folder / "stories.jsonl", load_templates("stories"))
    return folder / "stories.jsonl"


def model(seat: str, batch_size: int) -> HFBackend:
    backend = HFBackend({"pretrained": str(model_path(seat)), "batch_size": batch_size, "device": "cpu"})
    backend.load()
    backend.loaded = True
    return backend


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def throughput(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    templates = load_templates("stories")
    gen_kwargs = settings(templates, {})
    source = stories(folder, args.rows)
    teacher = model("teacher", args.batch_size)
    prompts = [json.loads(line)["cot_text"] for line in source.read_text().splitlines()]
    requests = [GenerateRequest(prompt, gen_kwargs) for prompt in prompts]
    number = 0

    def run() -> None:
        nonlocal number
        number += 1
        arguments = {"progress": "off", "store": str(folder / f"calls{number}")}
        plan = plan_seats(Annotate, {"teacher": teacher}, arguments)
        annotate(AnnotateJob(source, folder / f"out{number}.jsonl", "cot_text", gen_kwargs, templates), plan)

    def flat() -> None:
        teacher.generate(requests, lambda i, completion: None)

    def one_by_one() -> None:
        for request in requests[: args.loop_rows]:
            teacher.generate([request], lambda i, completion: None)

    def measure(work: Callable[[], object]) -> tuple[float, float]:
        cpu = 0.0

        def timed() -> None:
            nonlocal cpu
            cpu = seconds(work, time.process_time)

        return seconds(timed), cpu

    flat()
    works = {"annotate": run, "flat": flat, "one_by_one": one_by_one}
    turns = ["one_by_one", *("annotate", "flat") * args.repeats]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for name in turns:
        times[name].append(measure(works[name]))
    wall = {name: min(w for w, _ in found) for name, found in times.items()}
    cpu = {name: min(c for _, c in found) for name, found in times.items()}
    scale = args.rows / min(args.rows, args.loop_rows)
    row = {
        "rows": args.rows,
        "annotate_seconds": round(wall["annotate"], 2),
        "flat_seconds": round(wall["flat"], 2),
        "efficiency": round(wall["flat"] / wall["annotate"], 3),
        "efficiency_in_CPU_seconds": round(cpu["flat"] / cpu["annotate"], 3),
        "one_by_one_seconds": round(wall["one_by_one"] * scale, 2),
        "speed_up": round(wall["one_by_one"] * scale / wall["annotate"], 2),
        "speed_up_in_CPU_seconds": round(cpu["one_by_one"] * scale / cpu["annotate"], 2),
    }
    return {"rows": [row], "batch_size": args.batch_size, "all_seconds": times, "loop_rows": args.loop_rows}


def creak(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    source = Path(os.environ["HARNESS_EXT_DATA"]) / "creak" / "train.jsonl"
    templates = load_templates("creak")
    prepared = prepare(source, folder / "creak.jsonl", templates)
    gen_kwargs = settings(templates, {"max_gen_toks": args.max_gen_toks})
    plan = plan_seats(
        Annotate, {"teacher": model("teacher", args.batch_size)}, {"progress": "off", "store": str(folder / "calls")}
    )
    rows = []
    for prompt in PROMPTS:
        target = folder / f"{prompt}.jsonl"
        job = AnnotateJob(folder / "creak.jsonl", target, prompt, gen_kwargs, templates, limit=args.rows)
        took = seconds(lambda job=job: annotate(job, plan))  # type: ignore[misc]
        rows.append(checked_row(prompt, target, took))
    saved = finish(folder / "cot_text.jsonl", folder / "set")
    fields = sorted(json.loads((folder / "cot_text.jsonl").read_text().splitlines()[0]))
    return {"prepared": prepared["counts"], "rows": rows, "saved": saved["counts"], "fields": [*fields, "cot_tail"]}


def checked_row(prompt: str, target: Path, took: float) -> dict[str, Any]:
    """Return a row of the table: counts, seconds and flags of an annotated file."""
    manifest = json.loads(target.with_suffix(".manifest.json").read_text())
    report = json.loads(target.with_suffix(".report.json").read_text())
    flags = {flag: report["flags"].get(flag, {"rows": "–"})["rows"] for flag in FLAGS if flag not in CONTAMINATION}
    return {"prompt": prompt, **manifest["counts"], "seconds": round(took, 1), **flags}


def tell(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    templates = load_templates("stories")
    gen_kwargs = settings(templates, {})
    source = stories(folder, args.rows)
    teacher, student = model("teacher", args.batch_size), model("student", args.batch_size)
    arguments = {"progress": "off", "store": str(folder / "calls")}
    rationales, preferences = [], []
    for prompt in PROMPTS:
        job = AnnotateJob(source, folder / f"{prompt}.jsonl", prompt, {**gen_kwargs, "max_gen_toks": 120}, templates)
        plan = plan_seats(Annotate, {"teacher": teacher}, arguments)
        took = seconds(lambda job=job, plan=plan: annotate(job, plan))  # type: ignore[misc]
        rationales.append(checked_row(prompt, folder / f"{prompt}.jsonl", took))
    for judge in ("review", "pairwise", "gold"):
        if judge == "pairwise" and args.pairwise_rows == 0:
            continue
        limit = args.pairwise_rows if judge == "pairwise" else None
        job = PreferenceJob(
            source, folder / f"{judge}.jsonl", "cot_text", {**gen_kwargs, "max_gen_toks": 120}, templates, 1.0,
            limit=limit,
        )  # fmt: skip
        write_candidates(job, plan_seats(Candidates, {"student": student}, {**arguments, "k": 4, "temperature": 1.2}))
        if judge == "gold":
            write_judgements(job, Tournament(), None)
        else:
            chosen = {**arguments, "style": judge, "judge_max_tokens": 120}
            plan = plan_seats(Tournament, {"judge": teacher}, chosen)
            assert isinstance(plan.protocol, Tournament)
            write_judgements(job, plan.protocol, plan)
        report = write_pairs(job.judgements, job.target)
        gold = report["gold"] or {}
        preferences.append(
            {
                "judge": {"review": "teacher's reviews", "pairwise": "teacher, two at once", "gold": "gold"}[judge],
                "prompts": report["contests"],
                "candidates": report["candidates"],
                "matches": report["matches"],
                "pairs": report["pairs"],
                "tie_rate": report["ties"]["rate"],
                "unread": report["ties"].get("unread", 0),
                "longer_won_rate": report["length"]["longer_won_rate"],
                "both_decide": gold.get("of_these_judge_decides", ""),
                "agreement_with_gold": gold.get("agreement", ""),
            }
        )
    return {"rows": rationales, "preferences": preferences}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("measure", choices=("throughput", "creak", "stories"))
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--loop_rows", type=int, default=48, help="rows to generate one by one; the time is scaled to all rows"
    )
    parser.add_argument("--max_gen_toks", type=int, default=48)
    parser.add_argument("--pairwise_rows", type=int, default=20)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {"throughput": throughput, "creak": creak, "stories": tell}[args.measure](args, Path(folder))
    publish_measured(result, args.output, embedded())


if __name__ == "__main__":
    main()
