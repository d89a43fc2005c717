"""The call store: every finished call of every run, keyed by model and request.

The store is a folder of SQLite files. Each process writes to a file of its own and reads all of them, so that runs and
processes share what was paid for. A call is stored before its question continues, so it survives `kill -9`. Nothing is
ever deleted; a reply that a run does not accept is replaced by the one that it pays for.
"""

from __future__ import annotations

import fcntl
import json
import re
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from harness_ext.errors import StoreError
from harness_ext.files import make_private_folder
from harness_ext.records.results import CallResult, UnknownFields, read_result
from harness_ext.records.store_file import StoredReply, StoreFile, counter_of, open_private

_encode = json.JSONEncoder(ensure_ascii=False).encode


class CallStore:
    """A folder of finished calls.

    folder: the folder. It is created if it does not exist.

    Raises StoreError if the folder cannot be written or one of its files is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._files: list[StoreFile] = []  # the first one is this process's own
        self._held: list[IO[bytes]] = []
        host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()) or "host"
        try:
            make_private_folder(folder)
            own = self._claim(host)
            self._files.append(StoreFile(own))
            for path in sorted(folder.glob("*.sqlite")):
                if path != own and self._readable(path, host):
                    self._files.append(StoreFile(path))
        except OSError as error:
            self.close()
            raise StoreError(
                f"the call store {folder} cannot be used: {error}. Give a writable folder (`store=<folder>`), "
                "or run without a store (`store=off`)"
            ) from error
        except StoreError:
            self.close()
            raise

    def _claim(self, host: str) -> Path:
        """Lock and return the first file of this host that no living process writes to.

        With one writer per file, processes never wait for each other's transactions. The system releases the lock when
        its process ends, however it ends, so the files of killed processes are used again.
        """
        number = 0
        while True:
            path = self.folder / f"{host}-{number}.sqlite"
            if self._hold(path, fcntl.LOCK_EX):
                return path
            number += 1

    def _hold(self, path: Path, kind: int) -> bool:
        """Lock a file for as long as the store is open. Returns False if another process has locked it."""
        lock = open_private(counter_of(path))
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._held.append(lock)
        return True

    def _readable(self, path: Path, host: str) -> bool:
        """Return whether a file may be read: one of this host always, one of another host only without a writer there.

        In SQLite's write-ahead mode (WAL), readers and writers share memory, so they must run on one host. On a shared
        file system, the shared lock keeps the other host's next writer off the file as long as it is read here.
        """
        return re.fullmatch(rf"{re.escape(host)}-\d+", path.stem) is not None or self._hold(path, fcntl.LOCK_SH)

    def get(self, key: str, accept: Callable[[CallResult], bool] = lambda reply: True) -> CallResult | None:
        """Return a stored reply to a call, or None.

        key: the call's key.
        accept: returns whether a reply will do. There can be several, from runs with other policies. Default: any.

        A damaged reply, or one that a newer version wrote in a form that this one does not know, counts as none and is
        reported once. Raises StoreError.
        """
        blob = bytes.fromhex(key)
        for file in self._files:
            with self._lock:
                found = list(file.find(blob))
            for stored in found:
                reply = _parse(stored, file)
                if reply is not None and accept(reply):
                    return reply
        return None

    def put(self, calls: Iterable[tuple[str, CallResult]]) -> None:
        """Store replies in one transaction. A reply to the same call is replaced. Raises StoreError."""
        rows = [(bytes.fromhex(key), _encode(c.to_json())) for key, c in calls]
        if rows:
            with self._lock:
                self._files[0].put(rows)

    def __len__(self) -> int:
        return sum(len(file) for file in self._files)

    def close(self) -> None:
        """Close the files and release the locks."""
        for file in self._files:
            file.close()
        self._files = []
        for lock in self._held:
            lock.close()
        self._held = []


def _parse(stored: StoredReply, file: StoreFile) -> CallResult | None:
    try:
        return read_result(json.loads(stored.text))
    except UnknownFields:
        pass
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if not stored.checked:
            reason = f"it contains an entry that is not a reply: {type(error).__name__}: {error}"
            raise file.damaged(reason) from error
    file.warn(
        "contains replies in a form that this version of harness-ext does not know, which are asked for again. A newer "
        "version wrote them: use that version, or another folder (`store=<folder>`)"
    )
    return None
