"""Reading the verdict of a review: whether it accepts a draft."""

from __future__ import annotations

import re
from dataclasses import dataclass

import harness_ext.reading.verdict_words as words
from harness_ext.reading.prose import sentences
from harness_ext.reading.reply import cleaned
from harness_ext.reading.source import Source
from harness_ext.reading.thoughts import answer_parts
from harness_ext.reading.verdict_claims import Claim, claims


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a draft was accepted, and by which rule that was read.

    `malformed` where a text holds no verdict, or both; such a draft is not accepted. `written` are the deciding words,
    which stand at `span` of the review.
    """

    accepted: bool
    rule: str
    malformed: bool = False
    written: str = ""
    span: tuple[int, int] | None = None


def read_verdict(text: str) -> Verdict:
    """Return the verdict of a review. Any text is read; what holds no verdict, or both, is malformed.

    A labelled verdict ("Verdict: Correct.", a JSON field, `[[Correct]]`) counts first, then the first word, then what
    the sentences claim. Thoughts are left out, and no word is counted that is not part of a claim: a negation holds in
    its own sentence only.
    """
    if not answer_parts(text)[2]:
        return Verdict(False, "unfinished_thought", malformed=True)
    source = cleaned(words.QUOTED.sub(_masked, text))
    if not source.text.strip():
        return Verdict(False, "blank", malformed=True)
    return _Review(text, source).verdict()


def _masked(quoted: re.Match[str]) -> str:
    """Return a quotation of several words with other letters: what a review quotes is not what it says itself."""
    return re.sub(r"[^\W\d_]", "q", quoted[0])


class _Review:
    def __init__(self, text: str, source: Source) -> None:
        self.reply = text
        self.source = source
        self.text = source.text
        self.sentences = sentences(source.text)

    def verdict(self) -> Verdict:
        return self._fields() or self._asked() or self._labels() or self._first() or self._sentences() or self._none()

    def _made(self, accepted: bool, rule: str, start: int, end: int, malformed: bool = False) -> Verdict:
        span = self.source.span(start, end)
        return Verdict(accepted, rule, malformed, self.reply[slice(*span)], span)

    def _fields(self) -> Verdict | None:
        found = list(words.FIELD.finditer(self.text)) if ":" in self.text else []
        if not found:
            return None
        said = {bool(m["yes"] or m["true"]) for m in found}
        last = found[-1]
        if len(said) > 1 or self._begins_otherwise(*said):
            return self._made(False, "both", last.start(), last.end(), malformed=True)
        return self._made(said.pop(), "json", last.start(), last.end())

    def _asked(self) -> Verdict | None:
        """Read a review that answers whether the draft is correct."""
        found = words.ASKED.search(self.text)
        return None if found is None else self._made(found["yes"] is not None, "asked", *found.span())

    def _labels(self) -> Verdict | None:
        found: list[tuple[bool, bool, int, int, int]] = []
        for label in words.LABEL.finditer(self.text):
            word = words.WORD.match(self.text, label.end())
            mark = word or words.MARKS.match(self.text, label.end())
            if mark is None:
                continue
            if words.BOTH.match(self.text, mark.start()):
                return self._made(False, "both", *mark.span(), malformed=True)
            opened = word.end() if word is not None and word["yes"] else -1
            found.append((bool(mark["yes"]), bool(label["final"]), *mark.span(), opened))
        found += [(m["no"] is None, False, *m.span("word"), -1) for m in words.ANSWERED.finditer(self.text)]
        if not found:
            return None
        accepted, final, at, end, opened = max(found, key=lambda label: label[2])
        if len({said for said, *_ in found}) > 1 and not final:
            return self._made(False, "both", at, end, malformed=True)
        if opened >= 0 and (opening := self._opening(at, opened)) is not None:
            accepted = opening.accepted
        if self._begins_otherwise(accepted):
            return self._made(False, "both", at, end, malformed=True)
        return self._made(accepted, "label", at, end)

    def _begins_otherwise(self, accepted: bool) -> bool:
        """Whether the first word of the review is a verdict against the one that it labels."""
        begin = words.START.match(self.text)
        assert begin is not None
        found = (words.FIRST_NO if accepted else words.FIRST_YES).match(self.text, begin.end())
        if found is None or re.match(r"[\"']\s*:", self.text[found.end() :]):
            return False
        return re.match(r"(?:in)?correct\b", found["word"], re.IGNORECASE) is not None

    def _first(self) -> Verdict | None:
        """Read a review that begins with its verdict."""
        begin = words.START.match(self.text)
        assert begin is not None
        at = begin.end()
        if words.BOTH.match(self.text, at):
            return self._made(False, "both", at, at, malformed=True)
        if no := words.FIRST_NO.match(self.text, at):
            if re.match(r"no\b|nope", no["word"], re.IGNORECASE):
                return self._of_rest(no) or self._made(False, "first_word", *no.span())
            own = next((s for s in self.sentences if s[0] > at and words.OWN_YES.match(self.text[slice(*s)])), None)
            return self._made(False, "both" if own else "first_word", *no.span(), malformed=own is not None)
        yes = words.FIRST_YES.match(self.text, at)
        if yes is None:
            return self._mark(begin)
        return self._opening(at, yes.end(), yes["core"].lower())

    def _of_rest(self, no: re.Match[str]) -> Verdict | None:
        """Read "No, there is no mistake": the "no" answers a question, not the draft."""
        first = self.sentences[0]
        found = claims(self.text, no.end(), first[1])
        if found and all(claim.right for claim in found):
            return self._made(True, "sentence", found[0].start, found[0].end)
        return None

    def _mark(self, begin: re.Match[str]) -> Verdict | None:
        """Read a review that begins with a tick or a cross and says nothing else that decides."""
        mark = next((m for m in (words.MARKS.match(self.text, i) for i in range(begin.end())) if m), None)
        if mark is None or self._sentences() is not None:
            return None
        return self._made(bool(mark["yes"]), "mark", *mark.span())

    def _opening(self, at: int, word: int, core: str = "correct") -> Verdict | None:
        """Read what stands behind a first word of praise, which may take it back."""
        text = self.text
        if re.match(r"[\"')\]]*[ \t]*(?:or not[ \t]*)?\?", text[word:]):
            return None
        if core == "correct":
            if words.GIVES.match(text, word):
                return self._made(False, "gives_answer", at, word)
            if words.ORDER.match(text, word):
                return self._made(False, "order", at, word)
        if words.PARTLY.match(text, word):
            return self._made(False, "partly", at, word)
        end = next((e for s, e in self.sentences if e > word), len(text))
        named = re.match(r"[ \t]+(\w+)", text[word:])
        if core == "right" and named and named[1].lower() not in ("answer", "and", "on", "because", "since", "as"):
            return None
        rest = words.CONTRAST.search(text, word, end)
        faults = [c for c in claims(text, word, end) if not c.right and (not c.part or c.rule != "hint")]
        faults += [Claim(False, False, *m.span(), "") for m in words.WRONG.finditer(text, word, end)]
        whole = [c for c in faults if not c.part]
        if whole and (rest or (named and named[1].lower() not in ("answer", "because", "since", "as", "and"))):
            return self._made(False, "praise_then_rejection", at, word)
        if whole and re.match(
            r"[^.!?\n]{0,30},(?![ \t]*(?:since|because|as)\b)[^.!?\n]{0,20}\b(?:wrong|incorrect)\b",
            text[word:end],
            re.IGNORECASE,
        ):
            return self._made(False, "praise_then_rejection", at, word)
        for start, stop in self.sentences:
            if start < word:
                continue
            said = text[start:stop]
            if words.OWN_NO.match(said) or re.match(r"[\W_]{0,6}incorrect\b", said, re.IGNORECASE):
                return self._made(False, "both", at, word, malformed=True)
            against = [c for c in claims(text, start, stop) if not c.right and not c.part and c.rule != "gives_answer"]
            if against and words.CONTRAST.match(said.lstrip(" \"'")) and not _praised(text, start, stop):
                return self._made(False, "praise_then_rejection", at, word)
            if any(words.OF_ANSWER.search(text, c.start, c.end) for c in against):
                only_part = named is not None and named[1].lower() in words.PARTS
                rule = "praise_then_rejection" if only_part else "both"
                return self._made(False, rule, at, word, malformed=not only_part)
        return self._made(True, "first_word", at, word)

    def _sentences(self) -> Verdict | None:
        """Read what the sentences claim: of the whole draft before its parts, the conclusion before the way to it."""
        found: list[Claim] = []
        for start, end in self.sentences:
            said = self.text[start:end]
            if said.endswith("?") or (
                words.BOTH.search(said) and re.search(r"\b(?:whether|if)\b", said, re.IGNORECASE)
            ):
                continue
            if own := words.OWN_YES.match(said) or words.OWN_NO.match(said):
                found.append(Claim(own.re is words.OWN_YES, False, start, end, "own_sentence"))
            else:
                found += claims(self.text, start, end)
        decisive = [c for c in found if c.rule == "own_sentence"] or [c for c in found if not c.part] or found
        if not decisive:
            return None
        last = decisive[-1]
        if len({c.right for c in decisive}) == 1:
            rule = "sentence" if last.rule == "own_sentence" else last.rule
            return self._made(last.right, rule, last.start, last.end)
        turn = max(i for i, claim in enumerate(decisive) if claim.right != last.right)
        before = self.text[: last.start]
        turned = words.CONTRAST.search(self.text, decisive[turn].end, decisive[turn + 1].end)
        turned = turned or words.CONCLUDES.search(before[-400:])
        gives = all(c.right or c.rule == "gives_answer" for c in decisive)
        if gives and (last.right or (not turned and _says_student(self.text, decisive))):
            return self._made(True, "sentence", last.start, last.end)
        if not last.right and turned:
            return self._made(False, "praise_then_rejection", last.start, last.end)
        if last.right and turned:
            return self._made(True, "sentence", last.start, last.end)
        if all(claim.part for claim in decisive) and not last.right:  # one wrong step is enough
            return self._made(False, "partly", last.start, last.end)
        return self._made(False, "both", last.start, last.end, malformed=True)

    def _none(self) -> Verdict:
        if words.ECHO.search(self.reply):
            return Verdict(False, "template_echo", malformed=True)
        for alone, accepted in ((words.ALONE_YES, True), (words.ALONE_NO, False)):
            if alone.fullmatch(self.text):
                return self._made(accepted, "whole", 0, len(self.text))
        for marks, accepted in ((words.CROSS, False), (words.TICK, True)):
            if mark := marks.search(self.text):
                return self._made(accepted, "mark", *mark.span())
        if wrong := re.search(r"incorrect", words.BOTH.sub(_masked, self.text), re.IGNORECASE):
            return self._made(False, "incorrect_word", *wrong.span())
        if "?" in self.text:
            return Verdict(False, "question")
        if re.search(r"\b(?:hint|reconsider)\b", self.text, re.IGNORECASE):
            return Verdict(False, "hint")
        return Verdict(False, "none", malformed=True)


def _says_student(text: str, decisive: list[Claim]) -> bool:
    """Whether a review calls the draft's own answer right, and then only repeats which answer is the correct one."""
    owned = re.compile(r"\b(?:student|your?|draft)\b", re.IGNORECASE)
    repeated = text[decisive[-1].end : decisive[-1].end + 80].split("\n")[0]
    return any(c.right and owned.search(text, c.start, c.end) for c in decisive) and not re.search(
        r"\b(?:but|not|while)\b", repeated
    )


def _praised(text: str, start: int, end: int) -> bool:
    return any(c.right and not c.part for c in claims(text, start, end))
