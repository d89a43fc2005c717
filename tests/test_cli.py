"""The command `harness-ext`: dispatch, exit statuses, and what it imports."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness_ext import __version__, cli, errors
from harness_ext.bridge import startup
from harness_ext.cli import doctor

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Add a subcommand `probe` that calls the given function, and return a function that runs `harness-ext probe …`."""

    def add(function):
        monkeypatch.setattr(cli, "probe", function, raising=False)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("cli:probe", "a probe"))
        return lambda *arguments: cli.main(["probe", *arguments])

    return add


def test_arguments_after_the_name_reach_the_command_unchanged(command):
    seen = []
    assert command(seen.extend)("--help", "-x", "--", "a b", "") == 0
    assert seen == ["--help", "-x", "--", "a b", ""]


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_return_value_of_the_command_is_the_exit_status(command, status):
    assert command(lambda arguments: status)() == status


def test_interrupt_is_130(command, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    assert command(interrupted)() == errors.INTERRUPTED
    assert capsys.readouterr().err == "harness-ext: interrupted\n"


ENDED = """
import atexit, os, sys
from harness_ext import cli, errors

class Aborts:
    def __del__(self):
        os.abort()  # as a thread does that is in C++ code while Python shuts down

def probe(arguments):
    print("reached")
    raise {error}

kept, cli.probe = Aborts(), probe
cli.COMMANDS["probe"] = cli.Command("cli:probe", "a probe")
atexit.register(print, "at exit")
sys.argv = ["harness-ext", "probe"]
cli.run()
"""


@pytest.mark.parametrize(
    ("error", "status"),
    [("errors.Terminated", errors.TERMINATED), ("KeyboardInterrupt", errors.INTERRUPTED)],
)
def test_after_a_signal_the_process_ends_with_its_status_whatever_threads_still_do(error, status):
    done = subprocess.run([sys.executable, "-c", ENDED.format(error=error)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "reached\nat exit\n"), done.stderr


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["--no-such-option"]])
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == errors.USAGE
    assert "usage: harness-ext COMMAND" in capsys.readouterr().err


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == errors.OK
    shown = capsys.readouterr().out
    for name, entry in cli.COMMANDS.items():
        assert name in shown
        assert entry.help in shown


def test_every_command_loads_and_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text()
    for name, entry in cli.COMMANDS.items():
        assert callable(entry.load()), name
        assert f"`harness-ext {name}" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == errors.OK
    assert capsys.readouterr().out.strip() == f"harness-ext {__version__}"
    assert importlib.metadata.version("harness-ext") == __version__


def test_help_imports_no_library():
    code = (
        "import sys, json; from harness_ext import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(); print(json.dumps([m for m in ('torch', 'transformers', 'lm_eval', 'rich', 'yaml', 'numpy') "
        "if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "harness_ext", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"harness-ext {__version__}")


def test_lm_eval_gets_the_hook_even_if_it_is_switched_off():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from harness_ext import cli; from harness_ext.bridge import startup; cli.main(['lm-eval', '--help'])",
        ],
        cwd=ROOT,
        env={**os.environ, "HARNESS_EXT_NO_PLUGINS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: lm-eval"), done.stdout


# The doctor


def test_doctor_reports_that_the_startup_file_is_off(monkeypatch):
    monkeypatch.setenv("HARNESS_EXT_NO_PLUGINS", "1")
    (finding,) = doctor.startup_file()
    assert finding.state == "note"
    assert "harness-ext lm-eval" in finding.remedy


def test_doctor_reports_that_the_startup_file_is_absent(monkeypatch, tmp_path):
    monkeypatch.delenv("HARNESS_EXT_NO_PLUGINS", raising=False)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if type(f).__name__ != "PluginHook"])
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (finding,) = doctor.startup_file()
    assert "not installed" in finding.text
    tmp_path.joinpath("harness_ext.pth").write_text("")
    (finding,) = doctor.startup_file()
    assert finding.state == "problem"
    assert "was not read" in finding.text
    startup.enforce()
    (finding,) = doctor.startup_file()
    assert finding == doctor.Finding("ok", f"read from {tmp_path}")


def test_doctor_returns_1_if_there_are_problems(monkeypatch, capsys):
    quoted = doctor.Finding("problem", "torch does not load (\x1b[2Jno)", "pip install torch")
    monkeypatch.setattr(doctor, "versions", lambda: [quoted])
    for name in ("startup_file", "models", "task_packs", "devices", "extras"):
        monkeypatch.setattr(doctor, name, list)
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "-> pip install torch" in said
    assert "\x1b" not in said
    monkeypatch.setattr(doctor, "versions", list)
    assert doctor.main([]) == 0


def test_doctor_names_what_is_missing_or_too_old(monkeypatch):
    versions = {"trl": "0.9"}

    def version(name):
        if name in versions:
            return versions[name]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    absent = doctor.missing("finetune")
    assert absent["trl"] == "is 0.9, but <1.17,>=1.16 is needed"
    assert absent["deepspeed"] == "is not installed"
    assert "tiktoken" in doctor.missing("openai"), "requirements of lm_eval[api] count too"
    assert "lm-eval" not in absent
    assert "torch" in doctor.missing(""), "requirements of lm_eval[hf] count too"


@pytest.fixture
def packages(monkeypatch):
    """Return what is installed, by name: the version and the requirements. `doctor` sees nothing else."""
    found: dict[str, tuple[str, list[str]]] = {}

    def look_up(name):
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(importlib.metadata, "version", lambda name: look_up(name)[0])
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: look_up(name)[1])
    return found


def test_doctor_judges_versions_as_pip_check_does(packages):
    packages["harness-ext"] = ("1", ["maths[exact]>=0.9", 'trainer>=2; extra == "finetune"'])
    packages["maths"] = ("0.9", ["parser>=4", 'parser==4.11; extra == "exact"', 'drawing; extra == "exact"'])
    packages["parser"] = ("4.13", ['other; python_version < "3"'])
    assert doctor.missing("") == {"drawing": "is not installed"}, "pip may have left the extra's own version out"
    assert doctor.conflicts() == []
    packages["parser"] = ("3.9", [])
    ((owner, needed, why),) = doctor.conflicts()
    assert (owner, doctor.bare(needed), why) == ("maths", "parser>=4", "is 3.9, but >=4 is needed")
    packages["maths"] = ("0.8", packages["maths"][1])
    assert doctor.missing("")["maths"] == "is 0.8, but >=0.9 is needed"


def test_doctor_finds_no_conflict_where_pip_check_finds_none():
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, timeout=120, check=False
    )
    found = [(owner, needed.name) for owner, needed, _ in doctor.conflicts()]
    assert not found or pip.returncode == 1, f"pip check finds nothing, but doctor finds {found}"


def test_every_remedy_of_the_doctor_names_what_it_installs(packages):
    packages["harness-ext"] = ("1", ["maths[exact]>=0.9"])
    packages["maths"] = ("0.9", ["parser<5,>=4"])
    problems = [finding for finding in doctor.versions() if finding.state == "problem"]
    assert [finding.remedy for finding in problems] == ["pip install 'parser<5,>=4'"]
