"""`--to every-eval-ever`: results and every question's score in the schema that the project Every Eval Ever shares.

The folder has that project's layout: `data/<task>/<developer>/<model>/<id>.json` with the results of a run on a task,
and beside it `<id>_samples.jsonl` with one line per question and metric.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import (
    ExportedQuestion,
    ExportedRun,
    ExportError,
    atomic_binary,
    file_name,
    plain,
    settings,
    words_of,
)
from harness_ext.analysis.scoring.replay import numeric
from harness_ext.analysis.transcript_view import readable
from harness_ext.records import Completion
from harness_ext.records.chat import messages_of
from harness_ext.records.run_directory import write_json

SCHEMA = "0.3.0"
SELF_DEPLOYED = {"hf", "hf-auto", "huggingface", "vllm", "serve", "classifier"}
_MODEL = re.compile(r"[\w.-]*\w/[\w.-]*\w", re.ASCII)
# Names that the layout, or Windows, does not allow.
RESERVED = {"data", "con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}


def write(runs: Sequence[ExportedRun], output: Path, options: ExportOptions) -> list[str]:
    """Write the results of each run and task below `data/` in the output folder. Returns what to tell the user.

    Raises ExportError if a run has no scores, or if `options.model_id` is not `developer/model`.
    """
    if bare := [str(run.path) for run in runs if not run.figures]:
        raise ExportError(f"shared results are scores, and these runs have none: {', '.join(bare)}; score them first")
    if options.model_id is not None and not _MODEL.fullmatch(options.model_id):
        raise ExportError(
            f"--model_id {options.model_id} is not `developer/model`: write both, of letters, digits, dots, dashes and "
            "underscores, with one slash between"
        )
    lines = []
    for run in runs:
        with ExitStack() as stack:
            results: dict[str, _Results] = {}
            for question in run.questions():
                task = question.transcript.task
                if task not in results:
                    results[task] = stack.enter_context(_Results(run, task, output, options))
                results[task].add(question)
        for result in results.values():
            lines += result.finish()
    return lines


@dataclass
class _Tally:
    """The mean and the spread of a metric's values, computed as they come (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    shares: bool = True  # whether all are 0 or 1

    def add(self, value: float) -> None:
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.squares += before * (value - self.mean)
        self.shares = self.shares and value in (0.0, 1.0)

    def error(self) -> dict[str, Any]:
        """Return the schema's entry for the uncertainty of the mean."""
        deviation = sqrt(self.squares / (self.count - 1))
        error = {"value": deviation / sqrt(self.count), "method": "analytic"}
        return {"standard_error": error, "standard_deviation": deviation, "num_samples": self.count}


class _Results:
    """The results of a run on a task: the lines are written as questions come, the results at the end.

    run, task: what they are about.
    output: the output folder.
    options: the options of the export.
    """

    def __init__(self, run: ExportedRun, task: str, output: Path, options: ExportOptions) -> None:
        self._run, self._task, self._options = run, task, options
        self._figures = run.figures["tasks"][task]
        started = int(run.started.timestamp())
        self._model = options.model_id or f"harness-ext/{_component(run.label)}"
        developer, model = self._model.split("/")
        key = "\0".join((task, self._model, str(started), str(run.path)))
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        name = str(uuid.UUID(bytes=digest[:16], version=4))  # the same in every export of the run
        self._id = f"{plain(task)}/{self._model}/{started}-{name[:8]}"
        folder = Path("data", _component(task), _component(developer), _component(model))
        self._listed = (folder / f"{name}_samples.jsonl").as_posix()
        self._samples, self._path = output / self._listed, output / folder / f"{name}.json"
        self._digest, self._count = hashlib.sha256(), 0
        self._tallies: dict[str, _Tally] = {}
        self._left_out: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> _Results:
        self._samples.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._stack.enter_context(atomic_binary(self._samples))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, question: ExportedQuestion) -> None:
        """Write a line for each metric of a question."""
        shared = self._question(question)
        for metric, figures in self._figures["metrics"].items():
            if metric not in (question.scores or {}):
                continue
            value = numeric((question.scores or {})[metric][-1])
            if value is None or not isfinite(value):
                self._left_out[metric] += 1
                continue
            score = {"score": value, "is_correct": value >= 1 if figures["higher_is_better"] else value <= 0}
            line = {
                **shared,
                "evaluation_result_id": self._result_id(metric),
                "answer_attribution": [
                    {**shared["answer_attribution"][0], "extraction_method": f"lm_eval: {plain(metric)}"}
                ],
                "evaluation": {**score, "num_turns": max(1, len(question.transcript.turns))},
            }
            data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
            self._file.write(data)
            self._digest.update(data)
            self._count += 1
            self._tallies.setdefault(metric, _Tally()).add(value)

    def finish(self) -> list[str]:
        """Write the results, and return what to tell the user."""
        config, run = self._run.config, self._run
        metrics = {m: f for m, f in self._figures["metrics"].items() if m in self._tallies}
        values = {m: numeric(f["lm_eval"]) for m, f in metrics.items()}
        known = {m: v for m, v in values.items() if v is not None and isfinite(v)}
        versions = config.get("versions") or {}
        started = str(int(run.started.timestamp()))
        write_json(
            self._path,
            {
                "schema_version": SCHEMA,
                "evaluation_id": self._id,
                "evaluation_timestamp": started,
                "retrieved_timestamp": str(int(time.time())),
                "source_metadata": {
                    "source_name": "harness-ext",
                    "source_type": "evaluation_run",
                    "source_organization_name": plain(self._options.organization),
                    "evaluator_relationship": "other",
                },
                "eval_library": {
                    "name": "lm_eval",
                    "version": plain(str(versions.get("lm_eval") or "unknown")),
                    "additional_details": {"harness_ext": plain(str(config.get("harness_ext") or "unknown"))},
                },
                "model_info": self._model_info(),
                "evaluation_results": [self._result(metric, metrics[metric], value) for metric, value in known.items()],
                "detailed_evaluation_results": {
                    "format": "jsonl",
                    "file_path": self._listed,
                    "hash_algorithm": "sha256",
                    "checksum": self._digest.hexdigest(),
                    "total_rows": self._count,
                },
            },
            private=True,
        )
        lines = [f"{self._path}: {len(known)} results, {self._count} lines of single questions"]
        lines += [
            f"{self._task}, {metric}: left out of the results, because its value is no number"
            for metric in sorted({*self._figures["metrics"], *self._left_out} - known.keys())
        ]
        lines += [
            f"{self._task}, {metric}: {count} questions left out, because their values are no numbers"
            for metric, count in self._left_out.items()
        ]
        return lines

    def _result_id(self, metric: str) -> str:
        return f"{plain(self._task)}/{plain(metric)}"

    def _result(self, metric: str, figures: Mapping[str, Any], value: float) -> dict[str, Any]:
        name, _, key = metric.rpartition(",")
        tally, is_mean = self._tallies[metric], figures["aggregation"] == "mean"
        bounds = {"score_type": "continuous", "min_score": 0, "max_score": 1, "metric_unit": "proportion"}
        # Repeats of a document are not independent, so a simple standard error would be too small.
        simple = is_mean and tally.count > 1 and self._figures["questions"] == self._figures["documents"]
        return {
            "evaluation_result_id": self._result_id(metric),
            "evaluation_name": plain(self._task),
            "source_data": {
                "dataset_name": plain(self._task),
                "source_type": "other",
                "additional_details": {
                    "lm_eval_task": plain(self._task),
                    "version": plain(str(self._figures.get("version"))),
                    "split": plain(str(self._figures.get("split"))),
                },
            },
            "metric_config": {
                "metric_id": plain(name),
                "metric_name": plain(name),
                "lower_is_better": not figures["higher_is_better"],
                **(bounds if is_mean and tally.shares else {}),
                "additional_details": {"filter": plain(key), "aggregation": plain(str(figures["aggregation"]))},
            },
            "score_details": {
                "score": value,
                "details": {
                    name: json.dumps(figures[name])
                    for name in ("first_draft", "rounds", "oracle")
                    if figures.get(name) is not None
                },
                **({"uncertainty": tally.error()} if simple else {}),
            },
            "generation_config": {"additional_details": self._settings()},
        }

    def _settings(self) -> dict[str, str]:
        identity = self._run.config.get("identity") or {}
        options = settings({**(self._run.config.get("run") or {}), **(identity.get("options") or {})})
        found = {"protocol": self._run.protocol, **{k: v for k, v in options.items() if v is not None}}
        return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in found.items()}

    def _model_info(self) -> dict[str, Any]:
        seats = self._run.seats
        backends = {str(seat.get("backend")) for seat in seats.values()}
        deployed = "self_deployed" if backends and backends <= SELF_DEPLOYED else "unknown"
        return {
            "name": self._run.label,
            "id": self._model,
            "additional_details": {
                "deployment_type": deployed,
                "model_availability": "unknown",
                **{f"seat_{name}": self._run.model_of(name) for name in seats},
            },
        }

    def _question(self, question: ExportedQuestion) -> dict[str, Any]:
        """Return a question's line without what depends on the metric."""
        transcript = question.transcript
        turns = transcript.turns
        asked, reference, text = plain(readable(transcript.context)), list(question.targets), plain(transcript.text)
        hashed = json.dumps({"raw": asked, "reference": reference}, sort_keys=True, separators=(",", ":"))
        found: dict[str, Any] = {
            "schema_version": SCHEMA,
            "evaluation_id": self._id,
            "model_id": self._model,
            "evaluation_name": plain(transcript.task),
            "sample_id": question.id,
            "sample_hash": hashlib.sha256(hashed.encode()).hexdigest(),
            "input": {"raw": asked, "reference": reference},
            "error": None if transcript.failure is None else plain(transcript.failure.message),
            "performance": {"latency_ms": 1000 * sum(turn.result.seconds for turn in turns)},
            "metadata": {
                "doc_hash": plain(transcript.doc_hash), "repeat": str(transcript.repeat), "stop": plain(transcript.stop)
            },
        }  # fmt: skip
        if len(turns) <= 1:
            thoughts = [plain(t.result.thought) for t in turns if isinstance(t.result, Completion) and t.result.thought]
            trace = {"reasoning_trace": thoughts} if thoughts else {}
            found |= {"interaction_type": "single_turn", "output": {"raw": [text, *map(words_of, turns)][-1:], **trace}}
            index, source = 0, "output.raw"
        else:
            messages = [
                {"role": plain(role) or "user", "content": plain(said)}
                for role, said in messages_of(transcript.context)
            ]
            asked_in = len(messages)
            for turn in turns:
                messages.append({"role": plain(turn.seat), "content": words_of(turn)})
                if isinstance(turn.result, Completion) and turn.result.thought:
                    messages[-1]["reasoning_trace"] = plain(turn.result.thought)
            found |= {
                "interaction_type": "multi_turn", "messages": [{"turn_idx": i, **m} for i, m in enumerate(messages)]
            }  # fmt: skip
            wrote = [i for i, m in enumerate(messages) if i >= asked_in and m["content"] == text]
            index = wrote[-1] if wrote else len(messages) - 1
            source = "messages[turn_idx].content"
        found["answer_attribution"] = [
            {"turn_idx": index, "source": source, "extracted_value": text, "is_terminal": True}
        ]
        usage = self._run.usage_of(turns)
        if usage.prompt_tokens is not None and usage.completion_tokens is not None:
            found["token_usage"] = {
                "input_tokens": int(usage.prompt_tokens),
                "output_tokens": int(usage.completion_tokens),
                "total_tokens": int(usage.prompt_tokens + usage.completion_tokens),
                "input_tokens_cache_read": None if usage.cached_tokens is None else int(usage.cached_tokens),
            }
        return found


def _component(text: str) -> str:
    """Return a text as the name of a folder that the layout allows."""
    name = file_name(plain(text))[:100].rstrip(".")
    return f"_{name}" if name.partition(".")[0].lower() in RESERVED else name
