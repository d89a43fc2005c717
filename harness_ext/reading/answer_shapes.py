"""What answers of a known shape look like: times, dates, scores, and what stands around a number."""

from __future__ import annotations

import re

TIME = re.compile(
    r"(?:at |about |around )?(\d{1,2})(?::([0-5]\d))?(?::[0-5]\d)? ?([ap])\.? ?m\b\.?(?: (?:today|tomorrow"
    r"|(?:on|in) .{1,40}))?",
    re.IGNORECASE,
)
SCORE = re.compile(r"\d{1,4} ?[-–] ?\d{1,4}|\d{1,4}[-–:]\d{1,4}(?:[-–:]\d{1,4})?")
DATE = re.compile(
    r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}|(?:(?:\d{1,2}(?:st|nd|rd|th)? )?(?:jan|feb|mar|apr|may|june?|july?"
    r"|aug|sep|oct|nov|dec)[a-z]*\.?"
    r"(?: \d{1,2}(?:st|nd|rd|th)?)?,? ?(?:\d{4})?)",
    re.IGNORECASE,
)
TUPLE = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]")
# A number that a formula begins with, and one with a unit: `2x + 1`, `48 m^2`.
GOES_ON = re.compile(
    r"\s?[a-df-gi-kn-rt-zA-Z(\\^]\)?(?:\s?[-+*/^=(]|$)|\s?(?:[A-Za-z]\s?)?[-+*/^]\s?\d{0,9}\s?[A-Za-z(\\]"
    r"|\s?[A-Za-z]\^|\s?\\"
)
UNIT_POWER = re.compile(
    r"\s?(?:[kcmd]?m|ft|in|yd|mi|units?|[kcm]?[gslhLCFK])(?:\^?\(?[23]\)?)?(?:/\w{1,4}(?:\^2)?)?\W*\Z"
)
# What may stand before a number without making it a name's: "it's 36", "at least 36".
LEAD = re.compile(
    r"^\s*(?:(?:it(?:'s| is| was| would be)|that(?:'s| is)|there (?:are|were|is)|this is|at (?:least|most)|up to"
    r"|no more than|no less than|more than|less than|just|only|roughly|almost|nearly|close to|somewhere around"
    r"|i(?:'d| would) say|i (?:guess|think)|probably|maybe|perhaps|hm+|so|easy|sure|well|ans)\b[,.!:]*\s*)+",
    re.IGNORECASE,
)
EQUATION = re.compile(r"[A-Za-z][\w ]{0,40}=")
VERB_OR_SIGN = re.compile(
    r"[=:≈]|\b(?:is|are|was|were|be|has|have|had|needs?|makes?|made|earns?|earned|pays?|paid|costs?|gets?"
    r"|gives?|gave|left|sold|sells?|spends?|spent|saves?"
    r"|saved|totals?|equals?|about|around|approximately|exactly|only|roughly|nearly|almost|just|over|of|to"
    r"|at|with|for|by|takes?|took|holds?|weighs?|lasts?)\b"
    r"|\b[a-z]+ [a-z]+ [a-z]+ *$",
)
ASKED = re.compile(r"(?m)^[ \t]*(?:Q|Question)[ \t]*:")
POLAR_WORDS = frozenset({"yes", "no", "true", "false", "yeah", "yep", "nope", "yup", "untrue"})
# A number that is said, and is no part of a name: "I calculated 42", "He's 12", but "Apollo 11".
COUNTED = re.compile(r"(?:[a-z]ed|'s|,|\b(?:is|are|gives?|get))\s+[$€£]?\d+(?![:/-])", re.IGNORECASE)
