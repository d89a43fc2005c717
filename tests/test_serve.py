"""Tests of servers that a run starts (`serve:<model>`): when they start and end, and what a user is told."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serve_support import fake_model, fake_server, is_running, spec_of, starts
from servers import wait_until
from support import instances

from harness_ext.errors import ConfigurationError, LoadError
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records.run_directory import read_transcripts
from harness_ext.serving import server as serving
from harness_ext.serving.process import Port
from harness_ext.serving.server import Server, ServerSpec, server_for


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """After each test, no process of any server is left."""
    yield
    gc.collect()
    pids = [pid for file in tmp_path.rglob("*.starts") for s in starts(file.with_suffix("")) for pid in pids_of(s)]
    wait_until(lambda: not any(map(is_running, pids)), 60)


def pids_of(start: dict[str, Any]) -> list[int]:
    return [pid for pid in (start["pid"], start["child"]) if pid]


def baseline(folder: Path, model: Path, **more: Any) -> BaselineLM:
    options = {"store": "off", "run_dir": folder / "run", "progress": "off", "student.max_retries": 1}
    return BaselineLM(student=f"serve:{model}", **{"student.serve.binary": str(fake_server(folder)), **options, **more})


QUESTIONS = instances(["one", "two", "three"], {"until": ["\n\n"], "max_gen_toks": 8})
ANSWERS = ["re: one", "re: two", "re: three"]


# -- starting ----------------------------------------------------------------------------------------------------------


def test_a_server_starts_with_the_first_call_and_ends_with_the_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = fake_model(tmp_path, delay=0.3, child=True)
    lm = baseline(tmp_path, model)
    assert starts(model) == []
    assert lm.generate_until(QUESTIONS) == ANSWERS
    assert lm.generate_until(instances(["four"], {"until": ["\n"]}, task="other")) == ["re: four"]
    (started,) = starts(model)
    assert all(map(is_running, pids_of(started)))
    said = capfd.readouterr().err
    log = tmp_path / "run" / "serve.student.log"
    assert f"serve:{model}: starting llama.cpp" in said
    assert str(log) in said
    assert "ready after" in said
    assert "starting" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    del lm
    gc.collect()
    wait_until(lambda: not any(map(is_running, pids_of(started))), 60)


def test_a_run_that_the_store_answers_starts_no_server(tmp_path: Path) -> None:
    model = fake_model(tmp_path)
    for number in range(2):
        lm = baseline(tmp_path, model, store=str(tmp_path / "store"), run_dir=tmp_path / f"run{number}")
        assert lm.generate_until(QUESTIONS) == ANSWERS
        assert len(starts(model)) == 1
        del lm
        gc.collect()


@pytest.mark.parametrize(
    "more", [{}, {"teacher.num_concurrent": 2, "teacher.max_gen_toks": 20}], ids=["equal", "client"]
)
def test_seats_of_one_model_share_a_server(tmp_path: Path, more: dict[str, Any]) -> None:
    model, binary = fake_model(tmp_path), str(fake_server(tmp_path))
    lm = FeedbackPairLM(
        student=f"serve:{model}", teacher=f"serve:{model}", verdict="text", max_rounds=1, store="off", progress="off",
        run_dir=tmp_path / "run", **{"student.serve.binary": binary, "teacher.serve.binary": binary, **more},
    )  # fmt: skip
    lm.generate_until(QUESTIONS)
    turns = [turn for transcript in read_transcripts(tmp_path / "run") for turn in transcript.turns]
    assert {turn.seat for turn in turns} == {"student", "teacher"}
    assert len(starts(model)) == 1


def test_the_servers_of_a_run_start_together(tmp_path: Path) -> None:
    """Each of the two is healthy only once the other has started, although the teacher's turn comes later."""
    names = {"small": "large", "large": "small"}
    models = {n: fake_model(tmp_path, n, waits_for=str(tmp_path / f"{o}.gguf.starts")) for n, o in names.items()}
    binary = str(fake_server(tmp_path))
    lm = FeedbackPairLM(
        student=f"serve:{models['small']}", teacher=f"serve:{models['large']}", verdict="text", max_rounds=1,
        store="off", progress="off", run_dir=tmp_path / "run",
        **{"student.serve.binary": binary, "teacher.serve.binary": binary},
    )  # fmt: skip
    assert len(lm.generate_until(QUESTIONS)) == 3
    assert [len(starts(model)) for model in models.values()] == [1, 1]


def test_what_went_wrong_with_an_early_start_is_told_when_the_server_is_needed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small, large = fake_model(tmp_path, "small"), fake_model(tmp_path, "large", dies=7)
    binary = str(fake_server(tmp_path))
    lm = FeedbackPairLM(
        student=f"serve:{small}", teacher=f"serve:{large}", verdict="text", max_rounds=1, store="off", progress="off",
        run_dir=tmp_path / "run", **{"student.serve.binary": binary, "teacher.serve.binary": binary},
    )  # fmt: skip
    with pytest.raises(LoadError, match=r"large.gguf ended while it was starting \(status 7\)"):
        lm.generate_until(QUESTIONS)
    assert len(starts(large)) == 1
    assert "The run goes on until it needs this model." in capfd.readouterr().err


def test_two_servers_on_the_cpu_divide_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("harness_ext.config.placement.count_cores", lambda: 6)
    monkeypatch.setattr("harness_ext.config.placement.count_gpus", lambda: 0)
    monkeypatch.setenv("LLAMA_API_KEY", "local-secret")
    models, binary = [fake_model(tmp_path, name) for name in ("small", "large")], str(fake_server(tmp_path))
    lm = FeedbackPairLM(
        student=f"serve:{models[0]}", teacher=f"serve:{models[1]}", verdict="text", max_rounds=1, store="off",
        progress="off", run_dir=tmp_path / "run",
        **{"student.serve.binary": binary, "teacher.serve.binary": binary, "teacher.serve.args": "--jinja -c 100"},
    )  # fmt: skip
    lm.generate_until(QUESTIONS)
    for model in models:
        (started,) = starts(model)
        arguments = started["arguments"]
        assert arguments[arguments.index("--threads") + 1] == "3"
        assert started["environment"] == {
            "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "", "LLAMA_API_KEY": None, "RANK": None,
        }  # fmt: skip
    assert arguments[-3:] == ["--jinja", "-c", "100"]
    assert arguments[arguments.index("--parallel") + 1] == "4"


def test_another_port_is_tried_if_the_first_is_taken(tmp_path: Path) -> None:
    model = fake_model(tmp_path, dies=1, port_free_at=3, says="couldn't bind HTTP server socket")
    assert baseline(tmp_path, model).generate_until(QUESTIONS) == ANSWERS
    ports = [s["arguments"][s["arguments"].index("--port") + 1] for s in starts(model)]
    assert len(ports) == 3


def test_another_server_at_the_port_is_not_taken_for_the_own_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is healthy and answers every request, before the own server finds out that the port is taken."""
    other = Server(spec_of(tmp_path, fake_model(tmp_path, "other")))
    taken, ports = int(other.ready()[0].split(":")[2].split("/")[0]), []

    class Taken(Port):
        def __init__(self, *host: str) -> None:
            super().__init__(*host)
            self.number = self.number if ports else taken
            ports.append(self.number)

    monkeypatch.setattr(serving, "Port", Taken)
    own = Server(spec_of(tmp_path, fake_model(tmp_path, "own", late=1)))
    url, _ = own.ready()
    assert ports[0] == taken
    assert url == f"http://127.0.0.1:{ports[1]}/v1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reserve a port for another process")
def test_a_port_that_is_found_is_given_to_nobody_else() -> None:
    ports = [Port() for _ in range(200)]
    assert len({port.number for port in ports}) == 200
    for port in ports:
        port.release()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_server_that_dies_while_starting_shows_its_last_words(tmp_path: Path) -> None:
    words = ["ValueError: the cause", *("at line 1",) * 20, "\x1b[31mtorch.OutOfMemoryError: CUDA out of memory\x1b[0m"]
    model = fake_model(tmp_path, dies=3, says="\n".join([*words, "token sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"]))
    with pytest.raises(LoadError) as raised:
        baseline(tmp_path, model).generate_until(QUESTIONS)
    message = str(raised.value)
    assert "ended while it was starting (status 3)" in message
    assert "the cause" in message
    assert "CUDA out of memory" in message
    assert "Give it more GPUs" in message
    assert "\x1b" not in message
    assert "sk-proj" not in message
    assert len(starts(model)) == 1


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    model = fake_model(tmp_path, delay=10**6, stubborn=True)
    with pytest.raises(LoadError, match=r"did not answer within 1 s \(it is loading the model\): allow more time"):
        baseline(tmp_path, model, **{"student.serve.deadline": 1}).generate_until(QUESTIONS)
    (started,) = starts(model)
    assert not is_running(started["pid"])


def test_a_server_that_refuses_completions_is_given_up(tmp_path: Path) -> None:
    model = fake_model(tmp_path, refuses=400)
    with pytest.raises(LoadError, match=r"refuses a completion \(HTTP 400: .*no such model"):
        baseline(tmp_path, model).generate_until(QUESTIONS)


def test_a_server_that_dies_during_the_run_ends_it_at_once(tmp_path: Path) -> None:
    model = fake_model(tmp_path, dies_at=2)
    lm = baseline(tmp_path, model, **{"student.max_retries": 100, "student.num_concurrent": 1})
    with pytest.raises(
        LoadError, match=r"(?s)ended although the run still needs it \(status 9\).*illegal memory access"
    ):
        lm.generate_until(QUESTIONS)
    assert [t.text for t in read_transcripts(tmp_path / "run") if t.failure is None] == ["re: one"]


def test_a_failed_start_can_be_repeated(tmp_path: Path) -> None:
    model = fake_model(tmp_path, dies=1, port_free_at=2)
    lm = baseline(tmp_path, model)
    with pytest.raises(LoadError):
        lm.generate_until(QUESTIONS)
    assert lm.generate_until(QUESTIONS) == ANSWERS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student.serve.binary": "/nowhere/llama-server"}, "there is no program /nowhere/llama-server"),
        ({"student.serve.args": "--port 80"}, "`--port`, which the run sets itself"),
        ({"student.serve.args": "--api-key x"}, "looks like a credential"),
        ({"student.serve.args": "--chat-template 'open"}, "cannot be split"),
        ({"student.serve.devices": "one"}, "expected the numbers of GPUs"),
        ({"student.serve.engin": "vllm"}, "did you mean `engine`"),
        ({"student.serve.engine": "vllm"}, "`serve.binary` is used by llama.cpp only"),
        ({"student.serve.python": "/nowhere/python"}, "`serve.python` is not used by llama.cpp"),
        ({"student.num_concurent": 3}, "did you mean `num_concurrent`"),
        ({"student": "serve:/nowhere/model.gguf"}, "there is no model at /nowhere/model.gguf"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    model = fake_model(tmp_path)
    with pytest.raises(ConfigurationError) as raised:
        BaselineLM(**{"student": f"serve:{model}", "student.serve.binary": str(fake_server(tmp_path)), **arguments})
    assert message in str(raised.value)
    assert starts(model) == []


# -- ending ------------------------------------------------------------------------------------------------------------

HOLD = """
import sys, threading
from pathlib import Path
from harness_ext.engine.endings import ends_by_signal
from harness_ext.serving.server import server_for
from serve_support import spec_of
with ends_by_signal():
    server = server_for(spec_of(Path(sys.argv[1]), Path(sys.argv[2])))
    if sys.argv[3] == "ready":
        server.ready()
        print("ready", flush=True)
        threading.Event().wait()
    else:
        server.ready()
"""


@pytest.mark.parametrize("moment", ["ready", "starting"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_no_process_of_a_server_outlives_the_run(tmp_path: Path, number: int, moment: str) -> None:
    model = fake_model(tmp_path, child=True, stubborn=moment == "ready", delay=0 if moment == "ready" else 10**6)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", HOLD, tmp_path, model, moment]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout is not None
    if moment == "ready":
        assert run.stdout.readline() == "ready\n"
    wait_until(lambda: bool(starts(model)))
    (started,) = starts(model)
    assert all(map(is_running, pids_of(started)))
    run.send_signal(number)
    run.wait(60)
    wait_until(lambda: not any(map(is_running, pids_of(started))), 60)


def test_a_server_ends_with_its_watcher(tmp_path: Path) -> None:
    model = fake_model(tmp_path)
    server = Server(spec_of(tmp_path, model))
    server.ready()
    assert server._state.process is not None
    server._state.process._watcher.kill()
    wait_until(lambda: server.ended() is not None)
    with pytest.raises(LoadError, match="although the run still needs it"):
        server.ready()
    wait_until(lambda: not is_running(starts(model)[0]["pid"]))


def test_an_interrupted_start_ends_the_server(tmp_path: Path) -> None:
    """A run that is ended while its server starts does not wait for it."""
    model = fake_model(tmp_path, delay=10**6)
    code = "from test_serve import *; baseline(Path(sys.argv[1]), Path(sys.argv[2])).generate_until(QUESTIONS)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", code, tmp_path, model]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: bool(starts(model)))
    run.terminate()
    _, said = run.communicate(timeout=120)
    assert run.returncode == 143, said
    assert "Traceback" not in said
    assert "ended by SIGTERM" in said
    assert not is_running(starts(model)[0]["pid"])


# -- several processes -------------------------------------------------------------------------------------------------

SHARE = """
import sys
from pathlib import Path
from harness_ext.errors import LoadError
from harness_ext.serving.server import Server
from serve_support import spec_of
folder, model = Path(sys.argv[1]), Path(sys.argv[2])
server = Server(spec_of(folder, model))
server.attach(folder, "teacher", False)
try:
    print(server.ready()[0], flush=True)
except LoadError as error:
    print("LoadError", str(error).splitlines()[0], flush=True)
sys.stdin.read()
"""


def share(folder: Path, model: Path, count: int) -> list[str]:
    """Let several processes need one server, and return what each of them finds."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", SHARE, folder, model]
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) for _ in range(count)]
    try:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda run: run.stdout.readline().strip() if run.stdout else "", runs))
    finally:
        for run in runs:
            run.communicate()


def test_the_processes_of_a_run_share_a_server(tmp_path: Path) -> None:
    model = fake_model(tmp_path, delay=1)
    for attempt in (1, 2):  # what the first run leaves does not mislead the second
        found = share(tmp_path, model, 3)
        assert len(set(found)) == 1
        assert found[0].startswith("http://127.0.0.1:")
        assert len(starts(model)) == attempt
    assert len(list(tmp_path.glob("serve.teacher.*.log"))) == 1


def test_all_processes_of_a_run_hear_that_a_server_does_not_start(tmp_path: Path) -> None:
    model = fake_model(tmp_path, dies=4)
    found = share(tmp_path, model, 3)
    assert len(starts(model)) == 1
    assert all("ended while it was starting (status 4)" in line for line in found)


def test_equal_specifications_are_one_server(tmp_path: Path) -> None:
    model = fake_model(tmp_path)
    one, two = server_for(spec_of(tmp_path, model)), server_for(spec_of(tmp_path, model))
    assert one is two
    assert server_for(spec_of(tmp_path, model, threads=1)) is not one
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: one.ready(), range(8)))
    assert len(found) == len(starts(model)) == 1


def test_servers_on_one_gpu_start_one_after_the_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    models = [fake_model(tmp_path, name, delay=0.3) for name in ("a", "b", "c")]
    devices = [("0",), ("0", "1"), ("1",)]
    servers = [Server(spec_of(tmp_path, m, devices=d)) for m, d in zip(models, devices, strict=True)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda server: server.ready(), servers))
    said = [line for line in capfd.readouterr().err.splitlines() if ": starting" in line or ": ready" in line]
    events = [(Path(line.split("serve:")[1].split(": ")[0]).stem, ": ready" in line) for line in said]
    assert len(events) == 6
    running: set[str] = set()
    for name, is_ready in events:
        if is_ready:
            running.discard(name)
        else:
            running.add(name)
            assert not {"a", "b"} <= running
            assert not {"b", "c"} <= running


def test_the_watchers_errors_are_told(tmp_path: Path) -> None:
    spec = ServerSpec("llamacpp", "m.gguf", (str(tmp_path / "none"),))
    with pytest.raises(LoadError, match=r"cannot be run: .*No such file"):
        Server(spec).ready()
    assert serving.PORTS_TRIED > 1


def test_what_is_recorded_about_a_server(tmp_path: Path) -> None:
    lm = baseline(tmp_path, fake_model(tmp_path), **{"student.serve.args": "--jinja"})
    seat = json.loads((tmp_path / "run" / "config.json").read_text())["seats"]["student"]
    assert seat["backend"] == "serve"
    assert seat["engine"] == "llamacpp"
    assert seat["serve"]["args"] == "--jinja"
    assert seat["name"] == lm.plan.seats["student"].backend.name
