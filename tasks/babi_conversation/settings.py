"""Runs settings that are described by configuration files of github.com/racia/research-project.

    bash setting.sh config/baseline_config.yaml config/feedback_config.yaml
    python -m harness_ext.tasks.babi_conversation.settings CONFIG …

Each file becomes a study of one cell (docs/suite.md), which is run, or continued where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness_ext.config.run_options import RUNS
from harness_ext.errors import OK, USAGE, ConfigurationError
from harness_ext.files import atomic_write
from harness_ext.suite.command import main as suite
from harness_ext.tasks.babi_conversation.setting_fields import SettingFile, read_setting
from harness_ext.terminal import clean

GROUP = "babi_conversation_setting"  # the tables are those of tasks with such names
GROUPED = f"{GROUP}_tasks"  # in place of the template's tag, which belongs to the tasks of this package
METRICS = ("exact_match", "soft_match", "exact_match_before", "soft_match_before")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the settings one after the other, and return the exit status: that of the first that failed."""
    parser = argparse.ArgumentParser(
        prog="setting.sh", description="Run settings on bAbI that configuration files describe.", allow_abbrev=False
    )
    parser.add_argument(
        "configs", nargs="+", metavar="CONFIG", help="a YAML file, or its folder and its name in one argument"
    )
    parser.add_argument("--folder", type=Path, default=RUNS / "suites", help=f"where results go ({RUNS}/suites)")
    parser.add_argument("--check", action="store_true", help="only write and check the studies")
    options = parser.parse_args(arguments)
    problems: list[str] = []
    settings: list[SettingFile] = []
    for named in options.configs:
        try:
            settings.append(read_setting(named))
        except ConfigurationError as error:
            problems += error.problems
    names = [setting.name for setting in settings]
    problems += [
        f"two files have the name {name}: rename one" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    if problems:
        print(clean("\n".join(["setting.sh:", *(f"  - {problem}" for problem in problems)])), file=sys.stderr)
        return USAGE
    statuses = []
    for setting in settings:
        path = write_study(setting, options.folder / setting.name)
        print(f"[setting] {setting.name}: {setting.model}, see {path.parent}", file=sys.stderr, flush=True)
        for note in setting.notes:
            print(clean(f"[setting]   {note}"), file=sys.stderr, flush=True)
        statuses.append(suite(["check" if options.check else "run", str(path)]))
    return next((status for status in statuses if status != OK), OK)


def write_study(setting: SettingFile, folder: Path) -> Path:
    """Write the study that runs a setting, with the task files that it needs, and return its path.

    setting: the setting.
    folder: the folder of the study.
    """
    import yaml

    def write(path: Path, content: dict[str, Any], first: str = "") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(first + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    tasks = folder / "tasks"
    for number in setting.task_ids:
        rows = {"folder": str(setting.data.resolve()), "split": setting.split, "babi_task": number}
        skips = setting.of_all or number == setting.task_ids[0]
        rows |= {"first": setting.first if skips else 1, "last": setting.last}
        described = {} if setting.instruction is None else {"description": setting.instruction}
        # YAML cannot write lm-eval's `!function` from plain values.
        loader = "custom_dataset: !function harness_ext.tasks.babi_conversation.raw.load\n"
        content = {
            "include": str(Path(__file__).with_name("_template_yaml")),
            "task": f"{GROUP}_{number}",
            "tag": GROUPED,
        }
        write(tasks / f"{number}.yaml", {**content, "dataset_kwargs": rows, **described}, loader)
    metrics = [{"metric": name, "aggregation": "mean", "weight_by_size": False} for name in METRICS]
    group = {"group": GROUP, "task": [f"{GROUP}_{number}" for number in setting.task_ids]}
    write(tasks / "group.yaml", {**group, "aggregate_metric_list": metrics, "metadata": {"version": 1.0}})
    study = {
        "name": setting.name,
        "folder": str(folder),
        "tasks": [GROUP],
        "settings": {
            "setting": {
                "model": setting.model,
                "model_args": {**setting.model_args, "model": setting.name},
                "apply_chat_template": True,
                "include_path": str(tasks),
            }
        },
    }
    path = folder / "study.yaml"
    write(path, study)
    return path


if __name__ == "__main__":
    sys.exit(main())
