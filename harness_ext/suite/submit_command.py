"""`harness-ext suite submit`: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from harness_ext.errors import OK, ConfigurationError
from harness_ext.suite.cells import Cell
from harness_ext.suite.folders import Folders
from harness_ext.suite.slurm_options import LISTS, OPTIONS, SuiteJob
from harness_ext.suite.study import Study
from harness_ext.suite.submit import Submitter
from harness_ext.terminal import clean, shell_word


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `suite submit`: each field of `slurm`, which then counts for all cells, and --dry-run."""
    parser.add_argument("--dry-run", action="store_true", help="print the scripts and commands, and submit nothing")
    for option in fields(SuiteJob):
        if option.name not in OPTIONS:
            continue
        many = option.name in LISTS or option.name == "environment"
        value = "NAME=VALUE" if option.name == "environment" else option.name.upper()
        parser.add_argument(
            f"--{option.name.replace('_', '-')}", action="append" if many else "store", metavar=value,
            help=f"in place of `slurm.{option.name}`" + ("; may be repeated" if many else ""),
        )  # fmt: skip


def submit(study: Study, cells: Sequence[Cell], folders: Folders, args: argparse.Namespace) -> int:
    """Run `suite submit` and return its exit status. Raises ConfigurationError and HarnessExtError."""
    submitter = Submitter(study, cells, folders, _given(args))
    if args.dry_run:
        submitter.show()
        return OK
    for line in folders.changes(cells):
        print(f"[suite] {clean(line)}", file=sys.stderr)
    jobs = submitter.submit()
    if not jobs:
        print("[suite] nothing to submit: every cell is finished, running or in the queue", file=sys.stderr)
        return OK
    for name, job in jobs.items():
        print(f"[suite] {name} is job {job}", file=sys.stderr)
    print(
        f"[suite] `harness-ext suite status {shell_word(study.path)}` shows how they get on, and "
        f"`scancel {' '.join(jobs.values())}` ends them",
        file=sys.stderr,
    )
    return OK


def _given(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    if "environment" in given:
        pairs = [text.partition("=") for text in given["environment"]]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise ConfigurationError([f"--environment {wrong[0]}: expected NAME=VALUE"])
        given["environment"] = {name: value for name, _, value in pairs}
    return given
