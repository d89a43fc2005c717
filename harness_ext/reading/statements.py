"""Where a reply marks what it answers: boxes, tags, `####`, `Answer:` and sentences such as "the answer is …"."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace

import harness_ext.reading.cues as cues
from harness_ext.reading.cleaning import OPEN
from harness_ext.reading.prose import sentence_end, sentences

MOST = 100  # statements of a reply that are tried
NEAR = 300  # characters between an answer and what takes it back
LONGEST = 600  # characters of a statement that are looked at


@dataclass(frozen=True, slots=True)
class Statement:
    """A place where a text states an answer: what it says stands from `start` to `end`.

    `negated` statements say what the answer is not; `doubtful` ones ask, report what others say, or suppose; `weak`
    ones have a word ("the result is") that also occurs in a calculation's middle. `others` is set where it is somebody
    else's answer ("Agent 1's answer is …").
    """

    rule: str
    at: int
    start: int
    end: int
    negated: bool = False
    doubtful: bool = False
    weak: bool = False
    option: bool = False
    others: bool = False


def statements(text: str) -> list[Statement]:
    """Return the statements of an answer in a clean text, in their order."""
    found = [*_sentences(text), *_headings(text)]
    found += [Statement("hashes", m.start(), m.end(), _line_end(text, m.end())) for m in cues.HASHES.finditer(text)]
    if OPEN in text:
        found += [Statement("box", m.start(), m.start(1), m.end(1)) for m in cues.BOX.finditer(text) if m[1].strip()]
    if "<" in text or "[" in text:
        found += _tags(text)
    found += _assertions(text)
    found += _corrections(text, found)
    found.sort(key=lambda s: (s.at, s.start))
    return _apart(found)


def _assertions(text: str) -> list[Statement]:
    """Return the subjects of "… is the answer"."""
    found = []
    for match in cues.ASSERTED.finditer(text):
        begin = max(0, match.start() - 120)
        spans = sentences(text[begin : match.start()])
        if spans:
            start = begin + spans[-1][0]
            supposed = cues.HYPOTHETICAL.search(text[start : match.start()]) is not None
            found.append(Statement("assertion", match.start(), start, match.start(), doubtful=supposed))
    return found


def _corrections(text: str, found: list[Statement]) -> list[Statement]:
    """Return the answers that take back one stated shortly before."""
    stated = sorted(s.start for s in found if not (s.weak or s.doubtful or s.negated))
    corrected = []
    for match in cues.CORRECTED.finditer(text) if stated else ():
        before = bisect_right(stated, match.start())
        if before and match.start() - stated[before - 1] < NEAR:
            end = _line_end(text, match.end())
            corrected.append(Statement("correction", match.start(), match.end(), end))
    return corrected


def _apart(found: list[Statement]) -> list[Statement]:
    """End each statement where the next one begins: "Final answer: the answer is 5" states one answer, not two."""
    apart = []
    nearest: int | None = None
    for statement in reversed(found):
        end = statement.end
        if nearest is not None and statement.rule not in ("assertion", "box") and statement.start <= nearest < end:
            end = nearest
        if end > statement.start:
            apart.append(replace(statement, end=end) if end != statement.end else statement)
        if not statement.weak and statement.rule != "assertion":
            nearest = statement.at
    return apart[::-1]


def certain(found: list[Statement]) -> list[Statement]:
    """Return the statements that say what the answer is, the last one first.

    A reply that states hundreds of answers repeats itself, so that no more than the last ones are tried.
    """
    return [s for s in found if not (s.weak or s.doubtful or s.others)][-MOST:][::-1]


def doubtful(found: list[Statement]) -> list[Statement]:
    """Return the statements that ask, suppose or report what the answer is, the last one first."""
    return [s for s in found if (s.doubtful or s.others) and not s.weak][-MOST:][::-1]


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start, start + LONGEST)
    return min(len(text), start + LONGEST) if end < 0 else end


def _tags(text: str) -> list[Statement]:
    found = []
    since = 0
    for match in cues.TAG.finditer(text):
        if match.start() < since:
            continue
        ended = cues.TAG_END.search(text, match.end(), match.end() + LONGEST)
        end = ended.start() if ended else min(len(text), match.end() + LONGEST)
        since = end
        if text[match.end() : end].strip():
            found.append(Statement("answer_tag", match.start(), match.end(), end))
    return found


def _headings(text: str) -> list[Statement]:
    """Return headings that stand alone on a line, with the answer on the next one."""
    found = []
    for match in cues.ALONE.finditer(text):
        end = _line_end(text, match.end())
        if cues.LABEL.match(text, match.end(), end) and not cues.SENTENCE.search(text, match.end(), end):
            continue
        found.append(Statement("heading", match.start(), match.end(), end))
    return found


def _sentences(text: str) -> list[Statement]:
    """Return sentences and labels that state an answer: "the answer is …", "Answer: …"."""
    matches = (*cues.SENTENCE.finditer(text), *cues.FOREIGN.finditer(text))
    return [found for match in matches if (found := _sentence(text, match)) is not None]


def _sentence(text: str, match: re.Match[str]) -> Statement | None:
    groups = match.groupdict()
    start = match.end()
    while start < len(text) and text[start] in " \t\"'":
        start += 1
    if start >= len(text) or text[start] == "\n":
        return None
    if echo := cues.PLACEHOLDER.match(text, start):
        start = echo.end()
    end = max(start, sentence_end(text, start, start + LONGEST))
    if field := cues.FIELD.match(text, match.end() - 1, match.end() + 400):
        start, end = field.span(1)
    noun = (groups.get("noun") or "answer").lower()
    option = cues.OPTION.match(noun) is not None
    if (option and not field and not _is_determined(text, match)) or _is_dash_in_prose(text, match, groups.get("mark")):
        return None
    labelled = groups.get("mark") is not None or groups.get("colon") is not None or not groups
    return Statement(
        "heading" if labelled else "statement",
        match.start(),
        start,
        end,
        negated=bool(groups.get("not") or groups.get("not2")),
        doubtful=_is_doubtful(text, match, groups.get("verb"), text[start:end]),
        weak=not (option or _is_strong(noun, match[0])),
        option=option,
        others=(groups.get("verb") or "").lower() in ("is", "are", "was", "were")
        and cues.ANOTHERS.search(text[max(0, match.start() - 40) : match.start()]) is not None,
    )


def _is_strong(noun: str, said: str) -> bool:
    """Whether a noun names the answer itself: a result does where it is the final one."""
    return "ans" in noun or "letter" in noun or (noun in ("result", "value") and cues.FINAL.match(said) is not None)


def _is_determined(text: str, match: re.Match[str]) -> bool:
    """Whether an option is the chosen one: "the option is", "Choice:", but not "one option is"."""
    before = text[max(0, match.start() - 80) : match.start()]
    adjective = match.start("noun") > match.start()
    return adjective or match[0][:1].isupper() or cues.DETERMINED.search(before) is not None


def _is_dash_in_prose(text: str, match: re.Match[str], mark: str | None) -> bool:
    """Whether the mark is a dash that labels nothing, since more stands before it in its line."""
    line = text[max(0, match.start() - 40) : match.start()].rpartition("\n")[2]
    return mark in ("—", "–", "-") and bool(line.strip(" *#>-"))


def _is_doubtful(text: str, match: re.Match[str], verb: str | None, said: str) -> bool:
    before = text[max(0, match.start() - 80) : match.start()]
    sentence = before[max(before.rfind(c) for c in ".!?\n") + 1 :]
    return (
        (said.rstrip(" )\"'").endswith("?") and len(said) < 120)
        or cues.HYPOTHETICAL.search(before) is not None
        or cues.REPORTED.search(before) is not None
        or cues.COUNTERFACTUAL.match(sentence) is not None
        or (verb or "").lower() in ("could be", "might be", "may be")
    )
