"""`harness-ext finetune --config run.yaml`."""

from __future__ import annotations

import argparse
import sys

from harness_ext.finetune.args import ConfigError, load_plan
from harness_ext.finetune.data import DataError


def main(argv: list[str]) -> int:
    """Run the training that a YAML file describes. Returns 0, or 2 when the configuration or the rows are at fault."""
    parser = argparse.ArgumentParser(prog="harness-ext finetune", description="Train on prompt+completion rows.")
    parser.add_argument("--config", required=True, help="YAML file with the settings (docs/finetune.md)")
    parser.add_argument("--check", action="store_true", help="only check the settings")
    options = parser.parse_args(argv)
    try:
        plan = load_plan(options.config)
        if options.check:
            print(f"{options.config}: {len(plan.stages)} stage(s), no problem found")
            return 0
        from harness_ext.finetune.train import run_plan

        print(run_plan(plan))
    except (ConfigError, DataError) as error:
        print(f"harness-ext finetune: {error}", file=sys.stderr)
        return 2
    return 0
