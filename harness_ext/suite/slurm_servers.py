"""Servers that many cells share on Slurm: which there are, and the job that runs one."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.config.levels import flatten
from harness_ext.errors import OK, ConfigurationError, HarnessExtError, LoadError
from harness_ext.suite.cells import Cell, Evaluation
from harness_ext.suite.reading import deep_merge
from harness_ext.suite.slurm_options import SERVERS, SuiteJob, job_of
from harness_ext.suite.slurm_records import JOBS
from harness_ext.terminal import outside

LOOK_EVERY = 15.0  # seconds between two looks at the queue
SUBMITTED_WITHIN = 600.0  # seconds within which the jobs that use a server are submitted after it has started
STARTED = "serve:"
ADDRESS = ".address.json"
# Arguments of a seat that say what its server is started with.
OF_SERVER = ("revision", "trust_remote_code")


@dataclass(frozen=True)
class SharedJob:
    """A job that runs a server.

    name: the name of its files, `server-1` and so on.
    job: its options.
    model: the model, as in a seat: `serve:<model>`.
    arguments: the seat's arguments that say what the server is started with.
    seats: which seats of which cells use it: their names by the digests of the cells.
    """

    name: str
    job: SuiteJob
    model: str
    arguments: Mapping[str, Any]
    seats: Mapping[str, tuple[str, ...]]

    def address(self, folder: Path) -> Path:
        """Return the file that says where it is. `folder`: that of the submission."""
        return folder.absolute() / f"{self.name}{ADDRESS}"


def shared_jobs(
    cells: Sequence[Cell], options: Mapping[str, Mapping[str, Any]], name: str, problems: list[str]
) -> list[SharedJob]:
    """Return the jobs whose servers cells share, one for each server that `slurm.servers` asks for.

    cells: the cells of the study.
    options: the `slurm` field of each cell, by its digest.
    name: the name of the study, with which the names of the jobs begin.
    problems: receives a message for each seat that no cell has, or that no run would start a server for.
    """
    found: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any], dict[str, list[str]]]] = {}
    wanted: dict[str, bool] = {}
    for cell in cells:
        arguments = flatten(cell.model_args) if isinstance(cell, Evaluation) else {}
        for seat, changes in (options[cell.digest].get(SERVERS) or {}).items():
            model = arguments.get(seat, arguments.get(f"{seat}.model"))
            wanted[seat] = wanted.get(seat, changes is None) or model is not None
            if changes is None or model is None:
                continue
            if not str(model).startswith(STARTED):
                problems.append(
                    f"{cell.label}: `slurm.{SERVERS}.{seat}`, but the model of the seat is {outside(model)}: give "
                    f"`{seat}: {STARTED}<model>`, or `{SERVERS}: {{{seat}: null}}` for this setting"
                )
                continue
            given = {k.removeprefix(f"{seat}."): v for k, v in arguments.items() if k.startswith(f"{seat}.")}
            own = {k: v for k, v in given.items() if k in OF_SERVER or k.startswith("serve.")}
            fields = deep_merge({k: v for k, v in options[cell.digest].items() if k != SERVERS}, changes)
            key = json.dumps([model, own, fields], sort_keys=True, default=str)
            seats = found.setdefault(key, (str(model), own, fields, {}))[3]
            seats.setdefault(cell.digest, []).append(seat)
    problems += [
        f"`slurm.{SERVERS}.{outside(seat, 60)}`: no cell names a model for a seat `{outside(seat, 60)}`"
        for seat, is_there in wanted.items()
        if not is_there
    ]
    return [
        SharedJob(
            f"server-{number}", job_of(fields, f"{name}-server"), model, own,
            {digest: tuple(names) for digest, names in seats.items()},
        )
        for number, (model, own, fields, seats) in enumerate(found.values(), start=1)
    ]  # fmt: skip


def serve(path: Path) -> int:
    """Run the server that a file describes until no job needs it any more, and return the exit status.

    path: the file, which `suite submit` has written.

    Its address is in a file as long as it answers, and why there is none if it fails. Raises LoadError if it does not
    start, or ends by itself.
    """
    from harness_ext.engine.endings import ends_by_signal
    from harness_ext.serving.shared import Address

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        users, address = list(map(str, content["users"])), Path(content["address"])
        model, arguments = str(content["model"]), dict(content["arguments"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HarnessExtError(f"{path} describes no server ({outside(error)}): submit the study again") from error
    backend = _backend(model, arguments)
    server = backend.server
    server.log = path.with_suffix(".log")
    server.open_to(os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    if not server.engine.key_variable:
        print(f"[suite] {server.engine.title} demands no key, so whoever reaches this host can use it", flush=True)
    begin = time.monotonic()
    address.unlink(missing_ok=True)  # of an earlier start, which was killed
    with ends_by_signal():
        try:
            url, name = server.ready()
            Address(url, name, server.key).write(address)
            while _is_needed(path.with_name(JOBS), users, time.monotonic() - begin):
                if (ended := server.ended()) is not None:
                    raise LoadError(ended)
                time.sleep(LOOK_EVERY)
            address.unlink()
        except LoadError as error:
            Address("", "", problem=str(error)).write(address)
            raise
        except BaseException:  # a signal, after which another start may follow
            address.unlink(missing_ok=True)
            raise
        finally:
            server.stop()
    return OK


def comes_back(address: Path) -> bool:
    """Return whether a server is gone, but its job is in the queue, so that it will start again.

    address: the file that says where it is.
    """
    from harness_ext.serving.shared import Address
    from harness_ext.slurm.queue import NoQueueError, read_queue

    if Address.read(address) is not None:
        return False
    try:
        job = json.loads(address.with_name(JOBS).read_text(encoding="utf-8"))[address.name.removesuffix(ADDRESS)]
        return bool(read_queue([job]))
    except (OSError, ValueError, KeyError, NoQueueError):
        return False


def _backend(model: str, arguments: Mapping[str, Any]) -> Any:
    """Return the backend of a seat, to which this job gives all GPUs that it has."""
    from harness_ext.backends.registry import make_backend, parse_spec
    from harness_ext.config.placement import place_servers

    try:
        spec = parse_spec(model, arguments)
        placed = place_servers({"": spec}, (), None)[""]
        return make_backend(parse_spec(model, {**placed, **arguments}))
    except ValueError as error:
        raise ConfigurationError([f"{model}: {error}"]) from error


def _is_needed(jobs: Path, users: Sequence[str], seconds: float) -> bool:
    """Return whether jobs that use a server are in the queue, or may still be submitted.

    jobs: the file with the numbers of the jobs.
    users: the names of those that use the server.
    seconds: for how long the server has been running.
    """
    from harness_ext.slurm.queue import NoQueueError, read_queue

    try:
        numbers = json.loads(jobs.read_text(encoding="utf-8"))
        known = [numbers[name] for name in users if name in numbers]
        return (len(known) < len(users) and seconds < SUBMITTED_WITHIN) or bool(read_queue(known))
    except (OSError, ValueError, NoQueueError) as error:
        print(f"[suite] the queue cannot be read, so the server goes on: {outside(error)}", flush=True)
        return True
