"""Precision, devices and processes: what a run derives from its machine before libraries are imported."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.library_messages import BUILT, prints_to_stderr, silence_known

if TYPE_CHECKING:
    import torch


def precision(args: TrainArgs) -> str:
    """Return the name of the data type to compute in.

    With `dtype: auto`, this is bfloat16 on GPUs that support it, float16 on other GPUs, and float32 on a CPU.
    """
    import torch

    if args.dtype != "auto":
        return args.dtype
    if args.device == "cpu" or not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def weights_dtype(args: TrainArgs, compute: str) -> torch.dtype:
    """Return the data type in which the weights are loaded.

    Weights that are trained stay in float32, where small updates are not lost to rounding, unless DeepSpeed keeps its
    own float32 copy. A frozen base model is loaded in the computing data type `compute`.
    """
    import torch

    master = args.adapter == "full" and not args.deepspeed
    dtype: torch.dtype = torch.float32 if master else getattr(torch, compute)
    return dtype


def prepare_environment(args: TrainArgs) -> None:
    """Set the environment variables that libraries read when they are imported.

    They turn off telemetry, select the CPU if it was chosen or is all there is, and describe a DeepSpeed run without a
    launcher as a launch of one process. Known warnings without a meaning for the run are silenced.
    """
    silence_known(args)
    from huggingface_hub import constants

    # TRL sends telemetry once per trainer. The variable affects child processes and libraries that are imported later;
    # huggingface_hub is already imported and has read it, so its constant is set as well.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    constants.HF_HUB_DISABLE_TELEMETRY = True
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    on_cpu = _on_cpu(args)
    if on_cpu:
        # Other libraries import DeepSpeed even where it is not used, and it warns if it has to find this out itself.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if on_cpu and args.deepspeed:
        # With this variable, accelerate silently ignores DeepSpeed.
        os.environ.pop("ACCELERATE_USE_CPU", None)
    elif on_cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if args.deepspeed and "RANK" not in os.environ:
        one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(one, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    if args.deepspeed and on_cpu:
        # DeepSpeed reads the number of processes from the process group; without one it assumes a single process.
        import deepspeed

        with prints_to_stderr(dropped=BUILT):
            deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)


def common_arguments(
    args: TrainArgs, compute: str, held_out: bool, report_to: str, evaluate_first: bool = False
) -> dict[str, Any]:
    """Return the training arguments that all methods share.

    args: the run's settings.
    compute: the data type to compute in, from `precision`.
    held_out: whether there are validation rows to evaluate on after each epoch.
    report_to: transformers' name of the tracker, from `trackers`.
    evaluate_first: whether to evaluate before the first step. Default false.
    """
    return {
        "output_dir": args.output_dir,
        "per_device_train_batch_size": args.batch_size,
        "per_device_eval_batch_size": args.eval_batch_size or args.batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation,
        "num_train_epochs": args.epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": args.scheduler,
        "warmup_steps": args.warmup_steps,
        "optim": args.optim,
        "weight_decay": args.weight_decay,
        "adam_beta1": args.adam_beta1,
        "adam_beta2": args.adam_beta2,
        "adam_epsilon": args.adam_epsilon,
        "max_grad_norm": args.max_grad_norm,
        # `callbacks.keeper` adds those within an epoch.
        "save_strategy": "epoch",
        "eval_strategy": "epoch" if held_out else "no",
        "eval_on_start": evaluate_first,
        "logging_steps": args.logging_steps,
        # The filter replaces losses that are not finite by the mean of those before; `divergence` needs to see them.
        "logging_nan_inf_filter": False,
        "seed": args.seed,
        "data_seed": args.seed,
        "bf16": compute == "bfloat16",
        "fp16": compute == "float16",
        # Without this, DeepSpeed's launch of several processes on a machine without GPUs counts as one process.
        "use_cpu": _on_cpu(args),
        _recomputing(): args.gradient_checkpointing,
        "dataloader_pin_memory": args.device != "cpu" and compute != "float32",
        "deepspeed": args.deepspeed_file,
        "report_to": report_to,
        "project": args.project or "harness-ext",
        # Trackio knows a run by its name only; without one, a resumed run would be another run.
        "run_name": args.run_name or (Path(args.output_dir).name if args.tracker == "trackio" else None),
        "disable_tqdm": True,
        "trust_remote_code": args.trust_remote_code,
    }


def _on_cpu(args: TrainArgs) -> bool:
    import torch

    return args.device == "cpu" or not torch.cuda.is_available()


def _recomputing() -> str:
    """Return transformers' name for `gradient_checkpointing`. It has two since 5.23, and warns of the older one."""
    from transformers import TrainingArguments

    new = "activation_checkpointing"
    return new if new in TrainingArguments.__dataclass_fields__ else "gradient_checkpointing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
