"""Runs protocols through servers that the run starts, and kills runs and servers.

    HARNESS_EXT_DATA=<folder> python benchmarks/serve.py --model smollm2 --llama <llama-server> \\
        --vllm <environment>/bin/python --output benchmarks/results/serve.json

`--model` is a name of `benchmarks/models.py`, whose GGUF file llama.cpp serves; the others, and an `hf` seat in this
process, get the same weights in float32.

- Every protocol is run through every engine, and by the `hf` seat, whose texts are compared.
- `feedback_pair` is run again on each engine: its process is killed (SIGKILL), then its server, and the third start
  ends it. Replies are counted by the server's own log, beside the calls in the store.
- Two llama.cpp servers are a pool, and one of them is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HF = "hf in this process"
REPLY = re.compile(r"POST /v1/chat/completions\b.*\b200\b")  # in the logs of vLLM and transformers serve
LLAMA_REPLY = re.compile(r"\btotal time = ")  # in that of llama.cpp, also of the completion that shows readiness
STARTED = "[harness-ext] "
DEADLINE = 3600.0  # seconds that a step may take
TEXT = {"endpoint": "completions", "chat": "off"}  # options of a seat whose prompts are text


@dataclass(frozen=True)
class Case:
    """A protocol on a task.

    model: the name of the lm-eval model.
    options: the options of the protocol.
    task: the task.
    seats: the seats, which all get the same model.
    own: options of each seat.
    scores: whether it needs log-probabilities of prompts.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    task: str = "gsm8k_cot_answer"
    seats: tuple[str, ...] = ("student", "teacher")
    own: Mapping[str, Any] = field(default_factory=dict)
    scores: bool = False


WRITTEN = "feedback_pair, written verdicts"  # every call is one request, so that the server's log counts calls
CASES: Mapping[str, Case] = {
    WRITTEN: Case("feedback_pair", {"max_rounds": 1, "review_max_tokens": 32, "verdict": "text"}),
    "feedback_pair": Case("feedback_pair", {"max_rounds": 1, "review_max_tokens": 32}),
    "debate": Case("debate", {"max_rounds": 1}, seats=("agent1", "agent2")),
    "speculative_pair, judge": Case("speculative_pair", {"unit": "step", "accept": "judge", "max_corrections": 1}),
    "multiple choice, decided": Case("baseline", {"choices": "decision"}, "creak", ("student",)),
    "speculative_pair, greedy": Case("speculative_pair", {"unit": "token", "accept": "greedy"}, own=TEXT, scores=True),
    "multiple choice, scored": Case("baseline", {}, "creak", ("student",), TEXT, scores=True),
}


def spec_of(engine: str, args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the specification of a seat's model, and the options of its server."""
    if engine == HF:
        return f"hf:{args.folder}", {"dtype": "float32", "device": "cpu"}
    if engine == "llamacpp":
        # What it computes depends on how much of a prompt it still has, which kills change.
        more = {"serve.args": "--no-cache-prompt"}
        return f"serve:{args.gguf}", {"serve.binary": args.llama, "serve.slots": 1, "serve.context": 2048, **more}
    options: dict[str, Any] = {"serve.engine": engine, "num_concurrent": 4}
    if engine == "vllm":
        options |= {"serve.python": args.vllm, "serve.context": 2048, "serve.slots": 8, "num_concurrent": 8}
        options["serve.args"] = f"--dtype float32 {args.vllm_args}"
    else:
        options["serve.args"] = "--dtype float32 --log-level info"
    return f"serve:{args.folder}", options


def arguments_of(case: Case, spec: str, options: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return the model arguments of a case."""
    found: dict[str, Any] = {"progress": "off", **case.options}
    for seat in case.seats:
        own = {**options, **case.own}
        if case.own:
            own["tokenizer"] = str(args.folder)
        if spec.startswith("hf:"):
            own = {name: value for name, value in own.items() if name not in ("endpoint", "tokenizer")}
        found |= {seat: spec, **{f"{seat}.{name}": value for name, value in own.items()}}
    return found


# -- in a process of its own -------------------------------------------------------------------------------------------


def evaluate(names: Sequence[str], spec: str, options: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Run cases with one server, and write what each of them cost and scored to `<work>/<case>/result.json`."""
    import lm_eval
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager

    import harness_ext.tasks

    tasks = TaskManager(include_path=str(Path(harness_ext.tasks.__path__[0])), include_defaults=False)
    kept = []  # the server ends with the last model
    for name in names:
        case, folder = CASES[name], args.work / name
        folder.mkdir(parents=True, exist_ok=True)
        run = {"run_dir": str(folder / "run"), "store": str(folder / "store")}
        lm = get_model(case.model)(**arguments_of(case, spec, options, args), **run)
        kept.append(lm)
        started = time.perf_counter()
        found = lm_eval.simple_evaluate(
            model=lm, tasks=[case.task], limit=args.questions, bootstrap_iters=0, task_manager=tasks,
            apply_chat_template=not case.own, gen_kwargs=f"max_gen_toks={args.most}",
        )  # fmt: skip
        assert found is not None
        scores = {k: v for k, v in found["results"][case.task].items() if isinstance(v, float) and "stderr" not in k}
        seconds = round(time.perf_counter() - started, 1)
        result = {"seconds": seconds, "calls": stored(folder), "replies": replies(args.work), "scores": scores}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def stored(folder: Path) -> int:
    """Return how many calls the store of a run holds."""
    from harness_ext.records.call_store import CallStore

    if not (folder / "store").exists():
        return 0
    store = CallStore(folder / "store")
    try:
        return len(store)
    finally:
        store.close()


# -- the runs ----------------------------------------------------------------------------------------------------------


def start(cases: Sequence[str], spec: str, options: Mapping[str, Any], work: Path, args: argparse.Namespace) -> Any:
    """Start a process that runs cases."""
    given = json.dumps({"cases": list(cases), "spec": spec, "options": options, "work": str(work)})
    kept = [f"--{name}={getattr(args, name)}" for name in ("model", "questions", "most")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(args.threads)}
    work.mkdir(parents=True, exist_ok=True)
    with (work / "log").open("a") as log:
        command = [sys.executable, __file__, *kept, "--evaluate", given]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def finish(process: Any, work: Path, status: int | None = 0) -> None:
    """Wait for a run; exit with its last words if its status is another one. None expects any but 0."""
    found = process.wait(DEADLINE)
    if found != status if status is not None else found == 0:
        sys.exit(f"a run ended with status {found}:\n{(work / 'log').read_text(encoding='utf-8')[-3000:]}")


def replies(folder: Path) -> int:
    """Return how many chat replies servers have given, by the logs below a folder."""
    count = 0
    for log in folder.rglob("serve.*.log"):
        text = log.read_text(encoding="utf-8", errors="replace")
        count += len(REPLY.findall(text)) or max(0, len(LLAMA_REPLY.findall(text)) - text.count(STARTED))
    return count


def turns(folder: Path) -> list[Any]:
    """Return the final text of each question of a run, and what each of its turns said, in the questions' order."""
    from harness_ext.records.run_directory import read_transcripts

    found = sorted(read_transcripts(folder / "run"), key=lambda t: (t.doc_id, t.index, t.repeat))
    return [(t.text, [(turn.seat, turn.kind, turn.text, str(turn.verdict)) for turn in t.turns]) for t in found]


def run_all(engine: str, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run every case that an engine can do, and return what each cost and scored."""
    from harness_ext.serving.engines import ENGINES

    spec, options = spec_of(engine, args)
    able = engine == HF or ENGINES[engine].prompt_logprobs
    # The first one is counted in the server's log, and is run again with kills.
    cases = [name for name in CASES if name in {WRITTEN, *args.cases} and (able or not CASES[name].scores)]
    finish(start(cases, spec, options, work, args), work)
    return {name: json.loads((work / name / "result.json").read_text(encoding="utf-8")) for name in cases}


def wait_until(condition: Callable[[], bool], process: Any, work: Path) -> None:
    """Wait until a condition holds; exit if the process ends before."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            sys.exit(f"a run ended too early:\n{(work / 'log').read_text(encoding='utf-8')[-3000:]}")
        time.sleep(0.1)


def survive(engine: str, whole: Path, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run `feedback_pair`, kill the run after a third of its calls, its server after another third, and end it then.

    engine: the engine.
    whole: the folder of the run that was not killed.
    work: the folder for this one.
    args: the arguments of this program.
    """
    import psutil

    spec, options = spec_of(engine, args)
    folder = work / WRITTEN
    found = json.loads((whole / WRITTEN / "result.json").read_text(encoding="utf-8"))
    calls, probes = found["calls"], found["replies"] - found["calls"]
    for share in (1 / 3, 2 / 3):
        process = start([WRITTEN], spec, options, work, args)
        wait_until(lambda share=share: stored(folder) >= share * calls, process, work)  # type: ignore[misc]
        family = psutil.Process(process.pid).children(recursive=True)
        servers = [child for child in family if "--port" in child.cmdline() and child.ppid() != process.pid]
        if share < 0.5:
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            servers[0].send_signal(signal.SIGKILL)
            finish(process, work, None)
        _, left = psutil.wait_procs(family, timeout=60)
        if left:
            sys.exit(f"processes of a server outlived it: {[one.cmdline() for one in left]}")
    finish(start([WRITTEN], spec, options, work, args), work)
    return {
        "calls": stored(folder),
        "replies": replies(work) - 3 * probes,
        "in flight at most": 2 * options.get("num_concurrent", 1),
        "equal transcripts": sum(a == b for a, b in zip(turns(folder), turns(whole / WRITTEN), strict=True)),
    }


@contextmanager
def llama_servers(count: int, work: Path, args: argparse.Namespace) -> Iterator[tuple[list[str], list[Any]]]:
    """Run several llama.cpp servers, and provide their addresses and processes."""
    from harness_ext.serving.process import HOST, Port, is_healthy

    urls, processes = [], []
    try:
        for number in range(count):
            port = Port()
            command = [args.llama, "--model", args.gguf, "--alias", "m", "--port", port.number, "--host", HOST]
            command += ["--ctx-size", 2048, "--parallel", 1, "--threads", 1, "--no-cache-prompt"]
            with (work / f"serve.{number}.log").open("w") as log:
                processes.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=log))
            urls.append(f"http://{HOST}:{port.number}/v1")
        for url, process in zip(urls, processes, strict=True):
            wait_until(lambda url=url: is_healthy(url.replace("/v1", "/health")), process, work)  # type: ignore[misc]
        yield urls, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def pool(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run `feedback_pair` on one llama.cpp server, and on two of which one is killed halfway."""
    found: dict[str, Any] = {}
    for name, count in (("one", 1), ("two", 2)):
        here = work / name
        here.mkdir(parents=True)
        (here / "log").touch()
        with llama_servers(count, here, args) as (urls, servers):
            options = {"revision": "w", "num_concurrent": 1}
            process = start([WRITTEN], f"openai:m@{'+'.join(urls)}", options, here, args)
            if count == 2:
                wait_until(lambda here=here: replies(here) >= found["one"]["calls"] / 2, process, here)  # type: ignore[misc]
                servers[0].send_signal(signal.SIGKILL)
            finish(process, here)
        faults = json.loads((here / WRITTEN / "run" / "summary.json").read_text(encoding="utf-8"))["faults"]
        found[name] = {"calls": stored(here / WRITTEN), "replies": replies(here), "faults": faults}
    pair = zip(turns(work / "one" / WRITTEN), turns(work / "two" / WRITTEN), strict=True)
    return {**found, "equal transcripts": sum(a == b for a, b in pair)}


def main() -> None:
    from measured import model_folder, publish_measured

    from models import models_folder

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--llama", help="llama.cpp's server")
    parser.add_argument("--vllm", help="an interpreter that has vLLM")
    parser.add_argument("--vllm_args", default="--enforce-eager", help="further arguments of vLLM's server")
    parser.add_argument("--engines", nargs="+", default=["llamacpp", "transformers", "vllm"])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--most", type=int, default=32, help="length limit of replies, in tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the runs; default: a temporary one")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--evaluate", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder = model_folder(args.model)
    args.gguf = str(models_folder() / f"{args.model}.gguf")
    if args.evaluate:
        given = json.loads(args.evaluate)
        args.work = Path(given["work"])
        evaluate(given["cases"], given["spec"], given["options"], args)
        return
    weights = {"model": args.folder}
    missing = {"llamacpp": args.llama, "vllm": args.vllm}
    engines = [name for name in args.engines if missing.get(name, "-")]
    result: dict[str, Any] = {
        "questions": args.questions,
        "most": args.most,
        "not run": sorted({*args.engines} - {*engines}),
    }
    with tempfile.TemporaryDirectory() as name:
        work = args.keep or Path(name)
        runs = {engine: run_all(engine, work / engine, args) for engine in (HF, *engines)}
        for engine in engines:
            for case in runs[engine]:
                pair = list(zip(turns(work / engine / case), turns(work / HF / case), strict=True))
                runs[engine][case] |= {"texts equal to hf": sum(a[0] == b[0] for a, b in pair), "texts": len(pair)}
        result |= {"runs": runs, "kills": {}}
        for engine in engines:
            result["kills"][engine] = survive(engine, work / engine, work / f"{engine} killed", args)
            print(json.dumps(result["kills"][engine]), flush=True)
        if "llamacpp" in engines:
            result["pool"] = pool(work / "pool", args)
    publish_measured(result, args.output, weights)


if __name__ == "__main__":
    main()
