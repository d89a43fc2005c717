"""`harness-ext finetune`: takes a YAML file or TeacherLM's ten positional arguments, and settings by name."""

from __future__ import annotations

import os
import sys

from harness_ext.engine.processes import place_of
from harness_ext.errors import INTERRUPTED, ConfigurationError, StoreError
from harness_ext.finetune.aliases import resolve, unknown
from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.encoding import DataError
from harness_ext.finetune.option_parser import make_parser, settings_of
from harness_ext.finetune.plan import HINTS, POSITIONALS, Plan, build_plan, load_plan, positional_settings
from harness_ext.finetune.preflight import Machine
from harness_ext.terminal import clean

USAGE = f"""harness-ext finetune --config run.yaml [--SETTING VALUE …]
       harness-ext finetune {" ".join(name.upper() for name in POSITIONALS)} [--SETTING VALUE …]
       harness-ext finetune decisions RUN … --output FOLDER"""


def main(argv: list[str]) -> int:
    """Run the training that the arguments describe, or write the rows of one (`decisions RUN …`).

    Returns 0 on success; 1 if another process trains into the same folder, or the training has diverged; 2 if settings
    or rows are invalid, after printing every problem; 128 plus the signal's number if a signal ended the training,
    after saving it; 130 if it was interrupted from the keyboard, which saves nothing.
    """
    if argv[:1] == ["decisions"]:
        from harness_ext.finetune import decisions_command

        return decisions_command.main(argv[1:])
    from harness_ext.finetune.callbacks import Interrupted
    from harness_ext.finetune.divergence import Diverged
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
        _leave()
    except (ConfigError, ConfigurationError, DataError) as error:
        if main_process():
            print(f"harness-ext finetune: {clean(error)}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"harness-ext finetune: {error}", file=sys.stderr)
        return 1
    except (Diverged, Interrupted) as ended:
        if main_process():
            print(f"harness-ext finetune: {clean(ended)}", file=sys.stderr)
        _leave()
        return ended.status
    except KeyboardInterrupt:
        if main_process():
            print("harness-ext finetune: interrupted; run the same command to resume", file=sys.stderr)
        return INTERRUPTED
    return 0


def read(argv: list[str]) -> tuple[Plan, bool]:
    """Return the plan that the arguments describe, and whether to check it only. Raises ConfigError."""
    given, unread = make_parser(USAGE).parse_known_intermixed_args(argv)
    if unread:
        # What follows an unknown option could be its value or a positional argument, so nothing else is checked.
        names = [one.partition("=")[0].lstrip("-").replace("-", "_") for one in unread if one.startswith("-")]
        raise ConfigError("\n".join(unknown(name, HINTS) for name in names))
    settings = settings_of(given)
    if given.config and given.positionals:
        raise ConfigError("give either --config or the ten positional arguments, not both.")
    if given.config:
        return load_plan(given.config, settings), given.check
    if given.positionals:
        machine = Machine.here()
        on_cpu = not machine.gpus or resolve(settings).values.get("device") == "cpu"
        implied = positional_settings(given.positionals, settings, on_cpu and machine.processes == 1)
        return build_plan(implied, "these arguments", settings), given.check
    if not settings:
        raise ConfigError(f"nothing to do.\nusage: {USAGE}")
    return build_plan(settings, "these arguments"), given.check


def _leave() -> None:
    """Leave the group of processes, if there are several, at an end that all of them reach.

    torch's threads may otherwise still run while Python exits, which can abort a process that has done its work; and
    on GPUs torch warns of it.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()


def _check(plan: Plan) -> int:
    from pathlib import Path

    from transformers import AutoTokenizer

    from harness_ext.finetune.preflight import check
    from harness_ext.finetune.train import report_data, say

    check(plan.stages, Machine.here())
    for note in plan.notes:
        say(note)
    for stage in plan.stages:
        # The model of a later stage does not exist yet; it will have the tokenizer of the first stage's model.
        model = stage.model if Path(stage.model).exists() else plan.stages[0].model
        report_data(stage, AutoTokenizer.from_pretrained(model, trust_remote_code=stage.trust_remote_code))
    print(f"{len(plan.stages)} stage(s) checked, no problems found")
    return 0
