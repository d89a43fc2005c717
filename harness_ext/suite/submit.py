"""Runs the cells of a suite on Slurm: writes batch scripts and submits them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness_ext.engine.endings import COMMAND, same_command
from harness_ext.errors import ConfigurationError, HarnessExtError
from harness_ext.files import atomic_write, make_private_folder
from harness_ext.records.run_directory import write_json
from harness_ext.records.run_lock import lock_output
from harness_ext.slurm import queue
from harness_ext.slurm.job import render
from harness_ext.suite.cells import Cell
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.reading import deep_merge, read_files
from harness_ext.suite.running import check_new, create
from harness_ext.suite.slurm_arrays import CellArray, arrays_of
from harness_ext.suite.slurm_options import COLLECT, SuiteJob, check_slurm, job_of
from harness_ext.suite.slurm_records import Submission, in_queue, new_submission
from harness_ext.suite.slurm_servers import shared_jobs
from harness_ext.suite.study import Study, read_study

TEMPLATE = Path(__file__).with_name("cells.sbatch")
COMPARISON = "comparison.md"
# The collecting job computes for seconds on one core, whatever the cells need.
SMALL = {"gpus": 0, "gres": None, "cpus": 1, "max_running": None}


@dataclass(frozen=True)
class Batch:
    """A job that is ready to be submitted.

    name: the name of its files.
    script: its script.
    content: what the file beside the script says. Default None: there is none.
    after: the names of jobs of the same submission that must have ended before. Default none.
    after_jobs: numbers of jobs of earlier submissions, likewise. Default none.
    beside: the names of jobs of the same submission that must have begun before. Default none.
    """

    name: str
    script: str
    content: Mapping[str, Any] | None = None
    after: tuple[str, ...] = ()
    after_jobs: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def options(self, submission: Submission, jobs: Mapping[str, str]) -> list[str]:
        """Return the options of sbatch that the script does not contain.

        submission: the submission.
        jobs: the numbers of the jobs that it waits for, by name.
        """
        ended = [*self.after_jobs, *(jobs[name] for name in self.after)]
        begun = [jobs[name] for name in self.beside]
        conditions = [":".join([kind, *found]) for kind, found in (("afterany", ended), ("after", begun)) if found]
        waits = [f"--dependency={','.join(conditions)}"] if conditions else []
        folder = str(submission.folder.absolute()).replace("%", "%%")
        number = "%A_%a" if "tasks" in (self.content or ()) else "%j"
        return [*waits, f"--output={folder}/{self.name}-{number}.out"]


class Submitter:
    """Submits the cells of a study that are neither finished nor in the queue.

    study: the study.
    cells: its cells.
    folders: their folders.
    given: the fields of `slurm` that options of the command give, which count before those of the study.

    Raises ConfigurationError if these fields are wrong.
    """

    def __init__(self, study: Study, cells: Sequence[Cell], folders: Folders, given: Mapping[str, Any]) -> None:
        self.study, self.cells, self.folders = study, cells, folders
        self.options = {cell.digest: deep_merge(deep_merge(study.slurm, cell.slurm), given) for cell in cells}
        self.whole = deep_merge(study.slurm, given)
        problems: list[str] = []
        check_slurm(given, "options", problems)
        for options in [] if problems else [self.whole, *self.options.values()]:
            check_slurm(options, "slurm", problems, whole=True)
        self.name = re.sub(r"[^A-Za-z0-9._-]+", "-", study.name)
        self.servers = [] if problems else shared_jobs(cells, self.options, self.name, problems)
        if problems:
            raise ConfigurationError(list(dict.fromkeys(problems)))

    def show(self) -> None:
        """Print the scripts and the commands, and create nothing."""
        queued: Mapping[str, queue.Queued] = {}
        try:
            queued = self._queued()
        except queue.NoQueueError as error:
            print(f"[suite] cells that are in the queue are not left out: {error}", file=sys.stderr)
        submission = new_submission(self.folders.root)
        for batch in self._batches(submission, queued, check_new(self.study.path, self.cells, self.folders)):
            print(f"# {submission.script(batch.name)}\n{batch.script}")
            for index, cells in enumerate((batch.content or {}).get("titles", ())):
                print(f"# task {index}: {'; '.join(cells)}")
            numbers = {name: f"<number of {name}>" for name in (*batch.after, *batch.beside)}
            options = batch.options(submission, numbers)
            print(shlex.join(["sbatch", "--parsable", *options, str(submission.script(batch.name))]) + "\n")

    def submit(self) -> dict[str, str]:
        """Submit the jobs, and return their numbers by name; none if there is nothing to do.

        Raises ConfigurationError if the study is wrong, and NoQueueError if Slurm refuses a job. What was submitted
        before that stays in the queue, and the same command adds what is missing.
        """
        if not queue.has_slurm():
            raise HarnessExtError(
                "there is no Slurm on this machine: run this on a login node of the cluster, `suite run` without one, "
                "or give --dry-run to see the scripts"
            )
        create(self.cells, self.folders, check_new(self.study.path, self.cells, self.folders))
        make_private_folder(self.folders.root / "slurm")
        lock = lock_output(self.folders.root / "slurm" / "submit")  # two commands would submit the same cells
        try:
            return self._submit(self._queued())
        finally:
            lock.release()

    def _submit(self, queued: Mapping[str, queue.Queued]) -> dict[str, str]:
        self.folders = Folders(self.folders.root)
        submission, jobs = new_submission(self.folders.root), dict[str, str]()
        batches = self._batches(submission, queued, {})
        if not batches:
            return jobs
        make_private_folder(submission.folder)
        self._freeze(submission)
        for batch in batches:
            with atomic_write(submission.script(batch.name), private=True) as file:
                file.write(batch.script)
            if batch.content is not None:
                write_json(submission.list_of(batch.name), dict(batch.content), private=True)
        for batch in batches:
            try:
                jobs[batch.name] = queue.submit(submission.script(batch.name), batch.options(submission, jobs))
            except queue.NoQueueError as error:
                there = f" Jobs {', '.join(jobs.values())} are in the queue;" if jobs else ""
                raise queue.NoQueueError(
                    f"{submission.script(batch.name)}: {error}.{there} correct the options (`slurm:`), then run the "
                    "same command again"
                ) from error
            submission.note(jobs)
        return jobs

    def _queued(self) -> Mapping[str, queue.Queued]:
        return in_queue(self.folders.root).cells

    def _batches(
        self, submission: Submission, queued: Mapping[str, queue.Queued], checked: Mapping[str, Sequence[str]]
    ) -> list[Batch]:
        """Return the jobs to submit, each after those that it waits for.

        submission: where their files will be.
        queued: the jobs that already run cells, by the digests of the cells.
        checked: what identifies the models of the cells that have no folder yet.
        """
        folders = {cell.digest: self.folders.of(cell) for cell in self.cells}
        there = {digest for digest, folder in folders.items() if folder.results.is_dir() or folder.runner is not None}
        there |= queued.keys()
        wanted = [cell for cell in self.cells if cell.digest not in there]
        models = {digest: folder.models for digest, folder in folders.items()} | dict(checked)
        arrays = arrays_of(wanted, self.options, models, there, self.name)
        batches = [*self._servers(arrays, submission), *(self._array(array, submission, queued) for array in arrays)]
        collecting = self.whole.get(COLLECT)
        if arrays and collecting is not False:
            job = job_of(deep_merge(deep_merge(self.whole, SMALL), collecting or {}), f"{self.name}-collect")
            output = self.study.folder.absolute() / COMPARISON
            command = _command(job, "collect", str(submission.study.absolute()), "--output", str(output))
            names = tuple(array.name for array in arrays)
            others = tuple(sorted({found.job for found in queued.values()}, key=int))
            batches.append(Batch(COLLECT, _script(job, command), None, names, others))
        return batches

    def _servers(self, arrays: Sequence[CellArray], submission: Submission) -> list[Batch]:
        """Return the jobs of the servers that cells of the arrays use."""
        batches = []
        for server in self.servers:
            users = [array.name for array in arrays if any(cell.digest in server.seats for cell in array.cells)]
            if users:
                path = submission.list_of(server.name).absolute()
                content = {
                    "model": server.model, "arguments": dict(server.arguments), "users": users,
                    "address": str(server.address(submission.folder)),
                }  # fmt: skip
                batches.append(
                    Batch(server.name, _script(server.job, _command(server.job, "serve", str(path))), content)
                )
        return batches

    def _array(self, array: CellArray, submission: Submission, queued: Mapping[str, queue.Queued]) -> Batch:
        command = _command(array.job, "task", str(submission.list_of(array.name).absolute()))
        used = [server for server in self.servers if any(cell.digest in server.seats for cell in array.cells)]
        addresses: dict[str, dict[str, str]] = {}
        for server in used:
            for digest in server.seats.keys() & {cell.digest for cell in array.cells}:
                seats = dict.fromkeys(server.seats[digest], str(server.address(submission.folder)))
                addresses.setdefault(digest, {}).update(seats)
        content = {
            "study": str(submission.study.absolute()),
            "tasks": [[cell.digest for cell in task] for task in array.tasks],
            "titles": [[cell.title for cell in task] for task in array.tasks],
            "servers": addresses,
        }
        needed = {other.digest for cell in array.cells for other in cell.needs}
        jobs = tuple(sorted({queued[digest].job for digest in needed & queued.keys()}, key=int))
        job = replace(array.job, environment={**array.job.environment, COMMAND: same_command() or ""})
        return Batch(array.name, _script(job, command), content, array.after, jobs, tuple(s.name for s in used))

    def _freeze(self, submission: Submission) -> None:
        """Write the study as it is now, with what it includes: a change of the file must not reach queued jobs."""
        import yaml

        content = read_files(self.study.path, [])
        content |= {"name": self.study.name, "folder": str(self.study.folder)}
        with atomic_write(submission.study, private=True) as file:
            file.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        same = {cell.digest for cell in cells_of(read_study(submission.study))}
        assert same == {cell.digest for cell in self.cells}


def _command(job: SuiteJob, *arguments: str) -> str:
    return shlex.join([job.python, "-m", "harness_ext", "suite", *arguments])


def _script(job: SuiteJob, command: str) -> str:
    return render(
        TEMPLATE,
        job,
        command=command,
        signal="TERM",
        saved="everything finished is kept, and the same command continues.",
        continues="it continues from what is finished",
        restarts_option="slurm.restarts of the study",
    )
