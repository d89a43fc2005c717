"""The wire format of OpenAI-compatible servers: what requests and replies look like."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from harness_ext.backends.http_client import Fault
from harness_ext.backends.settings import stop_sequences
from harness_ext.backends.thinking import thinking_tokens
from harness_ext.records import Message, TokenCounts
from harness_ext.records.images import IMAGE_MARK, Image
from harness_ext.terminal import outside

_encode = json.JSONEncoder(ensure_ascii=False).encode


class WirePrompt(str):
    """A conversation in its wire format, JSON. It is part of store keys and is inserted into requests unchanged.

    is_open: whether the last message is an assistant message, to be continued.
    begun: the content of that message; empty if there is none.
    has_system: whether there is a system message.
    """

    is_open: bool
    begun: str
    has_system: bool

    def __new__(cls, messages: Sequence[Message]) -> WirePrompt:
        wire = [{"role": m.role, "content": m.content} for m in messages]
        prompt = super().__new__(cls, _encode(wire))
        prompt.has_system = any(m.role == "system" for m in messages)
        prompt.is_open = bool(messages) and messages[-1].role == "assistant"
        prompt.begun = messages[-1].content if prompt.is_open else ""
        return prompt


def wire_body(prompt: str, fields: Mapping[str, Any], omit: Collection[str] = ()) -> bytes:
    """Return the body of a request.

    prompt: the field with the prompt, as JSON: `"prompt": …` or `"messages": …`.
    fields: the other fields; those that are None are left out.
    omit: names of fields to leave out. Default: none.
    """
    rest = json.dumps({k: v for k, v in fields.items() if v is not None and k not in omit})
    return f"{{{prompt}, {rest[1:]}".encode()


def messages_field(prompt: str, images: Sequence[Image]) -> str:
    """Return the field of a request with the messages of a `WirePrompt`, as JSON, with their images."""
    return f'"messages": {json.dumps(with_images(json.loads(prompt), images)) if images else prompt}'


def with_images(messages: Sequence[Mapping[str, str]], images: Sequence[Image]) -> list[dict[str, Any]]:
    """Return wire messages with each `<image>` mark replaced by the next image."""
    left = iter(images)
    result: list[dict[str, Any]] = []
    for message in messages:
        first, *rest = message["content"].split(IMAGE_MARK)
        parts: list[dict[str, Any]] = [{"type": "text", "text": first}]
        for text in rest:
            parts += [{"type": "image_url", "image_url": {"url": next(left).data_url}}, {"type": "text", "text": text}]
        content = [part for part in parts if part.get("text") != ""] if rest else first
        result.append({**message, "content": content})
    return result


def stops_of(gen_kwargs: Mapping[str, Any]) -> list[str]:
    """Return the stop sequences of lm-eval's settings, without empty ones."""
    return [stop for stop in stop_sequences(gen_kwargs) if stop]


def first_choice(data: Any) -> Any:
    """Return a reply's first choice. Raises Fault, with the server's own error, if there is none."""
    if not data.get("choices"):
        said = data.get("error") or "it gives no reason"
        raise Fault("no_choices", f"a reply without choices ({outside(said, 200)})")
    return data["choices"][0]


def text_of(content: Any) -> str:
    """Return a message's text: its content, or the text parts of its content. Missing content is an empty reply."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    return content or ""


def without(begun: str, text: str) -> str:
    """Return a reply without its beginning, which some servers repeat (and llama.cpp trims)."""
    if text.startswith(begun):
        return text.removeprefix(begun)
    return text.lstrip().removeprefix(begun.strip())


def thought_of(message: Mapping[str, Any]) -> str:
    """Return what a server with a reasoning parser reports as the model's thought.

    vLLM, SGLang, llama.cpp and DeepSeek use the field `reasoning_content`, newer vLLM and OpenRouter `reasoning`, and
    Mistral parts of the content.
    """
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name].strip():
            return str(message[name]).strip()
    content = message.get("content")
    parts = (
        [part for part in content if part.get("type") in ("reasoning", "thinking")] if isinstance(content, list) else []
    )
    found = [value for part in parts for name in ("text", "thinking", "reasoning") if (value := part.get(name))]
    return "\n".join(text_of(value) if isinstance(value, list) else str(value) for value in found).strip()


def usage_of(data: Any) -> TokenCounts:
    """Return the token counts of a call as the server reports them; None for those that it does not report.

    Endpoints for decisions report `input_tokens`, the others `prompt_tokens`.
    """

    def count(found: Any) -> int | None:
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

    usage = data.get("usage") or {}
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    read = count(usage.get("prompt_tokens", usage.get("input_tokens")))
    written, thought = count(usage.get("completion_tokens")), thinking_tokens(usage)
    # xAI and Gemini count a thought apart from the completion, and only in the total. It is paid for like the rest.
    if read is not None and written is not None and thought and usage.get("total_tokens") == read + written + thought:
        written += thought
    return {"prompt_tokens": read, "cached_tokens": count(details.get("cached_tokens")), "completion_tokens": written}


def decision_usage(data: Any) -> TokenCounts:
    """Return the token counts of a decision read from probabilities: a token that had to be generated is no text."""
    return {**usage_of(data), "completion_tokens": 0}
