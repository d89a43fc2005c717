"""The study file of `harness-ext suite`: reading, expansion into cells, messages."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from suite_support import LOOP, PAIR, cells, problems

from harness_ext.suite.command import main
from harness_ext.suite.reading import deep_merge
from harness_ext.suite.settings import LmEvalOptions

# -- expansion -----------------------------------------------------------------------------------------------------

names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True)


@effort(max_examples=40)
@given(
    settings=names,
    tasks=names,
    seeds=st.lists(st.integers(0, 99), max_size=3, unique=True),
    axes=st.dictionaries(
        st.sampled_from(["num_fewshot", "limit", "model_args.x"]),
        st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
        max_size=3,
    ),
    chosen=st.data(),
)
def test_no_cell_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory,
    settings: list[str],
    tasks: list[str],
    seeds: list[int],
    axes: dict[str, list[int]],
    chosen: st.DataObject,
) -> None:
    study: dict[str, Any] = {
        "settings": {name: {**PAIR, "model_args": {"name": name}} for name in settings},
        "tasks": tasks,
        "matrix": axes,
    }
    if seeds:
        study["seeds"] = seeds
    labels = [[str(value) for value in values] for values in axes.values()]
    short = [axis.removeprefix("model_args.") for axis in axes]
    product = list(itertools.product(settings, tasks, itertools.product(*labels), seeds or [None]))
    left_out = chosen.draw(st.sampled_from(product)) if len(product) > 1 else None
    if left_out is not None:
        where = {"setting": left_out[0], "task": left_out[1], **dict(zip(short, left_out[2], strict=True))}
        study["exclude"] = [where | ({} if left_out[3] is None else {"seed": left_out[3]})]
    folder = tmp_path_factory.mktemp("study")
    found = cells(folder, study)
    assert [(c.setting, c.task, tuple(c.axes.values()), c.seed) for c in found] == [p for p in product if p != left_out]
    assert found == cells(folder, study)
    assert len({c.digest for c in found}) == len({c.name for c in found}) == len(found)
    for cell in found:
        given_fields = {**cell.options.given(), "model_args.x": cell.model_args.get("x")}
        for axis, value in zip(axes, cell.axes.values(), strict=True):
            assert float(given_fields[axis]) == float(value)


values = st.recursive(
    st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.text(max_size=2), inner), max_leaves=6
)
mappings = st.dictionaries(st.text(max_size=2), values, max_size=4)


@given(base=mappings, middle=mappings, over=mappings)
def test_what_an_override_gives_wins_and_the_rest_stays(
    base: dict[str, Any], middle: dict[str, Any], over: dict[str, Any]
) -> None:
    merged = deep_merge(base, over)
    assert list(merged)[: len(base)] == list(base)
    for name in {*base, *over}:
        if name not in over:
            assert merged[name] == base[name]
        elif not (isinstance(over[name], dict) and isinstance(base.get(name), dict)):
            assert merged[name] == over[name]
        else:
            assert merged[name] == deep_merge(base[name], over[name])
    assert deep_merge(merged, over) == merged


def test_a_detail_or_two_is_specified_and_the_rest_comes_from_the_default(tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text(
        yaml.safe_dump(
            {
                "defaults": {"limit": 50, "model_args": {"student": "hf:small", "max_rounds": 2}},
                "presets": {"large": {"model_args": {"teacher": "hf:large"}}},
                "tasks": ["never"],
            }
        )
    )
    found = cells(
        tmp_path,
        {
            "include": "common.yaml",
            "tasks": {"a": None, "b": {"num_fewshot": 3}},
            "settings": {
                "pair": {"base": "large", **PAIR},
                "patient": {"base": "pair", "model_args": {"max_rounds": 4}, "tasks": {"a": {"limit": 5}}},
                "quick": {"base": "pair", "limit": None, "tasks": ["a"], "model_args": {"max_rounds": 1}},
            },
        },
    )
    by_title = {cell.title: cell for cell in found}
    assert list(by_title) == ["pair, a", "pair, b", "patient, a", "patient, b", "quick, a"]
    assert by_title["pair, a"].model_args == {"student": "hf:small", "max_rounds": 2, "teacher": "hf:large"}
    assert by_title["pair, b"].options == LmEvalOptions(num_fewshot=3, limit=50)
    assert by_title["patient, a"].model_args["max_rounds"] == 4
    assert by_title["patient, a"].options.limit == 5
    assert by_title["quick, a"].options.limit is None


def test_a_control_has_a_cell_for_each_cell_that_it_controls(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        {
            "tasks": ["a", "b"],
            "seeds": [1, 2],
            "settings": {
                "equal": {**LOOP, "control": {"of": "pair", "draws_from": "student"}},
                "student": {"model": "baseline"},
                "pair": {**PAIR, "matrix": {"model_args.max_rounds": [1, 2]}},
            },
            "exclude": [{"setting": ["pair", "equal"], "task": "b", "max_rounds": 2}],
        },
    )
    controls = [cell for cell in found if cell.setting == "equal"]
    assert len(controls) == 6
    assert controls == list(found[:6])
    for control in controls:
        assert control.control_of is not None
        assert control.draws_from is not None
        assert control.coordinates == {**control.control_of.coordinates, "setting": "equal"}
        assert (control.draws_from.setting, control.draws_from.task) == ("student", control.task)
        assert control.draws_from.seed == control.seed
    assert len({cell.digest for cell in controls}) == 6


# -- messages ------------------------------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        {
            "setings": {},
            "tasks": ["a", "a"],
            "seeds": [1, "two"],
            "settings": {
                "pair": {**PAIR, "num_fewshots": 2},
                "loop": {"base": "pari", "model": "x"},
                "none": {"limit": "all"},
                "equal": {**PAIR, "control": "pear", "model_args": {"k": 3, "run_dir": "x"}},
            },
            "exclude": "pair",
        },
    )
    text = "\n".join(found)
    for part in (
        "no key `setings` (did you mean `settings`?)",
        "the task `a` is named twice",
        "`seeds` takes whole numbers from 0 to 4,294,967,295, not two",
        "no field `num_fewshots` (did you mean `num_fewshot`?)",
        "`base: pari` is neither a preset nor a setting (did you mean `pair`?)",
        "settings.none: no `model`",
        "`limit=all`: expected a number",
        "`control.of: pear` is no other setting",
        "a `control` spends what another run spent: give `model: self_consistency` or `model: equal_budget`",
        "`model_args.k` cannot be given, because `control` chooses it",
        "`model_args.run_dir` cannot be given, because each cell has its own folder",
        "`exclude` takes a list of conditions",
    ):
        assert part in text, f"{part}\n\n{text}"


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"settings": {"p": PAIR}}, "settings.p: no tasks"),
        ({"tasks": ["t"]}, "the study has no `settings`"),
        ({"tasks": ["t"], "settings": {"p": PAIR, "q": PAIR}}, "p, t and q, t are the same evaluation"),
        ({"tasks": ["t"], "settings": {"p": PAIR}, "reference": "q"}, "`reference: q` is no run"),
        ({"tasks": ["t"], "settings": {"p": PAIR}, "exclude": [{"task": "u"}]}, "(task: u) excludes nothing"),
        ({"tasks": ["t"], "settings": {"p": PAIR}, "exclude": [{"tsk": "t"}]}, "no `tsk` (did you mean `task`?)"),
        ({"tasks": ["t"], "settings": {"p": PAIR}, "exclude": [{"task": "t"}]}, "the study has no cells"),
        (
            {"tasks": ["t"], "settings": {"p": PAIR, "e": {**LOOP, "control": "p"}}, "exclude": [{"setting": "p"}]},
            "e, t needs p, t, which is excluded",
        ),
        ({"tasks": ["t"], "settings": {"p": {"base": "q", **PAIR}, "q": {"base": "p"}}}, "(p -> q -> p)"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "matrix": {"rounds": [1]}}}}, "there is no field `rounds`"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "matrix": {"limit": [1, 1]}}}}, "a value is given twice"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "model_args": "a=b"}}}, "`model_args` takes names and values"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "limit": -4}}}, "`limit=-4`: expected a number of documents"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "limit": 0}}}, "`limit=0`: expected a number of documents"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "matrix": {"limit": [1, 2.5]}}}}, "axis limit: `limit=2.5`"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "num_fewshot": -1}}}, "`num_fewshot=-1`: expected a whole number"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "batch_size": "banana"}}}, "`batch_size=banana`: expected"),
        ({"tasks": ["t"], "settings": {"p": {**PAIR, "max_batch_size": 0}}}, "`max_batch_size=0`: expected"),
        (
            {"tasks": ["t"], "settings": {"p": {**PAIR, "gen_kwargs": {"temprature": 1}}}},
            "there is no setting `gen_kwargs.temprature` (did you mean `temperature`?)",
        ),
        (
            {"tasks": ["t"], "settings": {"p": {**PAIR, "gen_kwargs": {"top_p": 7}}}},
            "`gen_kwargs.top_p=7`: expected a number from 0 to 1",
        ),
        ({"tasks": ["t"], "seeds": [-1], "settings": {"p": PAIR}}, "from 0 to 4,294,967,295, not -1"),
        ({"tasks": ["t"], "seeds": [2**32], "settings": {"p": PAIR}}, "from 0 to 4,294,967,295, not 4294967296"),
        ({"tasks": ["t"], "name": ["x"], "settings": {"p": PAIR}}, "`name` takes one text, not ['x']"),
        ({"tasks": ["t"], "folder": 3, "settings": {"p": PAIR}}, "`folder` takes one text, not 3"),
        (
            {"tasks": {"t": {"gen_kwargs": {"top_p": 1}}}, "settings": {"p": PAIR}},
            "`gen_kwargs` is the same for all tasks",
        ),
        ("tasks: [t]\ntasks: [u]\n", "`tasks` is given twice"),
        ("- t\n", "does not contain a mapping"),
        ("tasks: [t\n", "is not valid YAML"),
        ("include: missing.yaml\n", "missing.yaml cannot be read"),
        ("include: study.yaml\n", "the files include each other (study.yaml -> study.yaml)"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, study: Any, message: str) -> None:
    found = problems(tmp_path, study)
    assert any(message in problem for problem in found), found


def test_files_that_include_each_other_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: [b.yaml]\n")
    (tmp_path / "b.yaml").write_text("include: [a.yaml]\n")
    (found,) = problems(tmp_path, "include: a.yaml\n")
    assert "(a.yaml -> b.yaml -> a.yaml)" in found


def test_what_is_wrong_with_the_file_hides_nothing_that_is_wrong_with_its_cells(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        {
            "setings": {},
            "tasks": ["t"],
            "seeds": [1, 1],
            "settings": {
                "pair": {**PAIR, "limti": 3},
                "loop": {**LOOP, "control": "pear"},
                "none": {"model_args": {"x": 1}},
                "same": {**PAIR, "limits": 3},
            },
            "exclude": [{"task": "u"}],
            "reference": "pairs",
        },
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "there is no key `setings` (did you mean `settings`?)",
        "settings.pair",
        "settings.pair",
        "settings.loop",
        "settings.none",
        "settings.none",
        "settings.same",
        "settings.same",
        "settings.loop",
        "`exclude` (task",
        "`reference",
    ], found
    assert "the runs are pair, loop, none, same" in found[-1], "a wrong control is left out, and its setting is not"
    assert not any("same evaluation" in problem for problem in found), "the misspelt field may be what they differ in"


def test_the_file_alone_means_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("harness_ext.suite.command._run", lambda cells, folders, args: asked.append(args) or 0)
    cells(tmp_path, {"tasks": ["t"], "settings": {"p": PAIR}})
    for words in ([], ["run"]):
        assert main([*words, str(tmp_path / "study.yaml"), "--jobs", "2"]) == 0
    assert asked[0] == asked[1]
    assert (asked[0].action, asked[0].jobs) == ("run", 2)


def test_wrong_usage_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.yaml").write_text("settings: {p: {modle: x}}\n")
    assert main(["status", str(tmp_path / "study.yaml")]) == 2
    assert "no field `modle` (did you mean `model`?)" in capsys.readouterr().err
