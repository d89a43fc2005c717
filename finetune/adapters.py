"""What is trained: the whole model, LoRA, LoRA on a 4-bit base model, or a prefix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.args import TrainArgs

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig

# PEFT saves only the output of a prefix projection; resuming needs the weights that produce it.
ENCODER_FILE = "prefix_encoder.safetensors"


def peft_config(args: TrainArgs, hidden_size: int) -> PeftConfig | None:
    """Return PEFT's configuration of the adapter, or None for full fine-tuning.

    `prefix` is initialised to zero, so that training starts from the unmodified model. `pkv` is the projected prefix of
    github.com/katja-kolos/foundation_models: an embedding of 30 positions, followed by two linear layers of width
    `hidden_size` with a tanh between them.
    """
    if args.adapter == "full":
        return None
    from peft import LoraConfig, PrefixTuningConfig

    if args.adapter in ("lora", "qlora"):
        targets = args.lora_targets if args.lora_targets == "all-linear" else args.lora_targets.split(",")
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=args.lora_r,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules=targets,
        )
    if args.adapter == "prefix":
        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=args.virtual_tokens, init_weights="zero")
    return PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=args.virtual_tokens,
        prefix_projection=True,
        encoder_hidden_size=hidden_size,
    )


def quantization(args: TrainArgs, compute: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the quantisation of the base model: nf4 with double quantisation for `qlora`, otherwise None."""
    if args.adapter != "qlora":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def keep_gradients(model: Any) -> None:
    """Keep 4-bit layers on the kernel that propagates gradients. Models without such layers are unaffected.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) repacks a 4-bit layer at its first forward pass without gradients and
    from then on uses a kernel without autograd. After the first evaluation, no gradient would reach the layers below.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def save_encoder(model: Any, folder: str | Path) -> None:
    """Save the weights that produce the prefix of a `pkv` adapter, next to the adapter."""
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous() for name, value in _encoder(model).state_dict().items()}
    save_file(weights, str(Path(folder) / ENCODER_FILE))


def load_encoder(model: Any, folder: str | Path) -> None:
    """Load what `save_encoder` wrote. Raises FileNotFoundError if it is missing."""
    from safetensors.torch import load_file

    _encoder(model).load_state_dict(load_file(str(Path(folder) / ENCODER_FILE)))


def _encoder(model: Any) -> Any:
    return model.prompt_encoder[model.active_adapter]
