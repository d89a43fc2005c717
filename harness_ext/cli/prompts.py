"""The command `harness-ext prompts`: prints the prompts of a protocol, or writes them as a folder of files to edit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness_ext.config.prompts import SUFFIX, presets_of, prompts_hash, prompts_of, with_prompts
from harness_ext.config.run_options import RunOptions
from harness_ext.errors import FAILED, USAGE, ConfigurationError
from harness_ext.files import write_new_folder
from harness_ext.options import build, suggest
from harness_ext.protocol import Protocol
from harness_ext.terminal import clean


def main(arguments: Sequence[str]) -> int:
    """Print or write the prompts of a protocol and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="harness-ext prompts",
        description="Print the prompts of a protocol, or write them as files to edit and give back (`prompts=FOLDER`).",
    )
    parser.add_argument("protocol", metavar="PROTOCOL", help="as in `lm_eval --model PROTOCOL`")
    parser.add_argument("--prompts", metavar="FOLDER", help="with the prompts of a folder, or of `preset:NAME`")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="the folder to write")
    options = parser.parse_args(list(arguments))
    try:
        protocol = find_protocol(options.protocol)
        files, digest = chosen_prompts(protocol, options.prompts)
        if options.output is not None:
            write_prompts(files, options.output)
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"harness-ext prompts: {clean(problem)}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"harness-ext prompts: {clean(error)}", file=sys.stderr)
        return FAILED
    if options.output is None:
        print(clean("\n".join(files.values())), end="")
    presets = ", ".join(f"preset:{name}" for name in presets_of(protocol)) or "none"
    print(f"{len(files)} prompts, with the hash {digest}; presets: {presets}", file=sys.stderr)
    if options.output is not None:
        print(f"Next: edit {options.output}/*{SUFFIX}, then run with `prompts={options.output}`")
    return 0


def find_protocol(name: str) -> type[Protocol]:
    """Return the protocol of an installed model. Raises ConfigurationError if there is none of that name."""
    from harness_ext.bridge.plugins import MODELS, installed

    points = {point.name: point for point in installed(MODELS)}
    found = getattr(points[name].load(), "protocol", None) if name in points else None
    if found is None:
        names = sorted(name for name in points if not name.startswith("harness_ext."))
        raise ConfigurationError(
            [f"there is no protocol `{name}`{suggest(name, names)}: the installed models are {', '.join(names)}"]
        )
    protocol: type[Protocol] = found
    return protocol


def chosen_prompts(protocol: type[Protocol], source: str | None) -> tuple[dict[str, str], str]:
    """Return the content of the file of each prompt by name, and the hash of all prompts.

    protocol: the protocol.
    source: the folder or preset whose prompts replace the defaults, or None.

    Raises ConfigurationError with all problems of the source.
    """
    problems: list[str] = []
    given = with_prompts({} if source is None else {"prompts": source}, protocol, problems)
    built = [build(cls, given, problems) for cls in (protocol, RunOptions)]
    if problems:
        raise ConfigurationError(problems)
    texts = {name: text for one in built for name, text in vars(one).items()}
    files = {n: option.as_file(texts[n]) for n, option in prompts_of(protocol).items() if texts[n] is not None}
    return files, prompts_hash(*built)


def write_prompts(files: dict[str, str], folder: Path) -> None:
    """Write each prompt into a file of a new folder, which appears once it is complete.

    Raises ConfigurationError if the folder exists.
    """
    if folder.exists() or folder.is_symlink():
        raise ConfigurationError([f"{folder} exists: remove it, or name another folder (`-o FOLDER`)"])
    write_new_folder(folder, {f"{name}{SUFFIX}": content for name, content in files.items()})
