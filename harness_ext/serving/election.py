"""Decides which of a run's processes on one host starts a server, and tells the others where it is."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness_ext.errors import LoadError
from harness_ext.files import private_mode
from harness_ext.terminal import outside


@dataclass(frozen=True)
class State:
    """What the process that starts a server tells the others.

    starter: its process number.
    url: the server's address, once it answers. Default: empty.
    name: the model's name on it. Default: empty.
    server: the server's process number. Default 0.
    message: why there is none. Default: empty.
    """

    starter: int
    url: str = ""
    name: str = ""
    server: int = 0
    message: str = ""


class Election:
    """A file whose lock the first process that asks for it gets, and holds until it withdraws or ends.

    path: the file. Its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def won(self) -> bool:
        """Return whether this process is the one, which then tells the others what becomes of the server.

        Raises LoadError where the file system has no locks.
        """
        if self._descriptor is not None:
            return True
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, private_mode(self._path.parent))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            raise LoadError(
                f"the processes of this run cannot agree on one that starts a server, since {self._path.parent} has no "
                f"locks ({outside(error)}): name a `run_dir` on another file system, or start the server yourself and "
                "give `openai:<model>@<address>`"
            ) from error
        os.ftruncate(descriptor, 0)  # what an earlier run has left
        self._descriptor = descriptor
        return True

    def tell(self, state: State) -> None:
        """Let the other processes know."""
        assert self._descriptor is not None
        text = json.dumps(asdict(state)).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def heard(self) -> State | None:
        """Return what the other process tells; None as long as it tells nothing, or if it has ended."""
        with suppress(OSError, ValueError, TypeError):
            state = State(**json.loads(self._path.read_text(encoding="utf-8")))
            return state if is_alive(state.starter) else None
        return None

    def withdraw(self) -> None:
        """Let another process start a server."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def is_alive(pid: int) -> bool:
    """Return whether there is a process with this number on this host."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
