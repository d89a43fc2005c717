"""The settings that decide what a task's values measure, as lm-eval's results and run directories record them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness_ext.bridge.task_settings import FEWSHOT, PROMPT

# Functions without source code are recorded by their address, which differs between processes.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_FUNCTION = re.compile(r"<function (?:\S+\.)?(\w+)(?: at |>)|\s*(?:@[^\n]*\n\s*)*def (\w+)")
# Few-shot examples have the task's own entries unless they override them, most of them under the same name.
_INHERITED = {"split": "fewshot_split"}


@dataclass(frozen=True)
class TaskSettings:
    """How the values of a task were measured. None, or a missing entry, stands for what the source does not say.

    shots: the number of few-shot examples.
    version: the task's version.
    chat_template: whether a chat template was applied. Which one depends on the model.
    multiturn: whether few-shot examples were turns of a conversation; false without a template or examples.
    system_instruction: lm-eval's `--system_instruction`; empty if there was none.
    generation: the generation settings of the task, changed by `--gen_kwargs`; empty if the task generates nothing.
    prompt: a digest of each entry of the task's configuration that shapes its prompts or says what is right.
    examples: a digest of each entry that shapes only few-shot examples. It means nothing without examples.
    higher_is_better: the direction of each metric.
    aggregations: lm-eval's name of each metric's aggregation, or the source code of a task's own.
    """

    shots: int | None = None
    version: Any = None
    chat_template: bool | None = None
    multiturn: bool | None = None
    system_instruction: str | None = None
    generation: Mapping[str, Any] | None = None
    prompt: Mapping[str, str] | None = None
    examples: Mapping[str, str] | None = None
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    aggregations: Mapping[str, str] = field(default_factory=dict)


def settings_of_results(results: Mapping[str, Any], task: str, aggregations: Mapping[str, str]) -> TaskSettings:
    """Return the settings of a task in one of lm-eval's results files.

    results: the content of the file.
    task: the name of the task.
    aggregations: the aggregation of each metric that the task names one for.
    """
    config = results["configs"][task]
    shots = (results.get("n-shot") or {}).get(task, config.get("num_fewshot"))
    # Results that a script saved without lm-eval's tracker say nothing about templates: all its entries are null.
    told = results.get("model_source") is not None
    chat = results.get("chat_template") is not None if told else None
    return TaskSettings(
        shots,
        (results.get("versions") or {}).get(task),
        chat,
        _multiturn(chat, results.get("fewshot_as_multiturn"), shots),
        str(results.get("system_instruction") or "") if told else None,
        _generation(config),
        _digests(config, PROMPT),
        _digests(config, FEWSHOT),
        _directions((results.get("higher_is_better") or {}).get(task) or {}),
        aggregations,
    )


def settings_of_run(recorded: Mapping[str, Any] | None, figures: Mapping[str, Any]) -> TaskSettings:
    """Return the settings of a task in a run directory.

    recorded: what `read_settings` returns for the task; None if the run did not record it, as earlier versions did not.
    figures: the task's entry in the run's `scores.json`.
    """
    metrics = {name.rpartition(",")[0]: metric for name, metric in figures["metrics"].items()}
    found = TaskSettings(
        version=figures["version"],
        higher_is_better=_directions({name: m["higher_is_better"] for name, m in metrics.items()}),
        # `score` has a mean of its own for metrics to which the task gives no aggregation; lm-eval takes its mean.
        aggregations={name: m["aggregation"].removeprefix("_") for name, m in metrics.items()},
    )
    if recorded is None:
        return found
    config = recorded["config"]
    shots = config.get("num_fewshot") or 0
    chat = recorded.get("chat_template")
    return TaskSettings(
        shots,
        found.version,
        chat,
        _multiturn(chat, recorded.get("fewshot_as_multiturn"), shots),
        str(recorded.get("system_instruction") or ""),
        _generation(config),
        _digests(config, PROMPT),
        _digests(config, FEWSHOT),
        found.higher_is_better,
        found.aggregations,
    )


def function_name(text: str) -> str | None:
    """Return the name of a function that is recorded as source code or as `<function …>`, or None for other texts."""
    found = _FUNCTION.match(text)
    return None if found is None else found[1] or found[2]


def _digests(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Return a digest of each of these entries of a task's configuration, as lm-eval writes it into its results."""
    entries = {name: config[name] for name in names if config.get(name) not in (None, "")}
    if isinstance(examples := entries.get("fewshot_config"), Mapping):
        entries["fewshot_config"] = _own_entries(examples, config)
    return {name: _digest(value) for name, value in entries.items() if value != {}}


def _own_entries(examples: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of few-shot examples without those inherited from the task, which some versions leave out."""
    return {
        name: value
        for name, value in examples.items()
        if value is not None
        and (name, value) != ("sampler", "default")
        and not _same(value, config.get(_INHERITED.get(name, name)))
    }


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal, or are the same function, once as source code and once by its address."""
    if one == other or not isinstance(one, str) or not isinstance(other, str):
        return bool(one == other)
    name = function_name(one)
    return one.startswith("<function ") and name is not None and name == function_name(other)


def _digest(value: Any) -> str:
    text = _ADDRESS.sub("", json.dumps(value, sort_keys=True, default=str))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _generation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("generation_kwargs")
    return found if isinstance(found, Mapping) else {}


def _multiturn(chat: bool | None, multiturn: Any, shots: int | None) -> bool | None:
    if chat is False or shots == 0:
        return False
    return None if chat is None or shots is None else bool(multiturn)


def _directions(found: Mapping[str, Any]) -> dict[str, bool]:
    return {name: better for name, better in found.items() if isinstance(better, bool)}
