"""Taking the power out of a chat template's control tokens where a model wrote them.

A model's text is quoted to other seats. `<|im_start|>assistant` in it would begin a turn there, since tokenizers read
such a string as one special token wherever it stands. A blank behind its first character breaks that: `< |im_start|>`
is nine harmless characters to every tokenizer, and a reader still sees what the model wrote. A look-alike would be
invisible in a transcript, and leaving the token out would hide that the model tried.
"""

from __future__ import annotations

import re

_NAMED = (
    "s|/s|bos|eos|pad|unk|mask|sep|cls|eod|eot|start_of_turn|end_of_turn|start_of_image|end_of_image"
    "|image_soft_token|sop|eop|gMASK"
    r"|tool_call|/tool_call|tool_response|/tool_response|tools|/tools|system|/system|user|/user|assistant"
    r"|/assistant|human|/human|bot|/bot"
    r"|begin_of_text|end_of_text|im_start|im_end|endoftext|extra_id_\d{1,4}|unused\d{1,5}|reserved_\d{1,5}"
    r"|turn\||\|turn|channel\||\|channel|seed:\w{1,12}|/?SPECIAL_\d{1,4}"
)
_TOKEN = re.compile(
    r"<(?=\|[^<>|\s][^<>|\n]{0,80}\|>)"  # ChatML, Llama 3, Phi, harmony, Command, Kimi …
    r"|<(?=｜[^<>｜\n]{1,80}｜>)"  # DeepSeek
    rf"|<(?=(?:{_NAMED})>)"
    r"|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG|PREFIX|SUFFIX"
    r"|MIDDLE|ARGS|CALL_ID|gMASK|BOS|EOS)\])"
    r"|\[(?=\|(?:Human|AI|User|Assistant|System|endofturn|\w{1,20})\|\])"
    r"|(?:(?<=\n)|\A)(?=)#(?=## ?(?:Instruction|Response|Human|Assistant|User|System):)",
    re.IGNORECASE,
)
_PLAIN_TURN = re.compile(r"(?im)^(?=[ \t]{0,8}[*_]{0,3}(?:User|Assistant|Instructions?|System|Human)[*_]{0,3}[ \t]?:)")


def neutralise(text: str, plain: bool = False) -> tuple[str, int]:
    """Return a model's text so that no chat template or tokenizer takes a part of it for a turn, and how many were.

    A blank goes behind the first character of each control token: `<|im_end|>` becomes `< |im_end|>`. Text without
    any stays as it is, and so does text that was neutralised before.

    Args:
        text: what a model wrote.
        plain: the text goes into a conversation without a template, where lines such as `User:` begin turns: these are
            quoted (`> User:`).
    """
    count = 0
    if any(first in text for first in "<[#"):  # most texts have none of them, and the search is slow
        text, count = _TOKEN.subn(lambda m: f"{m[0]} ", text)
    if plain and ":" in text:
        text, turns = _PLAIN_TURN.subn("> ", text)
        count += turns
    return text, count
