"""The model card of a training: base model, data, method, settings, errors and scores, in the folder of each model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.finetune.args import PREFERENCE_METHODS, PREFIX_ADAPTERS, final_dir
from harness_ext.finetune.checkpoints import CARD, marker_facts, numbered, why_incomplete
from harness_ext.finetune.epochs import ERRORS_FILE
from harness_ext.finetune.run_record import REPORT_FILE, RUN_FILE
from harness_ext.terminal import safe_line

SCORES = Path("evaluations") / "scores"
# The part of a card that scoring replaces. The rest belongs to whoever edits it.
BEGIN, END = "<!-- scores by harness-ext -->", "<!-- end of the scores -->"
METHODS = {
    "sft": "supervised fine-tuning",
    "kd": "distillation",
    "dpo": "direct preference optimization (DPO)",
    "orpo": "odds ratio preference optimization (ORPO)",
}
ADAPTERS = {
    "full": "all weights",
    "lora": "a LoRA adapter",
    "qlora": "a LoRA adapter on the base model in 4 bits",
    "prefix": "a prefix",
    "pkv": "a projected prefix",
}
# Settings that the card describes elsewhere, or that name folders of the machine.
ELSEWHERE = frozenset(
    {"model", "model_path", "method", "adapter", "dtype", "train_file", "eval_file", "teacher_file", "teacher_model"}
    | {"deepspeed", "run_name"}
)
TARGETS = ("targets", "golden_column", "teacher_column", "kd_beta", "kd_temperature")
LIBRARIES = ("transformers", "trl", "peft", "torch", "datasets", "tokenizers")


def write_card(run: Path, folder: Path, step: int, epoch: float) -> None:
    """Write the model card of a model of a run. Local folders are named without the path to them.

    run: the folder of the run, with its records.
    folder: the folder of the model: `final`, or a checkpoint.
    step, epoch: when it was saved.
    """
    (folder / CARD).write_text(_card(run, step, epoch), encoding="utf-8")


def update_scores(run: Path) -> None:
    """Put the scores by lm-eval that a run has so far into the cards of its models, and leave the rest as it is.

    run: the folder of the run.
    """
    for folder in (final_dir(run), *numbered(run)):
        card = folder / CARD
        if why_incomplete(folder) or not card.is_file():
            continue
        text = card.read_text(encoding="utf-8")
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if begin and end:
            new = f"{before}{_scores(run, int(marker_facts(folder)['step']))}{after}"
            if new != text:
                card.write_text(new, encoding="utf-8")


def _card(run: Path, step: int, epoch: float) -> str:
    from huggingface_hub import ModelCardData

    settings, report = _read(run / RUN_FILE), _read(run / REPORT_FILE)
    method, adapter = settings["method"], settings["adapter"]
    hub_name = "" if Path(settings.get("model_path", settings["model"])).is_absolute() else settings["model"]
    head = ModelCardData(
        base_model=hub_name or None,
        library_name="transformers" if adapter == "full" else "peft",
        pipeline_tag="text-generation",
        tags=["harness-ext", method, adapter],
    ).to_yaml()
    base = short_name(settings["model"])
    about = [
        ("base model", base + ("" if hub_name else " (a local folder)")),
        ("method", METHODS[method]),
        ("trained", ADAPTERS[adapter]),
        ("teacher", short_name(settings["teacher_model"]) if settings.get("teacher_model") else ""),
        ("teacher's texts", short_name(settings["teacher_file"]) if settings.get("teacher_file") else ""),
        ("saved after", f"step {step}, epoch {epoch:.4g}"),
        ("precision", settings["dtype"]),
        ("DeepSpeed", short_name(settings["deepspeed"]) if settings.get("deepspeed") else ""),
    ]
    others = [(f"`{key}`", value) for key, value in sorted(settings.items()) if _matters(key, value, settings)]
    versions = ", ".join(f"{name} {version}" for name in LIBRARIES if (version := _version(name)))
    parts = [
        f"---\n{head}\n---",
        f"# {_cell(run.resolve().name)}",
        f"{base}, trained by {METHODS[method]} on {short_name(report['train']['source'])}.",
        table(("", ""), [(name, value) for name, value in about if value]),
        "## Data",
        _data(report),
        "## Settings",
        table(("setting", "value"), others),
        "## Errors",
        _errors(run),
        "## Scores",
        _scores(run, step),
        f"Trained with harness-ext {__version__} ({versions}).",
    ]
    return "\n\n".join(parts) + "\n"


def _matters(key: str, value: object, settings: Mapping[str, Any]) -> bool:
    """Return whether a setting has an effect and is not described elsewhere in the card."""
    method, adapter = settings["method"], settings["adapter"]
    idle = (
        value == "" or value is False or (key == "max_steps" and settings[key] < 0)
        or (key.startswith("lora_") and adapter not in ("lora", "qlora"))
        or (key == "prefix_tokens" and adapter not in PREFIX_ADAPTERS)
        or (key == "beta" and method not in PREFERENCE_METHODS)
        or (key in TARGETS and method != "kd")
    )  # fmt: skip
    return key not in ELSEWHERE and not idle


def _data(report: Mapping[str, Any]) -> str:
    kinds = [kind for kind in ("train", "validation") if kind in report]
    names = {
        "rows": "rows", "used": "of which used", "truncated": "of which cut", "tokens": "tokens",
        "learned": "of which learned", "digest": "SHA-256 of the tokenised rows",
    }  # fmt: skip
    lines = [("file", *(short_name(report[kind]["source"]) for kind in kinds))]
    lines += [(title, *(report[kind].get(name, "") for kind in kinds)) for name, title in names.items()]
    return table(("", *({"train": "training", "validation": "validation"}[kind] for kind in kinds)), lines)


def _errors(run: Path) -> str:
    try:
        errors = _read(run / ERRORS_FILE)
    except FileNotFoundError:
        return "None yet."
    series = {name: {int(epoch): error for epoch, error in errors[name]} for name in ("train", "validation")}
    epochs = sorted(series["train"].keys() | series["validation"].keys())
    lines = [(epoch, *(_number(series[name].get(epoch)) for name in ("train", "validation"))) for epoch in epochs]
    return "Mean loss of each epoch's steps, and of the validation rows after it.\n\n" + table(
        ("epoch", "training", "validation"), lines
    )


def _scores(run: Path, step: int) -> str:
    """Return the section with the scores, with its marks, for the model of a step."""
    records = [_read(path) for path in sorted((run / SCORES).glob("*.json"))]
    own = [record for record in records if record["subject"] == f"checkpoint-{step}"]
    untouched = {_what(record): record["mean"] for record in records if record["role"] == "baseline"}
    if not own:
        body = "Not scored yet: `harness-ext checkpoints`."
    else:
        lines = [
            (
                record["task"],
                record["metric"],
                len(record["values"]),
                record["settings"].get("num_fewshot") if record["settings"].get("num_fewshot") is not None else "",
                record.get("dtype", ""),
                _number(untouched.get(_what(record))),
                _number(record["mean"]),
            )
            for record in own
        ]
        heads = ("task", "metric", "questions", "few-shot", "precision", "untouched model", "this model")
        body = "By lm-eval.\n\n" + table(heads, lines)
    return f"{BEGIN}\n{body}\n{END}"


def _what(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return record["task"], record["metric"], json.dumps(record["settings"], sort_keys=True)


def table(heads: Sequence[object], lines: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table.

    heads: the titles of the columns.
    lines: the cells of each line.
    """
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def short_name(path: str) -> str:
    """Return the name of a model or of a source of rows without the folders above it, as it may be published."""
    place, mark, rest = path.partition(" (")  # `report_data` adds what part of a file it is
    if not Path(place).exists():
        return path
    parts = Path(place).resolve().parts
    # `final` and `checkpoint-8` say nothing without the run that they belong to.
    general = parts[-1] == "final" or parts[-1].startswith("checkpoint-")
    return "/".join(parts[-2:] if general else parts[-1:]) + mark + rest


def _cell(value: object) -> str:
    return safe_line(str(value)).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
