"""Hands lm-eval's plugins to an lm-eval that does not look for them itself.

Every wheel also carries this file as the top-level module `harness_ext_startup`, and one line in `harness_ext.pth` (from
Python 3.15 on, in `harness_ext.start`) calls `install` when an interpreter starts. Nothing happens then but that one
object is put in front of `sys.meta_path`. It waits for lm-eval's model registry and task index: once lm-eval itself has
imported one of them, `harness_ext.plugins` registers the entry points that are installed. Without lm-eval nothing ever
happens. `HARNESS_EXT_NO_PLUGINS=1` turns it off. See docs/plugins.md.

It runs at every start of the interpreter: it imports nothing that Python has not loaded by then, and raises nothing.
"""

import os
import sys

WATCHED = ("lm_eval.models", "lm_eval.tasks._index")


class PluginHook:
    """A finder (`sys.meta_path`) that finds nothing itself: it has plugins registered after a watched module ran."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Return what the finders behind this one find for a watched module, to be followed up; else None."""
        if name not in WATCHED:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                _follow_up(spec)
                return spec
        return None


def _follow_up(spec):  # type: ignore[no-untyped-def]
    """Have the loader of `spec` register plugins after it has executed the module."""
    try:
        execute = spec.loader.exec_module

        def exec_module(module):  # type: ignore[no-untyped-def]
            execute(module)
            _register(spec.name)

        # On the instance, so that the module keeps its own loader, which inspect and importlib.resources ask for.
        spec.loader.exec_module = exec_module
    except AttributeError as error:
        _warn(error)


def _register(module_name):  # type: ignore[no-untyped-def]
    try:
        from harness_ext import plugins

        plugins.after_import(module_name)
    except Exception as error:  # lm-eval must go on whatever is wrong with a plugin or with this package
        _warn(error)


def _warn(error):  # type: ignore[no-untyped-def]
    import logging

    logging.getLogger("harness_ext").warning(
        "Plugins were not loaded into lm-eval (%s: %s). `harness-ext doctor` says more; HARNESS_EXT_NO_PLUGINS=1 turns "
        "the loading off.",
        type(error).__name__,
        error,
    )


def install():  # type: ignore[no-untyped-def]
    """Put the hook in place, once, unless `HARNESS_EXT_NO_PLUGINS` is set to anything but 0."""
    if os.environ.get("HARNESS_EXT_NO_PLUGINS", "0") in ("", "0") and not installed():
        sys.meta_path.insert(0, PluginHook())


def installed():  # type: ignore[no-untyped-def]
    """Return whether a hook is in place, this module's or that of the package's other copy of it."""
    return any(type(finder).__name__ == "PluginHook" for finder in sys.meta_path)
