"""Digests of files by their contents. Of large files only a sample is read, and its digest is remembered."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from harness_ext.files import atomic_write

SMALL_FILE = 64 * 2**20
SAMPLES, SAMPLE = 64, 64 * 2**10
TENSOR_SAMPLE = 16 * 2**10
LONGEST_HEADER = 100 * 2**20  # bytes: the format's own limit
SETTLED = 2 * 10**9  # nanoseconds after which another change of a file changes its times as well
VERSION = 1  # of what is sampled: digests that were remembered with another one are not used


def file_digest(path: Path) -> str:
    """Return a digest of a file's content, the same for every copy of the file. Raises OSError.

    Reading a large checkpoint from end to end would delay every start. Above 64 MiB, the digest covers the size, 64
    evenly spaced samples, and of a safetensors file its header and two samples of every tensor, so that a model of
    which only some layers were trained is another one.
    """
    stat = path.stat()
    if stat.st_size <= SMALL_FILE:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()
    # The time of the last change of the inode cannot be set, so an overwritten file is noticed even if whoever
    # overwrote it has restored the modification time.
    state = [VERSION, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    note = _cache_folder() / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["digest"])
    found = _sampled(path, stat.st_size)
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED:
        with suppress(OSError):  # without a note, the next start reads the sample again
            note.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(note) as file:
                json.dump({"state": state, "digest": found}, file)
    return found


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path("~/.cache").expanduser()) / "harness_ext" / "digests"


def _sampled(path: Path, size: int) -> str:
    digest = hashlib.sha256(struct.pack("<Q", size))
    with path.open("rb") as file:
        for start, length in _samples(path, size):
            file.seek(start)
            digest.update(file.read(length))
    return digest.hexdigest()


def _samples(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield where the samples of a file begin, and how long they are."""
    for i in range(SAMPLES):
        yield (size - SAMPLE) * i // (SAMPLES - 1), SAMPLE
    if path.suffix == ".safetensors":
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
            yield from list(_tensor_samples(path, size))


def _tensor_samples(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield where the header of a safetensors file is, and the middle and the end of every tensor in it.

    Raises ValueError or another of the errors of bad data if it is none.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > LONGEST_HEADER:
            raise ValueError("not a safetensors header")
        header = json.loads(file.read(length))
    yield 0, 8 + length
    spans = sorted(t["data_offsets"] for name, t in header.items() if name != "__metadata__")
    for begin, end in spans:
        if not 0 <= begin <= end <= size:
            raise ValueError("not a safetensors header")
        middle = max(begin, (begin + end - TENSOR_SAMPLE) // 2)
        last = max(begin, end - TENSOR_SAMPLE)
        yield 8 + length + middle, min(end, middle + TENSOR_SAMPLE) - middle
        yield 8 + length + last, end - last
