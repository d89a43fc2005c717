"""What is on its way to a batch API, kept in files, so that a later run collects what a killed one has paid for."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.errors import StoreError
from harness_ext.files import atomic_write, make_private_folder
from harness_ext.records.run_lock import RunLock, lock_output
from harness_ext.terminal import outside

FOLDER = "batches"


@dataclass
class Record:
    """A batch, from before it is sent until its replies are stored.

    id: our own name of it, which is sent along.
    url: the address of the server.
    model: the model's name there.
    endpoint: the endpoint that answers its requests.
    requests: the `custom_id` of each request.
    created: when the record was made, in seconds since 1970.
    file: the server's name of the uploaded requests. Nothing is paid for before it is known. Default None: not yet.
    batch: the server's name of the batch. Default None: the server may not have made it.
    cancelled: whether a run has ended because somebody had cancelled the batch. Default False.
    """

    id: str
    url: str
    model: str
    endpoint: str
    requests: tuple[str, ...]
    created: float
    file: str | None = None
    batch: str | None = None
    cancelled: bool = False

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record. Raises OSError, and StoreError with cause and remedy if it is damaged."""
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            found: dict[str, Any] = json.loads(text)
            record = cls(**{**found, "requests": tuple(map(str, found["requests"]))})
            if not isinstance(record.created, int | float) or not isinstance(record.file, str | None):
                raise TypeError("a field has the wrong type")
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"{path} cannot be read ({outside(error, 200)}): it says which calls were sent to a batch API. Restore "
                "it, or delete it to send them again"
            ) from error
        return record


@dataclass
class Records:
    """The records of one model, in a folder that several runs may share.

    folder: the folder.
    url: the address of the server.
    model: the model's name there.
    """

    folder: Path
    url: str
    model: str
    _locks: dict[str, RunLock] = field(default_factory=dict)

    def path(self, record: Record) -> Path:
        """Return the file of a record."""
        return self.folder / f"{record.id}.json"

    def add(self, endpoint: str, requests: Sequence[str]) -> Record:
        """Return a new record, which is written. Raises StoreError if it cannot be."""
        record = Record(uuid.uuid4().hex, self.url, self.model, endpoint, tuple(requests), time.time())
        try:
            make_private_folder(self.folder)
        except OSError as error:
            raise StoreError(f"the folder {self.folder} cannot be made: {error}") from error
        self._take(self.path(record))
        self.save(record)
        return record

    def save(self, record: Record) -> None:
        """Write a record. Raises StoreError if it cannot be written."""
        try:
            with atomic_write(self.path(record), private=True) as file:
                json.dump(asdict(record), file)
        except OSError as error:
            raise StoreError(
                f"{self.path(record)} cannot be written ({error}), and without it a batch could be paid for twice: "
                "make room, or name another folder (`store=<folder>`)"
            ) from error

    def remove(self, record: Record) -> None:
        """Delete a record, whose replies are stored or were never asked for."""
        path = self.path(record)
        path.unlink(missing_ok=True)
        path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        self._let_go(path)

    def left(self) -> list[Record]:
        """Return the records that other processes have written, oldest first. Those may still work on them.

        Raises StoreError if one of them is damaged.
        """
        found = []
        for path in self.folder.glob("*.json"):
            if path.name not in self._locks:
                with suppress(FileNotFoundError):  # whoever worked on it has just deleted it
                    found.append(Record.read(path))
        own = [record for record in found if (record.url, record.model) == (self.url, self.model)]
        return sorted(own, key=lambda record: record.created)

    def take(self, record: Record) -> Record | None:
        """Return a record as it is now, which belongs to this process from now on.

        It is None if another process works on it, or if its replies have been stored in the meantime.
        """
        path = self.path(record)
        try:
            self._take(path)
        except StoreError:
            return None
        if path.exists():
            return Record.read(path)
        self.remove(record)
        return None

    def close(self) -> None:
        """Let later runs have the records that are left."""
        for name in list(self._locks):
            self._let_go(self.folder / name)

    def _take(self, path: Path) -> None:
        self._locks[path.name] = lock_output(path)

    def _let_go(self, path: Path) -> None:
        if (lock := self._locks.pop(path.name, None)) is not None:
            lock.release()
