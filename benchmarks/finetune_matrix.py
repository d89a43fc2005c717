"""Checks which combinations of method, adapter and DeepSpeed preset work: each is trained, interrupted and resumed.

    python benchmarks/finetune_matrix.py --output benchmarks/results/finetune_matrix.json

The embedded student learns 16 short rows for two epochs of two steps, in float32 on the CPU, in two processes under
DeepSpeed and in one without it. Then the final model and the last checkpoint are marked as incomplete, and the same
command runs again. A case is `ok` if it resumes from the first epoch and the loss of every step equals that of the
first run within 1e-4, and `refused` if the preflight refuses it. Anything else is `failed`, with the exception. The
cases of a preset share their processes, because importing takes longer than training; if a case crashes them, the
remaining cases are started again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from measured import embedded, publish_measured

from harness_ext.embedded import model_path
from harness_ext.finetune.args import ADAPTERS, DEEPSPEED_PRESETS, METHODS, TrainArgs, default_rate
from harness_ext.finetune.preflight import OPTIONAL, Machine, PreflightCase, model_facts, refusals

TOLERANCE = 1e-4
SECONDS = 240  # time limit per case
PLACES = ("garden", "office", "kitchen", "hallway")


@dataclass(frozen=True)
class Result:
    """The result of a combination.

    method, adapter, deepspeed: the combination.
    outcome: `ok`, `refused` or `failed`.
    detail: the rules that refuse it, or the error.
    difference: the largest difference in the loss of a step, in nats.
    seconds: how long it took.
    """

    method: str
    adapter: str
    deepspeed: str
    outcome: str
    detail: str = ""
    difference: float | None = None
    seconds: float | None = None


def rows(folder: Path) -> None:
    """Write the training rows."""
    plain, pairs = [], []
    for at in range(16):
        where = PLACES[at % 4]
        prompt = f"1 Mary went to the {where}.\nWhere is Mary? {at}\n"
        plain.append({"prompt": prompt, "completion": f"Answer: {where}"})
        pairs.append({"prompt": prompt, "chosen": f"Answer: {where}", "rejected": f"Answer: {PLACES[(at + 1) % 4]}"})
    for name, found in (("rows", plain), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def settings(method: str, adapter: str, deepspeed: str, folder: Path) -> TrainArgs:
    """Return the settings of a case.

    method, adapter, deepspeed: the combination.
    folder: the working folder.
    """
    return TrainArgs(
        model=str(model_path("student")),
        train_file=str(folder / ("pairs.jsonl" if method in ("dpo", "orpo") else "rows.jsonl")),
        output_dir=str(folder / f"{method}-{adapter}-{deepspeed or 'plain'}"),
        method=method,
        adapter=adapter,
        deepspeed=deepspeed,
        teacher_model=str(model_path("teacher")) if method == "kd" else "",
        learning_rate=default_rate(method, adapter),
        epochs=2,
        batch_size=4 if deepspeed else 8,
        scheduler="linear",
        logging_steps=1,
        device="cpu",
    )


def refused(args: TrainArgs) -> str:
    """Return the names of the rules that refuse a case."""
    machine = Machine(2 if args.deepspeed else 1, True, 0, False, frozenset(OPTIONAL), False, False)
    facts = model_facts(args.model)
    return ", ".join(rule.name for rule, _ in refusals(PreflightCase(args, machine, facts, facts)))


def worker(folder: Path, cases: list[list[str]]) -> None:
    """Run cases in the current processes; the main process appends each result to `results.jsonl`."""
    from harness_ext.finetune.checkpoints import MARKER, numbered
    from harness_ext.finetune.train import main_process, run_stage

    for method, adapter, deepspeed in cases:
        args = settings(method, adapter, deepspeed, folder)
        out = Path(args.output_dir)
        start = time.perf_counter()
        print(f"# {out.name}", file=sys.stderr, flush=True)
        try:
            run_stage(args)
            first = losses(out)
            barrier()
            if main_process():
                (out / "final" / MARKER).unlink()
                (numbered(out)[-1] / MARKER).unlink()
                (out / "log.json").unlink()  # ensures that the second run writes the log that is compared below
            barrier()
            run_stage(args)
            second = losses(out)
            difference = max(abs(first[step] - second[step]) for step in first)
            equal = first.keys() == second.keys() and difference < TOLERANCE
            detail = "" if equal else "losses after resuming differ"
            result = Result(method, adapter, deepspeed, "ok" if equal else "failed", detail, difference)
        except Exception as error:  # the table reports it
            result = Result(method, adapter, deepspeed, "failed", f"{type(error).__name__}: {error}"[:300])
        barrier()
        if main_process():
            timed = replace(result, seconds=round(time.perf_counter() - start, 1))
            with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(timed)) + "\n")


def barrier() -> None:
    """Wait for the other processes, if any."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()


def losses(out: Path) -> dict[int, float]:
    """Return the loss of each step."""
    log = json.loads((out / "log.json").read_text(encoding="utf-8"))
    return {entry["step"]: entry["loss"] for entry in log if "loss" in entry}


def results(folder: Path) -> dict[tuple[str, str, str], Result]:
    """Return the results of the finished cases."""
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [Result(**json.loads(line)) for line in lines]
    return {(one.method, one.adapter, one.deepspeed): one for one in found}


def launch(folder: Path, cases: list[list[str]], processes: int) -> str:
    """Run cases in new processes; return the end of their output.

    folder: the working folder.
    cases: the cases.
    processes: number of processes.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    if processes == 1:
        command = [sys.executable]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*command, __file__, "--worker", str(folder), "--cases", json.dumps(cases)]
    with (folder / "log.txt").open("ab") as log:
        try:
            subprocess.run(words, env=env, stdout=log, stderr=log, timeout=SECONDS * len(cases) + 60, check=False)
        except subprocess.TimeoutExpired:
            return "took too long"
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-300:]


def run(folder: Path, presets: list[str]) -> list[Result]:
    """Run all cases; return the results in the order of the table."""
    rows(folder)
    table: dict[tuple[str, str, str], Result] = {}
    for deepspeed in presets:
        open_cases = []
        for method in METHODS:
            for adapter in ADAPTERS:
                reason = refused(settings(method, adapter, deepspeed, folder))
                key = (method, adapter, deepspeed)
                table[key] = Result(*key, "refused", reason)
                if not reason:
                    open_cases.append(list(key))
        while open_cases:
            said = launch(folder, open_cases, 2 if deepspeed else 1)
            done = results(folder)
            left = [case for case in open_cases if tuple(case) not in done]
            if len(left) == len(open_cases):
                # No case finished, so the first one crashed the processes.
                first = left.pop(0)
                table[tuple(first)] = Result(*first, "failed", said)  # type: ignore[index]
            open_cases = left
        table.update({key: one for key, one in results(folder).items() if key in table})
    return list(table.values())


def markdown(found: list[Result]) -> str:
    """Return a Markdown table with one row per method and adapter, and one column per preset."""
    presets = list(dict.fromkeys(one.deepspeed for one in found))
    lines = ["| method | adapter | " + " | ".join(name or "no DeepSpeed" for name in presets) + " |"]
    lines.append("| --- " * (len(presets) + 2) + "|")
    cells = {(one.method, one.adapter, one.deepspeed): one for one in found}
    for method in METHODS:
        for adapter in ADAPTERS:
            line = []
            for preset in presets:
                one = cells[method, adapter, preset]
                line.append(f"ok, {one.difference:.0e}" if one.outcome == "ok" else f"{one.outcome}: {one.detail}")
            lines.append(f"| {method} | {adapter} | " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the matrix, or, as one of its worker processes, some of its cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--presets", default=",".join(["", *DEEPSPEED_PRESETS]), help="presets, separated by commas")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cases", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.cases)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), options.presets.split(","))
    print(markdown(found))
    packages = {name: version(name) for name in ("trl", "peft", "deepspeed", "accelerate", "bitsandbytes")}
    record = {"versions": packages, "tolerance": TOLERANCE, "cases": [asdict(one) for one in found]}
    publish_measured(record, options.output, embedded())
    failed = [one for one in found if one.outcome == "failed"]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
