"""One SQLite file of the call store: replies by key, each with a checksum of its own."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness_ext.errors import StoreError
from harness_ext.files import private_mode
from harness_ext.terminal import note

# Keys are random. Replies are kept in order of arrival, so an insertion touches a random page of the small key index
# only. In a table sorted by key (`WITHOUT ROWID`), it would touch a random page among the large replies.
SCHEMA = "CREATE TABLE IF NOT EXISTS replies (key BLOB NOT NULL UNIQUE, reply TEXT NOT NULL, checksum BLOB NOT NULL)"
# A row keeps its number when its reply is replaced, so the highest number says how many replies were stored.
PUT = (
    "INSERT INTO replies VALUES (?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET reply = excluded.reply, checksum = excluded.checksum"
)
CHECKED = "SELECT key, reply, checksum FROM replies WHERE key = ?"
UNCHECKED = "SELECT key, reply, NULL FROM calls WHERE key = ?"  # the table of earlier versions

SMALLEST = 512  # bytes: SQLite takes a file without a whole page for a new one
CACHE_KIB = 8_192  # page cache per file
LOG_PAGES = 256  # the size of the write-ahead log at which it is merged into the file: 1 MiB
LOG_SECONDS = 60.0  # the age of the last merge at which the next reply brings another one

# What SQLite reports if the disk or the file system is at fault, and not the file's content.
_UNREACHABLE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
    }
)


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply as the file holds it.

    text: the reply, UTF-8.
    checked: whether a checksum confirms it. Earlier versions wrote none.
    """

    text: bytes
    checked: bool


class StoreFile:
    """An open file of the call store.

    Beside the file, `<name>.lock` holds the number of replies that were stored in it. SQLite cannot tell that its
    write-ahead log was lost in a crash, or that the file is an older copy of itself: the number can.

    path: the file. It is created if it does not exist.

    Raises StoreError if the file is damaged or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._warned: set[str] = set()
        self._merged = time.monotonic()
        self._counter = open_private(counter_of(path))
        connection: sqlite3.Connection | None = None
        try:
            promised = None
            if path.exists():
                promised, size = self._promised(), path.stat().st_size
                if size < SMALLEST and (size or promised):
                    raise self.damaged(f"it has {size} bytes")
            else:
                # SQLite would create it for everybody to read. One that exists must not be opened here: closing it
                # would release the locks of every other connection that this process has to it.
                open_private(path).close()
            connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._connection = connection
            self._prepare()
            self._compare(promised)
        except sqlite3.Error as error:
            self._discard(connection)
            raise self._trouble(error) from error
        except BaseException:
            self._discard(connection)
            raise

    def _discard(self, connection: sqlite3.Connection | None) -> None:
        self._counter.close()
        if connection is not None:
            connection.close()

    def _prepare(self) -> None:
        run = self._connection.execute
        self._connection.text_factory = bytes  # a damaged text need not be UTF-8
        # WAL lets other processes read while this one writes. With NORMAL, a commit does not wait for the disk: it
        # survives the end of the process, and a power failure can cost the last calls but not damage the file.
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=NORMAL")
        run(f"PRAGMA cache_size=-{CACHE_KIB}")
        run(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        run(SCHEMA)
        there = {bytes(name) for (name,) in run("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        self._queries = (CHECKED, UNCHECKED) if b"calls" in there else (CHECKED,)
        for query in self._queries:
            run(query, (b"",)).fetchone()

    # -- replies -------------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> Iterator[StoredReply]:
        """Yield the replies to a call, the newest first. Those that are damaged are reported and left out.

        Raises StoreError.
        """
        for query in self._queries:
            try:
                row = self._connection.execute(query, (key,)).fetchone()
            except sqlite3.Error as error:
                raise self._trouble(error) from error
            if row is None:
                continue
            found, reply, checksum = row
            if query is UNCHECKED and found == key and isinstance(reply, bytes):
                yield StoredReply(reply, checked=False)
            elif found == key and isinstance(reply, bytes) and checksum == checksum_of(key, reply):
                yield StoredReply(reply, checked=True)
            else:
                self.warn("contains damaged replies, which are asked for again. Check the disk that it is on")

    def put(self, rows: Sequence[tuple[bytes, str]]) -> None:
        """Store replies by their keys in one transaction; a reply to the same call is replaced. Raises StoreError."""
        run = self._connection.execute
        try:
            run("BEGIN")
            try:
                texts = ((key, reply, checksum_of(key, reply.encode())) for key, reply in rows)
                self._connection.executemany(PUT, texts)
                run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    run("ROLLBACK")
                raise
            # Only what is committed is promised, so a process killed in between has promised too little, never too
            # much.
            self._promise(self._stored())
            if time.monotonic() - self._merged > LOG_SECONDS:
                self._merged = time.monotonic()
                run("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        except OSError as error:
            raise self._unreachable(error) from error

    def __len__(self) -> int:
        tables = ["replies"] if len(self._queries) == 1 else ["replies", "calls"]
        keys = " UNION ".join(f"SELECT key FROM {table}" for table in tables)
        return int(self._connection.execute(f"SELECT count(*) FROM ({keys})").fetchone()[0])

    def close(self) -> None:
        """Close the file. What cannot be merged into it any more stays in its write-ahead log."""
        with suppress(sqlite3.Error):
            self._connection.close()
        self._counter.close()

    # -- the number of replies -----------------------------------------------------------------------------------

    def _stored(self) -> int:
        return int(self._connection.execute("SELECT max(rowid) FROM replies").fetchone()[0] or 0)

    def _promised(self) -> int | None:
        written = os.pread(self._counter.fileno(), 64, 0).strip()
        return int(written) if written.isdigit() else None

    def _promise(self, count: int) -> None:
        os.pwrite(self._counter.fileno(), f"{count:<20d}\n".encode(), 0)

    def _compare(self, promised: int | None) -> None:
        """Report replies that were stored but are no longer there. `promised` was read before the file was opened, so
        that a process that is writing to it has stored at least as many."""
        stored = self._stored()
        if promised is not None and promised > stored:
            self.warn(
                f"lacks the last {promised - stored} of {promised} replies that were stored in it, which are asked for "
                f"again: {self.path.name}-wal was removed or is damaged, the machine lost power, or the file is an "
                "older copy"
            )
        if promised is None or promised > stored:
            self._promise(stored)

    # -- troubles ------------------------------------------------------------------------------------------------

    def warn(self, what: str) -> None:
        """Print what is wrong with the file, once."""
        if what not in self._warned:
            self._warned.add(what)
            note(f"WARNING the call store's file {self.path} {what}")

    def damaged(self, reason: object) -> StoreError:
        """Return the error about a file that cannot be used any more."""
        return StoreError(
            f"the call store's file {self.path} is damaged ({reason}). Move it away "
            f"(`mv {self.path} {self.path}.damaged`) and run the same command again: only the calls in it are paid for "
            "again, and all other files stay in use"
        )

    def _unreachable(self, reason: object) -> StoreError:
        return StoreError(
            f"the call store's file {self.path} cannot be read or written: {reason}. Everything stored before is safe: "
            "make room on the disk or grant access, then run the same command again"
        )

    def _trouble(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_IOERR_SHORT_READ or code is None or code & 0xFF not in _UNREACHABLE:
            return self.damaged(error)
        return self._unreachable(error)


def counter_of(path: Path) -> Path:
    """Return the path of the lock of a store file, which also holds the number of its replies."""
    return path.with_suffix(".lock")


def open_private(path: Path) -> IO[bytes]:
    """Open a file for reading and writing, which is created by `private_mode` if it is new.

    Raises OSError if it is a symbolic link.
    """

    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW, private_mode(path.parent))

    return open(path, "r+b", buffering=0, opener=create)


def checksum_of(key: bytes, reply: bytes) -> bytes:
    """Return the checksum of a reply. It covers the key, so that no reply is taken for that of another call."""
    return hashlib.blake2b(key + reply, digest_size=8).digest()
