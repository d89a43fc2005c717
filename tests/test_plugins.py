"""Plugins: the hook with a stand-in for lm-eval, and registration with lm-eval's own registry and index."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness_ext.bridge import plugins

ROOT = Path(__file__).resolve().parent.parent


def entry(name: str, value: str, group: str = plugins.MODELS) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name=name, value=value, group=group)


@pytest.fixture(autouse=True)
def fresh_warnings():
    plugins._warn.cache_clear()


# The hook, in separate interpreters with a stand-in for lm-eval


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Return a folder with a package `lm_eval` that has the modules on which hook and registration rely."""
    files = {
        "lm_eval/__init__.py": "",
        "lm_eval/api/__init__.py": "",
        "lm_eval/api/registry.py": """
            class Registry(dict):
                def register(self, name, target):
                    self[name] = target
            model_registry = Registry()
            """,
        "lm_eval/models/__init__.py": """
            from lm_eval.api.registry import model_registry
            model_registry.register("built-in", "x:Y")
            """,
        "lm_eval/tasks/__init__.py": "from lm_eval.tasks import _index",
        "lm_eval/tasks/_index.py": """
            class TaskIndex:
                @staticmethod
                def build(paths, *, resolve_includes=True):
                    return {}
            """,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


def python(code: str, *folders: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter without site-packages, with `folders` and this repository on its path."""
    path = os.pathsep.join(map(str, [*folders, ROOT]))
    return subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, "HARNESS_EXT_NO_PLUGINS": "", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


SHOW_MODELS = """
    from harness_ext.bridge import startup
    startup.install()
    import lm_eval.models
    print(*sorted(lm_eval.models.model_registry))
    """


@pytest.fixture
def distribution(stand_in: Path) -> Path:
    """Return the folder of the stand-in with an installed distribution that declares one model."""
    info = stand_in / "other-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text("[lm_eval.models]\nother = other.model:OtherLM\n")
    return stand_in


def test_hook_registers_after_lm_eval_imported_its_models(distribution: Path):
    result = python(SHOW_MODELS, distribution)
    assert (result.returncode, result.stderr) == (0, "")
    assert {"built-in", "other"} <= set(result.stdout.split())


@pytest.mark.parametrize("value", ["1", "yes"])
def test_hook_is_switched_off_by_the_environment(distribution: Path, value: str):
    result = python(SHOW_MODELS, distribution, HARNESS_EXT_NO_PLUGINS=value)
    assert (result.stdout.split(), result.stderr) == (["built-in"], "")


def test_lm_eval_that_discovers_models_itself_is_left_alone(distribution: Path):
    with (distribution / "lm_eval/api/registry.py").open("a") as file:
        file.write("\ndef load_plugins(group, registry): ...\n")
    result = python(SHOW_MODELS, distribution)
    assert (result.stdout.split(), result.stderr) == (["built-in"], "")


def test_task_index_is_extended_and_keeps_its_own_loader(stand_in: Path):
    result = python(
        """
        from harness_ext.bridge import startup
        startup.install(); startup.install()
        import sys, importlib.machinery, inspect, lm_eval.tasks._index as index
        assert index.TaskIndex.build.holds_packs
        assert type(index.__spec__.loader) is importlib.machinery.SourceFileLoader
        assert "def build" in inspect.getsource(index)
        assert sum(type(f).__name__ == "PluginHook" for f in sys.meta_path) == 1
        """,
        stand_in,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_two_copies_of_the_hook_do_not_call_each_other(distribution: Path):
    result = python(
        """
        import sys
        from harness_ext.bridge import startup
        sys.meta_path[:0] = [startup.PluginHook(), startup.PluginHook()]
        import lm_eval.models
        print(*sorted(lm_eval.models.model_registry))
        """,
        distribution,
    )
    assert "other" in result.stdout.split(), result.stderr


def test_a_failing_registration_is_a_warning_and_lm_eval_keeps_working(stand_in: Path):
    (stand_in / "lm_eval/tasks/_index.py").write_text("class SomethingElse: pass\n")
    (stand_in / "lm_eval/models/__init__.py").write_text("")
    (stand_in / "lm_eval/api/registry.py").write_text("")
    result = python(
        """
        import sys
        from harness_ext.bridge import startup
        startup.install()
        import lm_eval.tasks, lm_eval.models
        print("continued")
        """,
        stand_in,
    )
    assert result.stdout.strip() == "continued"
    assert result.stderr.count("Plugins were not loaded into lm-eval (") == 2
    assert "harness-ext doctor" in result.stderr


def test_errors_of_a_broken_lm_eval_reach_the_user_unchanged(stand_in: Path):
    (stand_in / "lm_eval/models/__init__.py").write_text("raise RuntimeError('lm-eval is broken')\n")
    result = python(SHOW_MODELS, stand_in)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("RuntimeError: lm-eval is broken")
    assert "Plugins" not in result.stderr


def test_hook_imports_nothing_and_missing_lm_eval_breaks_nothing():
    result = python(
        """
        import sys
        import harness_ext
        before = set(sys.modules)
        from harness_ext.bridge import startup
        startup.install()
        print(*sorted(set(sys.modules) - before))
        try:
            import lm_eval
        except ModuleNotFoundError as error:
            print(error)
        """
    )
    assert result.stdout.splitlines() == [
        "harness_ext.bridge harness_ext.bridge.startup",
        "No module named 'lm_eval'",
    ], result.stderr
    assert result.stderr == ""


# Models, in lm-eval's own registry


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch):
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    monkeypatch.setattr(model_registry, "_objs", dict(model_registry._objs))
    return model_registry


def register(monkeypatch: pytest.MonkeyPatch, *points: importlib.metadata.EntryPoint) -> None:
    monkeypatch.setattr(plugins, "installed", lambda group: list(points))
    plugins.register_models()


def test_models_are_registered_without_being_imported(registry, monkeypatch):
    register(monkeypatch, entry("from-afar", "no_such_package.models:Model"))
    assert "from-afar" in registry
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        registry.get("from-afar")


def test_built_in_name_wins_with_a_warning(registry, monkeypatch, caplog):
    before = registry.get("hf", None)
    register(monkeypatch, entry("hf", "evil.models:Model"))
    assert registry.get("hf") is before
    assert "'hf'" in caplog.text
    assert "name is taken" in caplog.text


def test_registering_twice_and_after_loading_is_silent(registry, monkeypatch, caplog):
    point = entry("dummy-again", "lm_eval.models.dummy:DummyLM")
    dotted = entry("dotted", "lm_eval.models.dummy:DummyLM.generate_until")
    register(monkeypatch, point, dotted)
    register(monkeypatch, point, dotted)
    assert registry.get("dummy-again").__name__ == "DummyLM"
    register(monkeypatch, point, dotted)
    assert caplog.text == ""


def test_the_first_of_two_plugins_with_one_name_wins_with_a_warning(registry, monkeypatch, caplog):
    register(monkeypatch, entry("twice", "a.b:C"), entry("twice", "d.e:F"))
    assert dict(registry.items())["twice"] == "a.b:C"
    assert "taken by a.b:C" in caplog.text


def test_value_without_a_class_is_a_warning(registry, monkeypatch, caplog):
    register(monkeypatch, entry("half", "only.a.module"))
    assert "half" not in registry
    assert "is not module:Class" in caplog.text


def test_class_that_also_registers_itself_does_not_conflict(registry, monkeypatch, tmp_path):
    tmp_path.joinpath("twofold_model.py").write_text(
        "from lm_eval.api.registry import register_model\n"
        "from lm_eval.models.dummy import DummyLM\n"
        "@register_model('twofold')\nclass TwofoldLM(DummyLM): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    register(monkeypatch, entry("twofold", "twofold_model:TwofoldLM"))
    assert registry.get("twofold").__name__ == "TwofoldLM"


# Task packs, in lm-eval's own index


def write_tasks(folder: Path, tasks: dict[str, list[str]]) -> None:
    """Write one YAML file per task, given the tags of each task."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tags in tasks.items():
        folder.joinpath(f"{name}.yaml").write_text(f"task: {name}\ntag: [{', '.join(tags)}]\ndataset_path: json\n")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that builds lm-eval's index of `tmp_path/built-in`, the packs and the user's folders."""
    from lm_eval.tasks._index import TaskIndex

    original = getattr(TaskIndex.build, "__wrapped__", TaskIndex.build)
    defaults = tmp_path / "built-in"
    defaults.mkdir()

    def run(*user: Path, packs: tuple[str, ...] = ("the_pack",), include_defaults: bool = True):
        monkeypatch.setattr(plugins, "installed", lambda group: [entry(p, p, plugins.TASKS) for p in packs])
        return plugins._build(original, defaults, [*([defaults] if include_defaults else []), *user])

    monkeypatch.syspath_prepend(tmp_path)
    return run


def test_pack_adds_tasks_and_joins_tags(build, tmp_path):
    write_tasks(tmp_path / "built-in", {"arc": ["reasoning"]})
    write_tasks(tmp_path / "the_pack" / "deeper", {"new": ["reasoning", "own"]})
    index = build()
    assert index["new"].yaml_path == tmp_path / "the_pack/deeper/new.yaml"
    assert index["reasoning"].tags == {"arc", "new"}
    assert index["own"].tags == {"new"}


def test_pack_never_changes_a_built_in_name(build, tmp_path, caplog):
    write_tasks(tmp_path / "built-in", {"arc": ["reasoning"], "own": []})
    write_tasks(tmp_path / "the_pack", {"arc": ["own", "others"], "reasoning": [], "free": []})
    index = build()
    assert index["arc"].yaml_path == tmp_path / "built-in/arc.yaml"
    assert index["reasoning"].tags == {"arc"}
    assert index["own"].kind.name == "TASK"
    assert "others" not in index, "a tag must not include the built-in task whose name a skipped task has"
    assert "free" in index
    for name in ("arc", "own", "reasoning"):
        assert f"'{name}'" in caplog.text
    assert "--include_path" in caplog.text


def test_users_folder_overrides_packs_and_built_in_tasks(build, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    write_tasks(tmp_path / "built-in", {"arc": []})
    write_tasks(tmp_path / "the_pack", {"new": []})
    write_tasks(tmp_path / "mine", {"arc": [], "new": []})
    index = build(tmp_path / "mine")
    assert {index[name].yaml_path.parent.name for name in ("arc", "new")} == {"mine"}
    assert caplog.text.count(" overrides the one from ") == 2
    caplog.clear()
    assert build(tmp_path / "the_pack")["new"].yaml_path.parent.name == "the_pack"
    assert " overrides the one from " not in caplog.text, "naming a pack's own folder is not an override"


def test_without_defaults_there_are_no_packs(build, tmp_path):
    write_tasks(tmp_path / "the_pack", {"new": []})
    write_tasks(tmp_path / "mine", {"own": []})
    assert set(build(tmp_path / "mine", include_defaults=False)) == {"own"}


def test_yaml_that_cannot_be_loaded_is_one_warning(build, tmp_path, caplog):
    write_tasks(tmp_path / "the_pack", {"good": []})
    pack = tmp_path / "the_pack"
    pack.joinpath("broken.yaml").write_text("task: [unclosed\n")
    pack.joinpath("no_include.yaml").write_text("include: nowhere.yaml\ntask: lost\n")
    pack.joinpath("shapeless.yaml").write_text("some: thing\n")
    pack.joinpath("_template.yaml").write_text("dataset_path: json\n")
    assert "good" in build()
    build()
    for name in ("broken", "no_include", "shapeless"):
        assert caplog.text.count(f"{name}.yaml of") == 1, caplog.text
    assert "_template.yaml" not in caplog.text


@pytest.mark.parametrize("value", ["no_such_pack", "no.such.pack", "json.decoder", "the_pack:attribute", "os"])
def test_pack_that_is_not_a_package_is_a_warning_and_does_not_affect_others(build, tmp_path, caplog, value):
    write_tasks(tmp_path / "the_pack", {"good": []})
    assert "good" in build(packs=(value, "the_pack"))
    assert f"'{value}'" in caplog.text


NAMES = st.sampled_from(["a", "b", "c", "d"])
FOLDER = st.dictionaries(NAMES, st.lists(st.sampled_from(["c", "d", "t", "u"]), max_size=2, unique=True), max_size=3)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(built_in=FOLDER, pack=FOLDER, user=FOLDER)
def test_no_pack_changes_the_meaning_of_built_in_names_or_the_users(
    tmp_path_factory, monkeypatch, built_in, pack, user
):
    from lm_eval.tasks._index import Kind, TaskIndex

    original = getattr(TaskIndex.build, "__wrapped__", TaskIndex.build)
    root = tmp_path_factory.mktemp("index")
    for name, tasks in {"built_in": built_in, "the_pack": pack, "mine": user}.items():
        write_tasks(root / name, tasks)
    monkeypatch.setattr(plugins, "installed", lambda group: [entry("p", "the_pack", plugins.TASKS)])
    monkeypatch.setattr(plugins, "pack_folders", lambda point: [root / "the_pack"])

    stock = original([root / "built_in", root / "mine"])
    index = plugins._build(original, root / "built_in", [root / "built_in", root / "mine"])
    for name, known in stock.items():
        found = index[name]
        assert (found.kind, found.yaml_path) == (known.kind, known.yaml_path)
        assert found.tags >= known.tags
        if known.kind is Kind.TAG:
            assert found.tags - known.tags <= set(pack), "a pack may only add its own tasks to a tag"
    for name in set(index) - set(stock):
        assert index[name].kind is Kind.TAG or index[name].yaml_path.parent.name == "the_pack"
