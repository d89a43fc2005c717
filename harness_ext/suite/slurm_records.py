"""What was submitted to Slurm: the scripts, lists of cells and job numbers in the folder of a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness_ext.records.run_directory import write_json
from harness_ext.slurm.queue import Queued, read_queue
from harness_ext.suite.noted import DamagedFileError, read_object
from harness_ext.terminal import outside

JOBS = "jobs.json"


@dataclass(frozen=True)
class Submission:
    """What one call of `suite submit` has submitted.

    folder: its folder, with the scripts and what the jobs print.
    jobs: the numbers of its jobs by the names of their scripts. Default: none yet.
    """

    folder: Path
    jobs: Mapping[str, str] = field(default_factory=dict)

    @property
    def study(self) -> Path:
        """Return the study as it was when it was submitted, with what it includes."""
        return self.folder / "study.yaml"

    def script(self, name: str) -> Path:
        """Return the path of a script."""
        return self.folder / f"{name}.sbatch"

    def list_of(self, name: str) -> Path:
        """Return the path of the file that says what a script runs."""
        return self.folder / f"{name}.json"

    def tasks(self, name: str) -> list[list[str]]:
        """Return the digests of the cells that each task of an array runs; none for jobs of other kinds."""
        with suppress(DamagedFileError):
            return _tasks(self.list_of(name))
        return []

    def note(self, jobs: Mapping[str, str]) -> None:
        """Write down the numbers of the jobs that were submitted so far."""
        write_json(self.folder / JOBS, dict(jobs), private=True)


def submissions(root: Path) -> list[Submission]:
    """Return the submissions of a suite from the oldest to the newest.

    root: the folder of the suite.
    """
    folders = [path for path in (root / "slurm").glob("*") if path.name.isdecimal()]
    found = sorted(folders, key=lambda path: int(path.name))
    return [Submission(path, _jobs(path)) for path in found]


def _jobs(folder: Path) -> dict[str, str]:
    with suppress(DamagedFileError):
        return {str(name): str(number) for name, number in read_object(folder / JOBS).items()}
    return {}


def damaged_records(root: Path) -> list[str]:
    """Return a line for each file about submitted jobs that is damaged: what is wrong with it, and what to do.

    root: the folder of the suite.
    """
    found = []
    for one in submissions(root):
        for path, read in ((one.folder / JOBS, read_object), *((one.list_of(name), _tasks) for name in one.jobs)):
            try:
                read(path)
            except DamagedFileError as error:
                found.append(
                    f"{error}. Jobs that it names are not shown and may be submitted twice: look for them with "
                    "`squeue`, and delete the file when they have ended"
                )
    return found


def _tasks(path: Path) -> list[list[str]]:
    tasks = read_object(path).get("tasks") or []
    if not isinstance(tasks, list) or not all(isinstance(one, list) and all(map(_is_text, one)) for one in tasks):
        raise DamagedFileError(f"{path} is damaged: `tasks` is {outside(tasks, 80)}")
    return tasks


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def new_submission(root: Path) -> Submission:
    """Return the next submission of a suite, whose folder does not exist yet."""
    before = submissions(root)
    return Submission(root / "slurm" / str(1 + int(before[-1].folder.name) if before else 1))


@dataclass(frozen=True)
class InQueue:
    """The jobs of a suite that are in Slurm's queue.

    cells: those that run cells, by the digests of the cells.
    others: the other ones by the names of their scripts.
    """

    cells: Mapping[str, Queued] = field(default_factory=dict)
    others: Mapping[str, Queued] = field(default_factory=dict)


def in_queue(root: Path) -> InQueue:
    """Return the jobs of a suite that are in Slurm's queue. It is not asked if nothing was ever submitted.

    root: the folder of the suite.

    Raises NoQueueError if the queue cannot be read.
    """
    made: Sequence[Submission] = submissions(root)
    queue = {found.name: found for found in read_queue([job for one in made for job in one.jobs.values()])}
    cells: dict[str, Queued] = {}
    others: dict[str, Queued] = {}
    for one in made:
        for name, job in one.jobs.items():
            for index, digests in enumerate(one.tasks(name)):
                if (found := queue.get(f"{job}_{index}")) is not None:
                    cells |= dict.fromkeys(digests, found)
            if (found := queue.get(job)) is not None:
                others[f"{one.folder.name}/{name}"] = found
    return InQueue(cells, others)
