"""Servers that runs on several hosts share: one process starts a server, and the others find its address in a file."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from harness_ext.errors import LoadError, RunAborted
from harness_ext.files import atomic_write
from harness_ext.serving.process import LOOK_EVERY, Clock, is_healthy
from harness_ext.serving.server import SAY_EVERY, Server, ServerSpec

_files: ContextVar[Mapping[str, Path] | None] = ContextVar("files", default=None)


@dataclass(frozen=True)
class Address:
    """Where a shared server is.

    url: its address, up to `/v1`.
    name: the model's name on it.
    key: what its clients have to send; empty if it takes requests from anybody.
    problem: why there is none, and will not be any. Default: there is one.
    """

    url: str
    name: str
    key: str = ""
    problem: str = ""

    def write(self, path: Path) -> None:
        """Let others know, in a file that only its owner can read."""
        with atomic_write(path, private=True) as file:
            json.dump(asdict(self), file)

    @staticmethod
    def read(path: Path) -> Address | None:
        """Return the address in a file; None as long as there is none."""
        with suppress(OSError, ValueError, TypeError):
            return Address(**json.loads(path.read_text(encoding="utf-8")))
        return None


@contextmanager
def servers_shared(files: Mapping[str, Path]) -> Iterator[None]:
    """Let runs within the block use servers that other processes start.

    files: the files with the servers' addresses, which need not exist yet, by the seats that use them.
    """
    token = _files.set(files)
    try:
        yield
    finally:
        _files.reset(token)


def shared_server(seat: str, spec: ServerSpec) -> Server | None:
    """Return the shared server that a seat uses, or None. `spec`: what the run itself would start."""
    path = (_files.get() or {}).get(seat)
    return None if path is None else SharedServer(spec, path)


class SharedServer(Server):
    """A server that another process starts, and ends.

    spec: what the run would start otherwise.
    path: the file with its address.
    """

    def __init__(self, spec: ServerSpec, path: Path) -> None:
        super().__init__(spec)
        self._path = path
        self._address: Address | None = None

    @property
    def key(self) -> str:
        """Return what its clients have to send."""
        return "" if self._address is None else self._address.key

    def attach(self, folder: Path, seat: str, alone: bool) -> None:
        """Do nothing: its log is where it was started."""

    def start_others(self) -> None:
        """Do nothing: the others start when they are needed."""

    def ready(self, cancelled: threading.Event | None = None, early: bool = False) -> tuple[str, str]:
        """Return its address and the model's name on it, once it answers. See `Server.ready`."""
        cancelled, deadline = cancelled or threading.Event(), self.spec.deadline

        def line(seconds: float) -> str:
            return f"{self.label}: another job starts it, and it does not answer after {seconds:.0f} s"

        with Clock(line, SAY_EVERY) as clock:
            while True:
                if cancelled.is_set():
                    raise RunAborted("interrupted")
                self._address = address = Address.read(self._path)
                if address is not None and address.problem:
                    raise LoadError(address.problem)
                if address is not None and is_healthy(address.url.removesuffix("/v1") + self.engine.health):
                    return address.url, address.name
                if clock.seconds > deadline:
                    raise LoadError(
                        f"{self.label}: the job that starts it has not made it answer within {deadline:.0f} s: see "
                        f"what that job has printed, or allow more time (`serve.deadline`). Its address belongs in "
                        f"{self._path}"
                    )
                time.sleep(LOOK_EVERY)

    def ended(self) -> str | None:
        """Return what happened to the server; None if it is where it was, or was not asked for yet."""
        found = Address.read(self._path)
        if self._address is None or found == self._address:
            return None
        return found.problem if found is not None and found.problem else f"{self.label}: the job that ran it has ended"

    def stop(self) -> None:
        """Do nothing: others may use it."""
