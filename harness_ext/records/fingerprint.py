"""Fingerprints of models: digests of their files and of every argument that can change their answers."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Arguments that decide where and how fast a model runs, but not what it answers.
OPERATIONAL = frozenset(
    {"device", "batch_size", "max_batch_size", "parallelize", "max_memory_per_gpu", "max_cpu_memory", "offload_folder"}
)
MODEL_PATHS = frozenset({"pretrained", "model", "path", "tokenizer", "peft", "delta"})
SMALL_FILE = 64 * 2**20
SAMPLES, SAMPLE = 64, 64 * 2**10


def file_digest(path: Path) -> str:
    """Return a digest of a file's content, or above 64 MiB of its size, modification time and 64 samples.

    Reading a large checkpoint from end to end would delay every start. One that is overwritten in place changes its
    modification time and almost every sample.
    """
    stat = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if stat.st_size <= SMALL_FILE:
            while block := file.read(2**20):
                digest.update(block)
        else:
            digest.update(struct.pack("<QQ", stat.st_size, stat.st_mtime_ns))
            for i in range(SAMPLES):
                file.seek((stat.st_size - SAMPLE) * i // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """Return a digest of the names and contents of a folder's files, except hidden and Markdown files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.suffix != ".md"):
        digest.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def model_fingerprint(backend: str, args: Mapping[str, Any], commit: str | None = None) -> str:
    """Return the fingerprint of a model.

    backend: the name of the backend.
    args: the backend's arguments. Local folders and files count by their contents; arguments in `OPERATIONAL` do not
        count.
    commit: the commit of a hub model. Default None: unknown.
    """
    identity: dict[str, Any] = {"backend": backend, "commit": commit}
    for key, value in sorted(args.items()):
        if key in OPERATIONAL or value is None:
            continue
        path = Path(str(value)).expanduser() if key in MODEL_PATHS else None
        if path and path.is_dir():
            identity[key] = folder_digest(path)
        elif path and path.is_file():
            identity[key] = file_digest(path)
        else:
            identity[key] = value if isinstance(value, str | int | float | bool) else str(value)
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
