"""How lm-eval built a run's prompts: shots, templates, generation settings.

lm-eval tells a model none of this, but values can only be compared if they were measured in the same way.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness_ext.records.run_directory import write_json

FILE = "settings.json"
PROMPT = (
    "output_type",
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "doc_to_image",
    "doc_to_audio",
    "use_prompt",
    "gen_prefix",
    "target_delimiter",
)
"""The entries of a task's configuration that shape every prompt, or say what the right answer is."""
FEWSHOT = ("fewshot_config", "fewshot_delimiter", "fewshot_split")
"""The entries that shape only few-shot examples."""
logger = logging.getLogger("harness_ext")

_settings: dict[str, dict[str, Any]] = {}


def watch() -> None:
    """Take note of how lm-eval's `Task.build_all_requests` is called from now on. A second call changes nothing."""
    from lm_eval.api.task import Task

    build = Task.build_all_requests
    if getattr(build, "notes_settings", False):
        return

    @functools.wraps(build)
    def noting(task: Any, *arguments: Any, **options: Any) -> Any:
        _settings[str(task.config.task)] = _settings_of(task, options)
        return build(task, *arguments, **options)

    noting.notes_settings = True  # type: ignore[attr-defined]
    Task.build_all_requests = noting


def record_settings(run: Path, tasks: Iterable[str]) -> None:
    """Write the settings of these tasks into a run directory, besides those of other tasks that are already there.

    run: the run directory.
    tasks: the names of the tasks in the records.

    A file that cannot be written is reported and ends nothing: comparisons say that the settings are unknown then.
    """
    there = read_settings(run)
    found = there | {name: _settings[name] for name in tasks if name in _settings}
    if found == there:
        return
    try:
        write_json(run / FILE, dict(sorted(found.items())), private=True)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s). `harness-ext compare` will not know with what settings this run was made",
            run / FILE,
            error,
        )


def read_settings(run: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of a run's tasks by name, as far as they were recorded.

    Each task has the entries `chat_template` and `fewshot_as_multiturn` (true or false), `system_instruction` (a text,
    or null if there was none) and `config` (the part of lm-eval's task configuration that shapes prompts and replies).
    """
    try:
        found = json.loads((run / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: row for name, row in found.items() if isinstance(row, dict) and isinstance(row.get("config"), dict)}


def _settings_of(task: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    from lm_eval.utils import handle_non_serializable

    # The rest of the configuration says where rows come from and how replies are scored, and `metadata` repeats the
    # model's arguments.
    config = {
        k: v for k, v in task.dump_config().items() if k in (*PROMPT, *FEWSHOT, "num_fewshot", "generation_kwargs")
    }
    settings = {
        "chat_template": bool(options.get("apply_chat_template")),
        "fewshot_as_multiturn": bool(options.get("fewshot_as_multiturn")),
        "system_instruction": options.get("system_instruction"),
        "config": config,
    }
    # What is written must be what lm-eval writes into its own results.
    found: dict[str, Any] = json.loads(json.dumps(settings, default=handle_non_serializable))
    return found
