"""PEP 517 build backend: setuptools, plus the start-up files at the root of every wheel.

setuptools can add extra files to a normal wheel but not to an editable one (PEP 660), and an editable install must find
the plugins too. So both kinds of wheel pass through `add_startup_files` after setuptools has built them. For the
purpose of the files, see docs/plugins.md.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from pathlib import Path

from setuptools import build_meta as setuptools_backend
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_HERE = Path(__file__).resolve().parent

# Name in the wheel's root -> its source. The module is a copy outside the package, so that starting an interpreter
# never imports the package, and does not fail if the checkout of an editable install is gone.
STARTUP_FILES = {
    "harness_ext.pth": _HERE / "harness_ext.pth",
    "harness_ext.start": _HERE / "harness_ext.start",
    "harness_ext_startup.py": _HERE.parent / "harness_ext" / "bridge" / "startup.py",
}


def build_wheel(
    wheel_directory: str, config_settings: dict[str, object] | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel that contains the start-up files and return its file name (PEP 517)."""
    # setuptools would also pack files that an earlier build left here, such as a task file that was deleted since.
    shutil.rmtree("build/lib", ignore_errors=True)
    name: str = setuptools_backend.build_wheel(wheel_directory, config_settings, metadata_directory)
    add_startup_files(Path(wheel_directory, name))
    return name


def build_editable(
    wheel_directory: str, config_settings: dict[str, object] | None = None, metadata_directory: str | None = None
) -> str:
    """Build an editable wheel that contains the start-up files and return its file name (PEP 660)."""
    name: str = setuptools_backend.build_editable(wheel_directory, config_settings, metadata_directory)
    add_startup_files(Path(wheel_directory, name))
    return name


def add_startup_files(wheel: Path) -> None:
    """Add the start-up files to `wheel` in place, and list them in its RECORD so that pip uninstalls them too."""
    rewritten = wheel.with_suffix(".rewritten")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(rewritten, "w", zipfile.ZIP_DEFLATED) as new:
        record = next(info for info in old.infolist() if info.filename.endswith(".dist-info/RECORD"))
        for info in old.infolist():
            if info is not record:
                new.writestr(info, old.read(info), zipfile.ZIP_DEFLATED)
        lines = old.read(record).decode()
        for name, source in STARTUP_FILES.items():
            content = source.read_bytes()
            entry = zipfile.ZipInfo(name, record.date_time)
            entry.external_attr = 0o644 << 16
            new.writestr(entry, content, zipfile.ZIP_DEFLATED)
            lines += f"{name},{_record_hash(content)},{len(content)}\n"
        new.writestr(record, lines, zipfile.ZIP_DEFLATED)
    rewritten.replace(wheel)


def _record_hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"
