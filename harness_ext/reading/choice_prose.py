"""Which option a reply without a statement chooses: by a line of its own, an assertion, a conclusion or a mention."""

from __future__ import annotations

import re

import harness_ext.reading.truth as truth
from harness_ext.reading.choice_lists import is_dismissed
from harness_ext.reading.choice_phrases import ECHO, NOT_FIRST, REASON, named
from harness_ext.reading.letters import DISMISSED, Choice, Letter, Several, bracketed, letter_at, only, position_of
from harness_ext.reading.options import Options, negated
from harness_ext.reading.prose import is_refusal, sentences, without_chatter

_THEREFORE = re.compile(
    r"\b(?:so|therefore|thus|hence|then|finally|definitely|certainly|probably|most likely|likely|surely|clearly"
    r"|obviously"
    r"|maybe|perhaps|undoubtedly|i guess|i think|i'd say)[,:]?[ \t]+(?:it's |it is )?|:[ \t]+(?=\(?(?-i:[A-Z])\)?\W*$)",
    re.IGNORECASE,
)
_DENIED = re.compile(r"[ \t]+(?:is|are|was|were)(?:n't|[ \t]+not)\b(?![ \t]+(?:only|just))", re.IGNORECASE)
_WHEREAS = re.compile(r",?[ \t]\b(?:while|whereas)\b", re.IGNORECASE)
_TAG_QUESTION = re.compile(r",[ \t](?:right|correct|no|isn't it)\?+$", re.IGNORECASE)
MOST = 60  # assertions of a reply that are tried
_CONCLUDES = re.compile(
    r"\W{0,3}(?:so|therefore|thus|hence|in conclusion|overall|ultimately|finally|consequently|accordingly"
    r"|in summary|to conclude|as a result|"
    r"that leaves|this leaves|which leaves|the best|the most|it must be|based on|given|i would|i'd"
    r"|this makes|out of|of these|among|"
    r"considering|all in all|in short|clearly|most likely)\b",
    re.IGNORECASE,
)
_CHOOSE = re.compile(
    r"\b(?:i|we|let's(?![ \t]+(?:think|say|believe|answer|conclude)))(?:'d|'ll|'m|[ \t]+would|[ \t]+will"
    r"|[ \t]+must|[ \t]+should|[ \t]+am|[ \t]+can"
    r"|[ \t]+do)?[ \t]+(?:(?:therefore|thus|also|definitely|now|still|"
    r"confidently|most likely|rather|then|have to|going to)[ \t]+){0,2}(?:choose|chose|pick|picked|select"
    r"|selected|choosing|picking|selecting|guess|going with|go with|went with|go for|opt for"
    r"|(?:take|vote)(?=[ \t]+(?:option[ \t]+|choice[ \t]+)?\(?(?-i:[A-Z])\b)|"
    r"settle on|settle for|vote for|say|answer|conclude|lean towards?|leaning towards?|(?:believe"
    r"|think)(?![ \t]+(?:that|this)[ \t]+leaves))\b[ \t]*(?:it is|it's|that it is|that|option|choice"
    r"|the)?[ \t]*:?[ \t]*"
    r"|\b(?:(?:it|that|this)[ \t]+(?:(?:must|has to|can only|should|would)[ \t]+be|is)"
    r"|it's)[ \t]+(?:(?:therefore|thus|clearly|definitely|likely|probably)[ \t]+)?(?:option[ \t]+"
    r"|choice[ \t]+)?(?=\W{0,3}(?-i:[A-Z])\W{0,3}(?:$|[\s.,;!:]))"
    r"|\b(?:so|then|therefore|thus|hence|and),?[ \t]+(?=\(?(?-i:[A-Z])\)?[ \t]+it[ \t]+is\b)"
    r"|(?m:^)(?=\(?(?-i:[A-Z])\)?[ \t]+it[ \t]+is\b)|(?m:^)(?:going with|(?:gotta|has to|must|should|got to) be)[ \t]+"
    r"|\b(?:not|isn't)[ \t]+(?!only\b|just\b|necessarily\b)[^.!?;,\n]{1,40}?,?[ \t]but[ \t]+(?:rather[ \t]+)?"
    r"(?:it's[ \t]+|it is[ \t]+)?"
    r"|\b(?:think|thought|guess|assume|expect|seems?)\b[^.!?\n]{0,60}[ \t]but[ \t]+(?:actually[ \t]+|in fact[ \t]+)?"
    r"(?:it's|it is|it must be|it has to be)[ \t]+(?:actually[ \t]+|really[ \t]+)?"
    r"|\bonly[ \t]+(?:option[ \t]+)?(?=\(?(?-i:[A-Z])\)?[ \t]+(?:remains|fits|is left|works|makes sense|matches)\b)"
    r"|\b(?:so|therefore|thus|hence|overall|finally|clearly|conclusion|consequently|(?:options|this"
    r"|that)(?=,)),?:?[ \t]+(?:it|this|that)(?:'s|[ \t]+(?:is|must be|would be|has to be))[ \t]+"
    r"|→[ \t]*(?=\W{0,3}[A-Za-z]\b)"
    r"|\b(?:that|this|which|only)[ \t]+leaves(?:[ \t]+(?:us|me|only|option|with|just))*[ \t]+"
    r"|\b(?:choose|select|pick)(?:ing)?[ \t]+(?:option[ \t]+|choice[ \t]+)?(?=\(?(?-i:[A-Z])\)?(?:$|[\s.,;!]))",
    re.IGNORECASE,
)
_PREDICATE = re.compile(
    r"[ \t]{1,3}(?:is|seems|appears|must be|would be|should be|has to be|will be|remains|looks|fits|makes"
    r"|matches|works|stands out|are)"
    r"(?P<not>n't|[ \t]+(?:not|never))?(?:[ \t]+(?:to be|clearly|definitely|therefore|thus|probably|likely"
    r"|as|also|indeed|by far|our|my|certainly|obviously|"
    r"actually|generally|here|then|still))*[ \t]+(?:the[ \t]+|a[ \t]+)?(?P<what>(?:single[ \t]+|only[ \t]+"
    r"|one[ \t]+)?(?:most|best|correct|right|answer|true|only|"
    r"likeliest|closest|logical|appropriate|better|suitable|sense|well|perfectly|accurate|chosen|option"
    r"|choice|winner|one\b(?=[ \t]*[.!\n]|[ \t]*$)|what i(?:'d| would)))\b",
    re.IGNORECASE,
)


def lines_of(text: str) -> list[tuple[int, int]]:
    """Return where the lines of a text stand, up to its closing pleasantries; empty lines are left out."""
    spans = without_chatter(text, sentences(text))
    stop = spans[-1][1] if spans else 0
    found = []
    at = 0
    for line in text[:stop].split("\n"):
        if line.strip():
            start = at + len(line) - len(line.lstrip())
            found.append((start, start + len(line.strip())))
        at += len(line) + 1
    return found


def whole(text: str, start: int, end: int, options: Options, again: bool = False) -> Choice | None:
    """Return the option that a line is, with nothing else in it but a few words behind a letter or after yes or no."""
    line = text[start:end]
    while line and line[0] in "→>-–—*_:= \"'✅✓☑👉":
        start, line = start + 1, line[1:]
    echo = None if again else ECHO.match(line)
    if echo and (inner := whole(text, start + echo.end(), end, options, again=True)) is not None:
        return inner
    first = letter_at(line, options)
    by_text = options.at(line) if options.texts else None
    if first is not None and first.sure:
        if options.is_binary and first.echo and (said := polar_line(text, start + first.end, end)):
            return said
        if _is_only(text, start, end, first, options):
            return Choice(first.position, start + first.start, start + first.end, "line")
    if options.is_binary and (said := polar_line(text, start, end)):
        return said
    if by_text is not None and by_text.start <= 12 and not line[by_text.end :].strip(" .!\"'*)"):
        return Choice(by_text.position, start + by_text.start, start + by_text.end, "line")
    return None


def _is_only(text: str, start: int, end: int, letter: Letter, options: Options) -> bool:
    """Whether a line that begins with a letter says no more than that letter, its option, and a few words."""
    line = text[start:end]
    try:
        only(line, letter.end, options)
    except Several:
        return False
    if {c.position for c in bracketed(text, start, end, options)} - {letter.position}:
        return False
    if DISMISSED.match(line, letter.end) or DISMISSED.match(line, min(letter.end + 1, len(line))):
        return False
    if is_dismissed(line):
        return False
    rest = line[letter.end :].strip(" .):,-–—!?\"'✅✓✔☑")
    if not rest:
        return True
    behind = options.at(rest) if options.texts else None
    if behind is not None and behind.position != letter.position:
        return line.startswith("(")
    if re.match(
        r"[ \t]+(?:because|since|as|due to|for sure|without (?:a )?doubt|i (?:think|guess|believe)|of course)\b",
        line[letter.end :],
        re.IGNORECASE,
    ):
        return True
    marked = line[letter.end - 1] in ")].:" or line[letter.end : letter.end + 1] in (")", ".", ":", ",", ";", "-")
    return behind is not None or (marked and len(rest.split()) <= 12)


def polar_line(text: str, start: int, end: int) -> Choice | None:
    """Return yes or no where a line begins with it, followed by nothing or by a break."""
    phrase = text[start:end]
    try:
        said = truth.polar(phrase)
    except truth.Both:
        return None
    if said is None:
        return None
    value, first, last = said
    rest = phrase[last:]
    if first > 30 or not truth.ends_there(phrase[first:last], rest):
        return None
    return Choice(0 if value else 1, start + first, start + last, "first_word" if rest.strip(" .!\"')*") else "line")


def last_words(text: str, options: Options) -> Choice | None:
    """Return the option that a last sentence of a few words is: "So no." or "Hence B." behind others in a line."""
    spans = without_chatter(text, sentences(text))
    if not spans:
        return None
    start, end = spans[-1]
    for lead in _THEREFORE.finditer(text, start, end):
        start = lead.end()
    return whole(text, start, end, options) if len(text[start:end].split()) <= 3 else None


def asserted(text: str, options: Options) -> Choice | None:
    """Return the option that the last assertion calls the best, the right one, or one's own choice."""
    cues = sorted([*_CHOOSE.finditer(text), *_PREDICATE.finditer(text)], key=lambda match: match.start(), reverse=True)
    for cue in cues[:MOST]:
        named = _chosen(text, cue, options) if cue.re is _CHOOSE else _called_best(text, cue, options)
        if named is not None:
            return named
    if options.is_binary and (said := truth.asserted(text)):
        return Choice(0 if said[0] else 1, said[1], said[2], "truth")
    return None


def _chosen(text: str, cue: re.Match[str], options: Options) -> Choice | None:
    """Return the option behind "I choose", "it must be" and the like."""
    start = cue.end()
    if NOT_FIRST.match(text, start):
        return None
    line = text.find("\n", start, start + 300)
    end = line if line >= 0 else min(len(text), start + 300)
    stop = re.compile(r"(?<=[^A-Z\s])[.!?](?=\s|$)").search(text, start, end)
    try:
        return named(text, start, stop.start() if stop else end, options, "assertion")
    except Several:
        return None


def _called_best(text: str, cue: re.Match[str], options: Options) -> Choice | None:
    """Return the option that "… is the best answer" is said of."""
    follows = re.split(r"(?<=[.!])\s|\n", text[cue.end() : cue.end() + 60])[0]
    if cue["not"] or re.match(r"\s*(?:not|never)\b", follows) or follows.rstrip().endswith("?"):
        return None
    begin = max(text.rfind("\n", cue.start() - 160, cue.start()) + 1, cue.start() - 160, 0)
    spans = sentences(text[begin : cue.start()])
    return _subject(text, begin + spans[-1][0], cue.start(), options) if spans else None


def _subject(text: str, start: int, end: int, options: Options) -> Choice | None:
    """Return the one option that the subject of an assertion names."""
    if aside := re.match(
        r"\s*(?:while|although|though|even though|unlike)\b[^,\n]*,[ \t]+(?=\S)", text[start:end], re.IGNORECASE
    ):
        start += aside.end()
    phrase = text[start:end]
    if negated(text, end):
        return None
    letters = bracketed(text, start, end, options)
    if letters:
        return (
            Choice(letters[-1].position, letters[-1].start, letters[-1].end, "assertion")
            if len({c.position for c in letters}) == 1
            else None
        )
    bare = re.search(rf"^(?i:among|of|from)\b.{{1,60}},\s([A-{options.last}])\s*$", phrase) or re.search(
        rf"(?:(?:^|[\s,:;\"'])(?i:option|choice|answer|letter)\s+\"?|^|,\s|:\s|\"|\b(?i:that|think|so|thus"
        rf"|hence|then|therefore|believe)\s)([A-{options.last}])[\"')]?(?:[).:,]?\s+\S.{{0,80}})?$",
        phrase,
    )
    if bare and not (bare[1] in "AI" and re.match(r"\s+[a-z]", phrase[bare.end(1) :])):
        return Choice(position_of(bare[1]), start + bare.start(1), start + bare.end(1), "assertion")
    named = options.mentions(phrase)
    if len({m.position for m in named}) == 1 and not negated(phrase, named[-1].start):
        return Choice(named[-1].position, start + named[-1].start, start + named[-1].end, "assertion")
    return None


def closing(text: str, lines: list[tuple[int, int]], options: Options) -> Choice | None:
    """Return the option that the last line ends with, apart from its sentences: "The sentence is false. (B) False"."""
    start, end = lines[-1]
    letters = bracketed(text, start, end, options)
    if len({choice.position for choice in letters}) != 1:
        return None
    last = letters[-1]
    before, behind = text[start : last.start].rstrip(), text[last.end : end].strip(" .!\"')")
    is_apart = before.endswith((".", "!", "?", '."', ".'"))
    return last if is_apart and (not behind or behind.casefold() == options.bare[last.position]) else None


def concluded(text: str, lines: list[tuple[int, int]], options: Options) -> Choice | None:
    """Return the option of a last line or conclusion: a letter in brackets, or one with its option's text."""
    if not lines:
        return None
    start, end = lines[-1]
    letters = [] if is_dismissed(text[start:end]) else bracketed(text, start, end, options)
    if len({c.position for c in letters}) == 1:
        return letters[-1]
    if (
        letters
        and text[letters[-1].end : end].strip(" .!\"'") == ""
        and _CONCLUDES.match(text, _sentence_start(text, letters[-1].start))
    ):
        return letters[-1]
    labelled = []
    for choice in bracketed(text, 0, len(text), options):
        named = options.at(text[choice.end : choice.end + 120].lstrip()) if options.texts else None
        if named is not None and named.position == choice.position and named.start <= 4:
            labelled.append(choice)
    if len({c.position for c in labelled}) == 1:
        return Choice(labelled[0].position, labelled[0].start, labelled[0].end, "labelled")
    return None


def _sentence_start(text: str, place: int) -> int:
    spans = sentences(text[max(0, place - 300) : place])
    return max(0, place - 300) + spans[-1][0] if spans else place


def _without_questions(text: str, spans: list[tuple[int, int]]) -> str:
    """Return a text with blanks in place of its questions, which name options only to ask."""
    pieces, done = [], 0
    for start, end in spans:
        if text[end - 1] == "?" and not _TAG_QUESTION.search(text[max(start, end - 20) : end]):
            pieces += [text[done:start], " " * (end - start)]
            done = end
    return "".join(pieces) + text[done:]


def mentioned(text: str, options: Options) -> Choice | None:
    """Return the option whose text a reply names in a sentence: the only one of all, or of its conclusion."""
    if options.is_binary or not options.texts:
        return None
    spans = without_chatter(text, sentences(text))
    if not spans or is_refusal(text[spans[0][0] : spans[-1][1]]):
        return None
    stop = spans[-1][1]
    mentions = options.mentions(_without_questions(text, spans)[:stop])
    plain = [m for m in mentions if not negated(text, m.start) and not _DENIED.match(text, m.end)]
    if len({m.position for m in mentions}) == 1:
        return Choice(plain[0].position, plain[0].start, plain[0].end, "option_named") if plain else None
    if len({m.position for m in plain}) == 1:
        return Choice(plain[0].position, plain[0].start, plain[0].end, "option_named")
    for start, end in reversed(spans[-3:]):
        if not _CONCLUDES.match(text, start, end):
            continue
        cut = REASON.search(text, start + 8, end)
        inside = [m for m in plain if start <= m.start < (cut.start() if cut else end)]
        if len({m.position for m in inside}) == 1:
            return Choice(inside[0].position, inside[0].start, inside[0].end, "conclusion")
        return None
    for start, end in (spans[0], spans[-1]):
        for mention in plain:
            before = text[start : mention.start]
            if (
                start <= mention.start < end
                and re.search(r"\b(?:is|are|be|called)\s+(?:an?\s+|the\s+)?$", before, re.IGNORECASE)
                and (not text[mention.end : end].strip(" .!\"'") or _WHEREAS.match(text, mention.end, end))
                and not _WHEREAS.search(before)
            ):
                return Choice(mention.position, mention.start, mention.end, "option_named")
    return None
