"""Words for true and false: yes and no, correct and wrong, and their negations."""

from __future__ import annotations

import re

import harness_ext.reading.cues as cues

_YES = r"yes|yeah|yep|yup|true|correct|right|accurate|valid|affirmative|是的?|对|正确"
_NO = r"no|nope|false|incorrect|wrong|inaccurate|untrue|invalid|negative|否|不是|不对|不正确|错误?"
_HEDGE = (
    r"(?:(?:most|very|highly|more|quite|almost|fairly|likely|probably|definitely|certainly|absolutely"
    r"|clearly|simply|actually|indeed|"
    r"therefore|thus|hence|so|then|generally|basically|essentially|technically|entirely|completely|totally"
    r"|partially|partly|mostly|"
    r"largely|not surprisingly|surely|obviously|undoubtedly|possibly|perhaps|in fact|of course|also|still"
    r"|just|well|that|it is|it's|"
    r"this is|that is|that's|the (?:statement|sentence|claim|answer|assertion) is|a|the|to be|be"
    r"|in general|logically|factually|both)"
    r"[ \t,]{1,3}){0,4}"
)
_LEAD = (
    r"(?:(?:hm+|um+|uh+|oh|ah|well|sadly|unfortunately|fortunately|luckily|in short|in brief|tl;?dr|honestly|frankly"
    r"|(?:my |final )?verdict|(?:my |the )?short answer)[,:!.…]{0,3}[ \t]{1,3})?"
)
_POLAR = re.compile(
    rf"[\s\"'(\[*]{{0,6}}{_LEAD}{_HEDGE}[\"'(\[]?(?P<not>(?:not|isn't|is not|never|far from"
    rf"|neither)[ \t]{{1,3}}(?:(?:entirely|completely|quite|"
    rf"really|strictly|at all|exactly|necessarily|fully|actually|always)[ \t]{{1,3}})?)?(?:(?P<yes>{_YES})"
    rf"|(?P<no>{_NO}))(?![\w-])",
    re.IGNORECASE,
)
_PROBABLY_NOT = re.compile(
    r"\s*(?:most likely|probably|definitely|certainly|absolutely|of course|surely|apparently"
    r"|likely)[ ,]+not\b",
    re.IGNORECASE,
)
_OTHER = re.compile(
    rf"[\"')\]]?[ \t]{{0,3}}(?:,|or|and|/|&|nor)+[ \t]{{0,3}}(?:or|and)?[ \t]{{0,3}}[\"'(]?(?:{_YES}"
    rf"|{_NO})(?![\w-])(?!,? (?:the|it|that|this|is|as|because)\b)",
    re.IGNORECASE,
)
_BUT_NO = re.compile(r"\s*[\"']?\s*(?:,\s*)?(?:but|rather|;)\s*(?:rather\s+)?[\"']?(?P<word>\w+)", re.IGNORECASE)
# All that a reply says; with more behind it, it may be no more than a pleasantry.
_INTERJECTION = re.compile(
    r"\W*(?:(?P<yes>definitely|absolutely|certainly|of course|indeed|surely|exactly|without a doubt|i (?:think"
    r"|believe|guess) so)"
    r"|(?P<no>not at all|never|no way|of course not|hardly|not (?:really|necessarily|exactly)|i (?:do not"
    r"|don't) (?:think|believe) so))[.!]*\s*",
    re.IGNORECASE,
)
_BREAK = re.compile(r"[\"')]?\s*(?:[.,;:!—–(]|-\s|because\b|since\b|as\b)")
_SHORT = re.compile(r"(?:yes|yeah|yep|yup|no|nope)\Z", re.IGNORECASE)
_SHORT_GOES_ON = re.compile(
    r"\s+(?:it|they|he|she|you|we|i|this|that|there|indeed|and (?:that|it|this|they))\b", re.IGNORECASE
)
_SUBJECT = (
    r"(?:(?:the |this |that |its |your |above |given |following |first |whole |entire |original ){0,3}"
    r"(?:sentence|statement|claim|assertion|proposition|premise|assumption|fact|answer|hypothesis|idea|truth value)s?"
    r"(?:[ \t]{1,3}(?:above|below|given|here|itself|provided|in question|you (?:gave|provided|made|wrote)"
    r"|(?:given|provided) above|in the question|as (?:written"
    r"|given|stated)))?"
    r"(?:[ \t,:]{1,3}(?:\"[^\"\n]{1,400}\"|'[^\n]{1,400}?'(?=[ ,]))[,]?)?"
    r"(?:[ \t]{1,3}(?:that|about|on|of)\b(?:[^.!?\n]|(?<=\b[A-Z])\.|\.(?=\w)){1,160}?)?"
    r"|\"[^\"\n]{3,400}\"|\bthis|\bthat|\bit|\bwhich)"
)
_ASSERTED = re.compile(
    rf"(?<![\w'-]){_SUBJECT}[ \t]{{0,3}},?(?:(?:[ \t]{{1,3}}(?:\w+ly|therefore|thus|hence|then|also"
    rf"|still))?[ \t]{{1,3}}(?:is|was|are|must be|seems(?: to be)?"
    r"|sounds|looks|holds|proves|remains|rings|(?:makes|contains)(?=[ \t]+an?[ \t])|(?P<neg0>can(?:no|')t be|cannot be"
    r"|could(?:n't| not) be)"
    r"|appears(?: to be)?|would be|should be|(?:can|would|could|should|must) be considered(?: to be)?"
    r"|is considered(?: to be)?)|(?<=that)'s|(?<=it)'s"
    r"|'s)(?P<neg>n't|[ \t]{1,3}not|[ \t]{1,3}never)?[ \t]{1,3}"
    r"(?:(?:\w+ly|therefore|thus|indeed|in fact|just|also|hence|so|then|quite|most likely|very likely"
    r"|likely|at all|either|false and|not only)[ \t,]{1,3}){0,3}"
    rf"(?P<neg2>not[ \t]{{1,3}}(?:(?:\w+ly|quite|at all)[ \t]{{1,3}})?)?"
    r"(?:an?[ \t]{1,3}(?:very[ \t]{1,3})?(?=\w+[ \t]{1,3}(?:statement|claim|sentence|assertion|premise"
    r"|proposition|assumption)))?"
    rf"(?:(?P<yes>true|correct|right"
    rf"|accurate|valid|factual|the case)"
    rf"|(?P<no>false|incorrect|wrong|inaccurate|untrue|invalid|a (?:common )?(?:myth|misconception)"
    rf"|mistaken))(?![\w-])",
    re.IGNORECASE,
)
_MADE = re.compile(
    r"\b(?:mak(?:es|ing)|render(?:s|ing))[ \t]+(?:(?:the|this|that|it)\b[ \t]*(?:given |above )?)(?:sentence"
    r"|statement|claim"
    r"|assertion)?[ \t]*(?:(?P<yes>true|correct)|(?P<no>false|incorrect|wrong|untrue))(?![\w-])"
    r"|\b(?:i|we)(?:'d|[ \t]+would)?[ \t]+(?:rate|call|consider|deem|judge|find|label|mark)[ \t]+(?:the|this"
    r"|that|it)\b[ \t]*"
    r"(?:sentence|statement|claim|assertion)?[ \t]*(?:as |to be )?(?:(?P<held>true|correct)|(?P<denied>false"
    r"|incorrect|wrong|untrue))"
    r"(?![\w-])|\b(?:i|we)[ \t]+(?:(?:fully|completely|strongly)[ \t]+)?(?:(?P<agree>agree)"
    r"|(?P<disagree>disagree|(?:do not|don't) agree))"
    r"[ \t]+with[ \t]+(?:the|this|that)[ \t]+(?:sentence|statement|claim|assertion)\b",
    re.IGNORECASE,
)
# "I don't think that this is true" says that it is not.
_DOUBTED = re.compile(
    r"\b(?:i|we)[ \t]+(?:do not|don't|would not|wouldn't|cannot|can't)[ \t]+(?:think|believe|say"
    r"|agree)[ \t]+(?:that[ \t]+)?\Z",
    re.IGNORECASE,
)
_ANSWER_JUDGED = re.compile(
    r"\b(?:(?:final|own|proposed|given)[ \t]{1,3}){0,2}(?:answers?|reasoning|response|solution)[ \t]{1,3}"
    r"(?:is|are|was|were)(?:n't|[ \t]{1,3}not)?[ \t]{1,3}"
    r"(?:(?:\w+ly|therefore|thus|indeed|also|just|not|quite|most likely)[ \t,]{1,3}){0,3}"
    rf"(?:{_YES}|{_NO})(?![\w-])",
    re.IGNORECASE,
)
_OF_GRAMMAR = re.compile(r"\b(?:grammatical|syntactical|structural)ly\b", re.IGNORECASE)
_STRONG = re.compile(r"[^\"]{0,60}\b(?:sentence|statement|claim|assertion|proposition)", re.IGNORECASE)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|say|says|think|thinks|believe|believes|claim|suppose|many|some|unless|that"
    r"|assume)\b[^.!?\n]{0,24}\Z",
    re.IGNORECASE,
)


class Both(Exception):
    """A phrase says yes and no."""


def polar(phrase: str) -> tuple[bool, int, int] | None:
    """Return what a phrase begins with, true or false, and where the words for it stand. Raises Both for both."""
    found = _POLAR.match(phrase)
    if found is None:
        unlikely = _PROBABLY_NOT.match(phrase)
        return None if unlikely is None else (False, 0, unlikely.end())
    value = found["yes"] is not None
    word = found.start("yes") if value else found.start("no")
    if found["not"]:
        value, word = not value, found.start("not")
        turn = _BUT_NO.match(phrase, found.end())
        if turn and (other := _POLAR.match(turn["word"])):
            return other["yes"] is not None, turn.start("word"), turn.end("word")
        return value, word, found.end()
    if _OTHER.match(phrase, found.end()):
        raise Both
    return value, word, found.end()


def asserted(text: str) -> tuple[bool, int, int] | None:
    """Return whether the last assertion about a sentence or claim calls it true, and where it stands.

    What is said of "the sentence" or "the claim" counts before what is said of "this" or "it".
    """
    strong: tuple[bool, int, int] | None = None
    loose: tuple[bool, int, int] | None = None
    for match in _ASSERTED.finditer(text):
        said = (match["yes"] is not None) != bool(match["neg"] or match["neg2"] or match["neg0"])
        found = (said, match.start(), match.end())
        before = text[max(0, match.start() - 40) : match.start()]
        doubted = _DOUBTED.search(before) is not None
        if doubted:
            found = (not said, match.start(), match.end())
        if (
            (_SUPPOSED.search(before) and not doubted)
            or _OF_GRAMMAR.search(match[0])
            or text[match.end() : match.end() + 2].strip().startswith("?")
        ):
            continue
        follows = text[match.end() : match.end() + 5].lower()
        if _STRONG.match(match[0]):
            strong = found
        elif not follows.startswith((" that", " for ", " to ")) or match[0].lower().startswith("it"):
            loose = found
    made = list(_MADE.finditer(text))[-1:]
    if strong is None and made:
        return bool(made[0]["yes"] or made[0]["agree"] or made[0]["held"]), *made[0].span()
    return strong or loose


def without_judgements(text: str) -> str:
    """Return a text with blanks where it says whether somebody else's answer is right: "Agent 1's answer is wrong"."""

    def blank(match: re.Match[str]) -> str:
        before = text[max(0, match.start() - 40) : match.start()]
        return " " * len(match[0]) if cues.ANOTHERS.search(before) else match[0]

    return _ANSWER_JUDGED.sub(blank, text)


def ends_there(word: str, rest: str) -> bool:
    """Whether the word for yes or no that a phrase begins with stands apart from the rest."""
    if not rest.strip(" .!\"')*✅✓✔❌✗") or _BREAK.match(rest):
        return True
    return _SHORT.search(word) is not None and _SHORT_GOES_ON.match(rest) is not None


def interjection(text: str, start: int, end: int) -> bool | None:
    """Return what an interjection says that is all of a text: "Definitely!", "Not at all."."""
    found = _INTERJECTION.fullmatch(text, start, end)
    return None if found is None else found["yes"] is not None


def is_mixed(text: str) -> bool:
    """Whether a text says both yes and no: "yes and no", "true or false"."""
    try:
        polar(text)
    except Both:
        return True
    return False
