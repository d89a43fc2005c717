"""The shape of a reply: its sentences, its closing pleasantries, and where it goes on to something else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness_ext.reading.source import Source

# A line that begins a question of its own, or speaks for somebody else.
_RUN_ON = re.compile(
    r"\n[ \t>*#_]{0,12}(?:(?:next |new |another )?question|q|problem|exercise|user|human|instructions?"
    r"|(?:agent|judge) ?\d{0,3})[ \t]{0,3}\d{0,4}[*_]{0,3}[ \t]{0,3}[:：]",
    re.IGNORECASE,
)
_NEXT = re.compile(
    r"\n[ \t]*(?:(?:now,? )?(?:let'?s|let us|here(?:'s| is)) (?:try |do |solve |consider )?(?:a|an|another"
    r"|one more)\b"
    r"(?: \w+){0,3} (?:one|problem|question|example|exercise)\b|#{1,6} (?:example|problem|exercise|question)\b)",
    re.IGNORECASE,
)
_END = re.compile(
    r"<\|?(?:im_end|im_start|eot_id|eom_id|endoftext|end_of_text|end|return|start_header_id|eos|user|assistant)\|?>"
    r"|</s>|<(?:end|start)_of_turn>|<eos>|\[/?INST\]|<｜end▁of▁sentence｜>|<｜(?:User|Assistant)｜>"
    r"|<\|END_OF_TURN_TOKEN\|>",
    re.IGNORECASE,
)
_ABBREVIATED = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|approx|mr|mrs|ms|dr|st|jr|sr|prof|no|fig|eq|rs|inc|ltd|co|cf|al|u\.s|u\.k"
    r"|a\.m|p\.m|d\.c)"
    r"|\b[A-Z])$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]\ue001]{0,3}(?=\s|\Z|[A-Z][a-z])|\n")
_CHATTER = re.compile(
    r"\s*(?:[\W_]{0,6})(?:i hope\b|hope (?:this|that|it)\b|let me know\b|please (?:let|feel|note|ask)\b|feel free\b"
    r"|if you(?:'d| would)? (?:have|need|want|like)\b(?=[^.!?\n]{0,40}\b(?:questions?|help|more|further|any\w*|another"
    r"|assistance|expla\w+|details?|clarif\w+|else|me to|let me|feel free|to see|to know)\b)|(?:is"
    r"|was) there anything\b|do you (?:have|need|want)\b"
    r"|would you like\b|(?:do )?(?:does|did) (?:this|that) (?:help|make sense)\b|good luck\b|happy to\b|glad to\b"
    r"|i'm (?:happy|glad|here)\b|i am (?:happy|glad|here)\b|thanks?\b(?! to)|you're welcome\b"
    r"|have a (?:nice|great|good)\b"
    r"|best of luck\b|happy (?:learning|studying|calculating|coding)\b|keep (?:up|practi[cs]ing)\b"
    r"|great (?:question|job)\b"
    r"|don't hesitate\b|any (?:other|more|further) questions\b|cheers\b|enjoy\b|best regards\b|what do you think\b"
    r"|i'd be (?:happy|glad)\b|should you (?:have|need)\b|always here\b|see you\b|stay curious\b|anything else\b"
    r"|[^\w\s(\[{}\])]{1,12}\s*$)",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"\s*[\W_]{0,4}(?:this is (?:because|since|as|due|how|why|what|the same as|consistent|calculated"
    r"|obtained|found)\b"
    r"|because\b(?![^.\n]*,)|explanation\b|reason(?:ing)?\b"
    r"|note\b|remember\b|recall\b|(?:to |let'?s |we can |you can )?(?:double[- ])?(?:check|verify)\b|verification\b"
    r"|in other words\b|that'?s because\b|that is because\b|here,|as a reminder\b|for (?:reference"
    r"|comparison|context)\b"
    r"|(?:i|we) (?:used|checked|assumed|rounded|verified|got this|calculated this|computed this|multiplied"
    r"|added|found this)\b"
    r"|it is (?:calculated|computed|obtained)\b|keep in mind\b|disclaimer\b|confidence\b|where\b"
    r"|\(.*\)\W*$|p\.?s\.?\b"
    r"|this (?:makes sense|comes from|follows from|accounts for|includes|means (?:that )?(?:each|every)"
    r"|assumes|calculation|was"
    r"|answer|result|is (?:\w+ )?(?:less|more|greater))\b)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|can not|cannot|unable to|not able to|impossible to|isn't possible to"
    r"|not possible to|could not"
    r"|couldn't|won't)\s+(?:be\s+)?(?:\w+ly\s+)?(?:answer|determine|help|solve|say|tell|provide|assist"
    r"|calculate|compute"
    r"|find|conclude|decide|know|give|choose|answered|determined|calculated|solved|known|found|fulfil)"
    r"|\b(?:not enough|insufficient|more|missing) (?:information|context|data|details)\b"
    r"|(?:\bnot|n't) \w+ (?:us |me )?(?:enough|sufficient) (?:information|context|data|details)\b"
    r"|\b(?:do not|don't) know\b|\bnot sure\b|\bunsure\b|\bno idea\b|\b(?:is|are) (?:unknown|unclear"
    r"|undefined|not known"
    r"|not clear|not given|not specified|undetermined)\b|\bn/a\b|\bnot applicable\b",
    re.IGNORECASE,
)


def cut_run_on(text: str) -> tuple[str, bool]:
    """Return a reply up to where it asks a question of its own or speaks for somebody else, and whether it did."""
    found = _RUN_ON.search(text)
    if found is None or not text[: found.start()].strip():
        return text, False
    return text[: found.start()].rstrip(), True


def own_parts(source: Source, question: str = "") -> Iterator[Source]:
    """Yield what may be read of a reply, the likeliest first; the next counts where nothing is found in one.

    Where the reply recites the question, what follows its last recital comes first. Of each text, the part before it
    runs on to another question comes before longer ones.
    """
    stem = question.strip()
    if len(stem) >= 20 and stem in source.text:
        yield from _prefixes(source[source.text.rindex(stem) + len(stem) :])
    yield from _prefixes(source)


def _prefixes(source: Source) -> Iterator[Source]:
    for end in _END.finditer(source.text):
        if source.text[: end.start()].strip():
            source = source[: end.start()]
            break
    cuts = 0
    last = -1
    for pattern in (_RUN_ON, _NEXT):
        for found in pattern.finditer(source.text):
            if source.text[: found.start()].strip() and found.start() != last:
                last = found.start()
                yield source[:last]
                cuts += 1
                if cuts == 2:
                    break
    yield source


def sentences(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text stand, without blanks around them; a line ends one too."""
    found: list[tuple[int, int]] = []
    since = 0
    for end in _ends(text, 0, len(text)):
        _add(found, text, since, end.end())
        since = end.end()
    _add(found, text, since, len(text))
    return found


def sentence_end(text: str, start: int, limit: int) -> int:
    """Return where the sentence that `start` is in ends, at most `limit`."""
    end = next(_ends(text, start, limit), None)
    if end is None:
        return min(len(text), limit)
    return end.start() if end[0] == "\n" else end.end()


def _ends(text: str, start: int, limit: int) -> Iterator[re.Match[str]]:
    """Yield the ends of sentences: full stops of abbreviations are none, unless a sentence can only end there."""
    since = start
    for end in _SENTENCE_END.finditer(text, start, limit):
        short = end[0] == "." and _ABBREVIATED.search(text, max(since, end.start() - 6), end.start())
        if not short or _new_sentence(text, since, end.start(), end.end()):
            yield end
            since = end.end()


def _new_sentence(text: str, since: int, dot: int, after: int) -> bool:
    """Whether a full stop behind a single letter or an abbreviation ends the sentence after all: `is B. A is not`."""
    word = re.search(r"[\w.]+$", text[max(since, dot - 6) : dot])
    if word is None or len(word[0]) > 1:
        ends = word is not None and word[0].lower() in ("no", "etc", "a.m", "p.m")
        return ends and text[after : after + 2].strip()[:1].isupper()
    before = text[max(since, dot - 14) : dot - 1].rstrip(" (\"'").lower()
    return before.endswith((" is", " be", ":", "option", "choice", "letter", "answer")) or dot - 1 == since


def _add(found: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        found.append((start, end))


def without_chatter(text: str, parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sentences without the pleasantries that close a reply."""
    end = len(parts)
    while end and _CHATTER.match(text, *parts[end - 1]):
        end -= 1
    return parts[:end]


def is_aside(text: str) -> bool:
    """Whether a sentence explains or checks what was said before."""
    return _ASIDE.match(text) is not None


def is_refusal(text: str) -> bool:
    """Whether a sentence says that there is no answer."""
    return _REFUSAL.search(text) is not None
