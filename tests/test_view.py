"""`harness-ext view`: whom the server answers, and what it shows of runs that go on, of others, and of suites."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from report_support import ATTACKS, LABEL, finish, three_runs
from scored_runs import said, transcript, write_run
from view_support import ask, served

from harness_ext.analysis.view.places import places_of
from harness_ext.cli import view
from harness_ext.records.run_directory import RunDirectory
from harness_ext.suite.folders import CellFolder, Size
from harness_ext.suite.viewing import suites_below

pytest.importorskip("plotly", reason="needs the extra `report`")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    three_runs(folder)
    return folder


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with served(runs) as found:
        yield found


def page_of(address: str, label: str) -> str:
    """Return the address of a run's page, from the list."""
    (found,) = re.findall(rf'<a href="(runs/\w+/)">{re.escape(label)}</a>', ask(address)[2])
    return address + str(found)


def about(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="about">(.*?)</script>', ask(page)[2])
    return dict(json.loads(found))


def wait_for_the_answering_threads(address: str) -> None:
    """Wait until all requests sent so far have been answered, and what their connections raised has been printed."""
    assert ask(address)[0] == 200  # connections are accepted in their order: the earlier ones have threads now
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(timeout=60)
            assert not thread.is_alive()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


# Whom the server answers


def test_only_who_knows_the_secret_is_answered(address: str) -> None:
    root = address.rsplit("/", 2)[0]
    for path in ("", "/", "/runs/", "/x/", f"/{'a' * 22}/", "/favicon.ico", "//", "/%2e%2e/", "/%c3%a9/"):
        status, _, text = ask(f"{root}{path}")
        assert (status, text) == (404, "There is nothing here.\n"), path
    assert ask(address.rstrip("/"))[0] == 404
    assert ask(address)[0] == 200


def test_an_address_that_is_none_is_not_found(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts = urlsplit(address)
    for target in ("http://[", f"http://evil.example{parts.path}", "*", "?"):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        connection.putrequest("GET", target, skip_host=True)
        connection.putheader("Host", parts.netloc)
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (404, b"There is nothing here.\n"), target
        connection.close()
    wait_for_the_answering_threads(address)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("sent", ["", "GET / HT", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_who_leaves_at_any_point_leaves_no_traceback(
    sent: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(sent.encode())
        if sent.endswith("\r\n\r\n"):
            assert connection.recv(1) == b"H"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
    wait_for_the_answering_threads(address)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "127.0.0.1, x"])
def test_only_names_of_this_machine_are_answered(host: str, address: str) -> None:
    status, headers, text = ask(address, host=host)
    assert (status, text) == (403, "This server answers to 127.0.0.1 alone.\n")
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1"])
def test_a_forwarded_port_is_the_same_machine(host: str, address: str) -> None:
    assert ask(address, host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(method: str, address: str) -> None:
    assert ask(address, method)[0] == 501


def test_other_sites_can_neither_frame_nor_embed_nor_learn_the_address(address: str) -> None:
    for place in (address, page_of(address, "base"), f"{page_of(address, 'base')}plotly.js"):
        _, headers, _ = ask(place)
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


def test_what_is_not_there_is_not_found(address: str) -> None:
    page = page_of(address, "base")
    for path in ("runs/000000000000/", "runs//", "suites/0/", "../", "runs/..%2f..%2f/", "etc/passwd", "open/x"):
        assert ask(address + path)[0] == 404, path
    assert ask(f"{page}0000/table")[0] == 410
    assert ask(f"{page}{about(page)['live']}/block-99")[0] == 410


# What is shown


def test_the_list_shows_every_run_as_text(address: str) -> None:
    text = ask(address)[2]
    assert text.count('<input type="checkbox"') == 3
    assert "<b onclick" not in text
    assert "&lt;b onclick=&#39;window.hacked = 7&#39;&gt;hostile&lt;/b&gt; &amp; &lt;U+202E&gt;co" in text


def test_what_was_chosen_cannot_add_a_header(address: str) -> None:
    status, headers, _ = ask(f"{address}open?run=%0d%0aX-Injected:%20yes&run=..&run=abc")
    assert (status, headers["location"]) == (303, "runs/abc/")
    assert "x-injected" not in headers
    assert ask(f"{address}open")[1]["location"] == "."


def test_chosen_runs_are_shown_side_by_side_and_nothing_is_written(address: str, runs: Path) -> None:
    before = files(runs)
    ids = re.findall(r'name="run" value="(\w+)"', ask(address)[2])
    status, headers, _ = ask(f"{address}open?run={ids[0]}&run={ids[1]}")
    assert (status, headers["location"]) == (303, f"runs/{ids[0]}+{ids[1]}/")
    page = address + headers["location"]
    shown = about(page)
    assert len(shown["runs"]) == 2
    assert ask(f"{page}{shown['live']}/table")[0] == 200
    assert json.loads(ask(f"{page}state")[2])["version"] == shown["live"]
    assert files(runs) == before


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run", {"label": "live", "identity": {}})
    with served(tmp_path / "run") as address:
        run.add(transcript(0, said("student", "draft", "0")))
        status, headers, _ = ask(address)  # a run is its own list
        assert status == 303
        page = address + headers["location"]
        first = about(page)
        assert json.loads(ask(f"{page}state")[2]) == {"version": first["live"], "note": "going on, 1 question"}
        run.add(transcript(1, said("student", "draft", "wrong")))
        state = json.loads(ask(f"{page}state")[2])
        assert state["version"] != first["live"]
        assert state["note"] == "going on, 2 questions"
        second = about(page)
        assert second["live"] == state["version"]
        assert "2 questions of sums" in ask(page)[2]
        assert ask(f"{page}{first['live']}/table")[0] == 200  # a browser may still ask for it
        run.add(transcript(2, said("student", "draft", "4")))
        about(page)
        assert ask(f"{page}{first['live']}/table")[0] == 410
    assert not list((tmp_path / "run").glob("scores*"))
    run.close()


WRITE_AND_WAIT = """
import sys
from pathlib import Path
from scored_runs import said, transcript
from harness_ext.records.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]), {"label": "killed", "identity": {}})
run.add(transcript(0, said("student", "draft", "0")))
with open(run.path / "transcripts.jsonl", "a") as file:
    file.write('{"task": "sums", "doc_id"')
print("written", flush=True)
sys.stdin.read()
"""


def test_a_killed_run_is_called_one_and_shows_what_it_has(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", WRITE_AND_WAIT, str(tmp_path / "run")]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert places_of([tmp_path / "run"])[0].state == "going on"
        process.send_signal(signal.SIGKILL)
        process.wait()
    (place,) = places_of([tmp_path / "run"])
    assert (place.state, place.answered) == ("killed", 1)
    with served(tmp_path) as address:
        page = page_of(address, "killed")
        assert "1 questions of sums" in ask(page)[2]
        assert "the run has no summary: it was killed, or is still going on" in ask(page)[2]


def test_states_of_runs_that_ended(tmp_path: Path) -> None:
    one = transcript(0, said("student", "draft", "0"))
    run = finish(write_run(tmp_path / "run", one), one)
    assert places_of([run])[0].note == "finished, 1 question"
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "unfinished": 3}))
    assert places_of([run])[0].state == "stopped"


def test_a_folder_without_runs_waits_for_one(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert "There are no runs in" in ask(address)[2]
        write_run(tmp_path / "new", transcript(0, said("student", "draft", "0")), label="new")
        assert page_of(address, "new")


def test_a_run_without_a_whole_answer_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "transcripts.jsonl").write_text('{"task": "su')
    with served(tmp_path) as address:
        page = page_of(address, "run")
        assert "There is no answer yet. This page looks again." in ask(page)[2]
        write_run(tmp_path / "run", transcript(0, said("student", "draft", "0")))
        assert [label for label, _ in about(page)["runs"]] == ["pair"]


def test_a_damaged_run_hides_no_other(tmp_path: Path) -> None:
    for name in ("whole", "damaged"):
        write_run(tmp_path / name, transcript(0, said("student", "draft", "0")), label=name)
    for damage in ('{"identity": "x", "label": ["y"], "started": 3}', "[]", "\x00"):
        (tmp_path / "damaged" / "config.json").write_text(damage)
        (tmp_path / "damaged" / "summary.json").write_text(damage)
        with served(tmp_path) as address:
            status, _, text = ask(address)
            assert (status, text.count('type="checkbox"')) == (200, 2)
            assert ask(page_of(address, "whole"))[0] == 200


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("cell.json", '{"coordinates": [1, 2]}'),
        ("cell.json", '{"coordinates": {"setting": 3}}'),
        ("size.json", '{"more": 1}'),
    ],
)
def test_a_damaged_cell_hides_no_other(file: str, damage: str, tmp_path: Path) -> None:
    for name in ("damaged", "whole"):
        (tmp_path / "study" / name).mkdir(parents=True)
        (tmp_path / "study" / name / "cell.json").write_text("{}")
    (tmp_path / "study" / "damaged" / file).write_text(damage)
    (suite,) = suites_below(tmp_path)
    assert [(cell.title, cell.state) for cell in suite.cells] == [("damaged", "damaged"), ("whole", "waiting")]


def test_a_run_that_cannot_be_scored_says_why(tmp_path: Path) -> None:
    write_run(tmp_path / "other", transcript(0, said("student", "draft", ATTACKS[0]), task=ATTACKS[2]), label="other")
    with served(tmp_path) as address:
        text = ask(page_of(address, "other"))[2]
        assert "these tasks cannot be scored" in text
        assert "<img" not in text
        assert "← all runs" in text


def test_the_cells_of_a_suite_are_listed_and_the_finished_ones_compared(tmp_path: Path) -> None:
    def cell(name: str, setting: str, right: int) -> CellFolder:
        folder = CellFolder(tmp_path / "study" / f"{name}-0123456789")
        answers = [transcript(i, said("student", "draft", str(2 * i) if i < right else "x")) for i in range(4)]
        finish(write_run(folder.records, *answers, label=setting), *answers)
        coordinates = {"setting": setting, "task": "sums", "seed": "1", "rounds": "a=b"}
        (folder.path / "cell.json").write_text(json.dumps({"title": f"{setting}, sums", "coordinates": coordinates}))
        folder.note_size(Size(8, 8))
        return folder

    cell("base", "base", 1).results.mkdir()
    cell("pair", "pair", 3).results.mkdir()
    cell("later", ATTACKS[2], 2)
    (suite,) = suites_below(tmp_path)
    assert [(one.state, one.answered, one.questions) for one in suite.cells] == [
        ("finished", 4, 8), ("waiting", 4, 8), ("finished", 4, 8),
    ]  # fmt: skip
    with served(tmp_path) as address:
        text = ask(address)[2]
        assert '<h2 dir="auto">Suite study</h2>' in text
        assert "3 cells: 2 finished, 1 waiting" in text
        assert "<img" not in text
        assert "<h2>Runs</h2>" not in text  # the cells' runs are shown with their suite
        (place,) = re.findall(r'href="(suites/\w+/)"', text)
        assert [name for name, _ in about(address + place)["runs"]] == ["base rounds:a:b", "pair rounds:a:b"]
        cells = re.findall(r'href="(runs/\w+/)"', text)
        assert [ask(address + one)[0] for one in cells] == [200, 200, 200]


# The command


def test_the_command_serves_until_it_is_interrupted(runs: Path) -> None:
    arguments = [sys.executable, "-m", "harness_ext", "view", str(runs)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        while "until Ctrl-C" not in printed:
            printed += process.stdout.readline()
        address = next(line.strip() for line in printed.splitlines() if "http" in line)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", address)
        assert about(page_of(address, "base"))["runs"][0][0] == "base"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert errors.splitlines()[-1] == "harness-ext view: ended"
        assert "Traceback" not in errors


def test_what_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert view([LABEL]) == 1
    assert "is no folder, and no run in harness_ext_runs has this name or label" in capsys.readouterr().err
    assert view([str(tmp_path), "--port", "99999"]) == 1
    assert "port 99999 cannot be used" in capsys.readouterr().err
