"""Ends a run that is interrupted from the keyboard (Ctrl-C) or by SIGTERM, as Slurm and Kubernetes send it."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from harness_ext.engine.processes import place_of
from harness_ext.errors import Interrupted, Terminated


@contextmanager
def ends_by_signal() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the block in the same way: without a traceback, and with a line that says what to do.

    Within the block, SIGTERM raises Terminated. A block that Ctrl-C ends raises Interrupted. Both are a SystemExit with
    the exit status of the signal. Signal handlers of the user, ignored signals, threads other than the main one and
    interactive sessions (a notebook), which Ctrl-C must not end, are left as they are.
    """
    if hasattr(sys, "ps1") or threading.current_thread() is not threading.main_thread():
        yield
        return
    replaced = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if replaced:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except Terminated:
        _say("ended by SIGTERM")
        raise
    except KeyboardInterrupt as error:
        _say("interrupted")
        raise Interrupted from error
    finally:
        if replaced:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def same_command() -> str:
    """Return the command of this process, for messages that ask the user to run it again."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    own = name.replace("_", "-") == "harness-ext"
    return shlex.join(["harness-ext" if own else "lm_eval", *sys.argv[1:]])


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _say(what: str) -> None:
    if place_of().rank:
        return  # process 0 says it for all
    print(
        f"[harness-ext] {what}; everything finished is stored. Run the same command again to continue from here: "
        f"{same_command()}",
        file=sys.stderr,
        flush=True,
    )
