"""Whether a folder can be created and written to, found out without creating anything."""

from __future__ import annotations

import os
from pathlib import Path


def why_not_writable(folder: Path) -> str:
    """Return why a folder cannot be created or written to, or an empty string if it can.

    folder: the folder, which need not exist; nor need the folders above it.
    """
    try:
        folder.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return _obstacle(folder.absolute())


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
