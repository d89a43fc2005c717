"""Fingerprints of models: digests of their files and of every argument that can change their answers."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness_ext.records.file_digest import file_digest

# Arguments that decide where and how fast a model runs, but not what it answers. `OPERATIONAL` holds those of all
# backends. An argument of that name may mean something else to a backend that is not listed, so for others they count.
OPERATIONAL = frozenset({"device", "batch_size", "max_batch_size"})
_HF = frozenset(
    {
        "parallelize",
        "max_memory_per_gpu",
        "max_cpu_memory",
        "offload_folder",
        "tp_plan",
        "logits_cache",
        "low_cpu_mem_usage",
        "device_map",
        "cache_dir",
    }
)
_VLLM = frozenset(
    {
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "data_parallel_size",
        "distributed_executor_backend",
        "disable_custom_all_reduce",
        "gpu_memory_utilization",
        "swap_space",
        "cpu_offload_gb",
        "block_size",
        "num_gpu_blocks_override",
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_parallel_loading_workers",
        "max_lora_rank",
        "enable_prefix_caching",
        "enable_chunked_prefill",
        "enforce_eager",
        "disable_log_stats",
        "use_tqdm_on_load",
        "download_dir",
    }
)
_SGLANG = frozenset(
    {
        "tp_size",
        "dp_size",
        "mem_fraction_static",
        "chunked_prefill_size",
        "max_running_requests",
        "max_prefill_tokens",
        "schedule_policy",
        "disable_cuda_graph",
        "disable_radix_cache",
        "cuda_graph_max_bs",
        "base_gpu_id",
        "log_level",
        "port",
        "download_dir",
    }
)
_API = frozenset({"num_concurrent", "max_retries", "timeout", "verify_certificate", "ca_cert_path", "auth_token"})
_NEMO = frozenset(
    {
        "devices",
        "num_nodes",
        "micro_batch_size",
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "expert_model_parallel_size",
    }
)
_OPERATIONAL: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("hf", "hf-multimodal", "hf-mistral3", "hf-audiolm-qwen", "steered"), _HF),
    **dict.fromkeys(("habana", "ipex", "openvino", "mamba_ssm"), _HF),
    **dict.fromkeys(("vllm", "vllm-vlm"), _VLLM),
    "sglang": _SGLANG,
    **dict.fromkeys(("local-completions", "local-chat-completions", "sglang-generate"), _API),
    **dict.fromkeys(("openai-completions", "openai-chat-completions"), _API),
    **dict.fromkeys(("anthropic-chat", "anthropic-chat-completions", "anthropic-completions"), _API),
    **dict.fromkeys(("litellm", "litellm-chat", "litellm-chat-completions"), _API),
    **dict.fromkeys(("nemo_lm", "megatron_lm"), _NEMO),
    "trtllm": frozenset({"tensor_parallel_size", "pipeline_parallel_size"}),
    "neuronx": frozenset({"tp_degree", "low_cpu_mem_usage"}),
}
MODELS = frozenset({"pretrained", "model", "model_name", "path", "engine", "load"})
PARTS = frozenset(
    {"tokenizer", "tokenizer_path", "tokenizer_model", "vocab_file", "merge_file", "peft", "delta", "lora_local_path"}
    | {"steer_path"}
)
# Files beside a model that no model is loaded from: texts about it, and the state of its training.
NOT_LOADED = (
    *("*.md", "LICENSE*", "NOTICE*", "*.pdf", "*.png", "*.jpg", "*.log", "events.out.tfevents.*"),
    *("optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json", "training_args.bin"),
)


def operational(backend: str) -> frozenset[str]:
    """Return the arguments of a backend that cannot change an answer."""
    return OPERATIONAL | _OPERATIONAL.get(backend, frozenset())


def folder_digest(folder: Path) -> str:
    """Return a digest of the names and contents of a model's files; hidden files and `NOT_LOADED` are left out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and _is_loaded(p.name)):
        digest.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def _is_loaded(name: str) -> bool:
    return not name.startswith(".") and not any(fnmatchcase(name, pattern) for pattern in NOT_LOADED)


def model_fingerprint(backend: str, args: Mapping[str, Any], commit: str | None = None) -> str:
    """Return the fingerprint of a model.

    backend: the name of the backend.
    args: the backend's arguments. Local folders and files count by their contents, wherever they are; arguments that
        cannot change an answer (`operational`) do not count.
    commit: the commit of a hub model. It does not count for a local folder. Default None: unknown.
    """
    ignored, is_local = operational(backend), False
    identity: dict[str, Any] = {"backend": backend}
    for key, value in sorted(args.items()):
        if key in ignored or value is None:
            continue
        path = Path(str(value)).expanduser() if key in MODELS | PARTS else None
        if path and path.is_dir():
            identity[key] = folder_digest(path)
            if key in MODELS and args.get("subfolder") and (inner := path / str(args["subfolder"])).is_dir():
                identity["subfolder content"] = folder_digest(inner)
        elif path and path.is_file():
            identity[key] = file_digest(path)
        else:
            identity[key] = value if isinstance(value, str | int | float | bool) else str(value)
            continue
        is_local = is_local or key in MODELS
    identity["commit"] = None if is_local else commit
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def resolve_folder(name: str, revision: str | None = None) -> Path | None:
    """Return the local folder of a model: the named folder, or a hub model's snapshot in the local cache, or None."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision or "main")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def count_parameters(folder: Path) -> int | None:
    """Return the number of weights in a folder's safetensors files, from their headers; None without such files.

    Tied weights are stored, and counted, once. For a quantized checkpoint, the stored values are counted.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        return None
    total = 0
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for dimension in tensor["shape"]:
                    size *= dimension
                total += size
    return total
