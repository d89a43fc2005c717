"""Files that others cannot read, redirect or find half-written, and cells that no spreadsheet runs.

Whether a file or a folder can be written is found out beforehand, without creating anything.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_FORMULA = re.compile(r"[\s']*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@contextmanager
def atomic_write(path: Path, errors: str = "strict", private: bool = False) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that replaces `path` once the block ends without an error.

    Until then, and even if the process is killed, readers of `path` find the previous file or none. What killed
    processes left of this file is removed.

    path: the file to write. If it exists, its permissions stay.
    errors: how to handle characters that UTF-8 cannot encode, as in `open`.
    private: whether a new file is created by `private_mode`. Default False: as the umask says.

    Raises whatever `open` or the block raises, and leaves no partial file behind.
    """
    _remove_abandoned(path)
    part, descriptor = _new_part(path, private_mode(path.parent) if private else 0o666)
    try:
        with open(descriptor, "w", encoding="utf-8", errors=errors) as file:
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)  # while the file is locked, so that nobody takes it for an abandoned one
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _new_part(path: Path, mode: int) -> tuple[Path, int]:
    """Create the partial file of `path` and return it and its descriptor, locked as long as it is open."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with suppress(OSError):  # some file systems have no locks, and there abandoned files stay
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return part, descriptor
        os.close(descriptor)  # another process removed it before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove the partial files of `path` that killed processes left: nobody holds their locks any more."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):  # someone writes to it, or another process was faster
            descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(descriptor)


def open_to_append(path: Path, newline: str | None = None) -> IO[str]:
    """Open a UTF-8 text file for appending, which is created by `private_mode` if it is new.

    path: the file. Raises OSError if it is a symbolic link.
    newline: as in `open`. Default None.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, private_mode(path.parent))
    return open(descriptor, "a", encoding="utf-8", errors="replace", newline=newline)


def open_to_write(path: Path) -> IO[str]:
    """Open a UTF-8 text file for writing from its beginning. A new file is created as the umask says.

    path: the file. Raises OSError if it is a symbolic link.
    """
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o666), "w", encoding="utf-8")


def make_private_folder(path: Path, exist_ok: bool = True) -> None:
    """Create a folder that only its owner can enter, and the folders above it as the umask says.

    path: the folder. If it exists, its permissions stay.
    exist_ok: whether it may exist. Default True.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=exist_ok)


def write_new_folder(folder: Path, contents: Mapping[str, str]) -> None:
    """Write texts as the UTF-8 files of a folder, which appears once it is complete.

    folder: the folder, which must not exist.
    contents: the text of each file, by its name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        for name, content in contents.items():
            (made / name).write_text(content, encoding="utf-8")
        made.rename(folder)


def why_not_writable(folder: Path) -> str:
    """Return why a folder cannot be created or written to, or an empty string if it can.

    folder: the folder, which need not exist; nor need the folders above it.
    """
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return _obstacle(folder.absolute())


def why_no_file(path: Path) -> str:
    """Return why a file cannot be created or replaced, or an empty string if it can.

    path: the file, which need not exist; nor need the folders above it.
    """
    if os.path.isdir(path):
        return f"{path} is a folder"
    return why_not_writable(path.parent if os.path.lexists(path) else path)


def _obstacle(folder: Path) -> str:
    place = folder
    while not os.path.lexists(place):
        place = place.parent
    if not place.exists():
        return f"{place} is a link to something that does not exist"
    if not place.is_dir():
        return f"{place} is not a folder"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place} cannot be written to"
    missing = folder.parts[len(place.parts) :]
    longest = os.pathconf(place, "PC_NAME_MAX")
    if any(len(os.fsencode(name)) > longest for name in missing):
        return f"a name is longer than {longest} bytes"
    # What is missing will be created, so that `..` leads back out of it.
    return _obstacle(Path(os.path.normpath(place.resolve().joinpath(*missing)))) if ".." in missing else ""


def private_mode(folder: Path) -> int:
    """Return the permissions, before the umask, of a new file with records in a folder.

    The file is for its owner alone. In a folder that its group may write to (and not everybody), it is for the group
    too: such a folder was made to be shared.
    """
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return 0o600
    return 0o660 if mode & stat.S_IWGRP and not mode & stat.S_IWOTH else 0o600


def csv_cell(value: Any) -> str:
    """Return a value as the text of a table's cell, which no spreadsheet takes for a formula.

    Text that begins like a formula (`=`, `+`, `-` or `@`) gets an apostrophe in front; numbers stay as they are.
    Control characters, except for tabs and line feeds, are left out.
    """
    text = _CONTROL.sub("", str(value))
    return f"'{text}" if _is_formula(text) else text


def read_csv_cell(cell: str) -> str:
    """Return the text of a cell that `csv_cell` wrote, without the apostrophe that it put in front."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    # With apostrophes in front it counts as one too, so that `read_csv_cell` returns exactly what was written.
    return _FORMULA.match(text) is not None and not _NUMBER.fullmatch(text.strip())
