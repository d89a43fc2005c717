"""Runs a cell in this process, as `lm_eval run --config` would in one of its own."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness_ext.errors import StoreError
from harness_ext.files import atomic_write
from harness_ext.suite.cells import Evaluation
from harness_ext.suite.folders import CellFolder, Folders, Size
from harness_ext.suite.settings import CONTROLS
from harness_ext.suite.train import checkpoint_arguments, with_checkpoint

logger = logging.getLogger("harness_ext")


def write_config(cell: Evaluation, folders: Folders) -> Path:
    """Write the file that runs a cell with `lm_eval run --config`, and return its path."""
    import yaml

    folder = folders.of(cell)
    with atomic_write(folder.config, private=True) as file:
        file.write(yaml.safe_dump(lm_eval_config(cell, folders), sort_keys=False, allow_unicode=True))
    return folder.config


def lm_eval_config(cell: Evaluation, folders: Folders) -> dict[str, Any]:
    """Return lm-eval's configuration of a cell."""
    folder, arguments = folders.of(cell), dict(cell.model_args)
    if cell.trained is not None:
        arguments = with_checkpoint(cell, checkpoint_arguments(cell.trained, folders))
    found: dict[str, Any] = {"model": cell.model, "model_args": arguments, "tasks": [cell.task], **cell.options.given()}
    if cell.seed is not None:
        found["seed"] = [cell.seed] * 4
    found |= {"log_samples": True, "output_path": str(folder.results)}
    if is_protocol(cell.model):
        arguments["run_dir"] = str(folder.records)
        arguments.setdefault("model", cell.setting)
        if cell.control_of is not None:
            arguments[control_option(cell)] = f"auto:{folders.of(cell.control_of).records}"
        if cell.draws_from is not None:
            arguments["draws_from"] = str(folders.of(cell.draws_from).records)
    else:
        # A protocol keeps its calls in the store. lm-eval's own models keep them here; the file belongs to one cell, so
        # that nothing else can be answered from it.
        found["use_cache"] = str(folder.path / "cache")
    return found


def control_option(cell: Evaluation) -> str:
    """Return the option of a control that says what it may spend."""
    return CONTROLS[cell.model.removeprefix("harness_ext.")]


def is_protocol(model: str) -> bool:
    """Return whether an lm-eval model is a protocol, which takes `run_dir`."""
    import lm_eval.models  # noqa: F401  (registers lm-eval's models)
    from lm_eval.api.registry import get_model

    return bool(getattr(get_model(model), "is_protocol", False))


@lru_cache
def task_manager(include_path: str | None) -> Any:
    """Return lm-eval's task manager. Reading the index of all tasks takes seconds, so this is done once per process."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def _with_metadata(manager: Any, metadata: Any) -> Any:
    """Return a task manager with the same index that gives this metadata to the tasks that it loads."""
    from lm_eval.tasks._factory import TaskFactory

    manager = copy.copy(manager)
    manager.metadata = metadata or {}
    manager._factory = TaskFactory(meta=metadata or {})
    return manager


class Evaluator:
    """Runs cells one after another. lm-eval's own models are created once."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}

    def run(self, cell: Evaluation, folders: Folders) -> None:
        """Run a cell, and give its results their name once they are complete.

        Raises whatever lm-eval and the model raise, and StoreError if the results cannot be written.
        """
        from lm_eval import simple_evaluate
        from lm_eval.config.evaluate_config import EvaluatorConfig
        from lm_eval.loggers import EvaluationTracker

        folder = folders.of(cell)
        if folder.unfinished_results.exists():
            shutil.rmtree(folder.unfinished_results)  # of an attempt that was killed while it wrote them
        config = EvaluatorConfig.from_config(write_config(cell, folders))
        tracker = EvaluationTracker(output_path=str(folder.unfinished_results))
        with self._models_shared(lambda lm: _observe(lm, folder)):
            results = simple_evaluate(
                model=config.model,
                model_args=config.model_args,
                tasks=[cell.task],
                task_manager=_with_metadata(task_manager(config.include_path), config.metadata),
                evaluation_tracker=tracker,
                random_seed=config.seed[0],
                numpy_random_seed=config.seed[1],
                torch_random_seed=config.seed[2],
                fewshot_random_seed=config.seed[3],
                **{name: getattr(config, name) for name in PASSED_ON},
            )
        if results is None:
            return  # another process of a distributed run writes them
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
        _check_written(folder.unfinished_results, list(results["configs"]))
        folder.finish()

    @contextmanager
    def _models_shared(self, created: Callable[[Any], None]) -> Iterator[None]:
        """Let lm-eval, within the block, get models of its own that an earlier cell has loaded.

        created: called with the model that it gets, whatever its kind.

        lm-eval's results name the model and its arguments only if lm-eval creates the model itself.
        """
        from lm_eval.api import registry

        original = registry.get_model

        def get_model(name: str) -> Any:
            registry.get_model = original  # seats may ask for models, too
            return _Shared(original(name), name, self._models, created)

        registry.get_model = get_model
        try:
            yield
        finally:
            registry.get_model = original


class _Shared:
    """Stands for a model class: creates a model, or returns the one that an earlier cell has created."""

    def __init__(self, cls: Any, name: str, models: dict[str, Any], created: Callable[[Any], None]) -> None:
        self._cls, self._name, self._models, self._created = cls, name, models, created

    def create_from_arg_obj(self, arguments: dict[str, Any], settings: dict[str, Any] | None = None) -> Any:
        if getattr(self._cls, "is_protocol", False):  # it shares the models of its seats
            lm = self._cls.create_from_arg_obj(arguments, settings)
        else:
            key = json.dumps([self._name, arguments, settings], sort_keys=True, default=str)
            if key not in self._models:
                self._models[key] = self._cls.create_from_arg_obj(arguments, settings)
            lm = self._models[key]
        self._created(lm)
        return lm


PASSED_ON = (
    "num_fewshot", "batch_size", "max_batch_size", "device", "use_cache", "limit", "samples", "log_samples",
    "system_instruction", "apply_chat_template", "fewshot_as_multiturn", "gen_kwargs", "confirm_run_unsafe_code",
    "metadata",
)  # fmt: skip


def _observe(lm: Any, folder: CellFolder) -> None:
    """Note in a cell's folder how much a model is asked, and how much of that it has answered."""
    counted = {"questions": 0, "documents": 0, "answered": 0}

    def observed(method: Callable[..., Any], scores: bool) -> Callable[..., Any]:
        def ask(requests: Sequence[Any], **more: Any) -> Any:
            documents = {(request.task_name, request.doc_id) for request in requests}
            questions = len(documents) if scores else len(requests)
            counted["questions"] += questions
            counted["documents"] += len(documents)
            folder.note_size(Size(**counted))
            answers = method(requests, **more)
            counted["answered"] += questions
            folder.note_size(Size(**counted))
            return answers

        return ask

    for name in ("generate_until", "loglikelihood", "loglikelihood_rolling"):
        vars(lm).pop(name, None)  # what an earlier cell has put there
        setattr(lm, name, observed(getattr(lm, name), name == "loglikelihood"))


def _check_written(folder: Path, tasks: Sequence[str]) -> None:
    """Raise StoreError if lm-eval could not write its results, of which it only warns."""
    found = sorted(folder.rglob("results_*.json"))
    samples = list(folder.rglob("samples_*.jsonl"))
    try:
        json.loads(found[-1].read_text(encoding="utf-8"))
    except (IndexError, OSError, ValueError) as error:
        raise StoreError(f"lm-eval's results could not be written to {folder}: {error or 'see the log'}") from error
    if len(samples) < len(tasks):
        raise StoreError(f"lm-eval's samples could not be written to {folder}: make room, then run the cell again")
    for path in (*found, *samples):
        with path.open("rb") as file:
            os.fsync(file.fileno())
