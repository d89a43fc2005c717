"""Reads the YAML files of a study, with the files that they include."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness_ext.terminal import outside


def read_files(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return the content of a study file, merged over that of the files which it includes.

    path: the file. What it includes is named by paths relative to it; later files win over earlier ones, and the
        including file over all of them.
    problems: receives a message for each file that cannot be read, and for files that include each other.
    """
    return _read(path, (), problems)


def _read(path: Path, above: tuple[Path, ...], problems: list[str]) -> dict[str, Any]:
    path = path.expanduser()
    there = path.resolve()
    if there in above:
        chain = " -> ".join(file.name for file in (*above[above.index(there) :], there))
        problems.append(f"the files include each other ({chain}): remove one `include`")
        return {}
    content = load(path, problems)
    named = content.pop("include", None) or []
    if isinstance(named, str):
        named = [named]
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        problems.append(f"{path}: `include` takes the path of a file, or a list of paths")
        named = []
    merged: dict[str, Any] = {}
    for name in named:
        merged = deep_merge(merged, _read(path.parent / name, (*above, there), problems))
    return deep_merge(merged, content)


def load(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return the content of a YAML file; empty, with a message in `problems`, if it cannot be used."""
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_strict_loader())
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path} cannot be read: {outside(error)}. Name a readable YAML file")
        return {}
    except (yaml.YAMLError, RecursionError) as error:
        problems.append(f"{path} is not valid YAML: {outside(error)}")
        return {}
    if found is None:
        found = {}
    if not isinstance(found, dict):
        problems.append(f"{path} does not contain a mapping: write names and values (`name: value`)")
        return {}
    return found


def _strict_loader() -> Any:
    """Return a YAML loader that creates plain values only, and refuses a key that is given twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"`{key.value}` is given twice", key.start_mark
                        )
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with what `over` gives: mappings are merged, and everything else is replaced."""
    merged = dict(base)
    for name, value in over.items():
        there = merged.get(name)
        merged[name] = deep_merge(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return merged


def set_path(mapping: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a mapping in which the entry at a path has a value.

    mapping: the mapping, which is not changed.
    path: a name, or the name of an inner mapping, a dot and the rest: only the first dot divides, because the names of
        model arguments contain dots (`model_args.student.dtype`).
    value: the value.
    """
    first, dot, rest = path.partition(".")
    return deep_merge(mapping, {first: {rest: value} if dot else value})
