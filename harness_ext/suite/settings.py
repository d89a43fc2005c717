"""What a setting of a study may say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness_ext.backends.settings import settings_problems
from harness_ext.options import build, known_names, suggest
from harness_ext.suite.slurm_options import check_slurm
from harness_ext.terminal import outside

SETTING_KEYS = (
    "base", "model", "model_args", "tasks", "seeds", "matrix", "control", "checkpoints_of", "checkpoints", "slurm",
)  # fmt: skip
MAPPINGS = ("gen_kwargs", "metadata", "samples")
OF_A_RUN = frozenset(
    {
        "model",
        "model_args",
        "gen_kwargs",
        "system_instruction",
        "apply_chat_template",
        "fewshot_as_multiturn",
        "checkpoints_of",
        "checkpoints",
    }
)
# The protocols that can be a control, and the option that says how much another run spent.
CONTROLS = {"self_consistency": "k", "equal_budget": "spend"}


@dataclass(frozen=True)
class LmEvalOptions:
    """The options of lm-eval that a setting may give, by lm-eval's own names and with its defaults.

    num_fewshot: the number of few-shot examples.
    limit: how many documents of each task to evaluate, or which share of them.
    samples: the numbers of the documents to evaluate, by task.
    gen_kwargs: generation settings that override those of the task.
    system_instruction: the system message.
    apply_chat_template: whether to apply the model's chat template, or the name of a template.
    fewshot_as_multiturn: whether few-shot examples are turns of the conversation.
    include_path: a folder of task files.
    metadata: what tasks need besides.
    trust_remote_code, confirm_run_unsafe_code: lm-eval's consents.
    batch_size, max_batch_size, device: where and how fast models run; these do not identify a cell.
    """

    num_fewshot: int | None = None
    limit: float | None = None
    samples: Any = None
    gen_kwargs: Any = None
    system_instruction: str | None = None
    apply_chat_template: bool | str | None = None
    fewshot_as_multiturn: bool | None = None
    include_path: str | None = None
    metadata: Any = None
    trust_remote_code: bool | None = None
    confirm_run_unsafe_code: bool | None = None
    batch_size: int | str | None = None
    max_batch_size: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and (self.limit <= 0 or (self.limit > 1 and self.limit % 1)):
            raise ValueError(f"`limit={self.limit:g}`: expected a number of documents, or a share of them below 1")
        for name, least in (("num_fewshot", 0), ("max_batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}={value}`: expected a whole number from {least}")
        size = "1" if self.batch_size is None else str(self.batch_size)
        if not re.fullmatch(r"auto(:\d+)?|0*[1-9]\d*", size):
            raise ValueError(f"`batch_size={outside(size, 60)}`: expected a whole number from 1, `auto` or `auto:<N>`")
        if isinstance(self.gen_kwargs, Mapping) and (problems := settings_problems(self.gen_kwargs, "gen_kwargs.")):
            raise ValueError("; ".join(problems))

    def given(self) -> dict[str, Any]:
        """Return the options that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Control:
    """Self-consistency at equal cost.

    of: the setting whose cost per question decides how many draws a question gets.
    draws_from: the setting whose drafts show what a draw costs. Default None: `of`.
    """

    of: str
    draws_from: str | None = None


@dataclass(frozen=True)
class Setting:
    """A setting before it is combined with tasks, seeds and axes.

    name: its name in the study.
    fields: its model, its model's arguments, the training whose checkpoints it evaluates, and lm-eval's options, with
        everything that it inherits.
    tasks: the tasks with the fields that each one changes.
    seeds: the seeds; None stands for lm-eval's own.
    axes: the axes of its matrix by name, each with the fields that each of its values changes, by label.
    control: what it is an equal-cost control of, or None.
    """

    name: str
    fields: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int | None, ...]
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    control: Control | None = None


def check_fields(fields: Mapping[str, Any], where: str, problems: list[str]) -> LmEvalOptions:
    """Return the lm-eval options among the fields of a setting.

    fields: the fields.
    where: where they are, for messages.
    problems: receives a message for each field that is unknown or has a wrong type.
    """
    known = known_names(LmEvalOptions)
    problems += [
        f"{where}: there is no field `{outside(name)}`{suggest(str(name), [*SETTING_KEYS, *known])}"
        for name in fields
        if name not in (*known, "model", "model_args", "checkpoints_of", "checkpoints", "slurm")
    ]
    for name in ("model_args", *MAPPINGS):
        value = fields.get(name)
        if value is not None and not isinstance(value, Mapping):
            problems.append(f"{where}: `{name}` takes names and values (`{name}: {{name: value}}`)")
    check_slurm(fields.get("slurm"), f"{where}.slurm", problems)
    found: list[str] = []
    given = [build(LmEvalOptions, {name: fields[name]}, found) for name in known if name in fields]
    problems += [f"{where}: {problem}" for problem in found]
    return LmEvalOptions(**{name: value for one in given if one is not None for name, value in one.given().items()})
