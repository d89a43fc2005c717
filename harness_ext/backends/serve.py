"""Models on servers that the run itself starts: `serve:<model>` (vLLM, SGLang, llama.cpp, `transformers serve`)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness_ext.backends.openai import OpenAIBackend
from harness_ext.backends.openai_options import ServerOptions, read_options
from harness_ext.backends.served import Ask
from harness_ext.backends.thinking import TEMPLATE
from harness_ext.options import build, known_names, suggest
from harness_ext.records.fingerprint import count_parameters, model_fingerprint
from harness_ext.serving.engines import ENGINES, GGUF, LLAMA_SERVER, ServingEngine
from harness_ext.serving.options import PREFIX, ServeOptions
from harness_ext.serving.server import Server, ServerSpec, server_for
from harness_ext.serving.shared import shared_server
from harness_ext.terminal import clean, outside

NOWHERE = ("http://127.0.0.1/v1",)  # until the server is started
LOOK_FOR = tuple(engine.module for engine in ENGINES.values() if engine.module)
# Run by the engine's interpreter, which need not have this package.
FIND = f"""
import importlib.metadata, importlib.util, json, sys
sys.path = [folder for folder in sys.path if folder]  # a folder "vllm" in the working directory is no engine
found = {{}}
for name in {LOOK_FOR!r}:
    if importlib.util.find_spec(name):
        try:
            found[name] = bool(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            found[name] = False
print(json.dumps(found))
"""
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class ServeBackend(OpenAIBackend):
    """A seat backed by a server that is started with the seat's first call, and ends with the run.

    model: the model as the user named it.
    server: the server.
    options: the options of the seat.
    how: the options of the server.
    fingerprint: identifies the model and what its answers depend on.
    """

    _may_use_proxies = False  # none leads to this machine itself

    def __init__(self, model: str, server: Server, options: ServerOptions, how: ServeOptions, fingerprint: str) -> None:
        super().__init__(model, NOWHERE, options)
        self.name = clean(f"serve:{model}")
        self.device = self.name
        self.fingerprint = fingerprint
        self._named, self._server, self._how = model, server, how
        self._locate(NOWHERE)
        engine = server.engine
        if not engine.prompt_logprobs:
            self.capabilities -= {"score", "verify"}
            self.remedy = f"; {engine.title} returns no log-probabilities of prompts"
        elif self._is_chat:
            self.remedy = "; with `endpoint=completions` it can"

    @property
    def server(self) -> Server:
        """Return the server that answers for this seat."""
        return self._server

    def attach(self, folder: Path, seat: str, alone: bool) -> None:
        self._server = shared_server(seat, self._server.spec) or self._server
        self._server.attach(folder, seat, alone)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ask]:
        cancelled = threading.Event()
        self._server.start_others()
        try:
            url, self.model = await asyncio.to_thread(self._server.ready, cancelled)
        except asyncio.CancelledError:
            cancelled.set()
            self._server.stop()
            raise
        if (url,) != self.urls:
            self._locate((url,))
        async with super().connect() as ask:
            yield ask

    def _key(self) -> str:
        return self._server.key  # not the user's, which belongs to another server

    def _ended(self) -> str | None:
        return self._server.ended()

    def info(self) -> dict[str, Any]:
        return super().info() | {
            "backend": "serve",
            "model": self._named,  # its name on the server is another one each time
            "engine": self._server.spec.engine,
            "serve": {name: value for name, value in vars(self._how).items() if value is not None},
        }


def make_serve_backend(name: str, args: Mapping[str, Any]) -> ServeBackend:
    """Return the backend of `serve:<model>`, without starting the server.

    name: the model: a folder, a GGUF file or the name of a model on the hub.
    args: the seat's arguments; those of the server begin with `serve.`.

    Raises ValueError with cause and remedy.
    """
    problems: list[str] = []
    trusted = bool(args.get("trust_remote_code"))
    given = {k.removeprefix(PREFIX): v for k, v in args.items() if k.startswith(PREFIX)}
    known = known_names(ServeOptions)
    problems += [
        f"there is no argument `{PREFIX}{n}`{suggest(n, known)}; the arguments are {', '.join(known)}"
        for n in given
        if n not in known
    ]
    how = build(ServeOptions, given, problems, PREFIX)
    own = {k: v for k, v in args.items() if not k.startswith(PREFIX)}
    model = _path_of(name, problems)
    if problems or how is None:
        raise ValueError("; ".join(problems))
    engine, executable, why = choose_engine(model, how)
    if taken := sorted(set(how.flags) & engine.reserved):
        problems.append(f"`serve.args` contains `--{taken[0]}`, which the run sets itself: leave it out")
    own = {"num_concurrent": engine.concurrent or engine.slots(how), "continue_final": engine.continues, **own}
    options = read_options(own, problems)
    if options is not None and options.batch == "on":
        problems.append("`batch=on` is for servers with a batch API, and one that a run starts has none: leave it out")
    if engine.name == "transformers" and options is not None and options.reasoning.fields.keys() - {TEMPLATE}:
        problems.append(f"{engine.title} takes no `reasoning_effort` and no `thinking_tokens`: use another engine")
    command = engine.command(how, executable, model, trusted)
    folder, commit = (Path(model) if Path(model).is_dir() else None), None
    if engine.name == "llamacpp" and not Path(model).is_file():
        problems.append(f"llama.cpp needs a GGUF file, and {outside(name)} is none: name a file `*{GGUF}`")
    if not problems and options is not None and not Path(model).exists():
        folder, commit = _of_hub(model, options.revision, problems)
        if options.revision:
            command = _with_revision(command, engine, options.revision, problems)
    if problems or options is None:
        raise ValueError("; ".join(problems))
    if options.parameters is None and folder is not None:
        options = replace(options, parameters=count_parameters(folder))
    spec = ServerSpec(engine.name, model, command, why, _visible(how.devices_named), how.threads, how.deadline)
    return ServeBackend(name, server_for(spec), options, how, _fingerprint(model, commit, engine, how, options))


def choose_engine(model: str, how: ServeOptions) -> tuple[ServingEngine, str, str]:
    """Return the engine for a model, the program or interpreter that runs it, and why it was chosen.

    model: the model's folder, file or hub name.
    how: the options of the server.

    The reason is empty if the user chose the engine. Raises ValueError if there is none, with the remedy.
    """
    name, why = str(how.engine), ""
    if name == "auto" and model.endswith(GGUF):
        name, why = "llamacpp", f"the model is a {GGUF} file"
    if name == "llamacpp":
        if how.python is not None:
            raise ValueError("`serve.python` is not used by llama.cpp: give `serve.binary=<llama-server>` instead")
        program = how.binary or LLAMA_SERVER
        if (found := shutil.which(str(Path(program).expanduser()))) is None:
            raise ValueError(
                f"there is no program {outside(program)}: install llama.cpp (`make engines` in a checkout builds it), "
                "and put it on the PATH or give `serve.binary=<path of llama-server>`"
            )
        return ENGINES[name], found, why
    if how.binary is not None:
        raise ValueError("`serve.binary` is used by llama.cpp only: give `serve.python=<interpreter>` instead")
    python = sys.executable if how.python is None else str(Path(how.python).expanduser())
    found_modules = installed_engines(python)
    if name == "auto":
        found_name = next((e.name for e in ENGINES.values() if e.module in found_modules), None)
        if found_name is None:
            raise ValueError(
                f"{outside(python)} has none of {', '.join(LOOK_FOR)}: install one there, or name an interpreter that "
                "has one (`serve.python=<environment>/bin/python`)"
            )
        name, why = found_name, f"the first of {', '.join(LOOK_FOR)} in {outside(python, 100)}"
    engine = ENGINES[name]
    if engine.module not in found_modules:
        raise ValueError(
            f"{outside(python)} has no {engine.module}: install it there, or name an interpreter that has it "
            "(`serve.python=<environment>/bin/python`)"
        )
    return engine if found_modules[engine.module] else engine.renamed, python, why


def installed_engines(python: str) -> dict[str, bool]:
    """Return the packages with engines that an interpreter can import, and whether each is installed under its name.

    Raises ValueError if the interpreter cannot be run.
    """
    try:
        done = subprocess.run([python, "-c", FIND], capture_output=True, text=True, timeout=120, check=True)
        found: dict[str, bool] = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise ValueError(
            f"`serve.python={outside(python)}` is no Python interpreter that runs ({outside(error)}): give the path "
            "of one, such as <environment>/bin/python"
        ) from None
    return found


def _path_of(name: str, problems: list[str]) -> str:
    """Return the model as engines take it: an absolute path, or the name of a model on the hub."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(GGUF):
        problems.append(f"there is no model at {outside(name)}: give a folder, a GGUF file or a name on the hub")
    return name


def _of_hub(model: str, revision: str | None, problems: list[str]) -> tuple[Path | None, str | None]:
    """Return the folder of a hub model in the local cache, as far as it is there, and its commit."""
    from huggingface_hub import hf_hub_download

    try:
        folder = Path(hf_hub_download(model, "config.json", revision=revision)).parent
    except Exception as error:  # of the hub's client: a wrong name, no network, no access, …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        problems.append(
            f"the model {outside(model)} cannot be read from the hub: {outside(reason)}. Give a folder, or a name that "
            "this machine can download"
        )
        return None, None
    return folder, folder.name


def _with_revision(
    command: tuple[str, ...], engine: ServingEngine, revision: str, problems: list[str]
) -> tuple[str, ...]:
    if not engine.alias:
        problems.append(f"{engine.title} has no argument for a `revision`: download it, and name its folder")
    return (*command, "--revision", revision)


def _visible(devices: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return GPUs, numbered as this process sees them, as CUDA_VISIBLE_DEVICES of a child has to call them."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if devices is None or not seen:
        return devices
    if beyond := [d for d in devices if d.isdecimal() and int(d) >= len(seen)]:
        raise ValueError(
            f"`serve.devices`: there is no GPU {beyond[0]}, since CUDA_VISIBLE_DEVICES lists {len(seen)}, which are "
            "numbered from 0"
        )
    return tuple(seen[int(d)] if d.isdecimal() else d for d in devices)


def _fingerprint(
    model: str, commit: str | None, engine: ServingEngine, how: ServeOptions, options: ServerOptions
) -> str:
    """Return what identifies a model and everything that its answers depend on, but not where it is served."""
    files: dict[str, Any] = {"model": model}
    if (match := _PART.search(model)) is not None:  # a model in several files is named by its first
        parts = (f"{model[: match.start()]}-{n:05}-of-{match[2]}{GGUF}" for n in range(1, int(match[2]) + 1))
        files["parts"] = [model_fingerprint("serve", {"model": part}) for part in parts]
    arguments = [
        [flag, [model_fingerprint("serve", {"model": v}) if Path(v).exists() else v for v in values]]
        for flag, values in engine.counted(how.arguments)
    ]
    return model_fingerprint(
        "serve",
        {
            "model": files["model"],
            "parts": json.dumps(files["parts"]) if "parts" in files else None,
            "engine": engine.name,
            "arguments": json.dumps(arguments) if arguments else None,
            "context": how.context,
            "endpoint": options.endpoint,
            "revision": options.revision,
            # A server that is not told a setting uses its own.
            "omit": "+".join(sorted({*filter(None, options.omit.split("+"))})) or None,
            "tokenizer": (options.tokenizer or None) if options.endpoint == "completions" else None,
            **options.reasoning.identity(),
        },
        commit,
    )
