"""Turns the names that TRL and transformers give to settings into this project's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness_ext.finetune.known_names import ALIASES, COMBINED, UNSUPPORTED
from harness_ext.options import suggest


@dataclass(frozen=True)
class Resolved:
    """Settings under this project's names.

    values: the value of each setting. Names that nobody knows are kept.
    names: the name under which each of them was given.
    problems: what is wrong with the names, one sentence per problem.
    """

    values: dict[str, Any]
    names: dict[str, str]
    problems: list[str]


def resolve(given: Mapping[str, Any]) -> Resolved:
    """Return settings under this project's names.

    Names that TRL and transformers use are replaced, and their values translated. A setting given under two names, a
    name without a corresponding setting, and a value that no setting can express are problems.

    given: settings from one source: a command line, a YAML file or one of its stages.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    problems: list[str] = []

    def add(setting: str, name: str, value: Any) -> None:
        if setting in values:
            problems.append(f"`{names[setting]}` and `{name}` are names of one setting, `{setting}`; give one of them.")
        else:
            values[setting], names[setting] = value, name

    for name, value in given.items():
        if name in COMBINED or (name == "push_to_hub" and _switch(value) is not None):
            continue
        if name in UNSUPPORTED:
            refused = UNSUPPORTED[name]
            if _text(value) not in refused.accepted:
                problems.append(f"`{name}: {_text(value)}` is not supported: {refused.why}.")
            continue
        alias = ALIASES.get(name)
        if alias is None:
            add(name, name, value)
        elif not alias.values:
            add(alias.setting, name, value[0] if isinstance(value, list) and len(value) == 1 else value)
        elif _text(value) in alias.values:
            add(alias.setting, name, alias.values[_text(value)])
        else:
            problems.append(f"`{name}` is {value!r}; choose one of {', '.join(alias.values)}.")
    for combine in (_adapter, _dtype, _upload, _warmup):
        for setting, name, value in combine(given, problems):
            add(setting, name, value)
    for name in ("save_strategy", "eval_strategy", "evaluation_strategy"):
        if name in given:
            _strategy(name, _text(given[name]), COMBINED[name] in given, problems)
    return Resolved(values, names, problems)


def unknown(name: str, settings: Mapping[str, Any]) -> str:
    """Return what to say about a name that is neither a setting nor known from TRL and transformers.

    name: the name.
    settings: this project's settings, by name.
    """
    known = [*settings, *ALIASES, *COMBINED, *UNSUPPORTED]
    return f"`{name}` is not a setting{suggest(name, known)}; `harness-ext finetune --help` lists them all."


def is_switch(name: str) -> bool:
    """Return whether a name of TRL or transformers can be given without a value, which then is `true`."""
    if name in ALIASES:
        return "true" in ALIASES[name].values or ALIASES[name].setting in ("gradient_checkpointing", "resume")
    return name in ("use_peft", "load_in_4bit", "bf16", "fp16", "push_to_hub")


_Settings = list[tuple[str, str, Any]]
_Combine = Callable[[Mapping[str, Any], list[str]], _Settings]


def _adapter(given: Mapping[str, Any], problems: list[str]) -> _Settings:
    """LoRA is a switch in TRL, and 4-bit bases another one."""
    lora = _read_switch(given, "use_peft", problems)
    four_bits = _read_switch(given, "load_in_4bit", problems)
    if four_bits and not lora:
        problems.append("`load_in_4bit` needs `use_peft`, because weights in 4 bits cannot be trained.")
    if lora is None:
        return []
    if four_bits:
        return [("adapter", "use_peft` with `load_in_4bit", "qlora")]
    return [("adapter", "use_peft", "lora" if lora else "full")]


def _dtype(given: Mapping[str, Any], problems: list[str]) -> _Settings:
    """Half precision is two switches in transformers."""
    bfloat, half = _read_switch(given, "bf16", problems), _read_switch(given, "fp16", problems)
    if bfloat and half:
        problems.append("`bf16` and `fp16` cannot both be true.")
        return []
    if half:
        return [("dtype", "fp16", "float16")]
    if bfloat is not None:
        return [("dtype", "bf16", "bfloat16" if bfloat else "float32")]
    if half is not None:
        problems.append("`fp16: false` does not say which type to compute in; set `dtype`.")
    return []


def _upload(given: Mapping[str, Any], problems: list[str]) -> _Settings:
    """Whether to upload and where to are two settings in transformers."""
    push, repository = _switch(given.get("push_to_hub")), given.get("hub_model_id")
    if push and repository is None:
        problems.append("`push_to_hub` needs the name of a repository: `push_to_hub: owner/name`.")
    elif repository is not None and not push and "push_to_hub" in given and push is None:
        problems.append("`push_to_hub` and `hub_model_id` are names of one setting, `push_to_hub`; give one of them.")
    elif repository is not None and not push:
        problems.append("`hub_model_id` has no effect without `push_to_hub`.")
    elif push:
        return [("push_to_hub", "hub_model_id", repository)]
    return []


def _warmup(given: Mapping[str, Any], problems: list[str]) -> _Settings:
    """`warmup_steps` below 1 are a share of all steps, as in transformers."""
    if "warmup_ratio" not in given:
        return []
    value = given["warmup_ratio"]
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share < 1:
        problems.append(f"`warmup_ratio` is {value!r}; it must be a share of all steps, from 0 to below 1.")
        return []
    return [("warmup_steps", "warmup_ratio", share)]


def _strategy(name: str, value: str, has_steps: bool, problems: list[str]) -> None:
    setting = COMBINED[name]
    what = "a checkpoint is saved" if setting == "save_steps" else "validation rows are measured"
    if value == "steps" and not has_steps:
        problems.append(f"`{name}: steps` needs `{setting}`, the number of steps.")
    elif value not in ("epoch", "steps"):
        problems.append(
            f"`{name}: {value}` is not supported: {what} after each epoch, and every `{setting}` steps if that is set."
        )


def _read_switch(given: Mapping[str, Any], name: str, problems: list[str]) -> bool | None:
    if name not in given:
        return None
    value = _switch(given[name])
    if value is None:
        problems.append(f"`{name}` is {given[name]!r}; choose true or false.")
    return value


def _switch(value: Any) -> bool | None:
    return {"true": True, "false": False}.get(_text(value))


def _text(value: Any) -> str:
    """Return a value as YAML and the command line write it alike."""
    if isinstance(value, list):
        return " ".join(_text(one) for one in value)
    return str(value).lower()
