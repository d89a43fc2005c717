"""Reconstructs from a transcript which texts were the answer to its question after each round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness_ext.protocol.conversation import drafts_of
from harness_ext.reading import Reading, cut_run_on, read_answer, vote
from harness_ext.reading.recorded import from_record
from harness_ext.records import Completion, Transcript, Turn
from harness_ext.records.summary import DRAFTS


@dataclass(frozen=True)
class Trajectory:
    """The answers to one question.

    rounds: the texts after each round; several if several agents or draws answer.
    answers: the one text that counts as the answer after each round. The last one is what lm-eval got.
    seats: the seat that wrote each text of the last round. Default: none, for conversations.
    """

    rounds: tuple[tuple[str, ...], ...]
    answers: tuple[str, ...]
    seats: tuple[str, ...] = ()

    def at(self, round_: int) -> str:
        """Return the answer after a round; a finished question keeps its last answer."""
        return self.answers[min(round_, len(self.answers) - 1)]


def trajectory_of(transcript: Transcript) -> Trajectory:
    """Return the answers after each round.

    Answers are the turns of kind `draft` (round 0), those of kind `refine` (a seat's n-th is its text of round n) and
    every turn whose verdict names a round (`{"round": n}`). A draft that is noted as a part of an answer
    (`{"part": true}`) is none. A seat that writes nothing in a round keeps its text.

    Among several texts the vote decides: the first text of the answer with the most votes, or the first text if no
    answer can be read. If the final text is not the answer of the last round, it becomes one more state.
    """
    # The parts of a conversation each have rounds of their own, which cannot be aligned. So a conversation has two
    # states: the first drafts of all its parts, and its final text.
    if (drafts := drafts_of(transcript)) is not None:
        states = (drafts, transcript.text)
        return Trajectory(tuple((text,) for text in states), states)
    by_round: dict[int, list[Turn]] = {}
    refined: dict[str, int] = {}
    for turn in transcript.turns:
        named = (turn.verdict or {}).get("round")
        if not isinstance(turn.result, Completion) or (turn.kind not in DRAFTS and not isinstance(named, int)):
            continue
        if turn.is_part:
            continue
        if turn.kind == "refine":
            refined[turn.seat] = refined.get(turn.seat, 0) + 1
        number = named if isinstance(named, int) else 0 if turn.kind == "draft" else refined[turn.seat]
        if number == 0 or turn.text.strip():
            by_round.setdefault(number, []).append(turn)
    rounds: list[list[Turn]] = []
    for number in sorted(by_round):
        newest = {turn.seat: turn for turn in by_round[number]}
        before = rounds[-1] if rounds else []
        seats = {turn.seat for turn in before}
        kept = [newest.get(turn.seat, turn) for turn in before]
        rounds.append([*kept, *(turn for turn in by_round[number] if turn.seat not in seats)])
    texts = tuple(tuple(text_of(turn) for turn in turns) for turns in rounds)
    answers = [written[elected(turns)] for turns, written in zip(rounds, texts, strict=True)]
    # The final text may be the last round's answer cut short, but not another turn's text that is a part of it.
    others = {text_of(turn) for turn in transcript.turns if isinstance(turn.result, Completion)} - {*answers[-1:]}
    if answers and transcript.text.strip() and transcript.text in answers[-1] and transcript.text not in others:
        answers[-1] = transcript.text
    else:
        answers.append(transcript.text)
    seats_of_last = tuple(turn.seat for turn in rounds[-1]) if rounds else ()
    return Trajectory(texts, tuple(answers), seats_of_last)


def text_of(turn: Turn) -> str:
    """Return a turn's text as its protocol used it: cut off where the protocol noted that it had run on."""
    return cut_run_on(turn.text)[0] if (turn.verdict or {}).get("cut_run_on") else turn.text


def elected(turns: Sequence[Turn]) -> int:
    """Return the index of the first turn with the answer that most turns give; a single turn needs no vote."""
    if len(turns) == 1:
        return 0
    return vote([_answer(turn) for turn in turns]).winner or 0


def _answer(turn: Turn) -> Reading | None:
    """Return the answer of a turn: the one that its protocol recorded, or else the one that can be read."""
    verdict = turn.verdict or {}
    return from_record(verdict) if "answer" in verdict else read_answer(turn.text)
