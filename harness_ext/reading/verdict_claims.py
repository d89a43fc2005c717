"""What the sentences of a review claim about a draft: that it is right, or that it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ANSWER = (
    r"answer|solution|result|conclusion|response|draft|reply|output|submission|work|student|everything"
    r"|all of it|it|this|that|which|you|he|she|they|total|number|value|choice|option|verdict|sum|product"
)
_PART = (
    r"reasoning|steps?(?: \d+)?|logic|calculations?|computation|statement|line(?: \d+)?|approach|method"
    r"|explanation|argument|working|part|equation|arithmetic|maths?|formula|units?|sign|multiplication|division"
    r"|addition|subtraction|assumption|premise|inference"
)
_RIGHT = (
    r"correct|right|accurate|valid|perfect|fine|sound|good|flawless|spot on|spot-on|exactly right"
    r"|acceptable|consistent with"
)
_WRONG = (
    r"wrong|incorrect|mistaken|inaccurate|flawed|invalid|erroneous|incomplete|off(?= by|\b)"
    r"|unacceptable|unsupported|inconsistent|contradictory|"
    r"impossible|backwards|too (?:low|high|big|small|large)|contradicted"
)
_SUBJECT = re.compile(
    rf"(?<![\w'-])(?<!\bcorrect )(?<!\bright )(?<!\bactual )(?<!\bexpected )(?P<subject>(?:(?:the|this"
    rf"|your|his|her|their|its|student's|final|given|proposed|overall"
    rf"|whole|entire|stated|all|of|both|each|same|numerical|first|second|last|"
    rf"third)[ \t]+){{0,4}}(?:{_ANSWER}|{_PART})(?:[ \t]+(?:given|itself|here|above|of [^.!?\n]{{1,40}}?"
    rf"|\(?[\"']?[-$\w.]{{1,12}}[\"']?\)?))?(?:,[ \t]+[\"']?[-$\w.%]{{1,15}}[\"']?,)?)"
    r"(?P<cop>[ \t]+(?:is|are|was|were|looks?|seems?(?: to be)?|appears?(?: to be)?|remains?"
    r"|sounds?)(?P<neg>n't|[ \t]+(?:not|never|hardly|far from|anything but))?"
    r"|'s(?P<neg2>[ \t]+not)?|'re(?P<neg3>[ \t]+not)?"
    r"|[ \t]+(?P<neg4>(?:does|do|did|can|could|would|will|is|are|was)(?:n't|[ \t]+not)"
    r"|cannot)(?:[ \t]+(?:look|seem|appear|be|sound)(?: to be)?)?)"
    r"(?:[ \t]+(?:\w+ly|quite|very|so|also|all|both|indeed|in fact|therefore|thus|still|just|almost|now"
    r"|at all|a hundred percent|100%|again|however|already|not only)){0,3}"
    rf"[ \t]+(?P<neg5>not[ \t]+(?:quite[ \t]+|entirely[ \t]+|fully[ \t]+)?)?(?P<lead>(?:the|a"
    rf"|an)[ \t]+)?(?:(?P<right>{_RIGHT})|(?P<wrong>{_WRONG}))\b(?P<after>[ \t]+\w+)?",
    re.IGNORECASE,
)
_FAULTS = r"mistakes?|errors?|issues?|problems?|flaws?|faults?|inconsistenc(?:y|ies)|slips?"
_FLAWLESS = re.compile(
    rf"\b(?:no|without(?: any)?|free of|zero)[ \t]+(?:\w+[ \t]+(?:or[ \t]+\w+[ \t]+)?){{0,2}}"
    rf"(?:{_FAULTS})\b(?:[ \t]+(?:or|and|nor)[ \t]+(?:\w+[ \t]+)?(?:{_FAULTS})\b)?"
    rf"|(?:n't|\bnot|\bcannot|\bnever)[ \t]+(?:see|find|found|spot|detect|notice|have|make|made|commit"
    rf"|contain)[ \t]+(?:any(?:thing)?|an?|one)?[ \t]*(?:\w+[ \t]+){{0,2}}(?:{_FAULTS}|wrong|incorrect"
    rf"|missing)\b"
    r"|\bnothing[ \t]+(?:\w+[ \t]+){0,5}(?:wrong|incorrect|false|missing|to (?:fix|correct|change|add|improve))\b"
    rf"|\bunable to (?:find|see|spot|detect)[ \t]+(?:any|an?)[ \t]+(?:\w+[ \t]+)?(?:{_FAULTS})\b"
    rf"|\bnot (?:a|one) single[ \t]+(?:\w+[ \t]+)?(?:{_FAULTS})\b|\b(?:error|mistake)-free\b"
    rf"|(?:n't|\bnot)[ \t]+any(?:thing)?[ \t]+(?:\w+[ \t]+){{0,2}}(?:{_FAULTS}|wrong|incorrect|missing)\b"
    rf"|\bnone of (?:the |these |its )?\w+[ \t]+(?:is|are|was|were|contains?|has|have)[ \t]+(?:\w+[ \t]+){{0,2}}"
    rf"(?:wrong|incorrect|false|{_FAULTS})\b"
    r"|(?:\bnothing|n't|\bnot)[ \t]+(?:\w+[ \t]+)?needs?[ \t]+(?:to be[ \t]+)?(?:revis|correct|fix|rework|chang"
    r"|improv)\w*"
    r"|\bno[ \t]+(?:changes?|corrections?|revisions?)[ \t]+(?:\w+[ \t]+){0,2}(?:needed|necessary|required)\b",
    re.IGNORECASE,
)
_FAULTY = re.compile(
    rf"\b(?:there(?:'s| is| are| was| were| seems? to be)|contains?|has|have|had|made|makes|making|found"
    rf"|spotted|see|with|is|are|was|due to)[ \t]+"
    rf"(?:an?|some|two|three|several|the|one|multiple"
    rf"|\d+)[ \t]+(?:\w+[ \t]+){{0,3}}(?:{_FAULTS})\b(?![ \t]+(?:free|if))"
    rf"|\b(?:{_FAULTS})[ \t]+(?:in|on|at|with)[ \t]+(?:the |your |step |line )",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\b(?:should|ought to|must)(?:n't| not)?[ \t]+(?:be|have been|equal|read|say|have|give|come|add"
    r"|subtract|use|multiply|divide|include)\b(?![ \t]+(?:accepted|approved|marked (?:as )?correct))|\bshould've\b"
    r"|\b(?:does|do|did)(?:n't| not)[ \t]+(?:match|follow|answer|add up|hold|make sense|account|consider"
    r"|include|address|agree|support|equal|work|lead|take)\b"
    r"|\b(?:forgot|forgets|overlook(?:s|ed)?|missed|misses|misread|miscalculat\w+|miscount\w+|confus(?:es"
    r"|ed)|neglect\w*|ignor(?:es|ed)|omit\w*)\b"
    r"|\b(?:got|wrote|said|answered|used|put|chose)[ \t]+[^.!?\n]{1,30}\b(?:instead|rather than)\b|\binstead of\b"
    r"|\b(?:but|whereas|while|however,?)[ \t]+(?:the |your )?(?:student|you|draft|answer|reply"
    r"|solution)(?:'s answer)?[ \t]+(?:got|gave|gives|said|says|answered|wrote|states?|"
    r"stated|is|was|has|had|chose|claims?|concluded)\b"
    r"|\b(?:answer|result|total|conclusion|value)[ \t]+(?:is|was)(?:n't| not)\b(?! (?:wrong|incorrect"
    r"|false|mistaken|only))|\b(?:is|was) close but\b"
    r"|\bgot (?:it|this|that) wrong\b|\bbut (?:it|this|that|they|the answer)(?:'s| is| are| does)(?:n't"
    r"| not)\b(?! \w)"
    r"|\byou need to (?:add|subtract|use|multiply|divide|include|change|fix|correct|check)\b"
    r"|\bi (?:would )?suggest\b|\bi (?:dis|do(?:n't| not) )agree\b|\bnot (?:accept|acceptable|accepted"
    r"|quite|supported)\b"
    r"|(?<!reason to )\breject(?:ed|s)?\b|(?:\bcannot|\bnot|n't)[ \t]+(?:accept|approve|recommend)\b"
    r"|\b(?:draft|answer|solution|it|this|student|you)[ \t]+fail(?:s|ed)?\b(?! to (?:find|see))"
    r"|\bmakes?[ \t]+no[ \t]+sense\b"
    r"|\b(?:answer|draft|conclusion|reasoning|it|this|that)[ \t]+contradicts?\b|\b(?:step|line"
    r"|part)[ \t]+\d+[ \t]*[:–-][ \t]*(?:wrong|incorrect)\b"
    r"|\b(?:use[sd]?|using|appl(?:ies|ied)|has|have|gave|chose|picked)[ \t]+(?:the|a)[ \t]+wrong[ \t]+\w+"
    r"|\bthe wrong \w+[ \t]+(?:is|was)\b|\bsomething(?:'s| is| went)[ \t]+(?:\w+[ \t]+)?(?:wrong|off|missing)\b"
    r"|(?:\bnot|n't)[ \t]+pass\b"
    r"|\bneeds?[ \t]+(?:some |more )?(?:work|improvement|revision)\b|\balmost there\b|\bwould be (?:correct"
    r"|right) (?:if|had)\b"
    r"|(?m:^)(?:one |a |the )?(?:mistakes?|errors?):[ \t]+(?!none|no\b|0|nothing|n/a)|\bbut no(?=[ \t.!]*(?:\n|$))"
    r"|\b(?:student|you|draft)[ \t]+(?:(?:have|has)(?:n't| not)[ \t]+(?:yet[ \t]+)?|did(?:n't| not)[ \t]+)"
    r"(?!make|made|miss|forg|overlook|ignor|omit|confus|fail|skip|need|neglect|change)[a-z]+\b"
    r"|(?:=|\b(?:get|got|is|are|was|equals?|gives"
    r"|makes))[ \t]+[$€£]?-?\d[\d.,]*[ \t]+(?:and[ \t]+)?not[ \t]+[$€£]?-?\d|\bwrong answer\b"
    r"|\bincorrect answer\b|\b(?:wrong|incorrect) (?:final )?"
    r"(?:answer|result|conclusion)\b|\btry again\b|\bleft out\b|\bneeds? (?:to be )?(?:revis|correct|fix"
    r"|rework|chang)\w*",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"\b(?:the[ \t]+)?(?:correct|right|actual|true|expected|real)[ \t]+(?:final[ \t]+)?(?:answer|result"
    r"|solution|option|choice|conclusion|total|value|statement|number)[ \t]*(?::|=|->|[ \t](?:is|was"
    r"|should|would|must|ought|will)\b)"
    r"(?P<rest>[^!?\n]{0,200})",
    re.IGNORECASE,
)
_MATCHES = re.compile(
    r"\b(?:match|agree|same|as (?:the student|you|stated|given|the draft)|which is what|exactly what"
    r"|coincide|identical|also (?:got|gave|what)|student (?:is|got it|answered) (?:right|correct))",
    re.IGNORECASE,
)
_PRAISE = re.compile(
    r"\b(?:(?:every(?:thing)?|it|this|that|all|answer|reasoning|work|steps?"
    r"|maths?)[ \t]+(?:\w+[ \t]+)?(?:checks? out|adds? up|holds? up|is in order|makes sense|follows"
    r"|looks good|look good)"
    r"|(?<![\w'] )\b(?:looks|seems|sounds)[ \t]+(?:all[ \t]+)?(?:correct|right|good|fine|accurate)"
    r"|\b(?:answered|solved|calculated|computed|did|identified|worked|reasoned|applied|counted|interpreted"
    r"|done|followed|tracked)\b[^.!?\n]{0,60}\bcorrectly"
    r"|\b(?:has|have|gives?|gave|got|gets|arrive[sd]? at|leads? to|led to|yields?|obtain(?:s|ed)|reach(?:es|ed)"
    r"|found|provide[sd]?|chose|selected"
    r"|picked|came to)"
    r"[ \t]+(?:the|a)[ \t]+(?:correct|right)[ \t]+(?:\w+[ \t]+)?(?:answer|result|solution|conclusion"
    r"|option|choice|number)"
    r"|looks good(?: to me)?|all good|i (?:(?:fully|completely|totally|also|strongly) )?agree\b(?! that| it is)"
    r"|i(?:'d)? (?:(?:would|can|will|do|hereby) )?(?:accept|approve)\b|(?:should|can|could|may|would"
    r"|will) be (?:accepted|approved)"
    r"|(?:draft|answer|solution|it|this) passes\b|you(?:'ve| have)? (?:nailed|got) it\b(?! wrong)"
    r"|(?:find|consider|deem) (?:this|the|it)\b[^.!?\n]{0,20} (?:acceptable|correct|right)"
    r"|i also (?:get|got|find|found|obtain|arrive at)\b|i (?:get|got) [-$\d.,]+ (?:too|as well)|(?:got|gets|did"
    r"|has) it right|(?:is|are|was) accepted"
    r"|(?:correctly|rightly|accurately)[ \t]+(?:identif|calculat|answer|conclud|solv|f[io]nd|found|stat"
    r"|determin|deduc|appl|comput|interpret|reason|work|follow|infer|track)\w*"
    r"|match(?:es)?[ \t]+(?:the[ \t]+)?(?:correct|expected|right|my|solution|reference|answer key|story|context"
    r"|question|facts)"
    r"|i (?:also )?(?:got|get|come to|arrive at) the same|you are right|you're right)",
    re.IGNORECASE,
)
_KUDOS = re.compile(
    r"\A[\W_]{0,6}(?:well done|good job|great job|good work|great work|nice work|nicely done|well reasoned"
    r"|well explained|excellent(?: work| job| answer| reasoning)?|"
    r"perfect(?: answer| work)?|bravo|great answer|good answer|nice job|spot on|exactly|absolutely right"
    r"|that's it|right)\b",
    re.IGNORECASE,
)
_ONLY_A_TRY = re.compile(r"[ \t]+(?:start|try|attempt|up to|here|after|before|so far)\b")
_HINT = re.compile(
    r"\A[\W_]{0,6}(?:\d{1,2}[.)][ \t]+)?(?:please[ \t]+|then[ \t]+|now[ \t]+|try to[ \t]+|you (?:should"
    r"|need to|must|may want to)[ \t]+|let's[ \t]+)?"
    r"(?:hints?|(?:double[- ])?check|look (?:again|back|at|closely)|reconsider|consider|try again"
    r"|re-?check|re-?read|verify|revisit|review(?!:)|think (?:again|about)|go back|redo|recalculate|"
    r"recount|remember|revise|fix|issue|where did|pay attention|read|(?:don't|do not) forget|be careful)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    rf"\b(?:not|never|cannot|hardly|doubt(?:ful)?|unsure"
    rf"|[a-z]+n't)\b(?![ \t]+only)(?:[ \t]+\S+){{0,6}}?[ \t]+(?:{_RIGHT})\b",
    re.IGNORECASE,
)
_IS_PART = re.compile(rf"\b(?:{_PART})$", re.IGNORECASE)
_ANSWERS = frozenset("answer result conclusion solution choice one option reasoning response".split())
_TAKEN_BACK = re.compile(r"(?:\b(?:not|never|cannot)\b|n't)[^,;]{0,20}\Z", re.IGNORECASE)
_UNCERTAIN = re.compile(
    r"(?:\bno (?:reason|way|evidence|proof)|\bnot (?:sure|certain|clear|convinced|think|believe|say|know)"
    r"|\bunsure|n't (?:think|believe|say|know|tell|be sure|see (?:how|why|that))|\bcannot (?:say|tell)"
    r"|\b(?:whether|doubt|if|once|unless|would be|might be|may be|could be))\b"
    r"(?:(?!,?[ \t](?:but|however|yet)\b)[^.!?;]){0,40}\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim at a place of a text: `right` or not, about the whole draft or (`part`) about a step of it."""

    right: bool
    part: bool
    start: int
    end: int
    rule: str


def claims(text: str, start: int, end: int) -> list[Claim]:
    """Return the claims of one sentence, in their order."""
    found = [*_claims(text, start, end)]
    found.sort(key=lambda claim: claim.start)
    return found


def _claims(text: str, start: int, end: int) -> Iterator[Claim]:
    hidden: list[tuple[int, int]] = []

    def free(match: re.Match[str]) -> bool:
        return not any(a < match.end() and match.start() < b for a, b in hidden)

    for match in _FLAWLESS.finditer(text, start, end):
        hidden.append(match.span())
        yield Claim(True, False, *match.span(), "sentence")
    for match in _SUBJECT.finditer(text, start, end):
        if free(match) and (claim := _subject_claim(text, match, start)) is not None:
            hidden.append((match.start("cop"), match.end()))
            yield claim
    for match in _GIVEN.finditer(text, start, end):
        if free(match):
            same = _MATCHES.search(match["rest"]) is not None and not re.search(r"\b(?:but|not)\b|n't", match["rest"])
            hidden.append((match.start(), match.start("rest")))
            yield Claim(same, False, match.start(), match.start("rest"), "sentence" if same else "gives_answer")
    for match in _FAULTY.finditer(text, start, end):
        if free(match):
            yield Claim(False, False, *match.span(), "sentence")
    for match in _CORRECTION.finditer(text, start, end):
        if free(match):
            yield Claim(False, False, *match.span(), "sentence")
    for match in _PRAISE.finditer(text, start, end):
        before = text[max(start, match.start() - 30) : match.start()]
        if free(match):
            negative = _TAKEN_BACK.search(before + match[0].split()[0])
            yield Claim(not negative, False, *match.span(), "negated" if negative else "sentence")
    kudos = _KUDOS.match(text[start:end])
    if kudos and not _ONLY_A_TRY.match(text, start + kudos.end(), end):
        yield Claim(True, True, start + kudos.start(), start + kudos.end(), "praise")
    if hint := _HINT.match(text[start:end]):
        yield Claim(False, True, start, start + hint.end(), "hint")
    if (negation := _NEGATION.search(text, start, end)) and free(negation):
        yield Claim(False, False, *negation.span(), "negated")


def _subject_claim(text: str, match: re.Match[str], start: int) -> Claim | None:
    negative = any(match[name] for name in ("neg", "neg2", "neg3", "neg4", "neg5"))
    right = match["right"] is not None
    after = (match["after"] or "").strip().lower()
    subject = match["subject"].lower().split()[-1]
    if right and after in ("up", "until", "so", "except", "there", "before", "through"):
        right = False
    if not right and not negative and after in ("to", "that") and subject in ("it", "this"):
        return None
    if match["lead"] and after and after not in _ANSWERS:
        return None
    if (match["right"] or "").lower() == "good" and after in ("start", "try", "attempt", "idea", "question", "point"):
        return None
    if _UNCERTAIN.search(text[max(start, match.start() - 60) : match.start()]):
        return Claim(False, False, match.start(), match.end(), "negated")
    if re.search(r"\b(?:nearly|partially|mostly|partly|almost)\b", match[0], re.IGNORECASE):
        return Claim(False, False, match.start(), match.end(), "partly")
    part = _IS_PART.search(match["subject"]) is not None and not match["subject"].lower().startswith("all")
    return Claim(right != negative, part, match.start(), match.end(), "negated" if negative else "sentence")
