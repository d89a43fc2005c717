"""Tests of several processes on one evaluation: they share the questions, and any number of them can resume the run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rank_runs
from servers import Server, free_port, wait_until

from harness_ext.errors import StoreError
from harness_ext.records.run_directory import read_transcripts
from harness_ext.records.run_lock import lock_run

LIMIT = 7  # an odd number: the ranks get unequal shares, and lm-eval pads one of them
HERE = Path(__file__).parent


def command(folder: Path, run: str, processes: int, store: str, *seats: str) -> list[str]:
    """Return the command that runs lm-eval on this package's stories with a number of processes."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += ["--master_port", str(free_port())]
    arguments = f"max_rounds=1,run_dir={folder / run},store={folder / store},model={run}-{processes}"
    return [
        *launcher, "-m", "lm_eval", "run", "--model", "feedback_pair", "--model_args", ",".join([arguments, *seats]),
        "--tasks", "babi_stories", "--limit", str(LIMIT), "--batch_size", "4", "--gen_kwargs", "max_gen_toks=48",
        "--output_path", str(folder / "out"), "--log_samples",
    ]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "OPENAI_API_KEY": "none", **more}


def evaluate(folder: Path, run: str, processes: int, store: str, **more: str) -> dict[str, float]:
    """Run the command with the built-in pair and return its scores."""
    done = subprocess.run(
        command(folder, run, processes, store),
        cwd=folder, env=environment(**more), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return scores(folder, f"{run}-{processes}")


def scores(folder: Path, label: str) -> dict[str, float]:
    found = sorted((folder / "out" / label).glob("results_*.json"))
    results = json.loads(found[-1].read_text())["results"]["babi_stories"]
    return {metric: results[f"{metric},none"] for metric in ("exact_match", "soft_match", "exact_match_stderr")}


def texts(run: Path) -> dict[int, tuple[str, ...]]:
    """Return the texts of all turns, by document."""
    return {t.doc_id: tuple(turn.text for turn in t.turns) for t in read_transcripts(run)}


@pytest.mark.cli
def test_two_processes_answer_as_one_and_any_number_resumes(tmp_path: Path) -> None:
    together = evaluate(tmp_path, "two", 2, "calls-two", ACCELERATE_USE_CPU="true")
    alone = evaluate(tmp_path, "one", 1, "calls-one")
    assert together == pytest.approx(alone)  # the order of the ranks changes the last bit of a standard error
    assert texts(tmp_path / "two") == texts(tmp_path / "one")
    assert sorted(texts(tmp_path / "two")) == list(range(LIMIT))
    lines = (tmp_path / "two" / "transcripts.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["doc_id"] for line in lines) == list(range(LIMIT))
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["questions"] == LIMIT
    assert summary["usage"]["student"]["draft"]["calls"] == LIMIT

    resumed = evaluate(tmp_path, "two", 1, "calls-empty")
    assert resumed == pytest.approx(alone)
    assert (tmp_path / "two" / "transcripts.jsonl").read_text().splitlines() == lines


@pytest.mark.cli
def test_torchrun_with_served_seats_shares_the_questions_and_resumes(tmp_path: Path) -> None:
    """Without a local model, nothing but this package sets up the process group; accelerate sees no GPU."""
    with Server(reply_of_a_pair) as server:
        server.plan = hang_after(server, 5)
        seats = [f"{seat}=openai:{seat}@{server.url},{seat}.num_concurrent=1" for seat in ("student", "teacher")]
        given = command(tmp_path, "served", 2, "calls", "verdict=text", *seats)
        killed = subprocess.Popen(given, cwd=tmp_path, env=environment())
        wait_until(lambda: server.faults["timeout"] >= 2 or killed.poll() is not None, 300)
        killed.kill()
        for lock in (tmp_path / "served").glob(".writer*.lock"):
            os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
        killed.wait()
        server.plan = lambda text: None
        done = subprocess.run(
            given,
            cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        assert set(server.answered.values()) == {1}, "a finished call was asked again"
    lines = (tmp_path / "served" / "transcripts.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["doc_id"] for line in lines) == list(range(LIMIT))
    assert len(list((tmp_path / "out" / "served-2").glob("results_*.json"))) == 1
    assert {p.name for p in (tmp_path / "served").glob("transcripts.*.jsonl")} == {
        "transcripts.0.jsonl",
        "transcripts.1.jsonl",
    }


def reply_of_a_pair(prompt: str) -> str:
    """Return a draft, a review or a refinement. Two of three questions are refined once."""
    found = re.search(r"(?:How many are|It is|count) (\d+)", prompt)
    number = int(found[1]) if found else zlib.crc32(prompt.encode())
    if "The student answered:" in prompt or "The student revised" in prompt:
        return "Correct." if number % 3 == 0 or "again" in prompt else f"Incorrect.\nHint: count {number} again"
    return f"It is {number}, again." if "again" in prompt else f"It is {number}."


def hang_after(server: Server, answers: int) -> Callable[[str], str | None]:
    """Return a plan by which the server answers so many requests and then only accepts them."""
    left = iter(range(answers))
    return lambda text: None if next(left, None) is not None else "timeout"


def hang_for_rank_1(text: str) -> str | None:
    """Answer the questions of rank 0 only, which are those with even numbers."""
    number = re.search(r"How many are (\d+)", text)
    return "timeout" if number is not None and int(number[1]) % 2 else None


def rank_0_waits(run: Path) -> bool:
    """Return whether rank 0 of two has answered all of its questions."""
    answered = run / "transcripts.0.jsonl"
    return answered.exists() and answered.read_text().count("\n") == len(range(0, rank_runs.QUESTIONS, 2))


class Ranks:
    """The processes of rank_runs.py."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        with errors.open("w") as file:
            self.program = subprocess.Popen(
                [sys.executable, str(HERE / "rank_runs.py")],
                env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
            )  # fmt: skip

    def do(self, *words: object) -> list[int]:
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        print(*words, file=self.program.stdin, flush=True)
        line = self.program.stdout.readline()
        assert line, self.errors.read_text()
        return list(json.loads(line))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    started = Ranks(tmp_path_factory.mktemp("ranks") / "stderr")
    yield started
    started.program.communicate("")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> tuple[Path, set[str]]:
    """Return the folder of a run of one process, and what it asked."""
    folder = tmp_path_factory.mktemp("alone")
    with Server(reply_of_a_pair) as server:
        ranks.do("start", "torchrun", 1, folder, server.url)
        assert ranks.do("wait") == [0]
        assert set(server.answered.values()) == {1}
        assert len({len(turns) for turns in texts(folder / "run").values()}) > 1, "questions must differ in length"
        return folder, set(server.answered)


@pytest.mark.parametrize(("launcher", "world"), [("torchrun", 3), ("srun", 2), ("mpirun", 2)])
def test_killed_processes_resume_with_served_seats(
    tmp_path: Path, ranks: Ranks, alone: tuple[Path, set[str]], launcher: str, world: int
) -> None:
    """The server stops answering, all processes are killed, and the next ones continue."""
    whole, expected = alone
    with Server(reply_of_a_pair) as server:
        server.plan = hang_after(server, 31)
        ranks.do("start", launcher, world, tmp_path, server.url)
        wait_until(lambda: server.faults["timeout"] >= world)
        assert ranks.do("kill") == [-signal.SIGKILL] * world
        server.plan = lambda text: None
        ranks.do("start", launcher, world, tmp_path, server.url)
        assert ranks.do("wait") == [0] * world
        asked = dict(server.answered)
    assert asked.keys() == expected
    assert sum(asked.values()) - len(asked) <= 2 * rank_runs.CONCURRENT * world, "more than what was in flight"
    assert texts(tmp_path / "run") == texts(whole / "run")
    assert (tmp_path / "answers.json").read_text() == (whole / "answers.json").read_text()
    for rank in range(world):
        lines = (tmp_path / "run" / f"transcripts.{rank}.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["doc_id"] for line in lines) == list(range(rank, rank_runs.QUESTIONS, world))
    figures = [json.loads((folder / "run" / "summary.json").read_text()) for folder in (whole, tmp_path)]
    for name in ("questions", "rounds", "stops", "reviews", "unfinished"):
        assert figures[0][name] == figures[1][name]


def test_sigterm_ends_all_processes_with_a_summary(tmp_path: Path, ranks: Ranks) -> None:
    """One process still asks, and the other one waits for it, until the signal comes."""
    with Server(reply_of_a_pair, hang_for_rank_1) as server:
        ranks.do("start", "srun", 2, tmp_path, server.url)
        wait_until(lambda: rank_0_waits(tmp_path / "run"))
        assert ranks.do("term") == [143, 143]
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["unfinished"] is None, "what the other process still had to do is unknown"
        assert summary["questions"] == len(range(0, rank_runs.QUESTIONS, 2))
        server.plan = lambda text: None
        ranks.do("start", "srun", 2, tmp_path, server.url)
        assert ranks.do("wait") == [0, 0]
    assert sorted(texts(tmp_path / "run")) == list(range(rank_runs.QUESTIONS))


def test_a_process_that_ends_early_does_not_leave_the_others_waiting(tmp_path: Path, ranks: Ranks) -> None:
    with Server(reply_of_a_pair, hang_for_rank_1) as server:
        ranks.do("start", "mpirun", 2, tmp_path, server.url)
        wait_until(lambda: rank_0_waits(tmp_path / "run"))
        lock = tmp_path / "run" / ".writer.1.lock"
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
        assert ranks.do("wait") == [1, -signal.SIGKILL]
    assert "another process of this run has ended" in ranks.errors.read_text()


def test_a_second_run_in_the_folder_of_a_distributed_run_is_refused(tmp_path: Path, ranks: Ranks) -> None:
    with Server(reply_of_a_pair) as server:
        server.plan = hang_after(server, 20)
        ranks.do("start", "srun", 2, tmp_path, server.url)
        wait_until(lambda: server.faults["timeout"] >= 1)
        with pytest.raises(StoreError, match="is in use by process"):
            lock_run(tmp_path / "run")
        assert ranks.do("kill") == [-signal.SIGKILL] * 2
    lock_run(tmp_path / "run")


def test_a_distributed_run_in_the_folder_of_another_process_is_refused(tmp_path: Path, ranks: Ranks) -> None:
    (tmp_path / "run").mkdir()
    lock = lock_run(tmp_path / "run")
    with Server(reply_of_a_pair) as server:
        ranks.do("start", "srun", 2, tmp_path, server.url)
        assert ranks.do("wait") == [1, 1], "no process waits for one that was refused"
        assert not server.requests
    said = ranks.errors.read_text()
    for rank in (0, 1):
        assert (
            f"rank {rank}: StoreError: the run directory {tmp_path / 'run'} is in use by process {os.getpid()}" in said
        )
    lock.release()


def test_processes_with_different_arguments_are_no_distributed_run(tmp_path: Path, ranks: Ranks) -> None:
    with Server(reply_of_a_pair) as server:
        ranks.do("differ", "srun", 2, tmp_path, server.url)
        assert ranks.do("wait") == [1, 1]
        assert not server.requests
    said = ranks.errors.read_text()
    assert said.count("2 processes were started together, but with different model arguments") == 2
    assert "set WORLD_SIZE=1 and RANK=0" in said
