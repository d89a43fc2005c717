"""Installations as wheel and as editable install, in separate environments: plugin discovery and uninstallation.

The environments use the libraries of the environment that runs the tests, through a `.pth` file; nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

THIRD_PARTY = {
    "pyproject.toml": """
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "third-party"
        version = "1.2"
        [project.entry-points."lm_eval.models"]
        echo = "third_party.model:EchoLM"
        hf = "third_party.model:EchoLM"
        [project.entry-points."lm_eval.tasks"]
        third_party = "third_party.pack"
        [tool.setuptools]
        packages = ["third_party", "third_party.pack"]
        package-data = { "*" = ["*.yaml"] }
        """,
    "third_party/__init__.py": "",
    "third_party/model.py": """
        from lm_eval.api.registry import register_model
        from lm_eval.models.dummy import DummyLM

        @register_model("echo")
        class EchoLM(DummyLM):
            def generate_until(self, requests, disable_tqdm=False):
                return [request.args[0] for request in requests]
        """,
    "third_party/rows.py": """
        import datasets

        def rows(**_):
            return {"test": datasets.Dataset.from_list([{"text": "one"}, {"text": "two"}])}
        """,
    "third_party/pack/say_it_again.yaml": """
        task: say_it_again
        custom_dataset: !function third_party.rows.rows
        output_type: generate_until
        test_split: test
        doc_to_text: "{{text}}"
        doc_to_target: "{{text}}"
        generation_kwargs: {until: ["."]}
        metric_list: [{metric: exact_match}]
        """,
    "third_party/pack/sayings.yaml": "group: sayings\ntask: [say_it_again]\n",
    "third_party/pack/hellaswag.yaml": "task: hellaswag\ndataset_path: json\n",
    "third_party/pack/broken.yaml": "task: [broken\n",
}


@dataclass(frozen=True)
class Environment:
    """A virtual environment and a folder to run in."""

    folder: Path
    cwd: Path

    @property
    def site(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def files(self) -> set[Path]:
        return {p for p in self.folder.rglob("*") if "__pycache__" not in p.parts}

    def run(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HARNESS_EXT_NO_PLUGINS")}
        return subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=cwd or self.cwd,
            env={**inherited, "PYTHONWARNINGS": "ignore", **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def python(self, code: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-c", textwrap.dedent(code), cwd=cwd, **variables)

    def pip(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.folder / "bin/python", "--quiet", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert result.returncode == 0, result.stdout + result.stderr

    def install(self, *arguments: str | Path) -> None:
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", *arguments)


def new_environment(folder: Path, *, libraries: bool = True) -> Environment:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True, timeout=240)
    folder.joinpath("elsewhere").mkdir()
    environment = Environment(folder / "env", folder / "elsewhere")
    if libraries:
        environment.site.joinpath("borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "checkout"
    wanted = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "harness_ext_runs", "results")
    shutil.copytree(ROOT, folder, ignore=wanted)
    return folder


@pytest.fixture(scope="module")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment with the project and a third-party distribution, both installed as wheels."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "third-party"
    for name, text in THIRD_PARTY.items():
        source.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        source.joinpath(name).write_text(textwrap.dedent(text))
    environment = new_environment(folder)
    environment.install(checkout, source)
    return environment


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = new_environment(tmp_path_factory.mktemp("editable"))
    environment.install("-e", checkout)
    return environment


SHOW = """
    import json, sys
    import lm_eval.models
    from lm_eval.api.registry import get_model, model_registry
    import harness_ext
    model = get_model("feedback_pair")
    import lm_eval.tasks._index as index
    print(json.dumps({
        "package": harness_ext.__file__,
        "model": sys.modules[model.__module__].__file__,
        "names": sorted(model_registry),
        "packs": getattr(index.TaskIndex.build, "holds_packs", False),
    }))
    """


@pytest.mark.parametrize("where", ["elsewhere", "checkout"])
@pytest.mark.parametrize("kind", ["installed", "editable"])
def test_lm_eval_finds_the_models_from_any_directory(kind, where, checkout, request):
    environment: Environment = request.getfixturevalue(kind)
    result = environment.python(SHOW, cwd=checkout if where == "checkout" else None)
    assert result.returncode == 0, result.stderr
    shown = json.loads(result.stdout)
    assert {"feedback_pair", "harness_ext.feedback_pair", "baseline", "skyline", "hf"} <= set(shown["names"])
    assert shown["packs"]
    home = environment.site if (kind, where) == ("installed", "elsewhere") else checkout
    assert Path(shown["package"]).is_relative_to(home)
    assert Path(shown["model"]).is_relative_to(home)


def test_startup_can_be_switched_off(installed: Environment):
    result = installed.python(SHOW, HARNESS_EXT_NO_PLUGINS="1")
    assert result.returncode == 1
    assert "no model for this name found" in result.stderr


def test_folders_of_the_checkout_are_not_top_level_packages(editable: Environment):
    result = editable.python(
        """
        import harness_ext.models, harness_ext.tasks
        from importlib.util import find_spec
        print([name for name in ("models", "tasks", "tests", "finetune") if find_spec(name)])
        """
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.cli
def test_main_job_runs_from_a_wheel_with_the_embedded_pair(installed: Environment):
    command = "-m lm_eval --model feedback_pair --tasks babi_stories --limit 2 --batch_size 2 --output_path main"
    result = installed.run("python", *command.split())
    assert result.returncode == 0, result.stderr
    assert "exact_match,none" in next(installed.cwd.rglob("main/**/results_*.json")).read_text()
    transcripts = next(installed.cwd.rglob("harness_ext_runs/*/transcripts.jsonl")).read_text().splitlines()
    assert len(transcripts) == 2


@pytest.mark.cli
def test_third_party_model_and_task_run_in_lm_eval(installed: Environment):
    command = "-m lm_eval --model echo --tasks say_it_again --output_path out".split()
    result = installed.run("python", *command)
    assert result.returncode == 0, result.stderr
    scores = json.loads(next(installed.cwd.rglob("out/**/results_*.json")).read_text())["results"]["say_it_again"]
    assert scores["exact_match,none"] == 1.0
    for part in ("Model 'hf' of third-party 1.2 is skipped", "'hellaswag' of third-party 1.2", "broken.yaml of third"):
        assert result.stderr.count(part) == 1, result.stderr


@pytest.mark.cli
def test_harness_ext_lm_eval_needs_no_startup_file(installed: Environment, checkout: Path):
    names = "say_it_again,sayings,babi_reasoning,mmlu,no_such_task"
    command = ["harness-ext", "lm-eval", "validate", "--tasks", names]
    result = installed.run(*command, cwd=checkout, HARNESS_EXT_NO_PLUGINS="1")
    assert result.stdout.splitlines()[-1] == "Tasks not found: no_such_task", result.stdout + result.stderr
    assert result.returncode == 1


@pytest.mark.cli
def test_simple_evaluate_finds_the_plugins(installed: Environment):
    result = installed.python(
        """
        import lm_eval
        results = lm_eval.simple_evaluate(model="echo", tasks=["say_it_again"], bootstrap_iters=0)
        print(results["results"]["say_it_again"]["exact_match,none"])
        """
    )
    assert result.stdout.split()[-1:] == ["1.0"], result.stderr


def test_doctor_reports_the_environment(installed: Environment):
    result = installed.run("harness-ext", "doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    for part in (str(installed.site), "echo = third_party.model:EchoLM (third-party 1.2)", "third_party.pack"):
        assert part in result.stdout
    hf = next(line for line in result.stdout.splitlines() if " hf = third_party" in line)
    assert hf.split()[0] == "note"
    assert "belongs to another model" in hf


def test_without_lm_eval_python_starts_and_the_commands_report_it(checkout: Path, tmp_path: Path):
    environment = new_environment(tmp_path, libraries=False)
    environment.site.joinpath("borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment.install(checkout)
    environment.site.joinpath("borrowed.pth").unlink()
    started = environment.python("import sys; print(any(type(f).__name__ == 'PluginHook' for f in sys.meta_path))")
    assert (started.stdout.strip(), started.stderr) == ("True", "")
    doctor = environment.run("harness-ext", "doctor")
    assert doctor.returncode == 1
    assert "No module named 'lm_eval'" in doctor.stdout
    assert "pip install" in doctor.stdout
    lm_eval = environment.run("harness-ext", "lm-eval", "ls", "tasks")
    assert lm_eval.returncode == 1
    assert lm_eval.stderr.startswith("harness-ext: lm-eval cannot be imported (No module named 'lm_eval')")


def test_editable_install_whose_checkout_is_gone_warns_only_when_lm_eval_is_used(checkout: Path, tmp_path: Path):
    copy = shutil.copytree(checkout, tmp_path / "copy")
    environment = new_environment(tmp_path)
    environment.install("-e", copy)
    shutil.rmtree(copy)
    assert environment.python("pass").stderr == ""
    result = environment.python("import lm_eval.models; print('continued')")
    assert result.stdout.strip() == "continued"
    assert "Plugins were not loaded into lm-eval (ModuleNotFoundError" in result.stderr


@pytest.mark.parametrize("editable", [False, True])
def test_uninstall_leaves_nothing(checkout: Path, tmp_path: Path, editable: bool):
    environment = new_environment(tmp_path)
    before = environment.files()
    environment.install(*(["-e"] if editable else []), checkout)
    environment.python("import lm_eval.models")
    assert environment.files() != before
    environment.pip("uninstall", "--yes", "harness-ext")
    assert environment.files() == before
    assert not list(environment.site.rglob("*harness_ext*"))
