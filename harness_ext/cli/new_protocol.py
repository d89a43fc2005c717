"""The command `harness-ext new-protocol`: writes a package with a protocol, its entry point and its test."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from harness_ext.errors import FAILED, HarnessExtError
from harness_ext.files import write_new_folder
from harness_ext.terminal import clean


class NewProtocolError(HarnessExtError):
    """The protocol cannot be written. The message names cause and remedy."""


def main(arguments: Sequence[str]) -> int:
    """Write the files of a protocol and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="harness-ext new-protocol",
        description="Write a package with a protocol of your own: its code, its entry point and a test.",
    )
    parser.add_argument("name", metavar="NAME", help="the protocol's name: lower-case letters, digits and _")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="the folder to create (default: ./NAME)")
    options = parser.parse_args(list(arguments))
    folder: Path = options.output or Path(options.name)
    try:
        check_name(options.name)
        write_protocol(options.name, folder)
    except (NewProtocolError, OSError) as error:
        print(f"harness-ext new-protocol: {clean(error)}", file=sys.stderr)
        return FAILED
    for file in sorted(folder.iterdir()):
        print(f"  {file}")
    print(f"Next, in {folder}: change {options.name}.py, then")
    print("  pip install -e .")
    print("  pytest")
    print(f"  lm_eval --model {options.name} --tasks babi_stories --limit 3")
    return 0


def check_name(name: str) -> None:
    """Raise NewProtocolError if no module, or no model of lm-eval, can have a name."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise NewProtocolError(
            f"{name!r} is not a valid name: use lower-case letters, digits and _, a letter first, and no word of Python"
        )
    importlib.import_module("lm_eval.models")  # registers lm-eval's own models
    from lm_eval.api.registry import model_registry

    from harness_ext.bridge.plugins import MODELS, installed

    if re.search(rf"import .*\b{_class_name(name)}\b", PROTOCOL + TEST):
        raise NewProtocolError(f"the class of {name!r} would have the name of one that its files import: add a word")
    is_model = name in model_registry or any(point.name == name for point in installed(MODELS))
    if is_model or importlib.util.find_spec(name) is not None:
        kind = "model" if is_model else "Python module"
        raise NewProtocolError(f"there is a {kind} {name!r} already: choose another name")


def protocol_files(name: str) -> dict[str, str]:
    """Return the content of each file of a protocol's package, by file name."""
    names = {
        "name": name,
        "cls": _class_name(name),
        "project": name.strip("_").replace("_", "-"),
    }
    templates = {"pyproject.toml": PYPROJECT, f"{name}.py": PROTOCOL, f"test_{name}.py": TEST}
    return {file: _MARK.sub(lambda mark: names[mark[1]], text) for file, text in templates.items()}


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def write_protocol(name: str, folder: Path) -> None:
    """Write the package of a protocol into a new folder, which appears once it is complete.

    Raises NewProtocolError if the folder exists.
    """
    if folder.exists() or folder.is_symlink():
        raise NewProtocolError(f"{folder} exists: remove it, or name another folder (-o FOLDER)")
    write_new_folder(folder, protocol_files(name))


_MARK = re.compile(r"<(name|cls|project)>")
PROTOCOL = '''\
"""<name>: a model is asked to check its own answer, and nothing else is said."""

from dataclasses import dataclass

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Message, Protocol, Role


@dataclass(frozen=True)
class <cls>(Protocol):
    times: int = 1
    check_user: PromptText = prompt(lambda: CHECK_USER, "asks the student to check its answer")

    roles = {"student": Role("answers, and checks its own answer")}

    async def solve(self, question, seats):
        draft = await seats.student.generate(question.context, kind="draft")
        for _ in range(self.times):
            asked = Message("user", self.check_user.fill(demand=question.demand))
            conversation = question.conversation(seats.student.own_turn(draft), asked)
            draft = await seats.student.generate(conversation, kind="refine")
        return draft


class <cls>LM(ProtocolLM):
    protocol = <cls>


CHECK_USER = "Check your answer, and write it again.\\n\\n{demand}"
'''
PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "<project>"
version = "0.1"
dependencies = ["harness-ext"]

[project.entry-points."lm_eval.models"]
<name> = "<name>:<cls>LM"

[tool.setuptools]
py-modules = ["<name>"]
"""
TEST = '''\
"""Tests of <name> with a scripted model, through the real engine."""

import pytest
from <name> import <cls>

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.protocol import Question, SeatSetup


def transcript_of(protocol, reply):
    """Return the transcript of one question. `reply` returns the model's reply to a prompt."""
    done, seats = [], {"student": SeatSetup(ScriptedBackend(reply))}
    Engine().run(protocol, seats, [Question("2 + 3?")], lambda position, transcript: done.append(transcript))
    return done[0]


@pytest.mark.parametrize("times", [0, 1, 3])
def test_the_student_checks_its_answer(times):
    found = transcript_of(<cls>(times=times), lambda prompt: "5" if "Check your answer" in prompt else "4")
    assert found.failure is None
    assert found.text == ("5" if times else "4")
    assert [turn.kind for turn in found.turns] == ["draft"] + ["refine"] * times
'''
