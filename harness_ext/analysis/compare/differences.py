"""Says in words how the settings of runs differ, and which settings their records leave open."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness_ext.analysis.compare.runs import UNNAMED, Run
from harness_ext.analysis.compare.settings import TaskSettings, function_name

SHOWN = 5
LONGEST = 60
Found = list[tuple[str, Any]]
"""A value for each run or file that states one."""


def differing_settings(runs: Sequence[Run], questions: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return one sentence for each setting in which runs differ.

    runs: the runs.
    questions: the tasks to compare, and for each its metrics as `metric,filter`.

    A setting that a run does not record differs from none.
    """
    return tuple(
        _by_task(
            (task, difference)
            for task, metrics in questions.items()
            for difference in differences({run.label: run.tasks[task].settings for run in runs}, metrics)
        )
    )


def unknown_settings(runs: Sequence[Run], questions: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return one sentence for each run that does not record all settings; none if there is only one run.

    runs: the runs.
    questions: as for `differing_settings`.
    """
    if len(runs) < 2:
        return ()
    lines: list[str] = []
    for run in runs:
        gaps = [(task, gap) for task, metrics in questions.items() if (gap := _gap(run.tasks[task].settings, metrics))]
        lines += [f"{run.label} does not record {line}" for line in _by_task(gaps, "{text} of {tasks}")]
    return tuple(f"{line}: taken to be the same as in the other runs" for line in lines)


def differences(settings: Mapping[str, Sequence[TaskSettings]], metrics: Iterable[str] = ()) -> list[str]:
    """Return in words how the settings of one task differ (`5 shots in A, 0 in B`).

    settings: by label, the settings of each run or file; several if it consists of several.
    metrics: the metrics to compare, as `metric,filter`. Default none.
    """
    found = [(label, one) for label, several in settings.items() for one in several]

    def stated(read: Callable[[TaskSettings], Any]) -> Found:
        return _known([(label, read(one)) for label, one in found])

    lines = [
        _line(stated(lambda s: s.shots), "{0} shots in {1}"),
        _line(stated(lambda s: s.version), "version {0} in {1}"),
        _named("chat template", _line(stated(lambda s: s.chat_template), show=_choice("applied", "not applied"))),
        _named(
            "few-shot examples",
            _line(
                stated(lambda s: s.multiturn if s.chat_template and s.shots else None),
                show=_choice("turns of the conversation", "part of one message"),
            ),
        ),
        _named("system instruction", _line(stated(lambda s: s.system_instruction), show=_shown)),
        *_generation(stated(lambda s: s.generation)),
        *_prompt(stated(lambda s: s.prompt)),
        *_prompt(stated(lambda s: None if s.shots == 0 else s.examples)),
    ]
    for metric in dict.fromkeys(name.rpartition(",")[0] for name in metrics):
        better = [(label, one.higher_is_better.get(metric)) for label, one in found]
        ways = [(label, _aggregation(one, metric)) for label, one in found]
        lines += [
            _named(metric, _line(_known(better), "{0} is better in {1}", show=_choice("higher", "lower"))),
            _named(metric, _line(_known(ways), "aggregated by {0} in {1}", "by {0} in {1}")),
        ]
    return [line for line in lines if line]


def _known(found: Found) -> Found:
    return [(label, value) for label, value in found if value is not None]


def _named(name: str, line: str) -> str:
    return line and f"{name}: {line}"


def _choice(yes: str, no: str) -> Callable[[Any], str]:
    return lambda value: yes if value else no


def _line(
    found: Found, first: str = "{0} in {1}", further: str = "{0} in {1}", show: Callable[[Any], str] = str
) -> str:
    """Return a sentence about the values and who has them, or an empty text if they are all equal.

    found: the values.
    first: the form of the first value. Default: the value and who has it.
    further: the form of the others. Default: likewise.
    show: returns a value's text. Default str.
    """
    holders: list[tuple[Any, list[str]]] = []
    for label, value in found:
        labels = next((labels for known, labels in holders if known == value), None)
        if labels is None:
            holders.append((value, labels := []))
        if label not in labels:
            labels.append(label)
    if len(holders) < 2:
        return ""
    return ", ".join(
        (further if number else first).format(show(value), ", ".join(labels))
        for number, (value, labels) in enumerate(holders)
    )


def _generation(found: Found) -> list[str]:
    """Describe how generation settings differ, each by its own name."""
    if all(value == found[0][1] for _, value in found[1:]):
        return []
    effective = [(label, _effective(value)) for label, value in found]
    names = dict.fromkeys(name for _, value in effective for name in value)
    values = {
        name: [(label, json.dumps(value[name]) if name in value else "not set") for label, value in effective]
        for name in names
    }
    return [_named(name, _line(texts, show=_short)) for name, texts in values.items()]


def _effective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return generation settings in the form in which equal ones look equal (`max_new_tokens` is `max_gen_toks`)."""
    from harness_ext.backends.settings import canonical_settings

    try:
        found: dict[str, Any] = json.loads(canonical_settings(settings, 0)[0])
    except (TypeError, ValueError):  # settings that this version of lm-eval does not take
        return dict(settings)
    if not found["max_gen_toks"]:  # the default, which depends on the model
        del found["max_gen_toks"]
    if not found["do_sample"]:
        found.pop("temperature", None)
    return found


def _prompt(found: Found) -> list[str]:
    """Name the entries of the task's configuration that differ. Most of their texts are too long to be shown."""
    return [
        _named(name, _line([(label, value.get(name)) for label, value in found], "one form in {1}", "another in {1}"))
        for name in dict.fromkeys(name for _, value in found for name in value)
    ]


def _aggregation(settings: TaskSettings, metric: str) -> str | None:
    """Return the name of the function that aggregates a metric, or None if the source does not tell."""
    name = settings.aggregations.get(metric, UNNAMED)
    if name == "mean":
        return name
    import lm_eval.api.metrics  # noqa: F401  (registers them)
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_AGGREGATION_REGISTRY

    by_default, named = METRIC_AGGREGATION_REGISTRY.get(metric, None), AGGREGATION_REGISTRY.get(name, None)
    function = by_default if name == UNNAMED else named
    if function is not None:
        return str(getattr(function, "__name__", name))
    return None if name == UNNAMED else function_name(name) or name


def _gap(settings: Sequence[TaskSettings], metrics: Iterable[str]) -> str:
    """Return what one or more sources of a run leave open about a task."""
    known = {
        "the number of shots": [s.shots for s in settings],
        "the version": [s.version for s in settings],
        "whether a chat template was applied": [s.chat_template for s in settings],
        "the system instruction": [s.system_instruction for s in settings],
        "the generation settings": [s.generation for s in settings],
        "the form of the prompt": [s.prompt for s in settings],
    }
    for metric in dict.fromkeys(name.rpartition(",")[0] for name in metrics):
        known[f"whether a higher {metric} is better"] = [s.higher_is_better.get(metric) for s in settings]
        known[f"the aggregation of {metric}"] = [_aggregation(s, metric) for s in settings]
    return _listed([name for name, values in known.items() if any(value is None for value in values)])


def _by_task(found: Iterable[tuple[str, str]], form: str = "{tasks}: {text}") -> list[str]:
    """Return one line for each text, with all tasks that it is about."""
    tasks: dict[str, list[str]] = {}
    for task, text in found:
        tasks.setdefault(text, []).append(task)
    return [form.format(tasks=_some(names), text=text) for text, names in tasks.items()]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more tasks" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _shown(text: str) -> str:
    return _short(repr(text)) if text else "none"


def _short(text: str) -> str:
    """Return a text, shortened if it is long, with a part of its hash that tells it from others that begin alike."""
    if len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: LONGEST - 20]}… ({digest})"
