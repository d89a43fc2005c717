"""The call store: every finished call of every run, keyed by model and request.

The store is a folder of SQLite files. Each process writes to a file of its own and reads all of them, so that runs and
processes share what was paid for. A call is stored before its question continues, so it survives `kill -9`. Nothing is
ever deleted.
"""

from __future__ import annotations

import fcntl
import json
import re
import socket
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from harness_ext.errors import StoreError
from harness_ext.records.results import CallResult, read_result

# Keys are random. Replies are kept in order of arrival, so an insertion touches a random page of the small key index
# only. In a table sorted by key (`WITHOUT ROWID`), it would touch a random page among the large replies.
SCHEMA = "CREATE TABLE IF NOT EXISTS calls (key BLOB NOT NULL UNIQUE, reply TEXT NOT NULL)"
CACHE_KIB = 8_192  # page cache per file
LOG_PAGES = 8_000  # size of the write-ahead log at which it is merged into the file


_encode = json.JSONEncoder(ensure_ascii=False).encode


class CallStore:
    """A folder of finished calls.

    Raises StoreError if the folder cannot be written or one of its files is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._held: list[IO[str]] = []
        host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()) or "host"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer_path = self._claim(host)
            self._writer = self._open(self._writer_path)
            for path in sorted(folder.glob("*.sqlite")):
                if path != self._writer_path and self._readable(path, host):
                    self._readers.append(self._open(path))
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
            lock = path.with_suffix(".lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                number += 1
                continue
            self._held.append(lock)
            return path

    def _readable(self, path: Path, host: str) -> bool:
        """Return whether a file may be read: one of this host always, one of another host only without a writer there.

        In SQLite's write-ahead mode (WAL), readers and writers share memory, so they must run on one host. On a shared
        file system, the shared lock keeps the other host's next writer off the file as long as it is read here.
        """
        if re.fullmatch(rf"{re.escape(host)}-\d+", path.stem):
            return True
        lock = path.with_suffix(".lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._held.append(lock)
        return True

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            # WAL lets other processes read while this one writes. With NORMAL, a commit does not wait for the disk: it
            # survives the end of the process, and a power failure can cost the last calls but not damage the file.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
            connection.execute(SCHEMA)
            connection.execute("SELECT key, reply FROM calls LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise self._trouble(path, error) from error
        return connection

    @staticmethod
    def _trouble(path: Path, error: sqlite3.Error) -> StoreError:
        if isinstance(error, sqlite3.OperationalError):
            return StoreError(
                f"the call store's file {path} cannot be read or written: {error}. Everything stored before is safe: "
                "make room on the disk or grant access, then run the same command again"
            )
        return StoreError(
            f"the call store's file {path} is damaged ({error}). Move it away (`mv {path} {path}.damaged`) and run the "
            "same command again: only the calls in it are paid for again, and all other files stay in use"
        )

    def get(self, key: str) -> CallResult | None:
        """Return the stored reply to a call, or None. Raises StoreError."""
        blob = bytes.fromhex(key)
        for connection in (self._writer, *self._readers):
            try:
                with self._lock:
                    row = connection.execute("SELECT reply FROM calls WHERE key = ?", (blob,)).fetchone()
                if row is not None:
                    return read_result(json.loads(row[0]))
            except sqlite3.Error as error:
                raise self._trouble(self._path_of(connection), error) from error
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                path = self._path_of(connection)
                raise StoreError(
                    f"the call store's file {path} contains an entry that is not a reply ({error}). Move it away "
                    f"(`mv {path} {path}.damaged`) and run the same command again"
                ) from error
        return None

    def put(self, calls: Iterable[tuple[str, CallResult]]) -> None:
        """Store replies in one transaction; existing entries are kept. Raises StoreError."""
        rows = [(bytes.fromhex(key), _encode(c.to_json())) for key, c in calls]
        if not rows:
            return
        try:
            with self._lock:
                self._writer.execute("BEGIN")
                try:
                    self._writer.executemany("INSERT OR IGNORE INTO calls VALUES (?, ?)", rows)
                    self._writer.execute("COMMIT")
                except sqlite3.Error:
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise self._trouble(self._writer_path, error) from error

    def __len__(self) -> int:
        return sum(c.execute("SELECT count(*) FROM calls").fetchone()[0] for c in (self._writer, *self._readers))

    def _path_of(self, connection: sqlite3.Connection) -> Path:
        return Path(connection.execute("PRAGMA database_list").fetchone()[2])

    def close(self) -> None:
        """Close the files and release the locks."""
        for connection in [*([self._writer] if hasattr(self, "_writer") else []), *self._readers]:
            connection.close()
        self._readers = []
        for lock in self._held:
            lock.close()
        self._held = []
