"""Runs a command for as long as another process lives, and leaves nothing of it behind.

A run starts this file as a process of its own (`python -I -S watcher.py <pid> <seconds> <log> <command>…`), which uses
the standard library alone. It starts the command in a new session, with the log as its output, and reports the number
of the command's process in a line on its standard output. It ends the command's whole process group when

- anything arrives on its standard input, or that is closed, which the system does also for a process that was killed,
- the process that started it is no longer its parent,
- it gets SIGTERM, as all processes of a batch job do when the job is cancelled, or
- the command's own process ends, since its children may still hold a GPU.

Ending means SIGTERM, and SIGKILL after the given number of seconds. On Linux, processes that have left the group are
found and killed as well. The exit status is that of the command (128 and more for a signal, 127 if it cannot be run).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

LOOK_EVERY = 0.1  # seconds
REAPED_WITHIN = 5.0  # seconds within which the system ends a process after SIGKILL
NOT_RUN = 127
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl

_asked_to_end = False


def main(arguments: list[str]) -> int:
    """Run the command as described above, and return its status."""
    parent, seconds, log, *command = arguments
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, _ignore)  # not SIG_IGN, which the command would inherit
    signal.signal(signal.SIGTERM, _end)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    with open(log, "ab") as output:
        try:
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=_die_with_the_watcher,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            print(f"error {error}", flush=True)
            return NOT_RUN
    print(f"pid {server.pid}", flush=True)
    while not _asked_to_end and os.getppid() == int(parent) and server.poll() is None:
        with suppress(InterruptedError):
            if select.select([sys.stdin], [], [], LOOK_EVERY)[0]:
                break
    status = server.poll()
    _end_group(server, float(seconds))
    status = server.poll() if status is None else status
    return 128 - status if status is not None and status < 0 else status or 0


def _end_group(server: subprocess.Popen[bytes], seconds: float) -> None:
    """End all processes of the command's group, and on Linux those that have left it."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, REAPED_WITHIN)):
        end = time.monotonic() + patience
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, number)
            while time.monotonic() < end:
                _reap(server)
                os.killpg(server.pid, 0)  # raises once nobody is left
                time.sleep(0.02)
            continue
        break
    _reap(server)
    end = time.monotonic() + REAPED_WITHIN
    while (left := _children()) and time.monotonic() < end:
        for child in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        _reap(server)
        time.sleep(0.02)


def _reap(server: subprocess.Popen[bytes]) -> None:
    """Collect the statuses of ended processes that were handed over to this one, so that they leave their group."""
    server.poll()
    if sys.platform == "linux":  # only there are they handed over
        with suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == server.pid:
                    server.poll()
                else:
                    os.waitpid(ended.si_pid, 0)


def _children() -> list[int]:
    """Return the numbers of this process's children; none where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # The second field is the program's name in brackets, which may contain anything.
            fields = entry.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.append(int(entry.parent.name))
    return found


def _die_with_the_watcher() -> None:
    # Reliable here, because the thread that starts the command is this process's only one.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end(number: int, frame: FrameType | None) -> None:
    global _asked_to_end
    _asked_to_end = True


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
