"""Text from models, servers and files, made safe to print: it cannot move the cursor, set colours or reverse a line."""

from __future__ import annotations

import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, TextIO

from harness_ext.credentials import mask

if TYPE_CHECKING:
    from rich.console import Console

# Zero-width joiners belong to the spelling of Persian, Hindi and emoji, and do not move the cursor.
_HARMLESS = frozenset("\n\u200c\u200d")
# Most texts have few characters to look at one by one, and a report has millions of harmless ones.
_UNUSUAL = re.compile(r"[^\n -~]")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe_text(text: str) -> str:
    """Return the text with every character that could control a terminal written out.

    Line feeds stay, tabs become four spaces, and the carriage return of a CRLF is dropped. Other control characters
    (C0 and C1, escape included), bidirectional marks and overrides, invisible format characters, line separators,
    private and unassigned characters and lone surrogates are written like `<U+001B>`.
    """
    return _UNUSUAL.sub(_written_out, text.replace("\r\n", "\n"))


def safe_line(text: str) -> str:
    """Return `safe_text(text)` on one line: line feeds become `⏎`."""
    return safe_text(text).replace("\n", "⏎")


def shell_word(value: object) -> str:
    """Return a path, or another value, as one word of a command that a message tells the user to run."""
    return safe_line(shlex.quote(str(value)))


def outside(said: object, most: int = 300) -> str:
    """Return words from outside as they may appear in messages, records and on terminals: on one line, and short.

    Everything that a server, a file, a model's name or another library's exception says goes through this function
    before it becomes a part of a message. Credentials are replaced by `***`, runs of white space by one space, and
    characters that could control a terminal are written out (see `safe_text`).

    said: the words, or the exception or other object whose text they are.
    most: the number of characters after which they are cut off. Default 300.
    """
    try:
        text = str(said)
    except Exception as error:  # another library's exception may be unable to describe itself
        text = f"{type(said).__name__} without a text ({type(error).__name__})"
    text = safe_line(" ".join(mask(text[: 20 * most]).split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def clean(message: object) -> str:
    """Return a message, or the text of an exception, without credentials and characters that control a terminal.

    Unlike with `outside`, its lines and its length stay.
    """
    return safe_text(mask(str(message)))


def note(message: object, stream: TextIO | None = None) -> None:
    """Print a message about the run, which begins with `[harness-ext]`, on standard error.

    It is written in one piece: servers, stores and the progress line speak from threads of their own, and `print`
    writes the line feed separately, after which two messages can share a line. A stream that nobody reads any more is
    no reason to end the run.

    message: the text, which is made safe (see `clean`).
    stream: where to print it instead of standard error.
    """
    out = stream or sys.stderr
    with suppress(OSError, ValueError):
        out.write(f"[harness-ext] {clean(message)}\n")
        out.flush()


def _written_out(found: re.Match[str]) -> str:
    return _safe(found[0])


@lru_cache(maxsize=65536)
def _safe(character: str) -> str:
    if character == "\t":
        return "    "
    if character in _HARMLESS or unicodedata.category(character) not in _HIDDEN:
        return character
    return f"<U+{ord(character):04X}>"


def print_table(out: Console, title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose first column is aligned on the left and the others on the right.

    out: the console.
    title: a line above the table; empty for none.
    head: the names of the columns.
    rows: the cells, which are made safe.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=safe_line(title) or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(safe_line, row))
    out.print(table)


def console() -> Console:
    """Return a console that prints text verbatim, without markup, emoji codes or highlighting.

    Colours are used only on a terminal (`NO_COLOR` and `FORCE_COLOR` are respected). Elsewhere lines are `COLUMNS`
    characters wide, or 200 if that is unset, so that tables do not wrap.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 200
    return Console(markup=False, emoji=False, highlight=False, width=width)
