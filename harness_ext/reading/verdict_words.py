"""The words of verdicts, as patterns."""

from __future__ import annotations

import re

from harness_ext.reading.cleaning import OPEN

# Behind other words; a review may well put its own verdict in quotes, or write JSON.
QUOTED = re.compile(
    r"(?<=[^\s`\"“][ \t])(?:`[^`{\n]{1,300}[ \t][^`{\n]{1,300}`|[\"“][^\"“”{\n]{1,300}[ \t][^\"“”{\n]{1,300}[\"”])"
)
_POSITIVE = r"correct|right|accept(?:ed|able)?|approved?|pass(?:ed)?|valid|true|yes|accurate"
_NEGATIVE = (
    r"incorrect|wrong|reject(?:ed)?|fail(?:ed)?|invalid|false|no|inaccurate|(?:partially|partly|mostly"
    r"|almost|nearly|not(?: quite| entirely| fully)?)[ \t]+(?:correct|right|accepted)|needs? (?:revision"
    r"|work|improvement)"
)
FIELD = re.compile(
    r"[\"'](?P<key>verdict|judge?ment|decision|assessment|evaluation|correct|is_correct|iscorrect|accepted"
    r"|accept|correctness|grade|status|result|label|is_accepted|answer_correct)[\"']"
    rf"\s*:\s*(?:[\"']\s*(?:(?P<yes>{_POSITIVE})|(?P<no>{_NEGATIVE}))\s*[.!]?[\"']|(?P<true>true|1\b)"
    rf"|(?P<false>false|0\b))",
    re.IGNORECASE,
)
LABEL = re.compile(
    r"(?:\b(?P<final>final|overall)?[ \t]*(?:verdict|judge?ment|decision|assessment|conclusion|evaluation"
    r"|correctness|status|grade|my rating|ruling|(?:review|feedback|teacher|reviewer|critique)(?=:))\b[ \t]*"
    r"(?:(?:of the (?:draft|answer|student's answer)|on the (?:draft|answer)|is)[ \t]*)?(?:[:=]|->|→|—|–"
    r"|-(?=[ ])|[ \t](?:is|=)[ \t]|\n|(?<=is))\s{0,4}"
    rf"|\[\[\s*|<(?:verdict|judge?ment|decision|answer)>\s*|{OPEN}\s*)[\W_]{{0,4}}(?=[A-Za-z✅❌✔✗])",
    re.IGNORECASE,
)
# A review that gives its verdict as its answer; any other answer is no verdict.
ANSWERED = re.compile(
    r"\b(?:answer|result|response)(?: is)?:[\W_]{0,5}(?P<word>(?P<no>in|not )?correct)\b(?![ \t]+(?:answer|is|:))",
    re.IGNORECASE,
)
START = re.compile(r"[\W_]{0,12}(?:\d{1,2}[.)][ \t]{1,3}|A:[ \t]{1,3})?[\W_]{0,8}")
WORD = re.compile(
    rf"(?:(?:it|that|this|the answer|the draft|the student's answer|answer)(?:[ \t]+is"
    rf"|'s)[ \t]+)?(?:(?:absolutely|entirely|completely|fully|totally|quite|indeed|definitely"
    rf"|yes,?)[ \t]+)?"
    rf"(?P<no>{_NEGATIVE})(?![\w-])|(?:(?:it|that|this|the answer|the draft|the student's answer"
    rf"|answer)(?:[ \t]+is|'s)[ \t]+)?"
    rf"(?:(?:absolutely|entirely|completely|fully|totally|quite|indeed|definitely"
    rf"|yes,?)[ \t]+)?(?P<yes>{_POSITIVE})(?![\w-])",
    re.IGNORECASE,
)
FIRST_NO = re.compile(
    r"(?P<word>(?:(?:all|totally|completely|entirely|clearly|simply)[ \t]+)?(?:incorrect|wrong)|not (?:quite "
    r"|entirely |fully |really |yet )?(?:correct|right"
    r"|accurate|good|there|quite)|not quite|not exactly|not (?:correct|right)|nope|partially|partly|nearly|mostly"
    r"|almost|close,|half[ -](?:right|correct)|"
    r"(?:unacceptable|invalid|inaccurate|reject|rejected|fail|failed)(?=[ \t]*(?:$|[\n.!:;,]))|"
    r"unfortunately|sadly|no[,.!:;—–-]|no(?=\s*$))(?![\w'])",
    re.IGNORECASE,
)
FIRST_YES = re.compile(
    r"(?P<word>(?:(?:absolutely|completely|entirely|totally|all|quite)[ \t]+|(?:yes|yep|yup|yeah"
    r"|indeed)\W{1,4})?(?P<core>correct|right"
    r"|perfect|exactly right|accurate|accepted|accept|approved"
    r"|(?:acceptable|approve|valid|pass|passed|agreed|verified|confirmed|lgtm)(?=[ \t]*(?:$|[\n.!:;,]))))(?![\w'-])",
    re.IGNORECASE,
)
GIVES = re.compile(
    r"[ \t]+(?:final[ \t]+)?(?:answer|solution|result|option|choice|response|value|total|statement"
    r"|number)s?[ \t]*(?:[:=]|->|→|[ \t](?:is|was|should|would|must|will)\b)"
    r"|[ \t]+(?:is|was|would be|should be)[ \t]|[ \t]+(?:final[ \t]+)?answer\s{1,4}(?<=\n)[(\[$]?(?:-?\d"
    r"|(?-i:[A-J])\b)",
    re.IGNORECASE,
)
ORDER = re.compile(
    r"[ \t]+(?:the|your|this|that|it|these|those|step|line|any|him|her|them|its|all|each|every|yourself"
    r"|and resubmit|what|where)\b(?!\s+(?:way|track))",
    re.IGNORECASE,
)
PARTLY = re.compile(
    r"[ \t]+(?:up to|until|so far|except|apart from|through|as far as|only|in part|for the first"
    r"|for step)\b",
    re.IGNORECASE,
)
CONTRAST = re.compile(
    r"\b(?:but|however|though|although|yet|except|unfortunately|nevertheless|nonetheless|still|only|while"
    r"|whereas)\b",
    re.IGNORECASE,
)
BOTH = re.compile(r"\b(?:in)?correct\b[\W_]{0,6}(?:or|and|/|\|)?[\W_]{0,6}\b(?:in)?correct\b", re.IGNORECASE)
OWN_NO = re.compile(
    r"[\W_]{0,8}(?:\d{1,2}[.)][ \t]+)?[\W_]{0,4}(?:(?:or|so|hence|therefore|thus"
    r"|verdict:?)[ \t,]+)?(?:it is |it's |that is |that's )?(?:incorrect|wrong|not correct"
    r"|no)[\W_]*\Z",
    re.IGNORECASE,
)
OWN_YES = re.compile(
    r"[\W_]{0,8}(?:\d{1,2}[.)][ \t]+)?[\W_]{0,4}(?:(?:or|so|hence|therefore|thus"
    r"|verdict:?)[ \t,]+)?(?:it is |it's |that is |that's )?(?:all )?(?:correct|right|accepted)[\W_]*\Z",
    re.IGNORECASE,
)
MARKS = re.compile(r"\s*(?P<yes>[✅✔☑👍💯])|\s*(?P<no>[❌✗✘✖👎🚫])")
PARTS = frozenset("reasoning method approach steps step logic idea setup start calculation working thinking".split())
WRONG = re.compile(r"\b(?:wrong|incorrect|incomplete|unfinished)\b", re.IGNORECASE)
OF_ANSWER = re.compile(r"\b(?:answer|solution|draft|conclusion|result)\b", re.IGNORECASE)
CONCLUDES = re.compile(
    r"(?:\A|[.!?\n]\s*)(?:so|overall|therefore|thus|hence|in conclusion|in summary|finally)\b[^.!?\n]*\Z", re.IGNORECASE
)
ECHO = re.compile(r"_____|-----")
# Verdicts only where they are the whole review: with more behind them they may answer the draft's question.
ALONE_YES = re.compile(
    r"[\W_]*(?:checks out|(?:i have )?no objections|bingo|solid work|(?:the|your) answer stands|yes|yep|yeah|ok"
    r"|okay|good|great|fine|sound|superb|brilliant|(?:\(?(?-i:[A-J])\)?|[$€£]?-?[\d.,]*\d)"
    r"[ \t]is[ \t](?:(?:the )?(?:correct|right)(?: answer)?))[.!]*\s*",
    re.IGNORECASE,
)
ALONE_NO = re.compile(
    r"[\W_]*(?:bad|poor|no|nope|i don't think so|i do not think so|i'm afraid not"
    r"|\(?(?-i:[A-J])\)?[ \t]is[ \t](?:wrong|incorrect)"
    r"|[$€£]?-?[\d.,]*\d[ \t]is[ \t](?:wrong|incorrect|not correct))[.!]*\s*",
    re.IGNORECASE,
)
TICK, CROSS = re.compile(r"[✅✔☑✓]"), re.compile(r"[❌✗✘✖]")
# "Is it correct? Yes.", "Accepted: no"
ASKED = re.compile(
    r"\b(?:correct|right|accept|accepted|acceptable|valid|approved)\b[ \t]*[?:=][\W_]{0,4}(?:(?P<yes>yes)"
    r"|(?P<no>no|nope|false))"
    r"(?=[*_\"']{0,3}[ \t]*(?:$|[.!,;\n]))",
    re.IGNORECASE,
)
