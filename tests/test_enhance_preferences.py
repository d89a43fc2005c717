"""Schedules, rankings, verdicts and preferences: the pure functions alone, the rest through the real engine."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.enhance.call_costs import (  # fmt: skip
    Pace,
    SeatEstimate,
    batched_share,
    comparisons,
    pairs_of,
    round_sizes,
    tournaments_for,
)
from harness_ext.enhance.candidates import Candidates, distinct
from harness_ext.enhance.command import main
from harness_ext.enhance.judging import FALLBACKS, RULES, read_choice
from harness_ext.enhance.preferences import PreferenceJob, write_candidates, write_judgements, write_pairs
from harness_ext.enhance.ranking import MatchOutcome, on_cycles, preferred_pairs, ranking, strengths
from harness_ext.enhance.running import plan_seats
from harness_ext.enhance.schedules import SCHEDULES, Match
from harness_ext.enhance.templates import read_templates
from harness_ext.enhance.tournament import Tournament
from harness_ext.errors import ConfigurationError
from harness_ext.records import Completion, Finish, SeatCost


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def play(
    name: str, n: int, seed: int, winner: Callable[[Match], int | None]
) -> tuple[list[list[Match]], list[MatchOutcome]]:
    """Play a schedule; return its rounds and all outcomes."""
    schedule = SCHEDULES[name](n, random.Random(seed), 0)
    rounds: list[list[Match]] = []
    outcomes: list[MatchOutcome] = []
    matches = next(schedule, None)
    while matches:
        rounds.append(matches)
        won = [winner(match) for match in matches]
        outcomes += [MatchOutcome(a, b, w) for (a, b), w in zip(matches, won, strict=True)]
        try:
            matches = schedule.send(won)
        except StopIteration:
            break
    return rounds, outcomes


@pytest.mark.parametrize(
    ("n", "fewest", "most"),
    [(2, 1, 1), (3, 2, 3), (4, 4, 4), (5, 5, 8), (6, 7, 9), (7, 9, 11), (8, 12, 12), (12, 20, 24), (16, 32, 32)],
)
def test_single_elimination_gives_the_known_numbers_of_pairs(n: int, fewest: int, most: int) -> None:
    found = set()
    for seed in range(60):
        skill = random.Random(seed + 1).sample(range(n), n)
        _, outcomes = play("single_elimination", n, seed, lambda m, skill=skill: max(m, key=lambda i: skill[i]))
        pairs = preferred_pairs(n, outcomes)
        assert len(outcomes) == n - 1
        assert len(set(pairs)) == len(pairs)
        assert all(a != b and skill[a] > skill[b] for a, b in pairs)
        if seed < 5:
            assert ranking(n, outcomes)[0] == max(range(n), key=lambda i: skill[i])
        found.add(len(pairs))
    assert (min(found), max(found)) == (fewest, most)


def test_the_winner_beats_everyone_on_the_losers_side() -> None:
    rounds, outcomes = play("single_elimination", 8, 5, max)
    final = outcomes[-1]
    (left, right) = rounds[-1][0]
    side = {left: {left}, right: {right}}
    for outcome in outcomes[:-1]:
        for members in side.values():
            if outcome.winner in members:
                members.add(outcome.loser or 0)
    semi = {i for o in outcomes[:4] if o.winner == final.loser or o.loser == final.loser for i in (o.first, o.second)}
    pairs = set(preferred_pairs(8, outcomes))
    assert all((final.winner, one) in pairs for one in semi)
    assert {b for a, b in pairs if a == final.winner} == set(range(8)) - {final.winner}


@given(n=st.integers(0, 12), seed=st.integers(0, 500), name=st.sampled_from(list(SCHEDULES)), data=st.data())
@settings(max_examples=80, deadline=None)
def test_pairs_never_contradict_each_other(n: int, seed: int, name: str, data: st.DataObject) -> None:
    def winner(match: Match) -> int | None:
        return data.draw(st.sampled_from([match[0], match[1], None]))

    rounds, outcomes = play(name, n, seed, winner)
    for matches in rounds:
        busy = [i for match in matches for i in match]
        assert len(busy) == len(set(busy)) or name == "round_robin"
    met = [frozenset((o.first, o.second)) for o in outcomes]
    assert len(met) == len(set(met)), "nobody meets twice"
    assert all(len(m) == 2 for m in met)
    pairs = preferred_pairs(n, outcomes)
    assert len(pairs) == len(set(pairs))
    assert all(a != b and (b, a) not in pairs for a, b in pairs)
    cyclic = set(on_cycles(n, outcomes))
    for o in outcomes:
        if o.winner is None:
            assert (o.first, o.second) not in pairs
            assert (o.second, o.first) not in pairs
        elif not {o.first, o.second} <= cyclic:
            assert (o.winner, o.loser) in pairs
    assert sorted(ranking(n, outcomes)) == list(range(n))
    if name == "single_elimination":
        assert len(outcomes) == max(n - 1, 0)
        assert not cyclic
    if name == "round_robin":
        assert set(met) == {frozenset(p) for p in combinations(range(n), 2)}


@pytest.mark.parametrize("n", [2, 5, 8, 9])
def test_swiss_finds_the_best_candidate_in_few_matches(n: int) -> None:
    rounds, outcomes = play("swiss", n, 3, max)
    assert ranking(n, outcomes)[0] == n - 1
    assert [len(matches) for matches in rounds] == [n // 2] * len(rounds)


def test_after_a_tie_one_candidate_advances_without_a_preference() -> None:
    _, outcomes = play("single_elimination", 4, 0, lambda m: None)
    assert len(outcomes) == 3
    assert preferred_pairs(4, outcomes) == []


def test_cycles_are_found_and_omitted() -> None:
    outcomes = [MatchOutcome(0, 1, 0), MatchOutcome(1, 2, 1), MatchOutcome(2, 0, 2), MatchOutcome(2, 3, 2)]
    assert on_cycles(4, outcomes) == [0, 1, 2]
    assert set(preferred_pairs(4, outcomes)) == {(0, 3), (1, 3), (2, 3)}


def test_strengths_follow_the_bradley_terry_model() -> None:
    found = strengths(
        3, [MatchOutcome(0, 1, 0)] * 3 + [MatchOutcome(0, 1, 1)] + [MatchOutcome(1, 2, None)] * 4, prior=1e-6
    )
    assert found[0] - found[1] == pytest.approx(1.0986, abs=1e-3)  # log 3
    assert found[1] == pytest.approx(found[2], abs=1e-3)


def test_the_published_arithmetic() -> None:
    """The numbers are those of github.com/BertilBraun/Master-Thesis, which is quoted in quotation marks."""
    sizes = round_sizes("single_elimination", 16)
    assert sizes == [8, 4, 2, 1]
    assert [pairs_of("single_elimination", n) for n in (8, 16, 32)] == [12, 32, 80]
    assert [comparisons("single_elimination", n) for n in (8, 16, 32)] == [7, 15, 31]
    tournaments = tournaments_for(2000, "single_elimination", 16)
    calls = tournaments * comparisons("single_elimination", 16)
    assert (tournaments, calls) == (63, 945)
    judge = SeatEstimate("judge", calls, calls * 3000, calls * 300, SeatCost(None, 5.0, 15.0), Pace(30, 5))
    assert judge.price == pytest.approx(14.175 + 4.2525)  # "~19 $"
    assert judge.pace.hours(calls) == pytest.approx(1.575)  # "1.6 hours", of five threads
    assert Pace(30, 3).hours(tournaments * 16) == pytest.approx(2.8)
    assert [batched_share(sizes, j) for j in (0, 1, 2)] == pytest.approx([1, 11 / 15, 9 / 15])
    many = round_sizes("single_elimination", 1024)
    assert [batched_share(many, j) for j in (1, 2)] == pytest.approx([3 / 4, 5 / 8], abs=1e-3)
    assert SeatEstimate("j", calls, calls * 3000, calls * 300, SeatCost(None, 5, 15), discount=3 / 4).price == (
        pytest.approx(18.4275 * 3 / 4)  # "~14 $"
    )


@pytest.mark.parametrize(
    ("text", "choice", "rule"),
    [
        ('{"reasoning": "1 is worse", "preferred": 2}', 2, "json"),
        ('{"preferred_profile": "1", "reasoning": ""}', 1, "json"),
        ('{"preferred": 0}', 0, "json"),
        ('Sure:\n```json\n{"preferred": 1}\n```', 1, "json_inside"),
        ('{"reasoning": "cut off, preferred: 2', 2, "key"),
        ("Preferred answer: 1", 1, "key"),
        ("I take 2", None, "none"),
        ('{"preferred": 3}', None, "none"),
        ('{"preferred": true}', None, "none"),
        ('{"preferred": 1, "preferred_too": 2}', None, "none"),
        ("", None, "none"),
        ("[" * 5000, None, "none"),
    ],
)  # fmt: skip
def test_verdicts_are_parsed_as_json_and_then_by_the_fallbacks(text: str, choice: int | None, rule: str) -> None:
    found = read_choice(text, FALLBACKS)
    assert (found.choice, found.rule) == (choice, rule)


def test_the_last_digit_counts_only_on_request() -> None:
    assert read_choice("between 1 and 2 I take 2.", RULES).choice == 2
    assert read_choice("version 1.5 of 12", RULES).choice is None
    assert read_choice("x 2", ()).choice is None


@given(st.text())
def test_any_reply_can_be_parsed(text: str) -> None:
    found = read_choice(text, RULES)
    assert found.choice in (None, 0, 1, 2)
    assert (found.choice is None) == (found.rule == "none")


def test_near_duplicates_are_dropped_by_their_words() -> None:
    base = " ".join(f"w{i}" for i in range(40))
    found = distinct([base, base.replace("w1 ", "new "), f"{base} and more words that are new", "", "  ", base])
    assert found == [base, f"{base} and more words that are new"]
    assert distinct(["a b", "b a", "a b"], 1.0) == ["a b", "b a"]


# -- through the engine ----------------------------------------------------------------------------------------------

TEMPLATES = read_templates({"fields": {"text": "{{ question }}"}, "gold": "{{ answer }}"}, "mine.yaml")


def sampled_student() -> ScriptedBackend:
    """Return a student whose samples state different answers, the same ones in every test."""
    rng = random.Random(3)
    return ScriptedBackend(lambda p: f"Thought {rng.random()}.\nAnswer: {rng.randint(0, 3)}", name="student")


def quality(text: str) -> int:
    return int(text.rsplit("Answer: ", 1)[1].split()[0])


def judge_reply(prompt: str) -> str:
    """Prefer the higher answer, or neither of two equal ones."""
    parts = prompt.split('Answer 1:\n"""\n')[1]
    first, second = (quality(part.split('\n"""')[0]) for part in parts.split('Answer 2:\n"""\n'))
    return json.dumps({"reasoning": "…", "preferred": 1 if first > second else 2 if second > first else 0})


def rows(folder: Path, count: int = 6) -> Path:
    path = folder / "in.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"Question {i}?", "question": "", "answer": "3"}) + "\n" for i in range(count))
    )
    return path


def job(folder: Path, name: str = "out", source: Path | None = None) -> PreferenceJob:
    return PreferenceJob(source or rows(folder), folder / f"{name}.jsonl", "text", {"max_gen_toks": 20}, TEMPLATES, 1.0)


def students(folder: Path, student: ScriptedBackend, k: int = 8) -> Any:
    return plan_seats(Candidates, {"student": student}, {"k": k, "store": str(folder / "calls"), "progress": "off"})


def judges(folder: Path, judge: ScriptedBackend, **more: Any) -> Any:
    return plan_seats(Tournament, {"judge": judge}, {"store": str(folder / "calls"), "progress": "off", **more})


def test_preferences_end_to_end(tmp_path: Path) -> None:
    student, judge = sampled_student(), ScriptedBackend(judge_reply, name="judge")
    one, plan = job(tmp_path), judges(tmp_path, judge)
    write_candidates(one, students(tmp_path, student))
    write_judgements(one, plan.protocol, plan)
    report = write_pairs(one.judgements, one.target)
    assert [len(row["candidates"]) for row in lines(one.candidates)] == [8] * 6
    assert len(student.calls) == 1, "all draws of all prompts in one call"
    assert [len(call) for call in judge.calls] == [6 * 4 * 2, 6 * 2 * 2, 6 * 1 * 2], (
        "a round of all prompts in one call"
    )
    pairs = lines(one.target)
    assert pairs
    assert all(list(pair) == ["prompt", "chosen", "rejected"] for pair in pairs)
    assert all(quality(pair["chosen"]) > quality(pair["rejected"]) for pair in pairs)
    keys = [tuple(pair.values()) for pair in pairs]
    assert len(keys) == len(set(keys)) == report["pairs"]
    assert report["matches"] == 6 * 7
    assert report["judge"]["position"]["consistent"]["value"] == 1
    assert report["judge"]["accuracy"]["accuracy"]["value"] == report["gold"]["agreement"]
    assert report["verdicts_read_by"] == {"json": 6 * 7 * 2}
    assert report["gold"]["agreement"] == 1.0
    assert report["ties"]["total"] == report["ties"].get("neither_preferred", 0)


def test_no_call_is_made_twice_and_ranking_makes_none(tmp_path: Path) -> None:
    student, judge = sampled_student(), ScriptedBackend(judge_reply, name="judge")
    for name in ("out", "again"):
        one, plan = job(tmp_path, name), judges(tmp_path, judge)
        write_candidates(one, students(tmp_path, student))
        write_judgements(one, plan.protocol, plan)
        write_pairs(one.judgements, one.target)
    assert (len(student.calls), len(judge.calls)) == (1, 3)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    again = tmp_path / "ranked.jsonl"
    assert main(["rank", str(tmp_path / "out.judgements.jsonl"), str(again)]) == 0
    assert again.read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert (
        main(["rank", str(tmp_path / "out.judgements.jsonl"), str(tmp_path / "x.jsonl"), "--fallbacks", "guess"]) == 2
    )


def test_a_judge_that_goes_by_position_causes_only_ties(tmp_path: Path) -> None:
    judge = ScriptedBackend(lambda p: '{"preferred": 1}', name="judge")
    one, plan = job(tmp_path), judges(tmp_path, judge)
    write_candidates(one, students(tmp_path, sampled_student(), 4))
    write_judgements(one, plan.protocol, plan)
    report = write_pairs(one.judgements, one.target)
    position = report["judge"]["position"]
    assert (position["comparisons"], position["orders"], position["probability"]) == (18, 2, None)
    assert [position[name]["value"] for name in ("first", "consistent", "first_both", "last_both")] == [1, 0, 1, 0]
    assert position["expected"] == 0.5
    assert position["effect"]["p"] == 2 * 0.5**6, "a sign test over the 6 prompts, whose matches are not independent"
    assert report["ties"] == {"total": 18, "rate": 1.0, "orders_disagree": 18}
    assert lines(one.target) == []
    other, single = job(tmp_path, "single"), judges(tmp_path, judge, orders="one")
    write_candidates(other, students(tmp_path, sampled_student(), 4))
    write_judgements(other, single.protocol, single)
    report = write_pairs(other.judgements, other.target)
    assert report["judge_replies"] == 18
    assert report["pairs"] == 6 * 4
    position = report["judge"]["position"]
    assert (position["orders"], position["first"]["value"], "consistent" in position) == (1, 1.0, False)


def test_an_unreadable_verdict_counts_as_a_tie(tmp_path: Path) -> None:
    judge = ScriptedBackend(lambda p: "The second one, surely. 2", name="judge")
    one, plan = job(tmp_path), judges(tmp_path, judge)
    write_candidates(one, students(tmp_path, sampled_student(), 4))
    write_judgements(one, plan.protocol, plan)
    assert write_pairs(one.judgements, one.target)["ties"] == {"total": 18, "rate": 1.0, "unread": 18}
    read = write_pairs(one.judgements, tmp_path / "digits.jsonl", "last_digit")
    assert read["verdicts_read_by"] == {"last_digit": 36}, "the stored replies are parsed again"
    assert read["ties"] == {"total": 18, "rate": 1.0, "orders_disagree": 18}


def test_gold_answers_judge_without_a_model(tmp_path: Path) -> None:
    one = job(tmp_path)
    write_candidates(one, students(tmp_path, sampled_student()))
    write_judgements(one, Tournament(schedule="round_robin"), None)
    report = write_pairs(one.judgements, one.target)
    pairs = lines(one.target)
    assert pairs
    assert all(quality(p["chosen"]) == 3 and quality(p["rejected"]) != 3 for p in pairs)
    right = [sum(row["correct"]) for row in lines(one.judgements)]
    assert len(pairs) == sum(n * (8 - n) for n in right)
    assert report["contests_with_cycles"] == 0
    assert set(report["ties"]) <= {"total", "rate", "both_right", "both_wrong"}


def test_reviews_of_single_candidates_decide(tmp_path: Path) -> None:
    def review(prompt: str) -> str:
        return (
            "Correct.\nGood." if "Answer: 3" in prompt else "Incorrect.\nHint: no." if "Answer: 2" in prompt else "Hm"
        )

    judge = ScriptedBackend(review, name="judge")
    one, plan = job(tmp_path), judges(tmp_path, judge, style="review", schedule="round_robin")
    write_candidates(one, students(tmp_path, sampled_student()))
    write_judgements(one, plan.protocol, plan)
    report = write_pairs(one.judgements, one.target)
    assert [len(call) for call in judge.calls] == [6 * 8], "each candidate is reviewed once"
    assert all((quality(p["chosen"]), quality(p["rejected"])) == (3, 2) for p in lines(one.target))
    assert report["ties"]["unread"] > 0
    assert report["gold"]["agreement"] == 1.0


def test_given_candidates_bad_rows_and_rows_with_too_few_candidates(tmp_path: Path) -> None:
    source = tmp_path / "given.jsonl"
    given_rows = [
        {"text": "Q1", "answer": "3", "candidates": ["Answer: 1", "Answer: 3"]},
        {"text": "Q2", "answer": "3", "candidates": ["Answer: 1", "Answer: 1"]},
        {"text": "Q3", "answer": "3", "candidates": [1, 2]},
        {"text": "", "answer": "3", "candidates": ["a", "b"]},
        {"text": "Q5", "answer": "3"},
        {"text": "Q6", "answer": "", "candidates": ["Answer: 1", "Answer: 3"]},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in given_rows) + "{\n")
    one = job(tmp_path, source=source)
    made = write_candidates(one, None)
    assert made["counts"] == {"read": 7, "written": 3, "bad": 4}
    assert (made["near_duplicates_dropped"], made["rows_with_fewer_than_two"]) == (1, 1)
    judged = write_judgements(one, Tournament(), None)
    assert judged["counts"] == {"read": 3, "written": 2, "bad": 1}
    report = write_pairs(one.judgements, one.target)
    assert lines(one.target) == [{"prompt": "Q1", "chosen": "Answer: 3", "rejected": "Answer: 1"}]
    assert report["contests_of_fewer_than_two"] == 1


def test_cut_candidates_are_marked_in_the_pairs(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(
        "".join(json.dumps({"text": f"Question {i}?", "question": "", "answer": "3"}) + "\n" for i in range(2))
    )
    drawn = iter(range(8))

    def draw(prompt: str) -> Completion:
        number = next(drawn)
        end: Finish | None = "length" if number % 4 == 0 else "stop" if number % 4 < 3 else None
        return Completion(f" Answer: {number % 4} of {number}", end, completion_tokens=4)

    one, plan = job(tmp_path, source=source), judges(tmp_path, ScriptedBackend(judge_reply, name="judge"))
    made = write_candidates(one, students(tmp_path, ScriptedBackend(draw, name="student"), 4))
    assert made["cut_off"] == 2
    ends = {text: end for row in lines(one.candidates)
            for text, end in zip(row["candidates"], row["candidates_finished"], strict=True)}  # fmt: skip
    assert ends == {f" Answer: {n % 4} of {n}": [False, True, True, None][n % 4] for n in range(8)}
    write_judgements(one, plan.protocol, plan)
    write_pairs(one.judgements, one.target)
    pairs = lines(one.target)
    assert False in {pair["chosen_finished"] for pair in pairs} | {pair["rejected_finished"] for pair in pairs}
    assert all(pair[f"{side}_finished"] is ends[pair[side]] for pair in pairs for side in ("chosen", "rejected"))

    again = job(tmp_path, "again", source=one.candidates)
    write_candidates(again, None)
    assert lines(again.candidates) == lines(one.candidates), "given candidates keep their marks"


def test_a_judge_that_fails_on_one_prompt_does_not_affect_the_others(tmp_path: Path) -> None:
    def reply(prompt: str) -> str:
        if "Question 2?" in prompt:
            raise RuntimeError("no")
        return judge_reply(prompt)

    one, plan = job(tmp_path), judges(tmp_path, ScriptedBackend(reply, name="judge"))
    write_candidates(one, students(tmp_path, sampled_student(), 4))
    counts = write_judgements(one, plan.protocol, plan)["counts"]
    assert counts == {"read": 6, "written": 5, "bad": 1}


def test_brackets_depend_only_on_content(tmp_path: Path) -> None:
    source = tmp_path / "given.jsonl"
    made = [{"text": f"Q{i}", "answer": "3", "candidates": [f"Answer: {j} of {i}" for j in range(5)]} for i in range(4)]
    results = []
    for name, order in (("a", made), ("b", made[::-1])):
        source.write_text("".join(json.dumps(row) + "\n" for row in order))
        one = job(tmp_path, name, source)
        write_candidates(one, None)
        write_judgements(one, Tournament(), None)
        results.append({row["prompt"]: row["matches"] for row in lines(one.judgements)})
    assert results[0] == results[1]


def test_options_without_possible_preferences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`k` must be 2 or more"):
        students(tmp_path, sampled_student(), 1)
    with pytest.raises(ConfigurationError, match="unknown rule"):
        judges(tmp_path, ScriptedBackend(judge_reply), fallbacks="guess")
    with pytest.raises(ConfigurationError, match="diverse_beams"):
        plan_seats(Candidates, {"student": sampled_student()}, {"method": "diverse_beams"})
    source = str(rows(tmp_path))
    assert main(["preferences", source, str(tmp_path / "x.jsonl"), "--student", "embedded", "--judge", "gold"]) == 2
    assert main(["rank", source, str(tmp_path / "x.jsonl")]) == 2
