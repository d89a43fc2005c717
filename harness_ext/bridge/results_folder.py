"""The name of lm-eval's output folder for runs that the user gave no label.

lm-eval names the folder below `--output_path` after one of the model arguments in `NAMES`. A protocol has its models in
its seats instead, and without such an argument lm-eval makes up a name, the same one in every run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from harness_ext.config.run_plan import RunPlan
from harness_ext.protocol.inner import all_seats

NAMES = ("peft", "delta", "pretrained", "model", "path", "engine")
LONGEST = 100  # characters; file systems allow 255 bytes


class DefaultName(str):
    """A name that this package chose, so that it can be told from the user's own when arguments are used again."""

    __slots__ = ()


def default_name(protocol: str, plan: RunPlan) -> DefaultName:
    """Return the name of a run without a label: that of its protocol and those of its models.

    protocol: the name of the protocol.
    plan: the run.
    """
    if plan.demonstration:
        return DefaultName(f"{protocol}-demonstration")
    models = dict.fromkeys(base_name(setup.backend.name) for setup in all_seats(plan.seats).values())
    name = "-".join([protocol, *models])
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return DefaultName(name)


def base_name(model: str) -> str:
    """Return the last part of a model's name, without backend, address and characters that no file name should have."""
    without_address = re.sub(r"@\w+://.*", "", model)
    last = without_address.rstrip("/").rpartition("/")[2]
    without_backend = re.sub(r"^[\w-]+:(?=.)", "", last)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", without_backend) or "model"


def name_results(arguments: dict[str, Any], name: DefaultName) -> None:
    """Add the name to the model arguments from which lm-eval takes its folder's, unless they contain one.

    arguments: lm-eval's own dictionary of the model arguments, which is changed.
    name: the name to add.
    """
    if not any(key in arguments for key in NAMES):
        arguments["model"] = name


def without_default(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return model arguments without a name that an earlier run with the same dictionary added."""
    return {key: value for key, value in arguments.items() if not isinstance(value, DefaultName)}
