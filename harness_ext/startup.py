"""Hands lm-eval's plugins to an lm-eval that does not look for them itself.

Every wheel also carries this file as the top-level module `harness_ext_startup`, and one line in `harness_ext.pth`
(from Python 3.15 on, in `harness_ext.start`) calls `install` when an interpreter starts. All that happens then is that
one object is put in front of `sys.meta_path`. It waits for lm-eval's model registry and task index: once lm-eval itself
has imported one of them, `harness_ext.plugins` registers the entry points that are installed. Without lm-eval nothing
ever happens. `HARNESS_EXT_NO_PLUGINS=1` turns it off. See docs/plugins.md.

It runs at every start of the interpreter: it imports nothing that Python has not loaded by then, and raises nothing.
"""

import os
import sys

TYPE_CHECKING = False  # typing costs more to import than this whole module
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

WATCHED = ("lm_eval.models", "lm_eval.tasks._index")


class PluginHook:
    """A finder (`sys.meta_path`) that finds nothing itself: it has plugins registered after a watched module ran."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """Return what the finders behind this one find for a watched module, to be followed up; else None."""
        if name not in WATCHED:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:  # type: ignore[arg-type]
            spec = finder.find_spec(name, path, target)  # type: ignore[arg-type]
            if spec is not None:
                _follow_up(spec)
                return spec
        return None


def _follow_up(spec: "ModuleSpec") -> None:
    """Have the loader of `spec` register plugins after it has executed the module."""
    loader = spec.loader

    def exec_module(module: "ModuleType") -> None:
        execute(module)
        _register(spec.name)

    try:
        execute = loader.exec_module  # type: ignore[union-attr]
        # On the instance, so that the module keeps its own loader, which inspect and importlib.resources ask for.
        loader.exec_module = exec_module  # type: ignore[union-attr,method-assign]
    except AttributeError as error:
        _warn(error)


def _register(module_name: str) -> None:
    try:
        from harness_ext import plugins

        plugins.after_import(module_name)
    except Exception as error:  # lm-eval must go on whatever is wrong with a plugin or with this package
        _warn(error)


def _warn(error: Exception) -> None:
    import logging

    logging.getLogger("harness_ext").warning(
        "Plugins were not loaded into lm-eval (%s: %s). `harness-ext doctor` says more; HARNESS_EXT_NO_PLUGINS=1 turns "
        "the loading off.",
        type(error).__name__,
        error,
    )


def install() -> None:
    """Put the hook in place, once, unless it is switched off."""
    if not switched_off():
        enforce()


def enforce() -> None:
    """Put the hook in place, once, switched off or not."""
    if not installed():
        sys.meta_path.insert(0, PluginHook())  # type: ignore[arg-type]


def installed() -> bool:
    """Return whether a hook is in place, this module's or that of the package's other copy of it."""
    return any(type(finder).__name__ == "PluginHook" for finder in sys.meta_path)


def switched_off() -> bool:
    """Return whether the environment variable HARNESS_EXT_NO_PLUGINS is set to anything but 0."""
    return os.environ.get("HARNESS_EXT_NO_PLUGINS", "0") not in ("", "0")
