"""Numbers as they are written: digits with separators, fractions, powers, currencies and multipliers, or words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from harness_ext.reading.number_words import PHRASE, SCALES, words_number

LONGEST = 100  # digits; what is longer is a model repeating itself
LARGEST_POWER = 400

_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5),
    "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9),
    "⅒": (1, 10),
}  # fmt: skip
_SIGN = r"[-+–]"
CURRENCY = (
    r"(?:(?:US|CA|AU|NZ|HK|S|A|C|R|NT|MX)?\$|[€£¥₹₩₽₺₫฿₦₱₴₪¢]|\b(?:USD|EUR|GBP|JPY|INR|CNY|RMB|CHF|CAD|AUD"
    r"|SGD|NZD|HKD|KRW"
    r"|BRL|MXN|ZAR|SEK|NOK|DKK|PLN|TRY|RUB|AED|PKR|BDT|NGN|PHP|THB|MYR|IDR|Rs|RM)(?![A-Za-z])\.?)"
)
NUMBER = re.compile(
    r"(?P<other>(?<![\w.,/-])(?:\d{1,4}([-/.])\d{1,2}\2\d{1,4}(?![\d])|\d{1,3}:\d{1,3}(?::\d{1,3})*(?!\d)))|"
    rf"(?<![A-Za-zÀ-ɏ0-9_.,/^])(?<!\d:)(?:(?P<minus>(?:minus|negative)\s{{1,2}})"
    rf"|(?P<sign>{_SIGN})(?=[\d.$€£¥₹½⅓⅔¼¾⅛A-Z]))?"
    rf"(?:(?P<unit>{CURRENCY})\s?)?(?P<sign2>[-–](?=[\d.]))?"
    r"(?:"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?![\d])(?!,\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d{1,3}(?:['_]\d{3})+(?!\d)"
    r"|\d{1,3}(?:\.\d{3})+(?=,\d{1,2}(?!\d))|\d{1,3}(?:\.\d{3}){2,}(?![\d.])"
    r"|\d{1,3}(?: \d{3})+(?![\d,/]|\.\d| \d|-[A-Za-z])|\d+)"
    r"(?P<part>\.\d+|,\d{1,2}(?![\d,]))?|(?P<bare>\.\d+)|(?=[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒])"
    r")"
    r"(?:(?P<exp>[eE][-+]?\d{1,3})(?!\w)"
    r"|(?:\s?[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒])"
    r"|\s?(?:and |& |-)?(?P<above>\d{1,4})\s?/\s?(?P<under>\d{1,4})(?![\d/]|\.\d)"
    r"|\s?/\s?(?P<below>\d+(?:,\d{3})*)(?P<root>\^\(?-?\d{1,4}\)?)?(?![\d/])"
    r"|\^\(?(?P<power>-?\d{1,4}(?:/\d{1,3})?)\)?(?![\w/])"
    r")?"
    r"(?:\s?[×x*·]\s?10\s?\^\s?\(?(?P<tens>[-+]?\d{1,3})\)?)?"
    r"(?P<scale>(?:(?:\s|-)?(?:hundreds?|thousands?|millions?|billions?|trillions?|dozens?|lakhs?|crores?)\b"
    r"|\s?(?:k|K)(?![\w.])(?!\s?[A-Z])|(?:M|bn|Bn|tn|mn)\b| (?:mn|bn|tn)\b)(?:\s(?:thousand|million"
    r"|billion|trillion|dozen)\b)?)?"
    r"(?P<half>\sand\sa\shalf\b)?(?P<percent>\s?%)?"
)
_SHORT = {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "tn": 10**12}
_ENDLESS = re.compile(r"[eE][-+]?\d")  # an exponent of more digits than anybody means
_MONEY_MILLIONS = re.compile(r"\s?(?:m|M|b|B)(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number and where it stands; `value` is None for one that has none (`5/0`) or is not one (a date)."""

    value: Fraction | None
    start: int
    end: int
    words: bool = False


def numerals(text: str, start: int = 0, end: int | None = None) -> list[Numeral]:
    """Return the numbers that a part of a text writes in digits, in their order."""
    end = len(text) if end is None else end
    return [_numeral(match, end) for match in NUMBER.finditer(text, start, end) if match[0]]


def word_numerals(text: str, start: int = 0, end: int | None = None) -> list[Numeral]:
    """Return the numbers that a part of a text writes in words."""
    found = []
    for match in PHRASE.finditer(text, start, len(text) if end is None else end):
        said = match[0].lower()
        read = words_number(match[0])
        alone = said == "one" and re.match(
            r"\s+(?:of|another|more|can|could|must|should|way|option|who|that|would)\b",
            text[match.end() : match.end() + 12],
        )
        if (
            read is None
            or alone
            or re.match(r"-?[A-Za-z]", text[match.start() + read[1] : match.start() + read[1] + 2])
        ):
            continue
        found.append(Numeral(read[0], match.start(), match.start() + read[1], words=True))
    return found


def _numeral(match: re.Match[str], limit: int) -> Numeral:
    start, end = match.span()
    text = match.string
    while end > start and text[end - 1] == " ":
        end -= 1
    if match["other"] is not None:
        return Numeral(None, start, end)
    value = None if _ENDLESS.match(text, end) else _value(match)
    if value is not None and match["unit"] and not match["scale"] and (m := _MONEY_MILLIONS.match(text, end, limit)):
        scale = 10**6 if m[0].strip() in "mM" else 10**9
        return Numeral(value * scale, start, m.end())
    return Numeral(value, start, end)


def _value(match: re.Match[str]) -> Fraction | None:
    whole, part = match["whole"] or "", match["part"] or match["bare"] or ""
    digits = re.sub(r"\D", "", whole)
    if len(digits) + len(part) > LONGEST:
        return None
    value = Fraction((digits or "0") + part.replace(",", "."))
    vulgar = next((c for c in match[0] if c in _VULGAR), None)
    if vulgar:
        value += Fraction(*_VULGAR[vulgar])
    elif match["exp"]:
        value *= Fraction(10) ** int(match["exp"][1:])
    elif match["above"]:
        below = int(match["under"])
        if not below:
            return None
        value += Fraction(int(match["above"]), below)
    elif match["below"]:
        below = int(match["below"].replace(",", "")) if len(match["below"]) <= LONGEST else 0
        if match["root"]:
            raised = power(Fraction(below), match["root"].strip("^()"))
            if raised is None or not raised:
                return None
            value /= raised
        elif below:
            value /= below
        else:
            return None
    elif match["power"]:
        raised = power(value, match["power"])
        if raised is None:
            return None
        value = raised
    if match["tens"]:
        value *= Fraction(10) ** int(match["tens"])
    for scale in re.findall(r"[A-Za-z]+", match["scale"] or ""):
        value *= SCALES.get(scale.lower(), 0) or _SHORT[scale.lower()]
    if match["half"]:
        value += Fraction(1, 2) * (1 if not match["scale"] else 0)
    negative = (match["minus"] is not None) + (match["sign"] in ("-", "–")) + (match["sign2"] is not None)
    return -value if negative % 2 else value


def power(base: Fraction, exponent: str) -> Fraction | None:
    """Return a power with a whole exponent, None for one that is no whole number or too large to be meant."""
    try:
        n = int(exponent)
    except ValueError:
        return None
    size = max(abs(base.numerator), base.denominator).bit_length()
    if abs(n) > LARGEST_POWER or size * abs(n) > 4000 or (n < 0 and not base):
        return None
    return base**n
