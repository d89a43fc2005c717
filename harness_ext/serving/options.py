"""The options of servers that a run starts (`<seat>.serve.…`)."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any, Literal

EngineName = Literal["auto", "vllm", "sglang", "llamacpp", "transformers"]
PREFIX = "serve."
CPU = "cpu"
_SECRET = re.compile(r"(^|-)(keys?|tokens?|passw(or)?d|secret)$")
# Names of flags that end like a secret's, and count tokens or name a special one.
_COUNTS = re.compile(r"(^|-)(max|min|num|batched|total|prefill|image|special|bos|eos|pad)(-\w+)*-tokens?$")


@dataclass(frozen=True)
class ServeOptions:
    """The options of a server that a run starts.

    engine: the program that serves the model. `auto` takes llama.cpp for a GGUF file, and otherwise the first of vLLM,
        SGLang and transformers that `python` can import. Default `auto`.
    python: the interpreter that runs the server, such as that of another virtual environment. Default None: the one
        that runs the evaluation.
    binary: llama.cpp's `llama-server`. Default None: that on the PATH.
    args: further arguments of the server, as in a shell. Default: none.
    devices: numbers of the GPUs that the server sees, joined by `+` (`0+1`, `0-3`), or `cpu`. Default None: as many as
        its arguments ask for, not shared with other models if there are enough.
    deadline: the time within which the server must answer, in seconds. Default 1800.
    threads: the number of its threads on the CPU. Default None: the cores are divided among the models on the CPU.
    slots: how many requests the server answers at once. Default None: the engine's own, and 4 for llama.cpp.
    context: how many tokens a request and its reply may have. Default None: the engine's own, and 8192 for llama.cpp.
    memory: the share of a GPU's memory that vLLM and SGLang take. Default None: the engine's own, and less where models
        share a GPU.
    """

    engine: EngineName = "auto"
    python: str | None = None
    binary: str | None = None
    args: str = ""
    devices: Any = None
    deadline: float = 1800.0
    threads: int | None = None
    slots: int | None = None
    context: int | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        if min([self.deadline, *(n for n in (self.threads, self.slots, self.context) if n is not None)]) <= 0:
            raise ValueError("`deadline`, `threads`, `slots` and `context` must be above 0")
        if self.memory is not None and not 0 < self.memory <= 1:
            raise ValueError(f"`memory={self.memory:g}`: expected a share above 0 and up to 1")
        parse_devices(self.devices)
        for flag in self.flags:
            if _SECRET.search(flag) and not _COUNTS.search(flag):
                raise ValueError(
                    f"`args` contains `--{flag}`, which looks like a credential, and lm-eval copies model arguments "
                    "into its results: export it as an environment variable of the server"
                )

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the further arguments, one by one. Raises ValueError if a quotation is not closed."""
        try:
            return tuple(shlex.split(self.args))
        except ValueError as error:
            raise ValueError(f"`args={self.args}` cannot be split as a shell would: {error}") from None

    @property
    def flags(self) -> tuple[str, ...]:
        """Return the names of the flags among the further arguments."""
        return tuple(name for name, _ in flags_of(self.arguments))

    @property
    def devices_named(self) -> tuple[str, ...] | None:
        """Return the GPUs by number or identifier, none for the CPU, and None if they are left to the run."""
        return parse_devices(self.devices)


def parse_devices(devices: Any) -> tuple[str, ...] | None:
    """Return the GPUs that a text such as `0+1`, `0-3` or `cpu`, a number or a list names; None for None.

    Raises ValueError for anything else.
    """
    if devices is None:
        return None
    parts = devices if isinstance(devices, list | tuple) else re.split(r"[+,\s]+", str(devices).strip("[] "))
    named: list[str] = []
    for part in map(str, parts):
        span = re.fullmatch(r"(\d{1,4})-(\d{1,4})", part)
        if part == CPU:
            continue
        if span:
            named += map(str, range(int(span[1]), int(span[2]) + 1))
        elif re.fullmatch(r"\d{1,4}|(GPU|MIG)-[\w/-]+", part):
            named.append(part)
        else:
            raise ValueError(f"`devices={devices}`: expected the numbers of GPUs, as in `0+1` or `0-3`, or `{CPU}`")
    if len(set(named)) < len(named):
        raise ValueError(f"`devices={devices}` names a GPU twice")
    return tuple(named)


def flags_of(arguments: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the flags among a program's arguments with their values, without dashes and with dashes for underscores.

    Arguments before the first flag belong to a flag with an empty name.
    """
    found: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if re.match(r"--?[A-Za-z]", argument):
            name, equals, value = argument.lstrip("-").partition("=")
            found.append((name.replace("_", "-"), [value] if equals else []))
        elif found:
            found[-1][1].append(argument)
        else:
            found.append(("", [argument]))
    return [(name, tuple(values)) for name, values in found]
