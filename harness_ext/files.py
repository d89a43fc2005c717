"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path, errors: str = "strict") -> Iterator[IO[str]]:
    """Open a UTF-8 text file that takes its name, on disk, when the block ends well.

    Whoever reads `path` meanwhile, after a kill too, finds the former file or none. `errors` says what becomes of
    characters that UTF-8 cannot hold, as in `open`. Raises what `open` and the block raise; nothing is left then.
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
