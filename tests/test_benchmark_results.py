"""Results of benchmarks: they record how they were made, and pages are made from no others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import measured
import page
import page_protocols
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import embedded, embedded_digests, named, publish_measured
from page_layout import Section
from result_records import RECORD, digest_of, problems, record_of, stamp, stem

from harness_ext.embedded import model_path

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
RESULTS = st.dictionaries(st.text(max_size=5).filter(lambda name: name != RECORD), VALUES, max_size=4)
BENCHMARKS = page.ROOT / "benchmarks"


def publish(folder: Path, name: str = "made.json", **more: Any) -> Path:
    publish_measured({"rows": [1, 2.5]}, folder / name, **more)
    return folder / name


def edit(path: Path, key: str, value: Any, record: bool = False) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    (result[RECORD] if record else result)[key] = value
    path.write_text(json.dumps(result), encoding="utf-8")


@given(RESULTS, st.text(max_size=5), VALUES)
def test_a_digest_is_that_of_the_content(result: dict[str, Any], key: str, value: Any) -> None:
    digest = digest_of({**result, RECORD: {"commit": "a"}})
    written = json.loads(json.dumps({**result, RECORD: {"digest": "anything", "commit": "a"}}, indent=3))
    assert digest_of(dict(reversed(written.items()))) == digest
    assert digest_of({**result, RECORD: {"commit": "b"}}) != digest
    changed = {**result, key: value}
    if key != RECORD and json.dumps(changed, sort_keys=True) != json.dumps(result, sort_keys=True):
        assert digest_of({**changed, RECORD: {"commit": "a"}}) != digest


def test_a_result_says_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(BENCHMARKS / "stock.py"), "a task=2", "--output", "x.json"])
    monkeypatch.setenv("HARNESS_EXT_DATA", "/rows")
    path = publish(tmp_path, weights=embedded("student"))
    record = record_of(path)
    assert record is not None
    assert record["command"] == "HARNESS_EXT_DATA=<folder> python benchmarks/stock.py 'a task=2' --output x.json"
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(-dirty)?", record["commit"])
    assert record["weights"] == {"embedded student": embedded_digests()["embedded student"]}
    assert {"python", "torch", "transformers", "lm_eval"} == set(record["versions"])
    assert problems(tmp_path, embedded_digests(), {}, {}) == []
    assert stamp(path).startswith(f"Measured on {record['date'][:10]} at commit ")
    assert record["machine"] in stamp(path)


def test_without_a_file_the_result_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    publish_measured({"rows": 3}, None)
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == 3
    assert printed[RECORD]["digest"] == digest_of(printed)


def test_models_of_seats_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert named(student=None, teacher=str(folder)) == {"embedded student": model_path("student"), "teacher": folder}
    assert named(student=f"hf:{folder}") == {"student": folder}
    assert list(named(student=str(model_path("teacher")))) == ["embedded teacher"]
    assert named(student="openai:m@http://127.0.0.1:1/v1") == {}


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_EXT_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["benchmarks/x.py", "--output", "y.json"])
    (tmp_path / "inner").mkdir()
    table = tmp_path / "inner" / "table.md"
    table.write_text("| 1 |\n")
    edit(publish(tmp_path, "edited.json"), "rows", [1, 3])
    edit(publish(tmp_path, "hidden.json", weights=embedded("teacher")), "weights", {}, record=True)
    edit(publish(tmp_path, "broken.json"), "digest", None, record=True)
    publish(tmp_path, "stale.json", weights=embedded())
    publish(tmp_path, "inner/whole.json", files=[table])
    table.write_text("| 2 |\n")
    (tmp_path / "bare.json").write_text('{"rows": 1}')
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "old.json").write_text('{"rows": 1}')
    weights = {**embedded_digests(), "embedded student": "another"}
    commands = {"bare": "python benchmarks/bare.py"}
    again = "Make it again: python benchmarks/x.py --output y.json"
    assert problems(tmp_path, weights, commands, {"old.json": "0" * 64}) == [
        f"broken.json: it was changed after it was made. {again}",
        f"edited.json: it was changed after it was made. {again}",
        f"hidden.json: it was changed after it was made. {again}",
        f"inner/whole.json: table.md was changed after it was made. {again}",
        f"stale.json: it was made with another embedded student. {again}",
        "bare.json: nothing records how it was made. Make it again: python benchmarks/bare.py",
        "old.json: it was changed.",
        "picture.png: nothing records how it was made.",
    ]
    table.unlink()
    assert any("table.md is missing" in line for line in problems(tmp_path, weights, {}, {}))


def test_results_from_before_records_are_admitted_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"commit": "abc-dirty", "machine": "x86_64", "load_average": [2.5, 1, 1]}))
    earlier = {"old.json": measured.file_sha256(path), "gone.json": "0"}
    assert problems(tmp_path, {}, {}, earlier) == []
    said = "Recorded by an earlier version: no weights hash; commit abc-dirty; on x86_64; load 2.5."
    assert stamp(path) == said
    publish(tmp_path, "old.json")
    assert problems(tmp_path, {}, {}, earlier) == [], "the record counts, and not the entry"


def test_results_of_models_outside_the_repository_cannot_become_stale(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    results = tmp_path / "results"
    results.mkdir()
    publish(results, weights=named(teacher=str(folder)))
    (folder / "model.safetensors").write_bytes(b"1")
    assert problems(results, embedded_digests(), {}, {}) == []


def test_no_page_is_written_from_results_without_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu.json").write_text("{}")
    (tmp_path / "protocols_table").mkdir()
    (tmp_path / "protocols_table" / "compare.json").write_text("{}")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: pytest.fail("a page is written"))
    with pytest.raises(SystemExit) as stopped:
        page.main()
    said = str(stopped.value.code)
    assert (
        "gpu.json: it was changed. Make it again: python benchmarks/gpu.py --output benchmarks/results/gpu.json" in said
    )
    assert (
        "compare.json: it was changed. Make it again: HARNESS_EXT_DATA=<folder> python benchmarks/protocols_table"
        in said
    )


def test_every_result_has_a_command_of_a_script_that_records_it() -> None:
    for topic in page.TOPICS:
        for section in topic.sections:
            for name in section.results:
                command = section.commands[stem(name)]
                script = re.findall(r"python (benchmarks/\w+\.py)", command)[-1]
                text = (page.ROOT / script).read_text(encoding="utf-8")
                assert "publish_measured(" in text, script


def test_the_command_of_a_result_is_the_one_that_names_it() -> None:
    text = "    python benchmarks/a.py \\\n        --output benchmarks/results/a.json\n\nOr:\n    b\n    c results/b\n"
    section = Section(("a.json", "b/table.json", "c.json"), text)
    first = "python benchmarks/a.py --output benchmarks/results/a.json"
    assert section.commands == {"a": first, "b": "b && c results/b", "c": first}


def row(run: str, value: float, low: float | None, high: float | None, adjusted: float = 1.0) -> dict[str, Any]:
    equal = (
        {}
        if low is None and high is None
        else {"output tokens": {"difference": value, "interval": interval(low, high)}}
    )
    return {"run": run, "difference": {"value": value, "adjusted": adjusted}, "equal_cost": equal}


def interval(low: float | None, high: float | None) -> dict[str, float | None]:
    return {"low": low, "high": high}


def test_worse_and_no_different_are_told_apart() -> None:
    rows = [
        row("a", 0.2, 0.1, 0.3, 0.01),
        row("b", -0.4, -0.5, -0.3, 0.001),
        row("c", -0.01, -0.1, 0.1, 0.6),
        row("d", 0.3, None, None, 0.2),
    ]
    assert page_protocols.to_baseline(rows) == (
        "Compared with `baseline` (p < 0.05 after correction), better: a; significantly worse: b; not significantly "
        "different: c, d.\n"
    )
    assert page_protocols.to_mix(rows) == (
        "Compared with the best mix of other runs at equal cost (95 % interval), better: a; significantly worse: b; "
        "not significantly different: c; cheaper than every mix: d.\n"
    )
    assert "better: none" in page_protocols.to_baseline(rows[1:3])
