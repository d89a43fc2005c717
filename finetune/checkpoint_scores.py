"""Scores of checkpoints, computed by lm-eval and stored so that nothing is scored twice."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness_ext.finetune.args import ConfigError, final_dir
from harness_ext.finetune.checkpoints import CARD, is_state, marker_facts, numbered, why_incomplete, write_json
from harness_ext.finetune.run_record import RUN_FILE
from harness_ext.records.file_digest import file_digest
from harness_ext.records.fingerprint import folder_digest, resolve_folder

SCORES = Path("evaluations") / "scores"


@dataclass(frozen=True)
class Subject:
    """A model to score.

    name: its name in the table.
    role: `epoch`, `baseline` or `teacher`.
    arguments: lm-eval's model arguments for it.
    identity: a digest that distinguishes it from another model of the same name.
    epoch, step: when the checkpoint was saved; None for models that do not belong to the run.
    """

    name: str
    role: str
    arguments: dict[str, Any]
    identity: str
    epoch: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation. All except `batch_size`, `device` and `include_path` are part of a score's identity.

    num_fewshot: number of few-shot examples. Default: the task's own.
    limit: number of questions per task, or a share below 1. Default: all.
    apply_chat_template: whether to apply the chat template. Default false.
    fewshot_as_multiturn: whether few-shot examples are separate turns of the chat. Default true.
    system_instruction: text of the system message. Default none.
    gen_kwargs: generation settings in lm-eval's format. Default: the task's own.
    dtype: data type in which every model computes, so that none is ahead by its rounding. Default: that of the
        training.
    model_args: more arguments of lm-eval's `hf` model. Default none.
    metric: name of the metric, or `name,filter`. Default: the first metric of the task's first filter.
    seed: seed of few-shot sampling and of torch. Default 1234.
    batch_size: questions per batch, a number or `auto`. Default `1`.
    device: `cpu`, `cuda:1`, …. Default: a GPU if there is one.
    include_path: folder with additional tasks. Default none.
    """

    num_fewshot: int | None = None
    limit: float | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None
    gen_kwargs: str | None = None
    dtype: str = ""
    model_args: str = ""
    metric: str = ""
    seed: int = 1234
    batch_size: str = "1"
    device: str | None = None
    include_path: str | None = None

    def key(self) -> str:
        """Return a digest of the settings that can change a score."""
        counting = {k: v for k, v in asdict(self).items() if k not in ("batch_size", "device", "include_path")}
        return hashlib.sha256(json.dumps(counting, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class CheckpointScore:
    """A subject's score on a task.

    subject, task, metric: what was scored.
    values: the metric's value for each question, by `<task>:<document>`.
    dtype: the data type in which the model computed, and how its weights are quantised; empty if unknown.
    """

    subject: str
    task: str
    metric: str
    values: dict[str, float] = field(default_factory=dict)
    dtype: str = ""

    @property
    def mean(self) -> float:
        """Return the mean over all questions."""
        return sum(self.values.values()) / len(self.values)


def subjects(run: Path, teacher: str = "") -> tuple[list[Subject], list[str]]:
    """Return the run's subjects (untouched model, checkpoints, teacher), and why checkpoints were skipped.

    Raises ConfigError if the folder is not the folder of a run.
    """
    record = run / RUN_FILE
    if not record.is_file():
        raise ConfigError(f"{run} is not the folder of a training run: it contains no run.json.")
    settings = json.loads(record.read_text(encoding="utf-8"))
    found = [_named("untouched", "baseline", settings.get("model_path", settings["model"]))]
    skipped: list[str] = []
    for path in numbered(run):
        reason = why_incomplete(path)
        if reason:
            skipped.append(reason)
            continue
        facts = marker_facts(path)
        found.append(
            Subject(path.name, "epoch", hf_arguments(path), _identity(path), facts.get("epoch"), facts["step"])
        )
    if teacher:
        found.append(_named("teacher", "teacher", teacher))
    return found, skipped


def precision_notes(scores: Iterable[CheckpointScore]) -> list[str]:
    """Return a sentence on the data type of the scores, with a warning if it is not the same for all models."""
    by_dtype: dict[str, list[str]] = {}
    for score in scores:
        names = by_dtype.setdefault(score.dtype or "an unknown precision", [])
        if score.subject not in names:
            names.append(score.subject)
    if len(by_dtype) < 2:
        return [f"All models were scored in {dtype}." for dtype in by_dtype]
    parts = "; ".join(f"{', '.join(names)} in {dtype}" for dtype, names in by_dtype.items())
    return [f"WARNING: not all models were scored in the same precision, which can change answers: {parts}."]


def finished(run: Path) -> bool:
    """Return whether the training has ended and saved its final model."""
    return not why_incomplete(final_dir(run))


def hf_arguments(folder: Path) -> dict[str, Any]:
    """Return lm-eval's arguments for a checkpoint: the folder itself, or its base model with the folder as adapter.

    The tokenizer is always the checkpoint's, because training may have added a chat template to it.
    """
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return {"pretrained": str(folder), "tokenizer": str(folder)}
    base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    return {"pretrained": base, "peft": str(folder), "tokenizer": str(folder)}


class Scorer:
    """Scores subjects on tasks and stores the results in `{run}/evaluations/scores`."""

    def __init__(self, run: Path, settings: EvaluationSettings) -> None:
        """Create the scorer. lm-eval is imported only once something has to be scored."""
        self.run = run
        self.settings = settings if settings.dtype else replace(settings, dtype=trained_in(run))
        self._manager: Any = None

    def path(self, subject: Subject, task: str) -> Path:
        """Return the file of a score. Its name identifies the subject, the task and the settings."""
        identity = hashlib.sha256(f"{subject.identity} {task} {self.settings.key()}".encode()).hexdigest()[:16]
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{subject.name}--{task}")
        return self.run / SCORES / f"{plain[:80]}--{identity}.json"

    def stored(self, subject: Subject, task: str) -> CheckpointScore | None:
        """Return a stored score, or None if there is none."""
        try:
            loaded = json.loads(self.path(subject, task).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return CheckpointScore(subject.name, task, loaded["metric"], loaded["values"], loaded["dtype"])

    def score(self, subject: Subject, tasks: list[str]) -> list[CheckpointScore]:
        """Score a subject on tasks and store the scores. Raises whatever lm-eval raises."""
        from lm_eval import simple_evaluate
        from lm_eval.api.registry import get_model
        from lm_eval.utils import simple_parse_args_string

        options = self.settings
        arguments = {"dtype": options.dtype, **subject.arguments, **simple_parse_args_string(options.model_args)}
        model = get_model("hf").create_from_arg_obj(
            arguments, {"batch_size": _number(options.batch_size), "device": options.device or _device()}
        )
        found = []
        for task in tasks:
            results = simple_evaluate(
                model=model,
                tasks=[task],
                num_fewshot=options.num_fewshot,
                limit=options.limit,
                apply_chat_template=options.apply_chat_template,
                fewshot_as_multiturn=options.fewshot_as_multiturn,
                system_instruction=options.system_instruction,
                gen_kwargs=options.gen_kwargs,
                task_manager=self._tasks(),
                torch_random_seed=options.seed,
                fewshot_random_seed=options.seed,
                # The intervals are computed from the per-question values; lm-eval's bootstrap errors are not needed.
                bootstrap_iters=0,
            )
            score = read_samples(results["samples"], subject.name, task, options.metric)
            score = replace(score, dtype=precision_of(model.model))
            self.store(subject, score)
            found.append(score)
        return found

    def clusters(self, field: str, tasks: list[str], questions: Iterable[str]) -> dict[str, Hashable]:
        """Return the cluster of each question, by its name in the scores (`<task>:<document>`).

        field: a field of the documents, a Jinja template over them, or `task`.
        tasks: the tasks or groups that were scored.
        questions: the names of the questions.

        Raises HarnessExtError if the tasks cannot be loaded or their documents lack the field, and ConfigError if they
        have fewer documents than were scored.
        """
        from harness_ext.analysis.clustering import cluster_of
        from harness_ext.analysis.scoring.task_documents import TaskSource, load_tasks

        places = {name: name.rpartition(":") for name in questions}
        names = list(dict.fromkeys(task for task, _, _ in places.values()))
        # Only the documents are read, so no task runs code.
        loaded, _ = load_tasks(names, TaskSource(tasks=tuple(tasks), unsafe_code=True), self._tasks())
        documents = {name: task.eval_docs for name, task in loaded.items()}
        found = {}
        for name, (task, _, number) in places.items():
            if int(number) >= len(documents[task]):
                raise ConfigError(
                    f"{task} has {len(documents[task])} documents, fewer than were scored: its data have changed "
                    f"since. Delete {self.run / SCORES} to score all models again."
                )
            found[name] = cluster_of(field, task, documents[task][int(number)])
        return found

    def _tasks(self) -> Any:
        if self._manager is None:
            from harness_ext.bridge import startup

            startup.enforce()
            from lm_eval.tasks import TaskManager

            self._manager = TaskManager(include_path=self.settings.include_path)
        return self._manager

    def store(self, subject: Subject, score: CheckpointScore) -> None:
        """Store a subject's score in its file."""
        path = self.path(subject, score.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            **asdict(score),
            "mean": score.mean,
            "role": subject.role,
            "epoch": subject.epoch,
            "arguments": subject.arguments,
            "settings": asdict(self.settings),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_json(path, record)


def read_samples(samples: Mapping[str, list[dict[str, Any]]], subject: str, task: str, metric: str) -> CheckpointScore:
    """Return the score of a task, or the joint score of a group's tasks, from lm-eval's samples.

    Raises ConfigError if the metric is missing or does not have one number per question.

    samples: lm-eval's samples by task.
    subject: the name of the model.
    task: the name of the task or group.
    metric: `name` or `name,filter`; empty for the first metric of the first filter.
    """
    wanted, _, wanted_filter = metric.partition(",")
    values: dict[str, float] = {}
    chosen = ""
    for name, rows in samples.items():
        filters = list(dict.fromkeys(row["filter"] for row in rows))
        kept = wanted_filter or filters[0]
        key = wanted or rows[0]["metrics"][0]
        known = ", ".join(f"{one},{each}" for one in rows[0]["metrics"] for each in filters)
        chosen = chosen or f"{key},{kept}"
        for row in rows:
            if row["filter"] == kept:
                value = row.get(key)
                if not isinstance(value, (int, float)):
                    raise ConfigError(
                        f"{name}: `{key},{kept}` is not one number per question. The metrics are: {known}."
                    )
                values[f"{name}:{row['doc_id']}"] = float(value)
    if not values:
        raise ConfigError(f"{task} has no values of `{metric or chosen}`: there is no such filter, or no question.")
    return CheckpointScore(subject, task, chosen, values)


def _named(name: str, role: str, model: str) -> Subject:
    folder = resolve_folder(model)
    arguments = hf_arguments(folder) if folder else {"pretrained": model}
    return Subject(name, role, arguments, folder_digest(folder) if folder else model)


def _identity(checkpoint: Path) -> str:
    """Return a digest of a checkpoint without what only resuming needs, which `save_only_model` deletes later."""
    names = (name for name in marker_facts(checkpoint)["files"] if "/" not in name and name != CARD)
    kept = sorted(name for name in names if not is_state(name))
    lines = "".join(f"{name}\0{file_digest(checkpoint / name)}\n" for name in kept)
    return hashlib.sha256(lines.encode()).hexdigest()


def trained_in(run: Path) -> str:
    """Return the data type in which a run's training computed; float32 if that is unknown."""
    try:
        dtype = json.loads((run / RUN_FILE).read_text(encoding="utf-8")).get("dtype")
    except FileNotFoundError:
        dtype = None
    return dtype if dtype in ("float32", "bfloat16", "float16") else "float32"


def precision_of(model: Any) -> str:
    """Return the data type in which a model of transformers computes, and how its weights are quantised."""
    dtype = str(model.dtype).removeprefix("torch.")
    quantised = getattr(model.config, "quantization_config", None)
    if not quantised:
        return dtype
    method = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
    return f"{dtype}, weights quantised ({getattr(method, 'value', method)})"


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text
