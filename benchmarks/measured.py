"""Helpers of the benchmarks: results that say how they were made.

Import this module before measuring: the commit and the load of the machine are those at its import.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from result_records import RECORD, digest_of, file_sha256

from harness_ext.embedded import MODELS, SEATS, model_path
from harness_ext.records.fingerprint import folder_digest, resolve_folder
from models import MODELS as PUBLIC
from models import Unavailable, WrongModel, converted, models_folder

ROOT = Path(__file__).resolve().parent.parent
SOFTWARE = ("torch", "transformers", "lm_eval")  # its versions affect results
_EMBEDDED = ROOT / "harness_ext" / "embedded"


def _commit() -> str:
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"


_COMMIT, _LOAD, _STARTED = _commit(), os.getloadavg()[0], time.time()


def embedded(*names: str) -> dict[str, Path]:
    """Return the folders of embedded models, by the names that records have for them. Default: student and teacher."""
    return {f"embedded {name}": model_path(name) for name in names or SEATS}


def embedded_digests() -> dict[str, str]:
    """Return the digests of all embedded models of this checkout, by the names that records have for them."""
    folders = {f"embedded {name}": _EMBEDDED / name for name in MODELS}
    return {name: folder_digest(folder) for name, folder in folders.items() if folder.is_dir()}


def named(**specs: str | None) -> dict[str, Path]:
    """Return the folders of the models that seats were given.

    specs: the specification of each seat's model; None for the embedded one.

    Models of servers, and of the hub if they are not on this machine, are left out: only the command names them.
    """
    found: dict[str, Path] = {}
    for seat, spec in specs.items():
        if spec is None:
            found |= embedded(seat)
        elif (folder := resolve_folder(spec.removeprefix("hf:"))) is not None:
            inside = folder.resolve().parent == _EMBEDDED
            found[f"embedded {folder.resolve().name}" if inside else seat] = folder
    return found


def model_folder(model: str) -> Path:
    """Return the folder of a model, given its name in `benchmarks/models.py` or the folder; exit if it is not there."""
    folder = Path(model)
    if model in PUBLIC:
        try:
            folder = converted(PUBLIC[model], models_folder())
        except (Unavailable, WrongModel) as error:
            sys.exit(str(error))
    if not folder.is_dir():
        sys.exit(f"{model} is neither a folder nor one of {', '.join(PUBLIC)}")
    return folder.resolve()


def environment_of(checkout: Path) -> dict[str, str]:
    """Return the environment of processes that import the package from a checkout of this repository."""
    subprocess.run(["make", "-s", "layout"], cwd=checkout, check=True)
    return {**os.environ, "PYTHONPATH": str(checkout.resolve() / "build" / "layout")}


def publish_measured(
    result: Mapping[str, Any],
    output: Path | None,
    weights: Mapping[str, Path] | None = None,
    files: Sequence[Path] = (),
) -> None:
    """Write a result with a record of how it was made, or print it.

    result: the result, as JSON values.
    output: the file to write. None prints the result instead.
    weights: the folders of the models that were used, by name; those of embedded models have the names of `embedded`.
        Default: none were used.
    files: further files of the result, in the folder of `output` or below. Default none.

    The record (`measured`) has the commit, with `-dirty` if files were changed since, the command, the machine with its
    load at the start, the date, the versions of the software, the digests of weights and files, and a digest of the
    result with all of this. `benchmarks/page.py` refuses results that do not agree with their record.
    """
    folder = output.resolve().parent if output else Path()
    record = {
        **made_by(),
        "weights": {name: folder_digest(path) for name, path in (weights or {}).items()},
        "files": {path.resolve().relative_to(folder).as_posix(): file_sha256(path) for path in files},
    }
    recorded = {**result, RECORD: record}
    record["digest"] = digest_of(recorded)
    text = json.dumps(recorded, indent=2) + "\n"
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")
        print(f"wrote {output}", flush=True)


def made_by() -> dict[str, Any]:
    """Return what this process records of itself in its results: commit, command, date, machine and versions."""
    return {
        "commit": _COMMIT,
        "command": _command(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_STARTED)),
        "seconds": round(time.time() - _STARTED),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores{_gpu()}, load {_LOAD:.1f} at the start",
        "versions": {"python": platform.python_version(), **{n: version(n) for n in SOFTWARE}},
    }


def _gpu() -> str:
    """Return this machine's GPU as part of a sentence; nothing if it has none."""
    import torch

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def _command() -> str:
    """Return the command line of this process, without the path of the repository or of a temporary folder."""
    scratch = re.compile(rf"{re.escape(tempfile.gettempdir())}{re.escape(os.sep)}\S*")
    words = [scratch.sub("<folder>", word.replace(f"{ROOT}{os.sep}", "")) for word in sys.argv]
    data = "HARNESS_EXT_DATA=<folder> " if os.environ.get("HARNESS_EXT_DATA") else ""
    return f"{data}python {' '.join(w if w == '<folder>' else shlex.quote(w) for w in words)}"
