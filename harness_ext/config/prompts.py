"""The prompts of a protocol: what they are, and folders of files that replace them (`prompts=<folder>`).

Such a folder has one file per prompt, `<name>.txt`; prompts without a file keep their defaults. A preset is a folder
that comes with a protocol: `presets/<protocol>/<preset>` next to its module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from harness_ext.config.run_options import RunOptions
from harness_ext.options import PURPOSE, PromptText, read_prompt, suggest
from harness_ext.protocol import Protocol
from harness_ext.terminal import outside

PRESET = "preset:"
SUFFIX = ".txt"
MOST_NAMED = 5


@dataclass(frozen=True)
class PromptOption:
    """An option that is a prompt.

    name: its name.
    purpose: what the prompt is for; empty if its class does not say.
    text: its default; None if there is none.
    """

    name: str
    purpose: str
    text: PromptText | None

    def as_file(self, text: str) -> str:
        """Return the content of the file for this prompt: a header, which is not a part of the prompt, and the text."""
        marks = ", ".join(f"{{{mark}}}" for mark in sorted((self.text or PromptText(text)).marks))
        return f"---\nprompt: {self.name}\npurpose: {self.purpose}\nfields: {marks or 'none'}\n---\n{text}\n"


def prompts_of(protocol: type[Protocol]) -> dict[str, PromptOption]:
    """Return the prompts of a protocol, and those of every run, by name."""
    return {option.name: option for cls in (protocol, RunOptions) for option in _declared(cls)}


def _declared(cls: type) -> list[PromptOption]:
    hints = get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        if field.init and PromptText in (hints[field.name], *get_args(hints[field.name])):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            text = default if isinstance(default, PromptText) else None
            found.append(PromptOption(field.name, field.metadata.get(PURPOSE) or _documented(cls, field.name), text))
    return found


def _documented(cls: type, name: str) -> str:
    """Return what the docstring of a class of options says about one of them."""
    for base in cls.__mro__:
        if found := re.search(rf"^{name}: (.+(?:\n +.+)*)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE):
            return " ".join(found[1].split()).removesuffix(".")
    return ""


def presets_of(protocol: type[Protocol]) -> dict[str, Path]:
    """Return the folders of a protocol's presets, by name."""
    module = sys.modules[protocol.__module__]
    folder = Path(module.__file__ or "").parent / "presets" / protocol.__module__.rpartition(".")[2]
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}


def prompt_files(source: str, protocol: type[Protocol]) -> dict[str, Path]:
    """Return the file of each prompt that a folder or a preset replaces.

    source: the folder, or `preset:<name>`.
    protocol: the protocol.

    Raises ValueError that names everything in the folder that is no prompt of the protocol.
    """
    if source.startswith(PRESET):
        presets, name = presets_of(protocol), source.removeprefix(PRESET)
        if name not in presets:
            listed = f"its presets are {', '.join(presets)}" if presets else "it has none"
            raise ValueError(
                f"this protocol has no preset `{outside(name)}`{suggest(name, list(presets))}: {listed}. A folder is "
                "given without `preset:`"
            )
        folder = presets[name]
    else:
        if not source.strip():
            raise ValueError("expected a folder, or `preset:<name>`")
        folder = Path(source).expanduser()
    known = prompts_of(protocol)
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a folder with a file for each prompt ({outside(error)})") from error
    files = {path.stem: path for path in inside if path.suffix == SUFFIX and path.stem in known and path.is_file()}
    others = [path.name for path in inside if path not in files.values()]
    names = [f"{name}{SUFFIX}" for name in known]
    if others:
        unknown = ", ".join(f"`{outside(name, 100)}`{suggest(name, names)}" for name in others[:MOST_NAMED])
        unknown += f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        raise ValueError(f"the folder contains {unknown}, which is no prompt: the prompts are {', '.join(names)}")
    if not files:
        raise ValueError(f"the folder contains no prompts; they are {', '.join(names)}")
    return files


def with_prompts(
    given: Mapping[str, Any], protocol: type[Protocol], problems: list[str], where: str = ""
) -> dict[str, Any]:
    """Return arguments with a file for each prompt that `prompts` replaces. A prompt that is given by itself wins.

    given: the arguments of protocol and run.
    protocol: the protocol.
    problems: receives a message if `prompts` cannot be used.
    where: prefix of the names in messages. Default: nothing, for the run's own protocol.
    """
    source = given.get("prompts")
    if source is None:
        return dict(given)
    try:
        files = prompt_files(str(source), protocol)
        if where:
            _check_run_prompts(files)
        return {**{name: str(path) for name, path in files.items()}, **given}
    except ValueError as error:
        problems.append(f"`{where}prompts={outside(source, 100)}`: {error}")
        return dict(given)


def _check_run_prompts(files: Mapping[str, Path]) -> None:
    """Raise ValueError if a folder for a protocol in a seat changes prompts that only the whole run has."""
    for option in _declared(RunOptions):
        if option.name in files and read_prompt(files[option.name], option.text) != option.text:
            raise ValueError(
                f"`{option.name}{SUFFIX}` is a prompt of the whole run, which a protocol in a seat does not use: "
                f"remove the file here, and give it to the run (`{option.name}=<file>`)"
            )


def prompts_hash(*options: object) -> str:
    """Return a hash of all prompts in options: first a protocol's, then a run's, then those of protocols in seats."""
    texts = [{name: text for name, text in vars(one).items() if isinstance(text, PromptText)} for one in options]
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]
