"""What a result says about how it was made, and what speaks against publishing it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RECORD = "measured"


def digest_of(result: Mapping[str, Any]) -> str:
    """Return a digest of a result and its record, without the digest in that record."""
    plain = json.loads(json.dumps(result))
    plain.get(RECORD, {}).pop("digest", None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def agrees(result: Mapping[str, Any]) -> bool:
    """Return whether a result is what its record was made for."""
    return (result.get(RECORD) or {}).get("digest") == digest_of(result)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def problems(
    folder: Path, weights: Mapping[str, str], commands: Mapping[str, str], earlier: Mapping[str, str]
) -> list[str]:
    """Return what is wrong with the results in a folder, each with the command that makes the result again.

    folder: the folder.
    weights: the digests of the embedded models, by the names that records have for them.
    commands: the commands of results, by `stem`, for those without a record.
    earlier: the SHA-256 of the results that have no record because they are older than records, by file.

    Every file needs a record that agrees with it, or has to be named in one, or to be `earlier`.
    """
    found, named = list[str](), set[str]()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    unrecorded = []
    for name in names:
        record = record_of(folder / name)
        if record is None:
            unrecorded.append(name)
            continue
        wrong = list(_wrong(folder / name, record, weights))
        named |= {
            (folder / name).parent.joinpath(one).relative_to(folder).as_posix() for one in record.get("files", {})
        }
        if wrong:
            found.append(f"{name}: {'; '.join(wrong)}. Make it again: {record.get('command')}")
    for name in unrecorded:
        if name in named or earlier.get(name) == file_sha256(folder / name):
            continue
        wrong_one = "it was changed" if name in earlier else "nothing records how it was made"
        command = f" Make it again: {commands[stem(name)]}" if stem(name) in commands else ""
        found.append(f"{name}: {wrong_one}.{command}")
    return found


def stem(name: str) -> str:
    """Return what the files of a result have in common: the folder, or the name without its ending."""
    return name.partition("/")[0].partition(".")[0]


def record_of(path: Path) -> dict[str, Any] | None:
    """Return the record of a result, or None if it has none."""
    if path.suffix != ".json":
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    record = result.get(RECORD) if isinstance(result, dict) else None
    return record if isinstance(record, dict) else None


def _wrong(path: Path, record: Mapping[str, Any], weights: Mapping[str, str]) -> Iterator[str]:
    if not agrees(json.loads(path.read_text(encoding="utf-8"))):
        yield "it was changed after it was made"
    for name, digest in record.get("weights", {}).items():
        # Other models are no part of the repository, so nothing says whether they have changed.
        if name.startswith("embedded ") and weights.get(name) != digest:
            yield f"it was made with another {name}"
    for name, digest in record.get("files", {}).items():
        file = path.parent / name
        if not file.exists():
            yield f"{name} is missing"
        elif file_sha256(file) != digest:
            yield f"{name} was changed after it was made"


def short(commit: str) -> str:
    """Return the beginning of a commit as pages name it, and whether files were changed since."""
    changed = " with uncommitted changes" if commit.endswith("-dirty") else ""
    return commit.removesuffix("-dirty")[:12] + changed


def stamp(path: Path) -> str:
    """Return when, with what and where a result was made, as a sentence."""
    record = record_of(path)
    if record is not None:
        when = f"Measured on {record['date'][:10]} at commit {short(record['commit'])}, on {record['machine']}"
        return f"{when}, by `{record['command']}`."
    result = json.loads(path.read_text(encoding="utf-8"))
    parts = ["Recorded by an earlier version: no weights hash"]
    if isinstance(result.get("commit"), str):
        parts.append(f"commit {result['commit']}")
    if isinstance(result.get("machine"), str):
        parts.append(f"on {result['machine']}")
    if "load_average" in result:
        parts.append(f"load {result['load_average'][0]}")
    return f"{'; '.join(parts)}."
