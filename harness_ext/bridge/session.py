"""One evaluation: its plan, and everything that it writes to."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.bridge.choices import Reasoning
from harness_ext.bridge.exports import Tables
from harness_ext.config.run_options import RUNS
from harness_ext.config.run_plan import RunPlan
from harness_ext.engine.budget import Budget, open_budget
from harness_ext.engine.endings import again
from harness_ext.engine.ranks import Ranks
from harness_ext.errors import ConfigurationError, HarnessExtError, StoreError
from harness_ext.protocol.inner import all_seats
from harness_ext.records.call_store import CallStore
from harness_ext.records.run_directory import RunDirectory, installed_versions, new_run_path


@dataclass
class Session:
    """Everything that one evaluation owns, for as long as its lm-eval model exists.

    plan: the checked arguments.
    ranks: this process's rank in a distributed run, and how many processes there are.
    store: the call store, or None with `store=off`.
    budget: this process's share of the budget, or None without one.
    run: the run directory.
    tables: the tables of the tasks that have one.
    summary: the figures after the latest call from lm-eval, as in `summary.json`.
    """

    plan: RunPlan
    ranks: Ranks
    store: CallStore | None
    budget: Budget | None
    run: RunDirectory
    tables: Tables
    summary: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, plan: RunPlan, label: str) -> Session:
        """Open everything that the plan names.

        Raises StoreError if a folder cannot be written or another process writes to it, and ConfigurationError if the
        processes of a distributed run were given different evaluations.
        """
        ranks, options = Ranks.current(), plan.options
        store = CallStore(Path(options.store).expanduser()) if options.store != "off" else None
        run = _open_run(plan, label, ranks)
        for seat, setup in plan.models.items():
            setup.backend.kept_in = run.path if store is None else Path(options.store).expanduser()
            setup.backend.attach(run.path, seat, ranks.world == 1)
            setup.backend.passes_through = plan.protocol.passes_through and seat in plan.seats
        budget = open_budget(options.budget, plan.models, ranks.world)
        return cls(plan, ranks, store, budget, run, Tables(run.path, label, ranks.rank, private=True))

    def again(self, purpose: str) -> str:
        """Return the advice to run the same command again; `purpose` is what that does (`to continue from here`).

        Without a call store, only the run directory has what is finished, so the command has to name it.
        """
        is_found = self.store is not None or self.plan.options.run_dir is not None
        return again(purpose, "" if is_found else f"run_dir={self.run.path}")


def _open_run(plan: RunPlan, label: str, ranks: Ranks) -> RunDirectory:
    """Open the run directory: first on rank 0, which creates it and locks it, then on the others."""
    config = _run_config(plan, label)
    asked = ranks.gather(json.dumps([label, config["identity"]], default=str, sort_keys=True))
    if len(set(asked)) > 1:
        raise ConfigurationError(
            [
                f"{ranks.world} processes were started together, but with different model arguments: give all of them "
                "the same, or set WORLD_SIZE=1 and RANK=0 for each one that is to run on its own"
            ]
        )
    path = plan.options.run_dir.expanduser() if plan.options.run_dir else None
    run: RunDirectory | None = None
    for turn in (True, False):
        error: HarnessExtError | None = None
        if (ranks.rank == 0) == turn:
            try:
                path = path or new_run_path(RUNS, label)
                run = RunDirectory(path, config, ranks.rank, ranks.world)
            except StoreError as raised:
                error = raised
            except OSError as raised:
                error = StoreError(
                    f"the run directory {path or RUNS} cannot be created: {raised}. Name a writable folder "
                    "(`run_dir=<folder>`)"
                )
        # A process that raised alone would leave the others waiting.
        results = ranks.gather((path, error and str(error)))
        if error is not None:
            raise error
        if other := next((message for _, message in results if message), None):
            raise StoreError(other)
        path = path or results[0][0]
    assert run is not None
    return run


def _run_config(plan: RunPlan, label: str) -> dict[str, Any]:
    """Return the content of `config.json`. A run directory is only resumed by a run with the same `identity`."""
    seed, reasoning = torch_seed(), Reasoning.of(plan.options)
    # Samples drawn with another seed are different samples, so the seed belongs to the identity of a protocol or seat
    # that samples. If only the task samples, the seed is part of its questions' identities instead.
    samples = plan.protocol.samples or any(setup.samples for setup in plan.seats.values())
    return {
        "harness_ext": __version__,
        "label": label,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": installed_versions(),
        "seeds": {"torch": seed},
        "demonstration_pair": plan.demonstration,
        "prompts": plan.prompts_hash,
        "run": {k: v for k, v in vars(plan.options).items() if k != "run_dir"},
        "seats": {
            name: {
                "chat": setup.chat,
                "price_in": setup.price_in,
                "price_out": setup.price_out,
                "batch_discount": setup.batch_discount,
                **setup.own,
                **setup.backend.info(),
            }
            for name, setup in all_seats(plan.seats).items()
        },
        "identity": {
            "protocol": type(plan.protocol).__qualname__,
            "options": dict(vars(plan.protocol)),
            "seats": {name: setup.identity for name, setup in plan.seats.items()},
            "seed": seed if samples else None,
            "on_overflow": plan.options.on_overflow,
            "on_empty": plan.options.on_empty,
            "reasoning": vars(reasoning) if reasoning else None,
        },
    }


def torch_seed() -> int:
    """Return lm-eval's torch seed. lm-eval does not pass it to models, so it is read back from torch."""
    torch = sys.modules.get("torch")
    return int(torch.initial_seed()) if torch is not None else 0
