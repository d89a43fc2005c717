"""Taking Markdown, LaTeX, HTML and typographic variants out of a reply, so that the rules see plain words.

The passes keep the place of every character (see `source`). Two marks survive them: `OPEN` and `CLOSE`, private
characters around the content of `\\boxed{…}`.
"""

from __future__ import annotations

import re
import unicodedata

from harness_ext.reading.source import Source

OPEN, CLOSE = "\ue000", "\ue001"
LONGEST_BOX = 400

_PLAIN = {
    **dict.fromkeys("\u00a0\u1680\u202f\u205f\u3000", " "),
    **dict.fromkeys(map(chr, range(0x2000, 0x200B)), " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\ufe0f", "\ue002"),
    **dict.fromkeys("\u2028\u2029\x85\x0b\x0c", "\n"),
    **dict.fromkeys("‘’‛´ʼ′", "'"),
    **dict.fromkeys("“”„«»‟″「」『』", '"'),
    **dict.fromkeys("−‐‑﹣➖", "-"),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("【〔〖", "["),
    **dict.fromkeys("】〕〗", "]"),
    **dict.fromkeys("、﹐", ","),
    **dict.fromkeys("⇒⟶⟹➜➔⮕▶►", "→"),
    "\r": " ", "\t": " ", "٫": ".", "٬": ",", "،": ",", "。": ".", "٪": "%", "∶": ":", "꞉": ":", "∗": "*", "⋅": "·",
    OPEN: " ", CLOSE: " ", "\ue002": " ",
}  # fmt: skip


class _Table(dict[int, int]):
    """Maps each character to its plain form, worked out when it is first met."""

    def __missing__(self, code: int) -> int:
        char = chr(code)
        new = _PLAIN.get(char)
        if new is None and code > 127:
            kind, _, other = unicodedata.decomposition(char).partition(" ")
            if unicodedata.category(char) == "Nd":
                new = str(unicodedata.decimal(char))
            elif kind in ("<wide>", "<font>") or (kind == "<circle>" and len(other) == 4):
                new = chr(int(other, 16))
        self[code] = ord(new) if new and len(new) == 1 else code
        return self[code]


_TABLE = _Table()
_INVISIBLE = re.compile("\ue002+")
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_SUPERSCRIPT = re.compile(r"(?<=\d)[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")

_MATHS = re.compile(
    r"\\\\\$|\\[$%#&_{}]"  # escaped signs
    r"|\{[,.]\}"  # the comma of 12{,}400
    r"|\\[,;:! >](?!\w)|\\[,;:!>]|\\\\(?![A-Za-z])"
    r"|\\[()\[\]]|\$\$"
    r"|\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mathtt|bold|bf|mbox|hbox|operatorname"
    r"|emph|underline"
    r"|displaystyle|textstyle|left|right|big|Big|bigl|bigr|large|Large|huge|quad|qquad|dollar)\*?(?![A-Za-z])"
    r"|\\[dt]?frac(?![A-Za-z])\s{0,3}(?:\{[^{}\n]{1,80}\}\s{0,3}\{[^{}\n]{1,80}\}|\d\s?\d)"
    r"|\\(?:times|cdot|div|approx|pm|degree|circ|rightarrow|to|Rightarrow|implies|therefore|ldots|dots|pounds|euro)"
    r"(?![A-Za-z])"
)
_WORDS = {
    "times": "×", "cdot": "·", "div": "÷", "approx": "≈", "pm": "±", "degree": "°", "circ": "°", "rightarrow": "→",
    "to": "→", "Rightarrow": "→", "implies": "→", "therefore": "∴", "ldots": "…", "dots": "…", "pounds": "£",
    "euro": "€", "dollar": "$", "quad": " ", "qquad": " ",
}  # fmt: skip
_BOX = re.compile(r"(?:\\(?:boxed|fbox|framebox)|(?<![A-Za-z\\])boxed(?=\{))\s{0,3}(?:\{|(?P<bare>[^\s{}$\\]{1,40}))")
_BRACE = re.compile(r"\^\{([^{}\n]{1,40})\}|[{}]")
_SIMPLE = re.compile(r"[\w.,$%]+")
_POWER_DEGREE = re.compile(r"\^\s?°")

_TAGS = re.compile(
    r"</?(?:b|i|u|em|strong|p|br|hr|span|div|sub|code|pre|center|font|mark|big|small|h[1-6]|ul|ol|li"
    r"|sup)\b[^<>\n]{0,80}>",
    re.IGNORECASE,
)
_ANGLED, _CLOSING = re.compile(r"<([A-Z])>"), re.compile(r"</([A-Z])>")  # "Answer: <B>", which is no bold
_DOLLAR = re.compile(r"\$")
_DOLLAR_MATHS = re.compile(r"\$([^$\n]{1,200}?)\$(?!\d)")
# A star between two blanks, or between two words or numbers without blanks, is a multiplication.
_EMPHASIS = re.compile(
    r"`+|~~|\*{2,}|(?<![\w)%\s])\*|\*(?![\w(\s$€£.-])|(?<=\s)\*(?=\S)|(?<=\S)\*(?=\s)|\A\*(?=\S)|\*\Z"
    r"|(?<![A-Za-z0-9])_{1,3}(?=\S)|(?<=\S)_{1,3}(?![A-Za-z0-9_])"
)
_LINE_STARTS = re.compile(
    r"(?m)^[ ]{0,12}(?:>[ >]{0,6})?(?:#{1,3}(?!#)[ ]{0,3}|#{5,6}[ ]{1,3}|[-+•*–—▪◦●][ ]{1,4}(?!\d*\s*$)|\|[ ])"
)
_QUOTE_WITHIN = {'"': re.compile('"'), "'": re.compile(r"(?<!\w)'|'(?!\w)")}  # not I'm
_DOUBLE_STAR = re.compile(r"(?<=\d)\*\*(?=-?\d)")


def plain_characters(source: Source) -> Source:
    """Return the text with full-width letters, foreign digits, quotes and blanks as plain ones."""
    if source.text.isascii():
        text = source.text
        return (
            source.same_length(text.translate({13: 32, 9: 32, 11: 10, 12: 10}))
            if "\r" in text or "\t" in text
            else source
        )
    source = source.same_length(source.text.translate(_TABLE)).rewrite(_INVISIBLE, "")
    return source.rewrite(_SUPERSCRIPT, lambda m: "^" + "".join(_SUPERSCRIPTS[c] for c in m[0]))


def clean(source: Source) -> Source:
    """Return the text as plain words: no markup is left but the marks of boxes and `####`."""
    source = plain_characters(source)
    if "\\" in source.text or "{" in source.text or "$" in source.text or "boxed" in source.text:
        source = _without_maths(source)
    if "<" in source.text:
        closed = {match[1] for match in _CLOSING.finditer(source.text)}
        source = source.rewrite(_ANGLED, lambda m: None if m[1] in closed else f"({m[1]})").rewrite(_TAGS, " ")
    if any(mark in source.text for mark in "*_`~"):
        source = source.rewrite(_DOUBLE_STAR, "^").rewrite(_EMPHASIS, "")
    return _without_quotes(source.rewrite(_LINE_STARTS, ""))


def _without_quotes(source: Source) -> Source:
    """Return the text without the quotation marks around the whole of it."""
    bare = source.text.strip()
    if (
        len(bare) > 1
        and bare[0] in "\"'"
        and bare[-1] == bare[0]
        and not _QUOTE_WITHIN[bare[0]].search(bare, 1, len(bare) - 1)
    ):
        start = source.text.index(bare[0]) + 1
        return source[start : start + len(bare) - 2]
    return source


def _without_maths(source: Source) -> Source:
    source = source.rewrite(_MATHS, _maths)
    source = _boxes(source)
    source = source.rewrite(_BRACE, _braces)
    source = source.rewrite(_POWER_DEGREE, "°")
    pairs = [match for match in _DOLLAR_MATHS.finditer(source.text) if _encloses_maths(match[1])]
    signs = {place for match in pairs for place in (match.start(), match.end() - 1)}
    return source.rewrite(_DOLLAR, lambda match: "" if match.start() in signs else None)


def _maths(match: re.Match[str]) -> str:
    said = match[0]
    if said in ("\\{", "\\}"):
        return " "
    if said.startswith("\\\\") and said.endswith("$"):
        return "$"
    if said[0] == "{":
        return said[1]
    if said[0] != "\\" or said == "\\\\":
        return " "
    name = said[1:].rstrip("*")
    if name in ("$", "%", "#", "&", "_"):
        return name
    if name[0] in ",;:! >":
        return ""
    if "frac" in name[:5]:
        return _fraction(match)
    return _WORDS.get(name, " " if name in ("[", "]", "(", ")") or name.startswith("text") else "")


def _fraction(match: re.Match[str]) -> str:
    parts = re.findall(r"\{([^{}\n]*)\}", match[0]) or re.findall(r"\d", match[0])
    above, below = (part.strip() for part in parts[:2])
    sign = "-" if above.startswith("-") else ""
    sides = [side if _SIMPLE.fullmatch(side) else f"({side})" for side in (above.lstrip("-").strip(), below)]
    joined = match.start() > 0 and match.string[match.start() - 1].isdigit()
    return f"{' ' if joined else ''}{sign}{sides[0]}/{sides[1]}"


def _boxes(source: Source) -> Source:
    """Put private marks around the content of boxes; one that never closes is none."""
    text = source.text
    if "box" not in text:
        return source
    ends: set[int] = set()

    def opened(match: re.Match[str]) -> str:
        if match["bare"] is not None:
            return f"{OPEN}{match['bare']}{CLOSE}"
        depth = 1
        for i in range(match.end(), min(len(text), match.end() + LONGEST_BOX)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                ends.add(i)
                return OPEN
        return ""

    opening = {match.span(): opened(match) for match in _BOX.finditer(text)}
    # Both ends are put in in one pass over the same text, so that their places are right.
    return source.rewrite(
        re.compile(rf"{_BOX.pattern}|\}}"),
        lambda m: opening.get(m.span()) if m[0] != "}" else (CLOSE if m.start() in ends else None),
    )


def _braces(match: re.Match[str]) -> str:
    power = match[1]
    if power is None:
        return ""
    return f"^{power}" if re.fullmatch(r"-?\w+|°", power.strip()) else f"^({power})"


def _encloses_maths(inner: str) -> bool:
    """Whether two dollar signs enclose maths, and are not those of two amounts of money: "$5 and $6"."""
    if inner != inner.strip() and re.match(r"\s?\d", inner):
        return False
    return not (re.match(r"[\d.]", inner) and re.search(r"[A-Za-z]{3,}|[.!?]\s", re.sub(r"\\[A-Za-z]+", "", inner)))
