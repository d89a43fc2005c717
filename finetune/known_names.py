"""Names of settings in TRL and transformers: what each is here, or why there is no such setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Alias:
    """Another name of a setting.

    setting: this project's name.
    values: for each value of the other name, in lower case, the value here. Default: values are the same.
    several: whether the command line may give several values, separated by spaces. Default false.
    """

    setting: str
    values: Mapping[str, str] = field(default_factory=dict)
    several: bool = False


@dataclass(frozen=True)
class Unsupported:
    """A name that no setting corresponds to.

    why: what happens instead, and what to use.
    accepted: values, in lower case, that describe what happens anyway. Default none.
    """

    why: str
    accepted: tuple[str, ...] = ()


OFF = ("false", "none")
ON = ("true",)

ALIASES = {
    # transformers.TrainingArguments
    "num_train_epochs": Alias("epochs"),
    "per_device_train_batch_size": Alias("batch_size"),
    "per_device_eval_batch_size": Alias("eval_batch_size"),
    "gradient_accumulation_steps": Alias("gradient_accumulation"),
    "lr_scheduler_type": Alias("scheduler"),
    "activation_checkpointing": Alias("gradient_checkpointing"),
    "train_sampling_strategy": Alias("group_by_length", {"random": "false", "group_by_length": "true"}),
    "report_to": Alias("tracker", several=True),
    "resume_from_checkpoint": Alias("resume"),
    "use_cpu": Alias("device", {"true": "cpu", "false": "auto"}),
    # trl.SFTConfig and trl.DPOConfig, and older names of theirs
    "max_seq_length": Alias("max_length"),
    "truncation_mode": Alias("too_long"),
    "dataset_text_field": Alias("column"),
    "teacher_model_name_or_path": Alias("teacher_model"),
    # trl.ModelConfig
    "model_name_or_path": Alias("model"),
    "torch_dtype": Alias("dtype"),
    "lora_target_modules": Alias("lora_targets", several=True),
    # trl.ScriptArguments
    "dataset_name": Alias("train_file"),
    "dataset_train_split": Alias("train_split"),
    "dataset_test_split": Alias("eval_split"),
}

# Names that only together, or only with some of their values, determine a setting; see `aliases.py`.
COMBINED = {
    "use_peft": "adapter",
    "load_in_4bit": "adapter",
    "bf16": "dtype",
    "fp16": "dtype",
    "hub_model_id": "push_to_hub",
    "warmup_ratio": "warmup_steps",
    "save_strategy": "save_steps",
    "eval_strategy": "eval_steps",
    "evaluation_strategy": "eval_steps",
}

_CHECKPOINTS = "`harness-ext checkpoints` evaluates every checkpoint on tasks and names the best"
_TOKENIZER = "set it in the configuration of the model's tokenizer"
_LOG = "the run decides what it prints; `logging_steps` sets how often it logs"
_RESUME = "resuming always continues with the same rows, losses and random states"
_MEMORY = "there is no such way to save memory; use `gradient_checkpointing`, a smaller `batch_size` or `deepspeed`"
_SPEED = "there is no such setting for speed; leave it out"
_DDP = "processes are set up by the launcher and by `deepspeed`"
_DPO = "`dpo` is the plain sigmoid loss with `beta`, against the untrained model"
_HUB = (
    "the finished model is uploaded once, to a private repository that `push_to_hub` names; log in with `hf auth login`"
)
_LORA = "LoRA has the settings `lora_r`, `lora_alpha`, `lora_dropout` and `lora_targets`"
_NF4 = "`adapter: qlora` always holds the base in nf4 with double quantisation"
_OPTIMIZER = "the optimizer has the settings `optim`, `adam_beta1`, `adam_beta2`, `adam_epsilon` and `weight_decay`"
_LOSS = "the loss is the method's; choose with `method`"
_ROWS = "only the columns that the method reads are kept"
_MASK = "only replies are learned, never prompts; to learn a whole text, use rows with `text` or name its `column`"
_TASK = "what the run does is chosen by its settings: it trains, and evaluates if there are validation rows"

UNSUPPORTED = {
    # Optimization
    "lr_scheduler_kwargs": Unsupported("the schedule is set by `scheduler`, `warmup_steps` and `learning_rate`"),
    "optim_args": Unsupported(_OPTIMIZER),
    "optim_target_modules": Unsupported(_OPTIMIZER),
    "label_smoothing_factor": Unsupported(_LOSS, ("0", "0.0")),
    "average_tokens_across_devices": Unsupported("every token counts alike on all processes", ON),
    "neftune_noise_alpha": Unsupported("no noise is added to embeddings", OFF),
    "data_seed": Unsupported("`seed` also determines the order of the rows"),
    "full_determinism": Unsupported("a CPU always computes the same; a GPU's kernels may differ in the last bits", OFF),
    "router_aux_loss_coef": Unsupported(_LOSS, OFF),
    "loss_type": Unsupported(_LOSS, ("nll", "sigmoid")),
    # Precision, memory and speed
    "bf16_full_eval": Unsupported("training and evaluation compute in `dtype`", OFF),
    "fp16_full_eval": Unsupported("training and evaluation compute in `dtype`", OFF),
    "tf32": Unsupported(_SPEED, OFF),
    "gradient_checkpointing_kwargs": Unsupported("`gradient_checkpointing` takes no further arguments"),
    "activation_checkpointing_kwargs": Unsupported("`gradient_checkpointing` takes no further arguments"),
    "torch_compile": Unsupported(_SPEED, OFF),
    "torch_compile_backend": Unsupported(_SPEED),
    "torch_compile_mode": Unsupported(_SPEED),
    "use_liger_kernel": Unsupported(_SPEED, OFF),
    "liger_kernel_config": Unsupported(_SPEED),
    "use_cache": Unsupported("the cache is off in training and on in the saved model", OFF),
    "torch_empty_cache_steps": Unsupported(_MEMORY, OFF),
    "auto_find_batch_size": Unsupported("a run keeps its `batch_size`, so that it can be repeated and resumed", OFF),
    "activation_offloading": Unsupported(_MEMORY, OFF),
    "pad_to_multiple_of": Unsupported("batches are padded to their longest row"),
    "padding_free": Unsupported("batches are padded; `packing` puts several rows into a sequence", OFF),
    # Logging
    "logging_strategy": Unsupported(_LOG, ("steps",)),
    "logging_first_step": Unsupported(_LOG, OFF),
    "logging_dir": Unsupported("TensorBoard's files are in `output_dir`"),
    "log_on_each_node": Unsupported(_LOG),
    "log_level": Unsupported(_LOG),
    "log_level_replica": Unsupported(_LOG),
    "logging_nan_inf_filter": Unsupported("a loss that is not finite ends the run", OFF),
    "include_num_input_tokens_seen": Unsupported(_LOG),
    "disable_tqdm": Unsupported(_LOG),
    "trackio_space_id": Unsupported("Trackio keeps the run on this machine", OFF),
    "trackio_bucket_id": Unsupported("Trackio keeps the run on this machine", OFF),
    "trackio_static_space_id": Unsupported("Trackio keeps the run on this machine", OFF),
    "debug": Unsupported(_LOG),
    "skip_memory_metrics": Unsupported(_LOG, ON),
    # Evaluation
    "do_train": Unsupported(_TASK, ON),
    "do_eval": Unsupported(_TASK, ON),
    "do_predict": Unsupported(_TASK, OFF),
    "eval_delay": Unsupported("validation rows are measured from the first epoch on", ("0",)),
    "prediction_loss_only": Unsupported("evaluation measures the loss", ON),
    "eval_on_start": Unsupported("`harness-ext checkpoints` also evaluates the untrained model", OFF),
    "eval_do_concat_batches": Unsupported("evaluation measures the loss"),
    "eval_use_gather_object": Unsupported("evaluation measures the loss"),
    "eval_accumulation_steps": Unsupported("evaluation measures the loss, which needs little memory"),
    "include_for_metrics": Unsupported("evaluation measures the loss"),
    "batch_eval_metrics": Unsupported("evaluation measures the loss"),
    "label_names": Unsupported("the learned column is set by `column`"),
    "eval_packing": Unsupported("validation rows are not packed", OFF),
    "load_best_model_at_end": Unsupported(_CHECKPOINTS, OFF),
    "metric_for_best_model": Unsupported(_CHECKPOINTS),
    "greater_is_better": Unsupported(_CHECKPOINTS),
    # Checkpoints and uploads
    "overwrite_output_dir": Unsupported("nothing is overwritten: choose another `output_dir`", OFF),
    "save_on_each_node": Unsupported("checkpoints are saved once, on a shared file system", OFF),
    "save_safetensors": Unsupported("models are saved as safetensors", ON),
    "enable_jit_checkpoint": Unsupported("SIGTERM and SIGUSR1 always save a checkpoint"),
    "ignore_data_skip": Unsupported(_RESUME, OFF),
    "restore_callback_states_from_checkpoint": Unsupported(_RESUME),
    "hub_token": Unsupported(_HUB),
    "hub_private_repo": Unsupported(_HUB, ON),
    "hub_strategy": Unsupported(_HUB, ("end",)),
    "hub_always_push": Unsupported(_HUB, OFF),
    "hub_revision": Unsupported(_HUB, ("main",)),
    # Data
    "dataset_streaming": Unsupported("rows are checked before the training begins, so all of them are read", OFF),
    "dataset_kwargs": Unsupported("rows are read and tokenised as described under Rows"),
    "dataset_num_proc": Unsupported(_SPEED),
    "shuffle_dataset": Unsupported("every epoch has its own random order, which `seed` determines"),
    "remove_unused_columns": Unsupported(_ROWS, ("true", "false")),
    "length_column_name": Unsupported("`group_by_length` counts tokens itself"),
    "dataloader_drop_last": Unsupported("every row of an epoch is learned", OFF),
    "dataloader_num_workers": Unsupported(_SPEED, ("0",)),
    "dataloader_pin_memory": Unsupported(_SPEED),
    "dataloader_persistent_workers": Unsupported(_SPEED, OFF),
    "dataloader_prefetch_factor": Unsupported(_SPEED),
    "dataloader_multiprocessing_context": Unsupported(_SPEED),
    "dataloader_in_order": Unsupported(_SPEED, ON),
    "packing_strategy": Unsupported("`packing` fills sequences without cutting rows (best fit, decreasing)", ("bfd",)),
    "completion_only_loss": Unsupported(_MASK, ON),
    "assistant_only_loss": Unsupported(_MASK, ON),
    "max_prompt_length": Unsupported("`max_length` is the limit of prompt and reply together"),
    "max_completion_length": Unsupported("`max_length` is the limit of prompt and reply together"),
    "chat_template_path": Unsupported(_TOKENIZER),
    "eos_token": Unsupported(_TOKENIZER),
    "pad_token": Unsupported(_TOKENIZER),
    "padding_value": Unsupported(_TOKENIZER),
    # Preferences and distillation
    "disable_dropout": Unsupported(_DPO, ON),
    "precompute_ref_log_probs": Unsupported(_DPO, OFF),
    "precompute_ref_batch_size": Unsupported(_DPO),
    "loss_weights": Unsupported(_DPO),
    "ld_alpha": Unsupported(_DPO),
    "f_divergence_type": Unsupported(_DPO, ("reverse_kl",)),
    "f_alpha_divergence_coef": Unsupported(_DPO),
    "label_smoothing": Unsupported(_DPO, ("0", "0.0")),
    "use_weighting": Unsupported(_DPO, OFF),
    "discopop_tau": Unsupported(_DPO),
    "sync_ref_model": Unsupported(_DPO, OFF),
    "ref_model_mixup_alpha": Unsupported(_DPO),
    "ref_model_sync_steps": Unsupported(_DPO),
    "generate_during_eval": Unsupported("evaluation measures the loss", OFF),
    "is_encoder_decoder": Unsupported("only causal language models can be trained", OFF),
    "temperature": Unsupported("the temperature of both distributions is `kd_temperature`"),
    "lmbda": Unsupported("`kd` learns the texts of the rows, not generated ones", ("0", "0.0")),
    "seq_kd": Unsupported("`kd` learns the texts of the rows, not generated ones", OFF),
    "max_new_tokens": Unsupported("`kd` learns the texts of the rows, not generated ones"),
    "teacher_model_init_kwargs": Unsupported("the teacher is loaded in the model's `dtype`"),
    # Models and adapters
    "model_init_kwargs": Unsupported("the model is loaded with `dtype`, `attn_implementation` and `trust_remote_code`"),
    "model_revision": Unsupported("download the revision and give its folder as `model`", ("main",)),
    "lora_target_parameters": Unsupported(_LORA),
    "lora_modules_to_save": Unsupported(_LORA),
    "lora_task_type": Unsupported("only causal language models can be trained", ("causal_lm",)),
    "use_rslora": Unsupported(_LORA, OFF),
    "use_dora": Unsupported(_LORA, OFF),
    "load_in_8bit": Unsupported(_NF4, OFF),
    "bnb_4bit_quant_type": Unsupported(_NF4, ("nf4",)),
    "use_bnb_nested_quant": Unsupported(_NF4, ON),
    "bnb_4bit_quant_storage": Unsupported(_NF4),
    # Processes
    "local_rank": Unsupported(_DDP, ("-1",)),
    "accelerator_config": Unsupported(_DDP),
    "parallelism_config": Unsupported(_DDP),
    "fsdp": Unsupported("models are sharded with `deepspeed` (`zero2`, `zero3` or `zero3_offload`)", OFF),
    "fsdp_config": Unsupported("models are sharded with `deepspeed` (`zero2`, `zero3` or `zero3_offload`)", OFF),
    "ddp_find_unused_parameters": Unsupported(_DDP, OFF),
    "ddp_bucket_cap_mb": Unsupported(_DDP),
    "ddp_broadcast_buffers": Unsupported(_DDP),
    "ddp_static_graph": Unsupported(_DDP),
    "ddp_backend": Unsupported(_DDP),
    "ddp_timeout": Unsupported(_DDP),
    "ignore_bias_buffers": Unsupported(_DDP, OFF),
}  # fmt: skip
