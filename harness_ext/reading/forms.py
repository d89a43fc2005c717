"""What a prompt's last question asks for."""

from __future__ import annotations

import re
from typing import Any

from harness_ext.reading.kinds import AnswerForm
from harness_ext.reading.literals import python_literal
from harness_ext.reading.options import LETTERS

LONGEST_PROMPT = 20_000  # characters from the end that are looked at
LONGEST_OPTION = 400
_LIST = re.compile(r"\b(?:choices|options)\b[\"'*]{0,3}\s?[:=]\s?(\[[^\n]{5,4000}\])", re.IGNORECASE)
_BULLETS = re.compile(
    r"^[ \t>*#]{0,8}(?:(?:the|answer|possible|available|given)[ \t]){0,2}(?:choices|options)[ \t*]{0,3}:[ \t*]{0,4}\n+"
    r"((?:[ \t]*[-*•][ \t]+\S[^\n]{0,400}(?:\n|\Z)){2,26})",
    re.IGNORECASE | re.MULTILINE,
)
_YES_AND_NO = ({"yes", "no"}, {"true", "false"})
_MARK = re.compile(
    r"(?<![\w(])\((?P<round>[A-J])\)[ \t]*(?=\S)"
    r"|(?m:^)[ \t>*-]{0,6}\*{0,2}\(?(?P<line>[A-J])(?:[.):]\*{0,2})[ \t]+(?=\S)"
)
_AUXILIARY = re.compile(
    r"(?:\W|(?:so|and|then|q|question|now|the following:?)[:,]?\s)*(?:is|are|was|were|am|do|does|did|can"
    r"|could|will|would|has|have|had|should|may|might|must|isn't|aren't|doesn't|didn't|don't)\s",
    re.IGNORECASE,
)
_ALTERNATIVES = re.compile(r"\bor\b", re.IGNORECASE)
_YES_OR_NO = re.compile(
    r"\b(?:yes|true)[\"'*)]*\s*(?:or|/|,)\s*[\"'*(]*(?:no|false)\b|\((?:yes|true)/(?:no|false)\)"
    r"|true or false|is (?:this|it|that|the (?:sentence|statement|claim)) (?:true|correct)\b",
    re.IGNORECASE,
)


def answer_form(question_text: str) -> AnswerForm:
    """Return what the last question of a prompt asks for.

    Lettered options, `(A) … (B) …` in a line or `A. …` on lines of their own, make it a choice among their texts, and
    so does a list of texts behind `Choices:` or `Options:`, in the notation of Python or JSON or with a bullet on each
    line. A question that begins with a verb ("Is …?", "Could …?"), or that asks for yes or no, true or false, is a
    yes/no question. Any other form is left to the reply.
    """
    text = question_text[-LONGEST_PROMPT:]
    options = _options(text)
    if options:
        return AnswerForm("choice", options)
    if listed := _listed(text):
        is_yes_no = {option.casefold() for option in listed} in _YES_AND_NO
        return AnswerForm("yes_no") if is_yes_no else AnswerForm("choice", listed, lettered=False)
    mark = text.rfind("?")
    question = re.split(r"[.!?\n]", text[max(0, mark - 600) : mark])[-1] if mark >= 0 else ""
    tail = text[-600:]
    if _YES_OR_NO.search(tail) and not re.search(r"\bmaybe\b|\bunknown\b", tail, re.IGNORECASE):
        return AnswerForm("yes_no")
    if _AUXILIARY.match(question) and not _ALTERNATIVES.search(question):
        return AnswerForm("yes_no")
    return AnswerForm()


def _options(text: str) -> tuple[str, ...]:
    """Return the texts of the last run of letters from A on."""
    runs: list[list[re.Match[str]]] = []
    for mark in _MARK.finditer(text):
        letter = mark["round"] or mark["line"]
        run = runs[-1] if runs else []
        if letter == "A":
            runs.append([mark])
        elif run and _follows(run, mark):
            run.append(mark)
    run = next((run for run in reversed(runs) if len(run) > 1), [])
    texts: list[str] = []
    for number, mark in enumerate(run):
        end = run[number + 1].start() if number + 1 < len(run) else len(text)
        said = text[mark.end() : end].strip().split("\n")[0]
        if number + 1 == len(run) and mark["round"] and not any(". " in other for other in texts):
            said = said.split(". ")[0]  # options in a line, with an instruction behind them
        texts.append(said.strip(" \t*;,|").strip())
    return tuple(texts) if all(texts) else ()


def _listed(text: str) -> tuple[str, ...]:
    """Return the texts of the last list of options without letters."""
    lists = [*_LIST.finditer(text), *_BULLETS.finditer(text)]
    for match in sorted(lists, key=re.Match.start, reverse=True):
        found = _texts(match[1])
        # The reader counts options by letters, also where the question gives them none.
        if 1 < len(found) <= len(LETTERS) and all(isinstance(option, str) and option.strip() for option in found):
            return tuple(found) if len(set(found)) == len(found) else ()
    return ()


def _texts(written: str) -> list[Any]:
    """Return the items of a list as it is written: nothing if it is broken."""
    if not written.startswith("["):
        return [line.strip().lstrip("-*•").strip() for line in written.strip().split("\n")]
    found = python_literal(written)
    return found if isinstance(found, list) else []


def _follows(run: list[re.Match[str]], mark: re.Match[str]) -> bool:
    """Whether a letter is the next of a run: the next in the alphabet, written alike, and not far behind."""
    letter = mark["round"] or mark["line"]
    alike = (mark["round"] is None) == (run[0]["round"] is None)
    return alike and ord(letter) == ord("A") + len(run) and mark.start() - run[-1].end() <= LONGEST_OPTION
