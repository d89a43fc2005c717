"""Loads plugins into an lm-eval that does not discover them itself.

Every wheel also contains this file as the top-level module `harness_ext_startup`, and one line in `harness_ext.pth`
(from Python 3.15 on, in `harness_ext.start`) calls `install` whenever an interpreter starts. `install` only inserts one
object at the front of `sys.meta_path`. Once lm-eval has imported its model registry or its task index, that object
calls `harness_ext.bridge.plugins` to register the installed entry points. In programs that do not import lm-eval,
nothing further happens. `HARNESS_EXT_NO_PLUGINS=1` turns this off. See docs/plugins.md.

Because it runs at every interpreter start, it imports only what Python has already loaded and never raises.
"""

import os
import sys

TYPE_CHECKING = False  # typing costs more to import than this whole module
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

WATCHED = ("lm_eval.models", "lm_eval.tasks._index")


class PluginHook:
    """A finder for `sys.meta_path` that registers plugins after a watched module has run. It finds nothing itself."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """Return what the later finders find for a watched module, with a hook added to its loader; otherwise None."""
        if name not in WATCHED:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:  # type: ignore[arg-type]
            spec = finder.find_spec(name, path, target)  # type: ignore[arg-type]
            if spec is not None:
                _follow_up(spec)
                return spec
        return None


def _follow_up(spec: "ModuleSpec") -> None:
    """Make the loader of `spec` register plugins after it has executed the module."""
    loader = spec.loader

    def exec_module(module: "ModuleType") -> None:
        execute(module)
        _register(spec.name)

    try:
        execute = loader.exec_module  # type: ignore[union-attr]
        # Set on the instance, so that the module keeps its own loader, which inspect and importlib.resources need.
        loader.exec_module = exec_module  # type: ignore[union-attr,method-assign]
    except AttributeError as error:
        _warn(error)


def _register(module_name: str) -> None:
    try:
        from harness_ext.bridge import plugins

        plugins.after_import(module_name)
    except Exception as error:  # lm-eval must keep working, whatever is wrong with a plugin or this package
        _warn(error)


def _warn(error: Exception) -> None:
    import logging

    logging.getLogger("harness_ext").warning(
        "Plugins were not loaded into lm-eval (%s: %s). Run `harness-ext doctor` for details, or set "
        "HARNESS_EXT_NO_PLUGINS=1 to turn plugin loading off.",
        type(error).__name__,
        error,
    )


def install() -> None:
    """Install the hook once, unless it is switched off."""
    if not switched_off():
        enforce()


def enforce() -> None:
    """Install the hook once, even if it is switched off."""
    if not installed():
        sys.meta_path.insert(0, PluginHook())  # type: ignore[arg-type]


def installed() -> bool:
    """Return whether a hook is installed, by this module or by the package's other copy of it."""
    return any(type(finder).__name__ == "PluginHook" for finder in sys.meta_path)


def switched_off() -> bool:
    """Return whether the environment variable HARNESS_EXT_NO_PLUGINS is set to anything but 0."""
    return os.environ.get("HARNESS_EXT_NO_PLUGINS", "0") not in ("", "0")
