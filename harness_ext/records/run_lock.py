"""Locks of run directories, output files and the folders of trainings: one process at a time writes to them.

A lock on a file says that a process writes; the system releases it when the process ends, however it ends. On a file
system without locks, or with locks that only one host sees (some network file systems), the lock's file itself decides:
its writer renews the file's time every few seconds, so a file that is no longer renewed belongs to nobody.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness_ext.errors import StoreError
from harness_ext.files import private_mode
from harness_ext.terminal import outside

logger = logging.getLogger("harness_ext")

RENEW_EVERY = 10.0  # seconds
STALE_AFTER = 60.0  # seconds without renewal after which a lock's file belongs to nobody
LOOK_EVERY = 2.0  # seconds between two looks at a file that may be renewed
OWN = ".writer.lock"  # the lock of the only process, or of process 0
RUN_IN_USE = (
    "the run directory {folder} is in use by {who}: wait until that run has ended, end it, or give another folder "
    "(`run_dir=<folder>`)"
)
OUTPUT_IN_USE = (
    "the output {name} in {folder} is in use by {who}: wait until that process has ended, end it, or name another "
    "output"
)
TRAINING_IN_USE = (
    "{folder} is in use by {who}: wait until that training has ended, end it, or choose another `output_dir`"
)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    host: its host's name.
    pid: its process number there.
    started: when it took the lock.
    machine: identifies the running system, within which locks are reliable on every file system.
    token: a random text, different for each time a lock was taken.
    """

    host: str
    pid: int
    started: str
    machine: str
    token: str

    @staticmethod
    def current() -> Holder:
        """Return this process as a holder."""
        started = time.strftime("%Y-%m-%d %H:%M:%S %z")
        return Holder(socket.gethostname(), os.getpid(), started, _machine(), uuid.uuid4().hex)


class RunLock:
    """A held lock. It is released by `release`, when it is no longer referenced, or when the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        over = threading.Event()
        _descriptors.add(descriptor)
        thread = threading.Thread(target=_renew, args=(descriptor, over), name="harness-ext lock", daemon=True)
        thread.start()
        self._release = weakref.finalize(self, _let_go, descriptor, over, thread, os.getpid())

    @property
    def held(self) -> bool:
        """Return whether the lock is still held."""
        return self._release.alive

    def release(self) -> None:
        """Let another process have it."""
        self._release()


_held: weakref.WeakValueDictionary[Path, RunLock] = weakref.WeakValueDictionary()  # the locks of this process, by path
_descriptors: set[int] = set()


def _forget() -> None:
    """Drop the locks that a forked process inherited: it must not keep them when its parent has ended."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _held.clear()


os.register_at_fork(after_in_child=_forget)


def lock_run(folder: Path, rank: int = 0) -> RunLock:
    """Return the lock of a run directory, which this process then holds.

    folder: the run directory, which must exist.
    rank: the number of this process in a distributed run. Process 0 must come first: it makes sure that no process of
        another run writes to the folder. Default 0.

    A process that locks a folder twice gets the same lock. Raises StoreError with host and number of the process that
    holds it, and OSError if the folder cannot be written.
    """
    folder = folder.resolve()
    if rank == 0:
        for path in sorted(folder.glob(".writer.*.lock")):
            if path not in _held:
                _lock(path, RUN_IN_USE).release()
    return _lock(folder / (f".writer.{rank}.lock" if rank else OWN), RUN_IN_USE)


def lock_training(folder: Path) -> RunLock:
    """Return the lock of a training's output folder, which must exist and which this process then holds.

    It is the lock of a run directory. The processes of one training share it: the main process holds it for all.

    Raises as `lock_run` does.
    """
    return _lock(folder.resolve() / OWN, TRAINING_IN_USE)


def lock_output(target: Path) -> RunLock:
    """Return the lock of an output file, which this process then holds; the file's folder must exist.

    Raises as `lock_run` does.
    """
    target = target.parent.resolve() / target.name
    return _lock(target.with_name(f".{target.name}.lock"), OUTPUT_IN_USE)


def in_use_by(target: Path) -> Holder | None:
    """Return the process that holds the lock of an output file; None if nobody does. The lock itself is not touched.

    target: the output file, as for `lock_output`.

    On this machine, a holder counts as long as its process runs. On others, it counts as long as it renews the lock.
    """
    path = target.parent.resolve() / f".{target.name}.lock"
    try:
        holder = _holder(path)
        if holder is None:
            return None
        if holder.machine != _machine():
            return holder if _age(path) < STALE_AFTER else None
        os.kill(holder.pid, 0)
    except PermissionError:
        return holder  # the process is another user's
    except OSError:
        return None
    return holder


def _lock(path: Path, in_use: str) -> RunLock:
    lock = _held.get(path)
    if lock is None or not lock.held:
        lock = _held[path] = RunLock(path, _take(path, in_use))
    return lock


def _take(path: Path, in_use: str) -> int:
    """Return the descriptor of a lock's file that now belongs to this process.

    path: the lock's file.
    in_use: the message of the error if another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, private_mode(path.parent))
    try:
        locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise _refusal(in_use, path, _holder(path)) from None
            if error.errno not in NO_LOCKS:
                raise
            locked = False
        other = _holder(path)
        reliable = locked and other is not None and other.machine == _machine()
        if other is not None and not reliable and _is_renewed(path, other):
            raise _refusal(in_use, path, other)
        own = Holder.current()
        _write(descriptor, json.dumps(asdict(own)))
        if not locked:
            time.sleep(LOOK_EVERY)  # without locks, two processes can come this far; the last to write stays
            if (winner := _holder(path)) != own:
                raise _refusal(in_use, path, winner)
        return descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _refusal(in_use: str, path: Path, holder: Holder | None) -> StoreError:
    who = f"process {holder.pid} on {holder.host} (since {holder.started})" if holder else "another process"
    name = path.name.removeprefix(".").removesuffix(".lock")
    return StoreError(in_use.format(folder=path.parent, name=name, who=who))


def _holder(path: Path) -> Holder | None:
    """Return what a lock's file says about its holder; None if it was released or never held."""
    # Opened anew each time, because that makes a network file system ask its server.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        text = file.read(4096)
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    os.fsync(descriptor)  # other hosts see it from here on


def _is_renewed(path: Path, holder: Holder) -> bool:
    """Return whether the process that a lock's file names renews it, after waiting if that is not certain."""
    first = path.stat().st_mtime_ns
    if _age(path) < STALE_AFTER:
        logger.warning(
            "%s was in use by process %s on %s a moment ago. Waiting up to %d seconds to see whether "
            "it still is.", path.parent, outside(holder.pid), outside(holder.host), STALE_AFTER,
        )  # fmt: skip
    while _age(path) < STALE_AFTER:
        time.sleep(LOOK_EVERY)
        if (now := _holder(path)) is None:
            return False
        if now != holder or path.stat().st_mtime_ns != first:
            return True
    return False


def _age(path: Path) -> float:
    """Return for how many seconds a file was not changed, by the clock of its file system."""
    with tempfile.TemporaryFile(dir=path.parent, prefix=".clock") as probe:
        os.utime(probe.fileno())
        return os.fstat(probe.fileno()).st_mtime - path.stat().st_mtime


def _renew(descriptor: int, over: threading.Event) -> None:
    while not over.wait(RENEW_EVERY):
        try:
            os.utime(descriptor)
        except OSError as error:  # for example a server that is away; the next time may work
            logger.debug("a lock was not renewed: %s", error)


def _let_go(descriptor: int, over: threading.Event, thread: threading.Thread, owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked process has closed its copy
    over.set()
    if thread is not threading.current_thread():  # the garbage collector may run in any thread
        thread.join(5)
    _descriptors.discard(descriptor)
    with suppress(OSError):  # the folder may be gone
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _machine() -> str:
    """Return what identifies the running system: another one has other locks, also if it has the same name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
