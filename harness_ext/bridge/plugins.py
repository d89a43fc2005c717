"""Registers installed entry points with lm-eval: models (`lm_eval.models`) and task packs (`lm_eval.tasks`).

lm-eval's own plugin guide (docs/plugins.md, after 0.4.13) defines the group `lm_eval.models` and the rule, kept here,
that a built-in name always wins. The group `lm_eval.tasks` is defined by this package: its value is an importable
package whose folder contains task YAML. A pack adds names and extends tags but never changes the meaning of a built-in
name, and the user's `--include_path` overrides packs and built-in tasks alike.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.terminal import clean, outside

if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry

MODELS = "lm_eval.models"
TASKS = "lm_eval.tasks"

_log = logging.getLogger(__name__)


def installed(group: str) -> list[importlib.metadata.EntryPoint]:
    """Return the entry points of `group` in all installed distributions, sorted by name, then by value."""
    return sorted(importlib.metadata.entry_points(group=group), key=lambda point: (point.name, point.value))


def owner(point: importlib.metadata.EntryPoint) -> str:
    """Return the name and version of the distribution that declares `point`."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"


def after_import(module_name: str) -> None:
    """Register the plugins of the lm-eval module that has just been imported (see `harness_ext.bridge.startup`)."""
    if module_name == "lm_eval.models":
        register_models()
    else:
        extend_task_index()


# Models


def discovers_models() -> bool:
    """Return whether this lm-eval loads `lm_eval.models` entry points itself, as releases after 0.4.13 do."""
    from lm_eval.api import registry

    return hasattr(registry, "load_plugins")


def register_models() -> None:
    """Register every installed model under the name of its entry point, without importing it. Built-in names win.

    `lm_eval.models` must have been imported before, so that all built-in names are known.
    """
    from lm_eval.api.registry import model_registry

    if discovers_models():
        return
    for point in installed(MODELS):
        if not point.attr:
            _warn(f"Model '{point.name}' of {owner(point)} is skipped: '{point.value}' is not module:Class.")
            continue
        # If the class's module also uses @register_model, lm-eval 0.4.13 can replace a string by the class, but
        # reports an entry point as a conflict. A dotted attribute, which strings cannot express, needs the entry point.
        target = point if "." in point.attr else f"{point.module}:{point.attr}"
        if point.name not in model_registry:
            model_registry.register(point.name, target=target)
        elif (present := _path(dict(model_registry.items())[point.name])) != f"{point.module}:{point.attr}":
            _warn(
                f"Model '{point.name}' of {owner(point)} is skipped: the name is taken by {present}. "
                "Use another of its names, or uninstall one of the two packages."
            )


def _path(model: object) -> str:
    """Return `module:Class` for an entry of the registry: a path, an entry point or a loaded class."""
    if isinstance(model, str):
        return model
    if isinstance(model, importlib.metadata.EntryPoint):
        return f"{model.module}:{model.attr}"
    return f"{getattr(model, '__module__', '?')}:{getattr(model, '__qualname__', '?')}"


# Task packs


def extend_task_index() -> None:
    """Make lm-eval's task index include the installed task packs whenever it includes the built-in tasks.

    `lm_eval.tasks._index` must have been imported before. A second call changes nothing.
    """
    from lm_eval.tasks import _index

    build = _index.TaskIndex.build
    if getattr(build, "holds_packs", False):
        return
    wrapped = functools.partial(_build, build, Path(_index.__file__).parent)
    functools.update_wrapper(wrapped, build)
    wrapped.holds_packs = True  # type: ignore[attr-defined]
    _index.TaskIndex.build = staticmethod(wrapped)  # type: ignore[method-assign,assignment]


def _build(
    build: Callable[..., dict[str, Entry]], defaults: Path, paths: Iterable[Path], **options: Any
) -> dict[str, Entry]:
    """Build an index as `build` does, adding the packs after lm-eval's own folder and before the user's folders.

    build: lm-eval's own function.
    defaults: the folder of lm-eval's built-in tasks. If it is not among the paths, no packs are added.
    paths: the folders to index.
    options: passed on to `build`.
    """
    paths = list(paths)
    if defaults not in paths:
        return build(paths, **options)
    end = paths.index(defaults) + 1
    index = build(paths[:end], **options)
    for point in installed(TASKS):
        try:
            _add_pack(index, point)
        except Exception as error:  # a broken pack must not break lm-eval or the other packs
            _warn(f"Task pack '{point.name}' of {owner(point)} is skipped: {type(error).__name__}: {error}")
    if paths[end:]:
        for name, entry in build(paths[end:], **options).items():
            known = index.get(name)
            if known is not None and not _same_file(known, entry):
                _log.warning("Task '%s' from %s overrides the one from %s", name, entry.yaml_path, known.yaml_path)
            index[name] = entry
    return index


def pack_folders(point: importlib.metadata.EntryPoint) -> list[Path]:
    """Return the folders of a task pack's package. The package itself is not imported, but its parents are.

    Raises ValueError if the entry point's value is not a package.
    """
    spec = None if point.attr else importlib.util.find_spec(point.module)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"'{point.value}' is not an importable package")
    return [Path(folder) for folder in spec.submodule_search_locations]


def _add_pack(index: dict[str, Entry], point: importlib.metadata.EntryPoint) -> None:
    """Add a pack's tasks, groups and tags to `index` without changing the meaning of any existing name."""
    from lm_eval.tasks._index import Kind

    found: dict[str, Entry] = {}
    for folder in pack_folders(point):
        _read_folder(folder, found, owner(point))

    skipped = set()
    for name, entry in found.items():
        known = index.get(name)
        if known is None or _same_file(known, entry) or known.kind is entry.kind is Kind.TAG:
            continue
        skipped.add(name)
        _warn(
            f"{entry.kind.name.capitalize()} '{name}' of {owner(point)} ({entry.yaml_path or 'a tag'}) is skipped: "
            f"the name is taken by {known.yaml_path or 'a tag'}. Name its folder with --include_path to override that."
        )
    for name, entry in found.items():
        if name in skipped:
            continue
        if entry.kind is Kind.TAG:
            # Otherwise the tag would contain the built-in task whose name the skipped task wanted.
            entry.tags -= skipped
            if not entry.tags:
                continue
            if name in index:
                index[name].tags |= entry.tags
                continue
        index[name] = entry


def _read_folder(folder: Path, found: dict[str, Entry], pack: str) -> None:
    """Read the task YAML below `folder` into `found`. A file that cannot be loaded is skipped with a warning."""
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in TaskIndex._iter_yaml_files(folder):
        try:
            config = load_yaml(path, resolve_func=False, recursive=True)
            # By lm-eval's convention, a file name that starts with "_" is a template that other files include.
            if path.name.startswith("_") and not {"task", "group", "class"} & config.keys():
                continue
            TaskIndex.process_cfg(config, path, found)
        except Exception as error:
            _warn(f"{path} of {pack} is skipped: {type(error).__name__}: {outside(error)}")


def _same_file(one: Entry, other: Entry) -> bool:
    return one.yaml_path is not None and one.yaml_path == other.yaml_path


@functools.cache
def _warn(message: str) -> None:
    """Log a warning once per process, however often lm-eval builds its index."""
    _log.warning(clean(message))
