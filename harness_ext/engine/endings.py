"""Ends a run that is interrupted from the keyboard (Ctrl-C) or by SIGTERM, as Slurm and Kubernetes send it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from harness_ext.engine.processes import place_of
from harness_ext.errors import Interrupted, Terminated
from harness_ext.terminal import note

# How a program calls itself in the process's arguments, and the command that runs it.
COMMANDS = {
    **dict.fromkeys(("harness-ext", "harness_ext"), ("harness-ext",)),
    "lm_eval": ("lm_eval",),
    "lm-eval": ("harness-ext", "lm-eval"),  # which needs no start-up file
    "enhance": ("harness-ext", "enhance"),  # python -m harness_ext.enhance
}
# The variable of the environment that tells a process whose work it does a part of: the command that a user gave. It is
# empty if there was none.
COMMAND = "HARNESS_EXT_COMMAND"


@contextmanager
def ends_by_signal(advice: str = "") -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the block in the same way: without a traceback, and with a line that says what to do.

    advice: what that line says after the name of the signal: what is kept, and how to continue. Default: nothing.

    Within the block, SIGTERM raises Terminated. A block that Ctrl-C ends raises Interrupted. Both are a SystemExit with
    the exit status of the signal. Signal handlers of the user, ignored signals, threads other than the main one and
    interactive sessions (a notebook), which Ctrl-C must not end, are left as they are.
    """
    if _is_interactive() or threading.current_thread() is not threading.main_thread():
        yield
        return
    replaced, hook = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, sys.unraisablehook
    if replaced:
        signal.signal(signal.SIGTERM, _terminate)
        sys.unraisablehook = partial(_unraisable, hook)
    try:
        yield
    except Terminated:
        _say("ended by SIGTERM", advice)
        raise
    except KeyboardInterrupt as error:
        _say("interrupted", advice)
        raise Interrupted from error
    finally:
        if replaced:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            sys.unraisablehook = hook


def again(purpose: str, given: str = "") -> str:
    """Return the advice to run the command of this process again, with the command itself where there is one.

    purpose: what that does (`to continue from here`).
    given: an argument that the command needs for that. Default: none.
    """
    command = same_command()
    advice = f"Run the same command again{f' with `{given}`' if given else ''} {purpose}"
    return f"{advice}: {command}" if command else advice


def same_command() -> str | None:
    """Return the command that a user gave to start this process, or the one that this process does a part of.

    There is None in a notebook and for code that was given to `python -c`.
    """
    if COMMAND in os.environ:
        return os.environ[COMMAND] or None
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    if name in COMMANDS:
        return shlex.join([*COMMANDS[name], *sys.argv[1:]])
    if _is_interactive() or sys.argv[0] in ("", "-c"):
        return None
    return shlex.join(["python", *sys.orig_argv[1:]])


def _is_interactive() -> bool:
    return hasattr(sys, "ps1")


def _terminate(number: int, frame: FrameType | None) -> None:
    # Launchers pass on a signal that their processes have got as well. A second one must not interrupt the summary.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _unraisable(hook: Callable[[sys.UnraisableHookArgs], object], error: sys.UnraisableHookArgs) -> None:
    """Let SIGTERM come again if it came in a destructor or in a callback of a weak reference.

    Python drops exceptions there, after giving them to `sys.unraisablehook`. What this function itself raised would be
    dropped as well, so another thread sends the signal.
    """
    if not issubclass(error.exc_type, Terminated):
        hook(error)
        return
    signal.signal(signal.SIGTERM, _terminate)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()


def _say(what: str, advice: str) -> None:
    if place_of().rank == 0:  # it speaks for all processes
        # The command may contain what other tools take as an argument, such as a token.
        note(f"{what}{f'; {advice}' if advice else ''}")
