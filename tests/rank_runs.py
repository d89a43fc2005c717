"""Runs the processes of distributed runs for test_distributed.py, which commands it line by line on standard input.

    start LAUNCHER WORLD FOLDER URL    start a run: one process per rank, with the environment that the launcher sets
    differ LAUNCHER WORLD FOLDER URL   the same, but each process is given other model arguments
    kill | term                        send SIGKILL or SIGTERM to all of them, and wait until they have ended
    wait                               wait until all have ended

It imports everything once and forks for each process. Every command is answered by a line of JSON: the statuses of the
processes, or an empty list as long as they run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from servers import free_port
from support import instances

from harness_ext.models.feedback_pair import FeedbackPairLM

QUESTIONS = 23  # the ranks get unequal shares
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
CONCURRENT = 2  # requests in flight per seat and process


def environment(launcher: str, rank: int, world: int, job: int) -> dict[str, str]:
    """Return the variables that a launcher sets for one process, all processes being on one host."""
    if launcher == "torchrun":
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        return {**{k: str(v) for k, v in place.items()}, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job)}
    if launcher == "srun":
        return {
            "SLURM_STEP_NUM_TASKS": str(world), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": str(world), "SLURM_STEP_NODELIST": "node[7]",
            "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": "0",
        }  # fmt: skip
    return {
        "OMPI_COMM_WORLD_SIZE": str(world), "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(world), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank), "PMIX_NAMESPACE": f"{job}.1",
    }  # fmt: skip


def question(number: int) -> str:
    return f"How many are {number} and {number}?"


def run(folder: Path, url: str, rounds: int) -> None:
    """Answer this process's share of the questions, as lm-eval deals them out."""
    lm = FeedbackPairLM(
        student=f"openai:student@{url}", teacher=f"openai:teacher@{url}", max_rounds=rounds, verdict="text",
        store=str(folder / "store"), run_dir=folder / "run", progress="off",
        **{f"{seat}.num_concurrent": CONCURRENT for seat in ("student", "teacher")},
    )  # fmt: skip
    asked = instances([question(i) for i in range(QUESTIONS)])
    mine = asked[lm.rank :: lm.world_size]
    most = -(-QUESTIONS // lm.world_size)
    mine += [mine[-1]] * (most - len(mine))  # lm-eval pads the shares to equal lengths
    answers = lm.generate_until(mine)
    gathered = lm.gather_object(dict(zip([m.doc_id for m in mine], answers, strict=True)))
    if lm.rank == 0:
        found = {doc: text for part in gathered or () for doc, text in part.items()}
        (folder / "answers.json").write_text(json.dumps({str(doc): found[doc] for doc in sorted(found)}))


def start(launcher: str, rank: int, world: int, job: int, folder: Path, url: str, rounds: int) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ.update(environment(launcher, rank, world, job))
            run(folder, url, rounds)
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException as error:
            print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return child


def main() -> None:
    import accelerate  # noqa: F401
    import lm_eval.api.instance  # noqa: F401
    import torch  # noqa: F401

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    children: list[int] = []
    for line in sys.stdin:
        command, *arguments = line.split()
        statuses = []
        if command in ("start", "differ"):
            launcher, world, folder, url = arguments
            job = free_port()
            children = [
                start(launcher, rank, int(world), job, Path(folder), url, 2 + rank * (command == "differ"))
                for rank in range(int(world))
            ]
        else:
            for child in children if command in SIGNALS else ():
                os.kill(child, SIGNALS[command])
            statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(statuses), flush=True)


if __name__ == "__main__":
    main()
