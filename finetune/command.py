"""`harness-ext finetune`: takes a YAML file or TeacherLM's ten positional arguments, and settings by name."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from harness_ext.engine.processes import place_of
from harness_ext.errors import ConfigurationError, StoreError
from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.encoding import DataError
from harness_ext.finetune.plan import HINTS, POSITIONALS, Plan, build_plan, load_plan, positional_settings
from harness_ext.terminal import clean

USAGE = f"""harness-ext finetune --config run.yaml [--SETTING VALUE …]
       harness-ext finetune {" ".join(name.upper() for name in POSITIONALS)} [--SETTING VALUE …]"""


def main(argv: list[str]) -> int:
    """Run the training that the arguments describe.

    Returns 0 on success; 1 if another process trains into the same folder; 2 if settings or rows are invalid, after
    printing every problem; 128 plus the signal's number if a signal ended the training, after saving it.
    """
    from harness_ext.finetune.callbacks import Interrupted
    from harness_ext.finetune.train import main_process, run_plan

    try:
        place = place_of()
        if place.world > 1:  # the training libraries know torchrun's variables only, not those of srun or mpirun
            os.environ.update(place.variables())
        plan, check_only = read(argv)
        if check_only:
            return _check(plan)
        final = run_plan(plan)
        if main_process():
            print(final)
    except (ConfigError, ConfigurationError, DataError) as error:
        if main_process():
            print(f"harness-ext finetune: {clean(error)}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"harness-ext finetune: {error}", file=sys.stderr)
        return 1
    except Interrupted as ended:
        if main_process():
            print(f"harness-ext finetune: {ended}", file=sys.stderr)
        return ended.status
    return 0


def read(argv: list[str]) -> tuple[Plan, bool]:
    """Return the plan that the arguments describe, and whether to check it only. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="harness-ext finetune",
        usage=USAGE,
        description="Train a model. Every setting in docs/finetune.md is also an option.",
        allow_abbrev=False,
    )
    parser.add_argument("positionals", nargs="*", metavar="TEN ARGUMENTS")
    parser.add_argument("--config", help="a YAML file with the settings")
    parser.add_argument("--check", action="store_true", help="check settings, models and rows without training")
    for name in HINTS:
        flags = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])
        parser.add_argument(*flags, dest=name, default=argparse.SUPPRESS, metavar="VALUE")
    given: dict[str, Any] = vars(parser.parse_args(argv))
    config, positionals, check_only = given.pop("config"), given.pop("positionals"), given.pop("check")
    if config and positionals:
        raise ConfigError("give either --config or the ten positional arguments, not both.")
    if config:
        return load_plan(config, given), check_only
    if positionals:
        return build_plan(positional_settings(positionals, given), "these arguments"), check_only
    if not given:
        raise ConfigError(f"nothing to do.\nusage: {USAGE}")
    return build_plan(given, "these arguments"), check_only


def _check(plan: Plan) -> int:
    from pathlib import Path

    from transformers import AutoTokenizer

    from harness_ext.finetune.preflight import Machine, check
    from harness_ext.finetune.train import report_data

    check(plan.stages, Machine.here())
    for stage in plan.stages:
        # The model of a later stage does not exist yet; it will have the tokenizer of the first stage's model.
        model = stage.model if Path(stage.model).exists() else plan.stages[0].model
        report_data(stage, AutoTokenizer.from_pretrained(model, trust_remote_code=stage.trust_remote_code))
    print(f"{len(plan.stages)} stage(s) checked, no problems found")
    return 0
