"""How the cells of a study run on Slurm: the `slurm` field of studies and settings."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from harness_ext.config.secrets import secrets_in
from harness_ext.options import build, suggest
from harness_ext.slurm.job import Job
from harness_ext.suite.reading import deep_merge
from harness_ext.terminal import outside


@dataclass(frozen=True, kw_only=True)
class SuiteJob(Job):
    """A job that runs cells of a study.

    name: name of the job. Default: that of the study.
    modules: environment modules to load, such as `cuda/12.4`. Default none.
    environment: environment variables to set. Default none.
    setup: shell lines that run after that, such as `source env/bin/activate`. Default none.
    grace: seconds before the time limit at which a cell is asked to end. Default 180.
    max_running: how many tasks of an array may run at the same time. Default: as many as Slurm starts.
    cells_per_task: how many cells one task runs at most, one after another. Default: all that share models.
    python: the Python interpreter. Default: the one that submits.
    """

    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    max_running: int | None = None
    cells_per_task: int | None = None
    python: str = sys.executable

    @property
    def setup_lines(self) -> list[str]:
        """Return the shell lines that prepare the environment of a job."""
        lines = [f"module load {shlex.join(self.modules)}"] if self.modules else []
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return lines + ([self.setup.rstrip("\n")] if self.setup else [])


# What the script decides itself.
NOT_GIVEN = frozenset({"nodes", "dependency", "array", "logs"})
OPTIONS = tuple(option.name for option in fields(SuiteJob) if option.name not in NOT_GIVEN)
LISTS = ("modules", "extra")
SERVERS, COLLECT = "servers", "collect"
KEYS = (*OPTIONS, SERVERS, COLLECT)


def check_slurm(given: Any, where: str, problems: list[str], whole: bool = False) -> None:
    """Check a `slurm` field.

    given: its value.
    where: what the field is called, for messages.
    problems: receives a message for each thing that is wrong.
    whole: whether this is all that a cell gets, so that what belongs together is compared as well. Default False.
    """
    if given is None:
        return
    if not isinstance(given, Mapping):
        problems.append(f"{where} takes names and values (`{where}: {{partition: gpu}}`), not {outside(given, 60)}")
        return
    problems += [
        f"{where}: there is no field `{outside(name)}`{suggest(str(name), list(KEYS))}"
        for name in given
        if name not in KEYS
    ]
    own = {name: value for name, value in given.items() if name in OPTIONS}
    job = _job(own, where, problems)
    if whole and job is not None:
        problems += job.problems(lambda name: f"`{where}.{name}`")
    servers = given.get(SERVERS)
    if servers is not None and not isinstance(servers, Mapping):
        problems.append(f"{where}.{SERVERS} takes the names of seats, each with the fields of its server's job")
        servers = None
    for seat, changes in (servers or {}).items():
        _check_other(changes, own, f"{where}.{SERVERS}.{outside(seat, 60)}", problems, whole)
    if given.get(COLLECT) is not False:
        _check_other(given.get(COLLECT), own, f"{where}.{COLLECT}", problems, whole)


def _check_other(
    changes: Any, own: Mapping[str, Any], where: str, problems: list[str], whole: bool
) -> None:  # fmt: skip
    """Check the fields in which a job of another kind differs from those that run cells."""
    if isinstance(changes, Mapping) and (wrong := [name for name in changes if name not in OPTIONS]):
        problems += [f"{where}: there is no field `{outside(n)}`{suggest(str(n), list(OPTIONS))}" for n in wrong]
    elif isinstance(changes, Mapping):
        found: list[str] = []
        check_slurm(deep_merge(own, changes) if whole else changes, where, found, whole)
        problems += [problem for problem in found if problem not in problems]
    elif changes is not None:
        problems.append(f"{where} takes names and values, not {outside(changes, 60)}")


def job_of(given: Mapping[str, Any], name: str) -> SuiteJob:
    """Return the job that a checked `slurm` field describes.

    given: the field.
    name: the name of the job unless the field gives one.
    """
    problems: list[str] = []
    job = _job({"name": name, **{key: value for key, value in given.items() if key in OPTIONS}}, "slurm", problems)
    assert job is not None, problems
    return job


def _job(given: Mapping[str, Any], where: str, problems: list[str]) -> SuiteJob | None:
    values, found = {name: value for name, value in given.items() if value is not None}, list[str]()
    if isinstance(values.get("time"), int):
        found.append(
            f"`{where}.time` is the number {values['time']}, since YAML reads 24:00:00 as one: quote it (`'24:00:00'`)"
        )
    for name in LISTS:
        if name in values:
            entries = values[name] if isinstance(values[name], list | tuple) else [values[name]]
            if not all(isinstance(entry, str) for entry in entries):
                found.append(f"`{where}.{name}` takes a list of texts, not {outside(values[name], 60)}")
            values[name] = tuple(map(str, entries))
    if isinstance(values.get("setup"), list):
        values["setup"] = "\n".join(map(str, values["setup"]))
    if "environment" in values:
        values["environment"] = _environment(values["environment"], f"{where}.environment", found)
    job = build(SuiteJob, values, found, f"{where}.")
    for name in ("max_running", "cells_per_task"):
        if job is not None and (number := getattr(job, name)) is not None and number < 1:
            found.append(f"`{where}.{name}` is {number}; it must be at least 1.")
    problems += found
    return None if found else job


def _environment(given: Any, where: str, problems: list[str]) -> dict[str, str]:
    if not isinstance(given, Mapping):
        problems.append(f"`{where}` takes names and values, not {outside(given, 60)}")
        return {}
    for name, value in given.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            problems.append(f"`{where}`: `{outside(name)}` is not the name of an environment variable")
        elif isinstance(value, bool | Mapping | list) or value is None:
            problems.append(f"`{where}.{name}` takes text or a number: quote it")
    problems += [
        f"`{where}.{name}` looks like a secret, and scripts are kept: export it where you submit, since Slurm passes "
        "it on"
        for name in secrets_in(given, frozenset())
    ]
    return {str(name): str(value) for name, value in given.items()}
