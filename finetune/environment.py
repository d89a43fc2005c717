"""Precision, devices and processes: what a run takes from its machine before libraries are imported."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.args import TrainArgs

if TYPE_CHECKING:
    import torch


def precision(args: TrainArgs) -> str:
    """Return the name of the data type to compute in: as asked, or what the hardware does fast.

    bfloat16 on GPUs that have it, float16 on other GPUs, float32 on a CPU.
    """
    import torch

    if args.dtype != "auto":
        return args.dtype
    if args.device == "cpu" or not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def weights_dtype(args: TrainArgs, compute: str) -> torch.dtype:
    """Return the data type that the weights are loaded in.

    Trained weights stay in float32, where small steps are not lost, unless DeepSpeed keeps its own float32 copy. A
    frozen base is loaded in what is computed in.
    """
    import torch

    master = args.adapter == "full" and not args.deepspeed
    dtype: torch.dtype = torch.float32 if master else getattr(torch, compute)
    return dtype


def prepare_environment(args: TrainArgs) -> None:
    """Set what libraries read from the environment when they are imported: no usage pings, CPU, one process.

    A run on DeepSpeed without a launcher is a launch of one process.
    """
    from huggingface_hub import constants

    # TRL pings its maker once a trainer. The variable counts for processes started from here and for libraries not yet
    # imported; whoever has imported them has its value as it was then.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    constants.HF_HUB_DISABLE_TELEMETRY = True
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    on_cpu = args.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and args.deepspeed:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # With it accelerate leaves DeepSpeed out, without a word.
        os.environ.pop("ACCELERATE_USE_CPU", None)
    elif on_cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if args.deepspeed and "RANK" not in os.environ:
        one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(one, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    if args.deepspeed and on_cpu:
        # DeepSpeed reads the number of processes from the group: without one it takes several for one.
        import deepspeed

        deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)


def common_arguments(args: TrainArgs, compute: str, held_out: bool, report_to: str) -> dict[str, Any]:
    """Return the training arguments that all methods share."""
    return {
        "output_dir": args.output_dir,
        "per_device_train_batch_size": args.batch_size,
        "per_device_eval_batch_size": args.batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation,
        "num_train_epochs": args.epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": args.scheduler,
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "adam_beta2": args.adam_beta2,
        "max_grad_norm": args.max_grad_norm,
        "save_strategy": "epoch",
        "eval_strategy": "epoch" if held_out else "no",
        "logging_steps": args.logging_steps,
        "seed": args.seed,
        "data_seed": args.seed,
        "bf16": compute == "bfloat16",
        "fp16": compute == "float16",
        "use_cpu": args.device == "cpu",
        "gradient_checkpointing": args.gradient_checkpointing,
        "dataloader_pin_memory": args.device != "cpu" and compute != "float32",
        "deepspeed": args.deepspeed_file,
        "report_to": report_to,
        "project": args.project or "harness-ext",
        "run_name": args.run_name or None,
        "disable_tqdm": True,
        "trust_remote_code": args.trust_remote_code,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
