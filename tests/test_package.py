"""The contents of wheels and source distributions, and the pinned versions."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "harness_ext": "harness_ext",
    "models": "harness_ext/models",
    "tasks": "harness_ext/tasks",
    "enhance": "harness_ext/enhance",
    "finetune": "harness_ext/finetune",
}
STARTUP_FILES = {"harness_ext.pth", "harness_ext.start", "harness_ext_startup.py"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with new files of several kinds, and with a build output of a deleted file."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
        elif path.name in {*FOLDERS, "build_backend", "tests", "docs", "benchmarks"}:
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    new = copy / "tasks" / "a_new_set"
    new.mkdir()
    for name in ("_template_yaml", "task.yaml", "prompt.txt"):
        new.joinpath(name).write_text("key: value\n")
    copy.joinpath("finetune", "new.sh").write_text("exit 0\n")
    stale = copy / "build" / "lib" / "harness_ext" / "tasks" / "deleted.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("task: deleted\n")
    return copy


def build(checkout: Path, hook: str, folder: Path) -> Path:
    """Call one PEP 517 hook of the project's backend, as pip does, and return the file it built."""
    code = (
        "import sys; sys.path.insert(0, 'build_backend'); import harness_ext_build; "
        f"print(harness_ext_build.{hook}({str(folder)!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "build_wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "build_editable", tmp_path_factory.mktemp("editable"))


def test_wheel_contains_exactly_the_files_of_the_five_folders(checkout: Path, wheel: Path):
    expected = {
        f"{target}/{path.relative_to(checkout / folder)}"
        for folder, target in FOLDERS.items()
        for path in (checkout / folder).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    assert "harness_ext/tasks/a_new_set/_template_yaml" in expected
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected | STARTUP_FILES


def test_wheel_metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == {
        "finetune",
        "track",
        "inspect",
        "vllm",
        "openai",
        "report",
        "scienceqa",
        "dev",
        "all",
    }


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_record_lists_every_file_with_its_hash(kind: str, request: pytest.FixtureRequest):
    with zipfile.ZipFile(request.getfixturevalue(kind)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(names) == len(set(names))
        assert set(names) >= STARTUP_FILES
        record = next(name for name in names if name.endswith(".dist-info/RECORD"))
        lines = dict(line.split(",", 1) for line in archive.read(record).decode().splitlines())
        assert set(lines) == set(names)
        for name in set(names) - {record}:
            digest = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
            assert lines[name] == f"sha256={digest},{len(archive.read(name))}", name


def test_startup_files_are_one_line_each_and_name_the_same_function(wheel: Path, monkeypatch: pytest.MonkeyPatch):
    with zipfile.ZipFile(wheel) as archive:
        pth = archive.read("harness_ext.pth").decode()
        start = archive.read("harness_ext.start").decode()
        module = archive.read("harness_ext_startup.py")
    assert pth == "import harness_ext_startup; harness_ext_startup.install()\n"
    assert start == "harness_ext_startup:install\n"
    assert module == (ROOT / "harness_ext" / "bridge" / "startup.py").read_bytes()
    monkeypatch.setitem(sys.modules, "harness_ext_startup", pytest.importorskip("harness_ext.bridge.startup"))
    assert callable(pkgutil.resolve_name(start.strip()))  # how PEP 829 resolves the line


def test_source_distribution_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path):
    archive = build(checkout, "build_sdist", tmp_path)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    again = build(tmp_path / archive.name.removesuffix(".tar.gz"), "build_wheel", tmp_path)
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_entry_points_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    models = project["entry-points"]["lm_eval.models"]
    for name in ("baseline", "skyline", "feedback_pair"):
        assert models[name] == models[f"harness_ext.{name}"]
    for value in [*models.values(), *project["scripts"].values()]:
        module, _, attribute = value.partition(":")
        assert attribute.isidentifier()
        assert callable(pkgutil.resolve_name(f"{module}:{attribute}")), value


def test_make_test_latest_installs_the_newest_releases_in_an_environment_of_its_own(tmp_path: Path):
    command = ["make", "-n", "-C", str(ROOT), "test-latest", f"LATEST={tmp_path / 'newest'}", "ARGS=tests/test_cli.py"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (install,) = (line for line in shown.splitlines() if " install " in line and " -e " in line)
    assert "--upgrade --upgrade-strategy eager" in install
    assert "constraints" not in shown
    steps = [line for line in shown.splitlines() if line.startswith(str(tmp_path))]
    assert [line.removeprefix(f"{tmp_path}/newest/bin/").split(" -n ")[0] for line in steps][-3:] == [
        "harness-ext doctor",
        "python -m pip check",
        "python -m pytest",
    ]
    assert f"{ROOT}/.venv/" not in shown
    tested = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "test", f"VENV={tmp_path / 'tested'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "install --quiet -c constraints.txt -e" in tested.stdout
    found = re.search(r"-e '\.\[(.+)\]'", tested.stdout)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert found is not None
    assert set(found[1].split(",")) == set(extras) - {"vllm", "all"}, "otherwise tests are skipped"


def test_the_parser_of_formulas_exists_for_every_version_that_is_allowed():
    import latex2sympy2_extended

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "antlr4-python3-runtime")
    parsers = Path(latex2sympy2_extended.__file__).parent.joinpath("gen").glob("antlr4_*")
    versions = {path.name.removeprefix("antlr").replace("_", ".") for path in parsers}
    released = ["4.9.3", "4.10", "4.11.0", "4.11.1", "4.12.0", "4.13.0", "4.13.1", "4.13.2"]
    assert {version for version in released if wanted.specifier.contains(version)} == versions | {"4.11.1"}
    for requirement in map(Requirement, project["dependencies"]):
        assert not any("_" in extra for extra in requirement.extras), "pip before 23.3 ignores such an extra"


def test_every_installed_dependency_is_pinned():
    text = (ROOT / "constraints.txt").read_text()
    pins = {_normal(line.split("==")[0]) for line in text.splitlines() if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[name] for name in extras if name not in ("vllm", "all"))]
    assert _closure([Requirement(line) for lines in lists for line in lines]) <= pins


def _closure(requirements: list[Requirement]) -> set[str]:
    """Return the names of `requirements` and of their installed dependencies, including those of extras."""
    names: set[str] = set()
    done: set[tuple[str, str]] = set()
    todo = [(requirement, extra) for requirement in requirements for extra in ("", *requirement.extras)]
    while todo:
        requirement, extra = todo.pop()
        name = _normal(requirement.name)
        names.add(name)
        if (name, extra) in done:
            continue
        done.add((name, extra))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for inner in map(Requirement, lines):
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                todo += [(inner, deeper) for deeper in ("", *inner.extras)]
    return names


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
