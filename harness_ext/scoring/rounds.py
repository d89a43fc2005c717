"""Which texts stood as a question's answer, round by round, read off its transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness_ext.answers import Answer, cut_run_on, read_answer, vote
from harness_ext.conversation import drafts_of
from harness_ext.records import Transcript, Turn
from harness_ext.summary import DRAFTS


@dataclass(frozen=True)
class Trajectory:
    """The answers of one question.

    `rounds` holds the texts that stood after each round, several where several agents (or draws) answer; `answers` the
    one text that counts in each round, the last of which is what lm-eval was given. A question that ended before a
    round keeps its last answer in it: `at`.
    """

    rounds: tuple[tuple[str, ...], ...]
    answers: tuple[str, ...]

    def at(self, round_: int) -> str:
        """Return the answer after a round; a finished question's is frozen."""
        return self.answers[min(round_, len(self.answers) - 1)]


def trajectory_of(transcript: Transcript) -> Trajectory:
    """Return the answers that stood after each round.

    Answers are the turns of kind `draft` (round 0) and `refine` (a seat's n-th is its text of round n), and every turn
    whose verdict names a round (`{"round": n}`). A seat that says nothing in a round, or only blanks, keeps its text.
    Of several texts the vote decides (of those with most votes the first; the first text where none has a readable
    answer). A final text that is not in the last round's answer is a state of its own behind it. A conversation, whose
    parts have rounds of their own, has two states: the first drafts of all its parts, and its final text.
    """
    if (drafts := drafts_of(transcript)) is not None:
        states = (drafts, transcript.text)
        return Trajectory(tuple((text,) for text in states), states)
    spoken: dict[int, list[Turn]] = {}
    refined: dict[str, int] = {}
    for turn in transcript.turns:
        named = (turn.verdict or {}).get("round")
        if not turn.completion.is_text or (turn.kind not in DRAFTS and not isinstance(named, int)):
            continue
        if turn.kind == "refine":
            refined[turn.seat] = refined.get(turn.seat, 0) + 1
        number = named if isinstance(named, int) else 0 if turn.kind == "draft" else refined[turn.seat]
        if number == 0 or turn.completion.text.strip():
            spoken.setdefault(number, []).append(turn)
    rounds: list[list[Turn]] = []
    for number in sorted(spoken):
        newest = {turn.seat: turn for turn in spoken[number]}
        before = rounds[-1] if rounds else []
        seats = {turn.seat for turn in before}
        kept = [newest.get(turn.seat, turn) for turn in before]
        rounds.append([*kept, *(turn for turn in spoken[number] if turn.seat not in seats)])
    texts = tuple(tuple(text_of(turn) for turn in turns) for turns in rounds)
    answers = [said[elected(turns)] for turns, said in zip(rounds, texts, strict=True)]
    if answers and transcript.text.strip() and transcript.text in answers[-1]:
        answers[-1] = transcript.text
    else:
        answers.append(transcript.text)
    return Trajectory(texts, tuple(answers))


def text_of(turn: Turn) -> str:
    """Return a turn's text as its protocol took it: cut where the protocol noted that it had run on."""
    return cut_run_on(turn.completion.text)[0] if (turn.verdict or {}).get("cut_run_on") else turn.completion.text


def elected(turns: Sequence[Turn]) -> int:
    """Return the place of the first voter for the answer that most turns give; a single turn needs no vote."""
    if len(turns) == 1:
        return 0
    return vote([_answer(turn) for turn in turns]).winner or 0


def _answer(turn: Turn) -> Answer | None:
    """Return what a turn answers: as its protocol noted, which may have read it by a pattern, else as it reads."""
    verdict = turn.verdict or {}
    if "answer" in verdict:
        return Answer(verdict["answer"]) if isinstance(verdict["answer"], str) else None
    return read_answer(turn.completion.text)
