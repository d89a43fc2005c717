"""The cells of a study: evaluations, and trainings whose checkpoints are evaluated."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness_ext.suite.contents import argument_digest, tasks_digest
from harness_ext.suite.settings import LmEvalOptions

OPERATIONAL = ("batch_size", "max_batch_size", "device")
OPERATIONAL_ARGUMENTS = ("store", "window", "progress", "budget")
OPERATIONAL_SETTINGS = ("device", "threads", "logging_steps", "tracker", "project", "output_dir", "resume")
LONGEST = 120  # characters of a folder's readable part


@dataclass(frozen=True)
class Cell(ABC):
    """Something that a study runs, in a folder of its own: an evaluation or a training.

    setting: the name of its setting, or of its training.
    axes: the values of the axes of the matrix by name.
    slurm: how it runs on Slurm, which does not identify it. Default: as the cluster likes.
    """

    setting: str
    axes: Mapping[str, str]
    slurm: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps(self.identity(), sort_keys=True, ensure_ascii=False, default=str)
        object.__setattr__(self, "digest", hashlib.sha256(text.encode(errors="replace")).hexdigest()[:10])

    @property
    def label(self) -> str:
        """Return the name of its run in comparisons: that of the setting, and the values of the axes."""
        axes = (f"{axis}:{value}".replace("=", ":") for axis, value in self.axes.items())  # `compare` reads LABEL=PATH
        return " ".join([self.setting, *axes])

    @property
    @abstractmethod
    def title(self) -> str:
        """Return its name in messages."""

    @property
    def name(self) -> str:
        """Return the name of its folder: readable, followed by the digest of what identifies it."""
        parts = [self.setting, *(f"{a}-{v}" for a, v in self.axes.items()), *self._more()]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))
        return f"{readable[:LONGEST]}-{self.digest}"

    @property
    @abstractmethod
    def coordinates(self) -> dict[str, str]:
        """Return where the cell is in its study."""

    @property
    def needs(self) -> tuple[Cell, ...]:
        """Return the cells that must be finished before this one starts."""
        return ()

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what identifies the cell, as JSON values: everything that can change its results."""

    @abstractmethod
    def _more(self) -> list[str]:
        """Return what the name of the folder has after the setting and the axes."""


@dataclass(frozen=True)
class TrainingCell(Cell):
    """One training of a study.

    file: the content of its configuration file; empty if it has none.
    options: the settings that the study gives, which take precedence.
    """

    file: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Return its name in messages."""
        return f"training {self.label}"

    @property
    def coordinates(self) -> dict[str, str]:
        """Return where the cell is in its study: training and axes."""
        return {"training": self.setting, **self.axes}

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of the file with those that replace them."""
        return {**self.file, **self.options}

    def identity(self) -> dict[str, Any]:
        """Return what identifies the training, as JSON values: everything that can change what is learned."""
        found = {"training": {k: v for k, v in self.settings.items() if k not in OPERATIONAL_SETTINGS}}
        result: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return result

    def _more(self) -> list[str]:
        return ["training"]


@dataclass(frozen=True)
class Trained:
    """The model that a cell evaluates, where a training of the study makes it.

    by: the training.
    checkpoint: which of its checkpoints: `epoch-N`, `step-N`, `best`, `last`, or `untouched` for the model that it
        started from.
    seat: the seat that gets the checkpoint; None for a model of lm-eval.
    """

    by: TrainingCell
    checkpoint: str
    seat: str | None


@dataclass(frozen=True)
class Evaluation(Cell):
    """One evaluation of a study.

    task: its task.
    seed: its seed, or None for lm-eval's own.
    model: the name of the lm-eval model.
    model_args: that model's arguments.
    options: lm-eval's options.
    control_of: the cell whose cost decides what it spends. Default None: it is no such control.
    draws_from: the cell whose drafts show what a draw costs. Default None: `control_of`.
    trained: the checkpoint that it evaluates. Default None: its models exist already.
    """

    task: str
    seed: int | None
    model: str
    model_args: Mapping[str, Any]
    options: LmEvalOptions
    control_of: Evaluation | None = None
    draws_from: Evaluation | None = None
    trained: Trained | None = None

    @property
    def title(self) -> str:
        """Return its name in messages."""
        return f"{self.label}, {self.task}" + ("" if self.seed is None else f", seed {self.seed}")

    @property
    def coordinates(self) -> dict[str, str]:
        """Return where the cell is in its study: setting, task, seed and axes."""
        seed = {} if self.seed is None else {"seed": str(self.seed)}
        return {"setting": self.setting, "task": self.task, **seed, **self.axes}

    @property
    def needs(self) -> tuple[Cell, ...]:
        """Return the cells that must be finished before this one starts."""
        training = None if self.trained is None else self.trained.by
        return tuple(cell for cell in (training, self.control_of, self.draws_from) if cell is not None)

    def identity(self) -> dict[str, Any]:
        """Return what identifies the evaluation, as JSON values: everything that can change its results."""
        options = {k: v for k, v in self.options.given().items() if k not in OPERATIONAL}
        arguments = {k: v for k, v in self.model_args.items() if k not in OPERATIONAL_ARGUMENTS}
        found = {"model": self.model, "model_args": arguments, "task": self.task, "seed": self.seed, **options}
        contents = {name: argument_digest(name, str(value)) for name, value in arguments.items()}
        contents["include_path"] = tasks_digest(self.options.include_path or "")
        if named := {name: content for name, content in contents.items() if content}:
            found["content"] = named
        if self.trained is not None:
            trained = self.trained
            found["trained"] = {"by": trained.by.digest, "checkpoint": trained.checkpoint, "seat": trained.seat}
        if self.control_of is not None:
            found["control"] = {"of": self.control_of.digest}
            if self.draws_from is not None:
                found["control"]["draws_from"] = self.draws_from.digest
        result: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return result

    def _more(self) -> list[str]:
        return [self.task] + ([] if self.seed is None else [f"seed-{self.seed}"])
