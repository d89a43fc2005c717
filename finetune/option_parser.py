"""The options of `harness-ext finetune`: one per setting, and one per name that TRL or transformers gives to it."""

from __future__ import annotations

import argparse
from typing import Any

from harness_ext.finetune.aliases import is_switch
from harness_ext.finetune.args import CHOICES, TrainArgs
from harness_ext.finetune.known_names import ALIASES, COMBINED, UNSUPPORTED
from harness_ext.finetune.option_help import grouped_help
from harness_ext.finetune.plan import HINTS

EPILOG = """The names that TRL and transformers give to settings are accepted too, here and in a YAML file
(--num_train_epochs 2, --use_peft). docs/finetune.md lists them."""
METAVARS = {int: "N", float: "X", str: "TEXT", bool: "true|false"}


def make_parser(usage: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments, whose help gives the meaning and the default of each option.

    Every setting is an option, with underscores or dashes; a truth value may be given as `--packing` or
    `--no_packing`. Values remain strings, which `plan.build_plan` converts.

    usage: the usage message.
    """
    parser = argparse.ArgumentParser(
        prog="harness-ext finetune",
        usage=usage,
        description="Train a model.",
        epilog=EPILOG,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "positionals", nargs="*", default=[], metavar="TEN ARGUMENTS", help="the arguments of TeacherLM's script"
    )
    parser.add_argument("--config", default="", help="a YAML file with the settings")
    parser.add_argument(
        "--check", action="store_true", default=False, help="check settings, models and rows without training"
    )
    for title, texts in grouped_help(TrainArgs).items():
        group = parser.add_argument_group(title)
        for name, text in texts.items():
            _add_setting(group, name, _with_other_names(name, text))
    for name, alias in ALIASES.items():
        _add(parser, name, "+" if alias.several else "?" if is_switch(name) else None)
    for name in COMBINED:
        _add(parser, name, "?" if is_switch(name) else None)
    for name in UNSUPPORTED:
        _add(parser, name, "*")
    return parser


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the settings among parsed arguments, under the names with which they were given."""
    values = {name: value for name, value in vars(given).items() if name not in ("positionals", "config", "check")}
    return {name: _joined(value) if isinstance(value, list) else value for name, value in values.items()}


def _joined(values: list[str]) -> str:
    return ",".join(values) if values else "true"


def _add_setting(group: Any, name: str, text: str) -> None:
    kind = HINTS[name]
    # TRL's `--push_to_hub` has no value.
    nargs = "?" if kind is bool or name == "push_to_hub" else None
    metavar = "{" + ",".join(CHOICES[name]) + "}" if name in CHOICES else METAVARS[kind]
    shared: dict[str, Any] = {"dest": name, "nargs": nargs, "const": "true" if nargs else None}
    group.add_argument(f"--{name}", metavar=metavar, help=text.replace("%", "%%"), **shared)
    if "_" in name:
        group.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS, **shared)
    if kind is bool:
        no = {"action": "store_const", "const": "false", "help": argparse.SUPPRESS}
        group.add_argument(*_flags(f"no_{name}"), dest=name, **no)


def _add(parser: argparse.ArgumentParser, name: str, nargs: str | None) -> None:
    """Add a name that TRL or transformers uses, which `--help` shows only at the setting."""
    hidden: dict[str, Any] = {"dest": name, "help": argparse.SUPPRESS}
    parser.add_argument(*_flags(name), nargs=nargs, const="true" if nargs == "?" else None, **hidden)
    if nargs in ("?", "*"):
        parser.add_argument(*_flags(f"no_{name}"), action="store_const", const="false", **hidden)


def _flags(name: str) -> list[str]:
    return [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])


def _with_other_names(name: str, text: str) -> str:
    others = [other for other, alias in ALIASES.items() if alias.setting == name]
    others += [other for other, setting in COMBINED.items() if setting == name]
    return f"{text} Also: {', '.join(f'--{other}' for other in others)}." if others else text
