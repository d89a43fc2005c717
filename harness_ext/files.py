"""Atomic writes: a file is replaced as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: Path, errors: str = "strict") -> Iterator[IO[str]]:
    """Open a UTF-8 text file that replaces `path` once the block ends without an error.

    Until then, and even if the process is killed, readers of `path` find the previous file or none.

    path: the file to write.
    errors: how to handle characters that UTF-8 cannot encode, as in `open`.

    Raises whatever `open` or the block raises, and leaves no partial file behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    opened = part.open("w", encoding="utf-8", errors=errors)
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
