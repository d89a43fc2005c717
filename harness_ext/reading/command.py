"""`harness-ext read`: how each reply of a file is read, and by which rule."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from harness_ext.reading.rows import KINDS, RowError, read_row

_DESCRIPTION = f"""\
Print how each row of a JSONL file is read: the row itself, with `read` (a number or a letter as text, true, false, or
null where nothing can be read) and `rule` (the rule that found it; docs/reading.md lists them).

A row holds `reply` (a text; for `same` a list of two), `kind` ({", ".join(KINDS)}) and, for choices, `choices` (their
texts, without letters).
"""


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status: 0, or 2 for a file or a row that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="harness-ext read", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE.jsonl", help="the rows; - reads them from standard input")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return _read(options.file)
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        sys.stderr.close()
        return 0


def _read(path: str) -> int:
    try:
        lines = sys.stdin if path == "-" else open(path, encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        return _fail(f"{path} cannot be opened ({error.strerror}): give a file of JSON lines")
    with lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    _print(_answered(line, number))
        except RowError as error:
            return _fail(f"{path}: {error}")
        except UnicodeDecodeError as error:
            return _fail(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8")
    return 0


def _answered(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError(f"line {number} is not JSON ({error}): write one object a line") from None
    if not isinstance(row, dict):
        raise RowError(f"line {number} is a JSON {type(row).__name__}: write one object a line")
    try:
        return {**row, **read_row(row)}
    except RowError as error:
        raise RowError(f"line {number}: {error}") from None


def _print(row: dict[str, Any]) -> None:
    try:
        print(json.dumps(row, ensure_ascii=False))
    except UnicodeEncodeError:  # a lone surrogate, or a terminal without the reply's letters
        print(json.dumps(row))


def _fail(message: str) -> int:
    print(f"harness-ext read: {message}", file=sys.stderr)
    return 2
