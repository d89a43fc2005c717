"""`harness-ext doctor`: reports what is installed, what lm-eval finds, where models can run and what is missing.

With `--seat` it reports what the servers of a seat can do instead.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from harness_ext import __file__ as package_file
from harness_ext import __version__
from harness_ext.backends.registry import seat_models
from harness_ext.bridge import plugins, startup
from harness_ext.cli.doctor_seats import seat
from harness_ext.cli.findings import Finding
from harness_ext.serving.engines import ENGINES, LLAMA_SERVER
from harness_ext.terminal import safe_text

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "harness-ext"


def main(arguments: list[str]) -> int:
    """Print the report and return 0, or 1 if it contains a problem."""
    parser = argparse.ArgumentParser(prog="harness-ext doctor", description=__doc__)
    parser.add_argument(
        "--seat",
        metavar="SEAT=MODEL",
        action="append",
        help="a served seat as in `--model_args`, with its options: teacher=openai:<model>@<url>,teacher.<option>=…",
    )
    seats: list[str] | None = parser.parse_args(arguments).seat
    sections: dict[str, Callable[[], Iterable[Finding]]] = {
        "Versions": versions,
        "Start-up file": startup_file,
        "Models": models,
        "Task packs": task_packs,
        "Devices": devices,
        "Engines that `serve:<model>` starts": engines,
        "Extras": extras,
    }
    if seats is not None:
        sections = {f"Seat {safe_text(text)}": partial(seat, text) for text in seats}
    problems = 0
    for title, section in sections.items():
        print(title)
        for finding in section():
            problems += finding.state == "problem"
            # It may quote an error of any package.
            print(f"  {finding.state:<8} {safe_text(finding.text)}")
            if finding.remedy:
                print(f"  {'':<8} -> {safe_text(finding.remedy)}")
    print("No problems found." if not problems else f"{problems} problem(s) found.")
    return 1 if problems else 0


def versions() -> Iterator[Finding]:
    """Report the versions of Python, of this package and of its required dependencies."""
    yield Finding("ok", f"Python {platform.python_version()}, {sys.executable}")
    yield Finding("ok", f"{DISTRIBUTION} {__version__}, {Path(package_file).parent}")
    try:
        absent = missing("")
    except importlib.metadata.PackageNotFoundError:
        remedy = "run `pip install .` in the checkout"
        yield Finding("problem", f"{DISTRIBUTION} runs from a checkout and is not installed", remedy)
        return
    except ModuleNotFoundError as error:  # `packaging` itself, if this package was installed without dependencies
        yield Finding("problem", f"{error.name} is not installed", f"pip install --upgrade {DISTRIBUTION}")
        return
    wanted = required("")
    for requirement in sorted(wanted):
        if requirement not in absent:
            yield Finding("ok", f"{requirement} {importlib.metadata.version(requirement)}")
    for requirement, why in sorted(absent.items()):
        yield Finding("problem", f"{requirement}: {why}", f"pip install '{bare(wanted[requirement])}'")
    for owner, needed, why in conflicts():
        yield Finding("problem", f"{needed.name} {why} by {owner}", f"pip install '{bare(needed)}'")


def startup_file() -> Iterator[Finding]:
    """Report whether `lm_eval` itself, without `harness-ext lm-eval`, loads plugins."""
    by_hand = "use `harness-ext lm-eval …` instead of `lm_eval …`"
    folder = next((entry for entry in sys.path if Path(entry, "harness_ext.pth").is_file()), None)
    if startup.switched_off():
        yield Finding("note", "turned off by HARNESS_EXT_NO_PLUGINS", f"unset HARNESS_EXT_NO_PLUGINS, or {by_hand}")
    elif startup.installed():
        yield Finding("ok", f"read from {folder}" if folder else "active")
    elif folder is None:
        yield Finding("note", "not installed: no harness_ext.pth in site-packages", f"pip install ., or {by_hand}")
    else:
        yield Finding("problem", f"{folder}/harness_ext.pth was not read (python -S or -I?)", by_hand)


def models() -> Iterator[Finding]:
    """Report which `lm_eval.models` entry points lm-eval knows, and the names of the models that can take a seat."""
    try:
        importlib.import_module("lm_eval.models")
        from lm_eval.api.registry import model_registry

        native = plugins.discovers_models()
        plugins.register_models()
    except Exception as error:  # any failure of lm-eval is what this report is meant to show
        yield Finding("problem", f"lm-eval does not load ({error})", "pip install --force-reinstall --no-deps lm_eval")
        return
    if native:
        yield Finding("note", "this lm-eval discovers models itself, so the start-up file does not register them")
    for point in plugins.installed(plugins.MODELS):
        text = f"{point.name} = {point.value} ({plugins.owner(point)})"
        try:
            point.load()
        except Exception as error:
            yield Finding("problem", f"{text} does not load: {type(error).__name__}: {error}")
            continue
        if native or (point.name in model_registry and model_registry.get(point.name) is point.load()):
            yield Finding("ok", text)
        else:
            yield Finding("note", f"{text}: the name belongs to another model", "use another of its names")
    yield Finding("ok", f"for seats: {', '.join(seat_models())}")


def task_packs() -> Iterator[Finding]:
    """Report the `lm_eval.tasks` entry points and how many task files each contains."""
    for point in plugins.installed(plugins.TASKS):
        text = f"{point.name} = {point.value} ({plugins.owner(point)})"
        try:
            folders = plugins.pack_folders(point)
        except Exception as error:
            yield Finding("problem", f"{text} does not load: {error}")
            continue
        files = sum(1 for folder in folders for _ in folder.rglob("*.yaml"))
        yield Finding("ok", f"{text}: {files} YAML files in {', '.join(map(str, folders))}")


def devices() -> Iterator[Finding]:
    """Report the devices on which models can run."""
    try:
        import torch
    except Exception as error:
        yield Finding("problem", f"torch does not load ({error})", "pip install torch")
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"cuda:{index} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        yield Finding("note", "no CUDA device; small models run on the CPU")
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps")
    yield Finding("ok", f"cpu, {torch.get_num_threads()} threads, torch {torch.__version__}")


def engines() -> Iterator[Finding]:
    """Report which engines a run can start as it is; another interpreter may have others (`<seat>.serve.python`)."""
    for engine in ENGINES.values():
        wanted = (engine.module, *engine.needs) if engine.module else ()
        absent = [module for module in wanted if find_spec(module) is None]
        program = None if engine.module else shutil.which(LLAMA_SERVER)
        if absent:
            yield Finding("note", f"{engine.name}: {', '.join(absent)} not installed here")
        elif engine.module:
            yield Finding("ok", f"{engine.name}: {engine.module} {importlib.metadata.version(engine.module)}")
        elif program is None:
            yield Finding("note", f"{engine.name}: no {LLAMA_SERVER} on the PATH")
        else:
            yield Finding("ok", f"{engine.name}: {program}")


def extras() -> Iterator[Finding]:
    """Report what each optional extra still lacks."""
    try:
        names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
        missing("")
    except ModuleNotFoundError:  # already reported by `versions`
        return
    for name in names:
        if name == "all":
            continue
        absent = missing(name)
        if absent:
            remedy = f"pip install '{DISTRIBUTION}[{name}]' (in a checkout: pip install '.[{name}]')"
            yield Finding("note", f"{name}: {'; '.join(f'{key} {why}' for key, why in absent.items())}", remedy)
        else:
            yield Finding("ok", name)


def required(extra: str, distribution: str = DISTRIBUTION) -> dict[str, Requirement]:
    """Return the requirements that an extra adds, by project name.

    The extras of requirements (`lm_eval[hf]`) are followed, but not their other dependencies.

    extra: name of the extra, or "" for the requirements without any extra.
    distribution: the distribution to inspect. Default `harness-ext`.

    Raises PackageNotFoundError if `distribution` is not installed.
    """
    found: dict[str, Requirement] = {}
    for requirement in _asked_by(distribution, extra):
        found.setdefault(requirement.name, requirement)
        for inner in requirement.extras:
            try:
                found = {**required(inner, requirement.name), **found}
            except importlib.metadata.PackageNotFoundError:
                break
    return found


def missing(extra: str) -> dict[str, str]:
    """Return the projects of `required(extra)` that are missing or have the wrong version, and what is wrong.

    As in `pip check`, only the versions that this package itself asks for count, not those in the extras of its
    requirements: pip itself may have installed such an extra differently, or left it out.
    """
    own = {requirement.name for requirement in _asked_by(DISTRIBUTION, extra)}
    absent = {}
    for name, requirement in required(extra).items():
        why = _lack(requirement)
        if why is not None and (name in own or why == NOT_INSTALLED):
            absent[name] = why
    return absent


def conflicts() -> list[tuple[str, Requirement, str]]:
    """Return what `pip check` would say about the dependencies of this package's dependencies.

    Each entry has the project that asks, what it asks for, and what is wrong with what is installed.
    """
    found: list[tuple[str, Requirement, str]] = []
    known = {DISTRIBUTION}
    queue = list(required("").values())
    while queue:
        owner = queue.pop().name
        if owner in known:
            continue
        known.add(owner)
        try:
            asked = _asked_by(owner, "")
        except importlib.metadata.PackageNotFoundError:
            continue
        found += [(owner, needed, why) for needed in asked if (why := _lack(needed)) is not None]
        queue += asked
    return sorted(found, key=lambda conflict: (conflict[1].name, conflict[0]))


NOT_INSTALLED = "is not installed"


def bare(requirement: Requirement) -> str:
    """Return a requirement as `pip install` takes it: without its marker."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _asked_by(distribution: str, extra: str) -> list[Requirement]:
    """Return what an installed distribution asks for on this machine: with `extra`, what that adds."""
    from packaging.requirements import Requirement

    found = []
    for line in importlib.metadata.requires(distribution) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if extra and (marker is None or marker.evaluate({"extra": ""})):
            continue
        if marker is None or marker.evaluate({"extra": extra}):
            found.append(requirement)
    return found


def _lack(requirement: Requirement) -> str | None:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"is {version}, but {requirement.specifier} is needed"
