"""Which texts stood as a question's answer, round by round, read off its transcript."""

from __future__ import annotations

from dataclasses import dataclass

from harness_ext.answers import read_answer, vote
from harness_ext.records import Transcript
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

    Round 0 is made of the turns of kind `draft`. A seat's n-th `refine` is its text of round n, unless the turn's
    verdict names another (`{"round": n}`); a seat that says nothing in a round, or only blanks, keeps its text. Of
    several texts the vote decides (of those with most votes the first; the first text where none has a readable
    answer). A final text that differs from the last round's answer is a state of its own behind it.
    """
    spoken: dict[int, list[tuple[str, str]]] = {}
    refined: dict[str, int] = {}
    for turn in transcript.turns:
        if turn.kind not in DRAFTS or turn.completion.logprob is not None:
            continue
        if turn.kind != "draft":
            refined[turn.seat] = refined.get(turn.seat, 0) + 1
        named = (turn.verdict or {}).get("round")
        number = named if isinstance(named, int) and named >= 0 else 0 if turn.kind == "draft" else refined[turn.seat]
        if number == 0 or turn.completion.text.strip():
            spoken.setdefault(number, []).append((turn.seat, turn.completion.text))
    rounds: list[tuple[str, ...]] = []
    standing: list[tuple[str, str]] = []
    for number in sorted(spoken):
        said = spoken[number]
        newest = dict(said)
        seats = {seat for seat, _ in standing}
        kept = [(seat, newest.get(seat, text)) for seat, text in standing]
        standing = said if number == 0 else kept + [(seat, text) for seat, text in said if seat not in seats]
        rounds.append(tuple(text for _, text in standing))
    answers = [elected(texts) for texts in rounds]
    if not answers or answers[-1] != transcript.text:
        answers.append(transcript.text)
    return Trajectory(tuple(rounds), tuple(answers))


def elected(texts: tuple[str, ...]) -> str:
    """Return the text of the first voter for the answer that most texts give; a single text needs no vote."""
    if len(texts) == 1:
        return texts[0]
    return texts[vote([read_answer(text) for text in texts]).winner or 0]
