"""An agent's critique of its own answer, and the features of it that tell whether a debate is worth it.

After Fan et al., "iMAD: Intelligent Multi-Agent Debate for Efficient and Accurate LLM Inference" (arXiv 2511.11306).
"""

from __future__ import annotations

import re
from itertools import zip_longest
from math import log1p

from harness_ext.models.asking import ask_whether_right, share_of_yes
from harness_ext.models.debating.state import DebateState, Utterance
from harness_ext.protocol import Seat
from harness_ext.reading import AnswerForm, Reading, cut_run_on, read_answer, read_confidence, same_answer
from harness_ext.records import Completion

CRITIQUE_TOKENS = 192  # the length limit of a critique

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_HEDGES = frozenset(
    "may might maybe perhaps possibly probably presumably likely unlikely could would should seem seems seemed appear "
    "appears apparently suggest suggests assume assumes assuming assumed guess think believe suppose roughly about "
    "approximately around almost usually generally often sometimes unclear unsure uncertain doubt ambiguous".split()
)
_CERTAINTIES = frozenset(
    "certainly definitely clearly obviously surely undoubtedly always never must exactly precisely therefore thus "
    "hence indeed evidently necessarily proves proven certain sure confident".split()
)
_CONTRASTS = frozenset(
    "but however although though yet instead alternatively otherwise unless whereas while despite nevertheless "
    "nonetheless wrong mistake error incorrect overlooked misread misunderstood missed not".split()
)
_LABEL = re.compile(
    r"(?:^|(?<=[.!?;,]))[ \t>*_#-]{0,8}(?:\d[.)])?[ \t*_]{0,8}"
    r"(doubt|other answer|confidence)[ \t*_]{0,4}[:：][ \t*_]{0,4}",
    re.IGNORECASE | re.MULTILINE,
)
_NO_ANSWER = re.compile(r"\W*(?:none|nothing|n/?a|not applicable|(?:there is )?no other(?: answer)?)\W*", re.IGNORECASE)


async def criticise(state: DebateState, agent: Seat, draft: Utterance) -> tuple[Completion, dict[str, float]]:
    """Let an agent criticise its answer, and return the critique with its features."""
    critique = await agent.generate(
        state.prompt(agent, state.options.critique_user), kind="critique", gen_kwargs=agent.limits(CRITIQUE_TOKENS)
    )
    decision = await ask_whether_right(agent, state.question, draft.text, kind="self_verdict")
    state.seats.note(decision, malformed=decision.choice is None)
    share = share_of_yes(decision)
    text = cut_run_on(critique.text)[0]
    other, confidence = read_critique(text, state.form, state.options.answer_pattern)
    return critique, features_of(draft, text, other, confidence, 0.5 if share is None else share)


def read_critique(text: str, form: AnswerForm, pattern: str | None = None) -> tuple[Reading | None, float | None]:
    """Return the other answer that a critique names, and how sure it says the agent is; None for what it does not say.

    text: the critique.
    form: what the question asks for.
    pattern: a regular expression for answers. Default None: the built-in patterns.
    """
    parts: dict[str, str] = {}
    labels = list(_LABEL.finditer(text))
    for label, following in zip_longest(labels, labels[1:]):
        parts.setdefault(label[1].lower(), text[label.end() : following.start() if following else None].strip())
    named = parts.get("other answer", "")
    other = None if not named or _NO_ANSWER.fullmatch(named) else read_answer(named, form=form, pattern=pattern)
    return other, read_confidence(parts.get("confidence", text))


def features_of(
    draft: Utterance, critique: str, other: Reading | None, confidence: float | None, probability: float
) -> dict[str, float]:
    """Return the features of an answer and of its critique.

    draft: the answer.
    critique: the text of the critique.
    other: the answer that the critique names instead; None if it cannot be read.
    confidence: how sure the agent says it is, from 0 to 1; None if it does not say.
    probability: the probability that the agent gives to its answer being right.
    """
    own = draft.answer
    # A model that repeats the form ("the answer is right if …") names an answer of another kind than its own.
    is_other = other is not None and (own is None or other.kind == own.kind) and not same_answer(other, own)
    found = {
        "probability": probability,
        "confidence": 0.5 if confidence is None else confidence,
        "no_confidence": float(confidence is None),
        "no_answer": float(own is None),
        "other_answer": float(is_other),
    }
    # The labels of the form, such as `Doubt:`, are no words of the agent.
    for name, text in (("draft", draft.text), ("critique", _LABEL.sub(" ", critique))):
        words = [word.lower() for word in _WORD.findall(text)]
        found |= {
            f"{name}_words": log1p(len(words)),
            f"{name}_hedges": _rate(words, _HEDGES),
            f"{name}_certainties": _rate(words, _CERTAINTIES),
            f"{name}_contrasts": _rate(words, _CONTRASTS),
            f"{name}_questions": log1p(text.count("?")),
        }
    return found


def _rate(words: list[str], among: frozenset[str]) -> float:
    return sum(word in among for word in words) / max(len(words), 1)
