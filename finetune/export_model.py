"""`harness-ext export`: turns a checkpoint into a plain model folder. Merges adapters and gathers ZeRO partitions."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from harness_ext.files import why_not_writable
from harness_ext.finetune.args import ConfigError, final_dir
from harness_ext.finetune.checkpoints import WEIGHTS, last_complete, why_incomplete
from harness_ext.terminal import clean, shell_word

ZERO_FOLDERS = "global_step*"


def main(argv: list[str]) -> int:
    """Export the last model of a run, or one checkpoint. Returns 0, or 2 if that is not possible."""
    parser = argparse.ArgumentParser(
        prog="harness-ext export", description="Write a model folder that transformers and lm-eval can load."
    )
    parser.add_argument("source", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--trust_remote_code", action="store_true")
    options = parser.parse_args(argv)
    try:
        export(options.source, options.output, options.dtype, options.trust_remote_code)
    except ConfigError as error:
        print(f"harness-ext export: {clean(error)}", file=sys.stderr)
        return 2
    print(options.output)
    return 0


def export(source: Path, output: Path, dtype: str = "auto", trust_remote_code: bool = False) -> None:
    """Write a model and its tokenizer to a new folder.

    A LoRA adapter is merged into its unquantised base model. Weights that exist only as ZeRO partitions are gathered
    in float32 by DeepSpeed's own converter. Raises ConfigError if the source is incomplete or a prefix, which cannot be
    merged, or if the output exists or cannot be written.

    source: a run's folder or one of its checkpoints.
    output: the folder to create.
    dtype: data type of the weights. Default `auto`: that of the base model or checkpoint.
    trust_remote_code: whether to run code that comes with the model. Default false.
    """
    folder = pick(source)
    if reason := why_not_writable(output):
        raise ConfigError(f"{output} cannot be written: {reason}. Choose another folder.")
    if output.exists():
        raise ConfigError(f"{output} already exists. Choose a new folder.")
    # The model appears under its final name only once it is complete.
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if (folder / "adapter_config.json").is_file():
            _merge(folder, part, dtype, trust_remote_code)
        else:
            _plain(folder, part, dtype, trust_remote_code)
        for name in ("decision.json", "decision_template.jinja"):  # how a decision teacher is asked
            if (folder / name).is_file():
                shutil.copy(folder / name, part)
        part.replace(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def pick(source: Path) -> Path:
    """Return the folder with the weights: a run's final model or else its last complete checkpoint, or `source` itself.

    Raises ConfigError if there is no such folder or the checkpoint is incomplete.
    """
    if not source.is_dir():
        raise ConfigError(f"There is no folder {source}.")
    if not (source / "run.json").is_file():
        reason = why_incomplete(source)
        if reason and source.name.startswith("checkpoint-"):
            raise ConfigError(f"{source} is incomplete: {reason}. Choose another checkpoint.")
        return source
    if not why_incomplete(final_dir(source)):
        return final_dir(source)
    found = last_complete(source).checkpoint
    if found is None:
        raise ConfigError(f"{source} contains no complete checkpoint yet. Export it after its first epoch.")
    return found


def _merge(folder: Path, output: Path, dtype: str, trust_remote_code: bool) -> None:
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = PeftConfig.from_pretrained(str(folder))
    base = str(config.base_model_name_or_path)
    if str(config.peft_type).endswith("PREFIX_TUNING"):
        used = shell_word(f"pretrained={base},peft={folder},tokenizer={folder}")
        raise ConfigError(
            f"{folder} contains a prefix, which cannot be merged into the weights. Use it as an adapter: "
            f"lm_eval --model hf --model_args {used}"
        )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=_dtype(dtype), trust_remote_code=trust_remote_code)
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
    merged.save_pretrained(str(output))
    AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code).save_pretrained(str(output))


def _plain(folder: Path, output: Path, dtype: str, trust_remote_code: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    has_weights = any((folder / name).is_file() for name in WEIGHTS)
    if not has_weights and not any(folder.glob(ZERO_FOLDERS)):
        raise ConfigError(
            f"{folder} contains no weights: no {WEIGHTS[0]}, no adapter and no ZeRO partitions. Choose another folder."
        )
    if has_weights:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=_dtype(dtype), trust_remote_code=trust_remote_code
        )
    else:
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        )
        _gather(folder, model)
        if dtype != "auto":
            model = model.to(_dtype(dtype))
    model.save_pretrained(str(output))
    AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code).save_pretrained(str(output))
    generation = folder / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, output)


def _gather(folder: Path, model: object) -> None:
    from deepspeed.utils.zero_to_fp32 import load_state_dict_from_zero_checkpoint

    load_state_dict_from_zero_checkpoint(model, str(folder))


def _dtype(name: str) -> object:
    import torch

    return "auto" if name == "auto" else getattr(torch, name)
