"""The arguments of served seats, and the addresses of servers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import urlsplit

from harness_ext.backends.thinking import Effort, Switch, Thinking
from harness_ext.credentials import has_credential
from harness_ext.options import build, known_names, suggest
from harness_ext.terminal import outside

DEFAULT_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
FEWEST_PARAMETERS = 1000  # `parameters=7` is meant as 7e9
# Arguments of lm-eval's command line that only matter for models loaded by this process.
NOT_FOR_SERVERS = frozenset({"batch_size", "max_batch_size", "device", "trust_remote_code"})


@dataclass(frozen=True)
class ServerOptions:
    """The arguments of a served seat.

    endpoint: `chat` sends messages to `/chat/completions`, `completions` sends text to `/completions`. Default `chat`.
    num_concurrent: the largest number of requests in flight. Default 64.
    requests_per_minute: how many requests are sent per minute, per process. Default None: no limit.
    tokens_per_minute: how many tokens of prompts and replies are spent per minute, per process. Default None: no
        limit.
    timeout: the time that one attempt may take, in seconds. Default 600.
    connect_timeout: the time that it may take to connect, in seconds. Default 30.
    max_retries: how often a failed request is retried. Default 8.
    max_wait: how long a request may wait for a server that limits its rate and answers nobody, in seconds. Default
        3600.
    wait: how long to wait for a server that is still starting, in seconds. Default 0: it must be running.
    max_gen_toks: the length limit of replies, in tokens, if a task sets none. Default 256.
    api_key_env: the name of the environment variable that holds the API key. Default `OPENAI_API_KEY`.
    revision: identifies the weights that the server runs. If set, it replaces the server's address in store keys.
        Default None.
    parameters: the number of the model's weights, from which FLOPs are computed. Default None: unknown.
    continue_final: whether the server supports vLLM's `continue_final_message`. Default off.
    omit: request fields that the server rejects, joined by `+` (`stop+temperature`). Default: none.
    tokenizer: the model's tokenizer, a folder or a hub id. If set, a seat with `endpoint=completions` accepts token ids
        and can verify drafts. Default: none.
    reasoning_effort: how much a reasoning model thinks, as the server's own `reasoning_effort`. Default `auto`: as the
        server decides.
    thinking: whether the chat template switches thinking `on` or `off`. Default `auto`: as the template decides.
    thinking_tokens: how many tokens a thought may have at most. Default None: no limit of its own.
    batch: whether requests are sent through the server's batch API. Default `off`.
    batch_poll: the longest time between two questions whether a batch has ended, in seconds. Default 60.
    """

    endpoint: Literal["chat", "completions"] = "chat"
    num_concurrent: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 600.0
    connect_timeout: float = 30.0
    max_retries: int = 8
    max_wait: float = 3600.0
    wait: float = 0.0
    max_gen_toks: int = 256
    api_key_env: str = KEY_VARIABLE
    revision: str | None = None
    parameters: float | None = None
    continue_final: bool = False
    omit: str = ""
    tokenizer: str = ""
    reasoning_effort: Effort = "auto"
    thinking: Switch = "auto"
    thinking_tokens: int | None = None
    batch: Literal["off", "on"] = "off"
    batch_poll: float = 60.0

    def __post_init__(self) -> None:
        if self.num_concurrent < 1 or self.max_retries < 0 or self.max_gen_toks < 1 or self.timeout <= 0:
            raise ValueError(
                "`num_concurrent`, `max_gen_toks` and `timeout` must be above 0, and `max_retries` must be 0 or more"
            )
        rates = [rate for rate in (self.requests_per_minute, self.tokens_per_minute) if rate is not None]
        if min([self.connect_timeout, *rates]) <= 0 or min(self.max_wait, self.wait) < 0:
            raise ValueError(
                "`connect_timeout`, `requests_per_minute` and `tokens_per_minute` must be above 0, and `wait` and "
                "`max_wait` must be 0 or more"
            )
        if self.parameters is not None and self.parameters < FEWEST_PARAMETERS:
            raise ValueError(f"`parameters={self.parameters:g}`: expected the number of the model's weights (`7e9`)")
        if self.tokenizer and self.endpoint == "chat":
            raise ValueError("`tokenizer` is used with `endpoint=completions` only: set that, or leave it out")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("`api_key_env` takes the name of an environment variable, not the key itself")
        if self.endpoint == "completions" and (self.reasoning_effort, self.thinking) != ("auto", "auto"):
            raise ValueError(
                "`reasoning_effort` and `thinking` are read by chat templates: use `endpoint=chat`, or leave them out"
            )
        if self.thinking == "off" and (self.thinking_tokens or self.reasoning_effort not in ("auto", "none")):
            raise ValueError("`thinking=off` contradicts `thinking_tokens` and `reasoning_effort`: leave one out")
        if self.thinking_tokens is not None and self.thinking_tokens < 0:
            raise ValueError("`thinking_tokens` must be 0 or more")
        if self.batch_poll <= 0:
            raise ValueError("`batch_poll` must be above 0")

    @property
    def reasoning(self) -> Thinking:
        """Return how much the model is to think."""
        return Thinking(self.reasoning_effort, self.thinking, self.thinking_tokens)


def read_options(args: Mapping[str, Any], problems: list[str]) -> ServerOptions | None:
    """Return the options of a served seat, or None if some are wrong.

    args: the seat's arguments. Those that only matter for models loaded by this process are left out.
    problems: receives one message for each problem, a missing package included.
    """
    own = {k: v for k, v in args.items() if k not in NOT_FOR_SERVERS}
    if "reasoning_effort" in own and own["reasoning_effort"] is None:
        own["reasoning_effort"] = "none"  # lm-eval reads this word as None
    known = known_names(ServerOptions)
    problems += [
        f"there is no argument `{n}`{suggest(n, known)}; the arguments are {', '.join(known)}"
        for n in own
        if n not in known
    ]
    missing = [package for package in ("aiohttp", "aiolimiter") if find_spec(package) is None]
    if missing:
        problems.append(f"{' and '.join(missing)} is not installed: pip install 'harness-ext[openai]'")
    return build(ServerOptions, own, problems)


def server_problems(options: ServerOptions, urls: Sequence[str]) -> list[str]:
    """Return why these options do not fit the servers at these addresses, or the environment.

    options: the options of the seat.
    urls: the addresses.
    """
    problems = []
    key = os.environ.get(options.api_key_env, "")
    if not key and (options.api_key_env != KEY_VARIABLE or tuple(urls) == (DEFAULT_URL,)):
        problems.append(f"the environment variable {options.api_key_env} is not set: export it with the API key")
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        problems.append(
            f"the environment variable {options.api_key_env} contains white space, a line break or characters that no "
            "key has: export the key alone"
        )
    hosted = urlsplit(urls[0]).hostname == urlsplit(DEFAULT_URL).hostname
    if hosted and (options.thinking != "auto" or options.thinking_tokens is not None):
        problems.append("OpenAI has no `thinking` and no `thinking_tokens`: set `reasoning_effort` instead")
    if len(urls) > 1 and options.batch == "on":
        problems.append("`batch=on` needs a single server, since a batch belongs to the one that has made it")
    if len(urls) > 1 and not options.revision:
        problems.append(
            "several servers need `revision=<name of the weights>`, since addresses do not say that all of them run "
            "the same ones; the call store knows the model by it"
        )
    return problems


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the model and the base URLs of `<model>[@<base url>[+<base url>…]]`.

    The URL defaults to OPENAI_BASE_URL, then to OpenAI's. Raises ValueError with cause and remedy.
    """
    model, at, address = name.partition("@http")
    given = f"http{address}" if at else os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    source = (
        f"`{outside(name)}`"
        if at or "://" in model
        else f"the environment variable OPENAI_BASE_URL (`{outside(given)}`)"
    )
    if has_credential(given):
        raise ValueError(
            f"{source} contains credentials, and the address is written into the records: leave them out, and export "
            "the key as an environment variable (`api_key_env`)"
        )
    urls = tuple(re.split(r"\+(?=https?://)", given))
    if re.search("https?://", model) or any("://" in url.partition("://")[2] for url in urls):
        raise ValueError(
            f"{source} contains an address that is none: join the addresses of several servers by `+`, as in "
            "`my-model@http://a:8000/v1+http://b:8000/v1`"
        )
    for url in urls:
        check_address(url, source)
        parts = urlsplit(url)
        strange = not parts.hostname or parts.query or parts.fragment or parts.scheme not in ("http", "https")
        if not model or "://" in model or strange or re.search(r"@[\w.-]+:\d", model):
            raise ValueError(
                f"`{outside(name)}` must be `<model>@<base url>`, as in `my-model@http://localhost:8000/v1`"
            )
    found = tuple(re.sub(r"(/chat)?/completions$", "", url.rstrip("/")) for url in urls)
    if len(set(found)) < len(found):
        raise ValueError(f"{source} names a server twice: give each address once")
    return model, found


def check_address(url: str, source: str) -> None:
    """Raise ValueError if a server's address cannot be one, such as one with white space or a port beyond 65535.

    url: the address.
    source: where it is given, for the message.
    """
    try:
        if re.search(r"[\s\x00-\x1f\x7f]", url):  # `urlsplit` would leave line feeds and tabs out
            raise ValueError("it contains white space or control characters")
        if urlsplit(url).port == 0:
            raise ValueError("no server can have the port 0")
    except ValueError as error:
        raise ValueError(f"{source} is not an address: {outside(error)}") from None
