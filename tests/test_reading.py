"""Answers in tables of replies: numbers, choices, yes and no, and what is the same."""

from __future__ import annotations

import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from reading_choices import CHOICES, PLACES, TRUTH
from reading_numbers import NUMBERS
from reasoning_replies import CHOICES as OLDER_CHOICES
from reasoning_replies import NUMBERS as OLDER_NUMBERS

import harness_ext
from harness_ext.reading import (
    AnswerForm,
    Reading,
    all_agree,
    answer_form,
    check_pattern,
    cut_run_on,
    read_answer,
    read_choice,
    read_json_choice,
    read_number,
    read_yes_no,
    same_answer,
    vote,
)

ROOT = Path(__file__).parent.parent


def test_the_package_under_test_is_this_checkouts() -> None:
    assert Path(harness_ext.__file__).is_relative_to(ROOT)


def numbers() -> list[tuple[str, str | None]]:
    return [row for rows in NUMBERS.values() for row in rows] + OLDER_NUMBERS[:-4]


@pytest.mark.parametrize(("reply", "gold"), numbers())
def test_numbers_are_read_alike_for_scores_and_votes(reply: str, gold: str | None) -> None:
    score, voted = read_number(reply), read_answer(reply)
    wanted = None if gold is None else Fraction(gold)
    assert (score.number if score else None) == wanted
    assert (voted.number if voted else None) == wanted
    if score is not None:
        assert reply[slice(*score.span)] == score.written
        assert Fraction(score.value) == wanted


@pytest.mark.parametrize(("reply", "gold"), OLDER_NUMBERS)
def test_numbers_of_the_reasoning_tasks(reply: str, gold: str | None) -> None:
    found = read_number(reply)
    assert (found.number if found else None) == (None if gold is None else Fraction(gold))


def choices() -> list[tuple[tuple[str, ...], str, str | None]]:
    table = [(options, reply, gold) for options, rows in CHOICES.items() for reply, gold in rows]
    return table + [(options, reply, gold) for reply, options, gold in OLDER_CHOICES]


@pytest.mark.parametrize(("options", "reply", "gold"), choices())
def test_choices_are_read_alike_for_scores_and_votes(options: tuple[str, ...], reply: str, gold: str | None) -> None:
    score = read_choice(reply, options)
    assert (score.value if score else None) == gold
    assert read_answer(reply, form=AnswerForm("choice", options)) == score
    if score is not None:
        assert reply[slice(*score.span)] == score.written


@pytest.mark.parametrize(("reply", "gold"), CHOICES[TRUTH])
def test_yes_and_no(reply: str, gold: str | None) -> None:
    found = read_yes_no(reply)
    assert (found.value if found else None) == {"A": "true", "B": "false", None: None}[gold]


@pytest.mark.parametrize(
    ("reply", "choice", "yes_no"),
    [
        ("Agent 1's answer is incorrect because it overlooks that pasta is soft.", None, "false"),
        ("Agent 1's answer is incorrect because the sentence is true.", "A", "false"),
        ("The statement is false, so the student's answer is correct.", "B", "true"),
        ("The previous answer is not right.", None, "false"),
        ("The student’s final answer is wrong. So it is true.", "A", "false"),
        ("The first answer is correct and the second is wrong.", None, "true"),
    ],
)
def test_what_is_said_of_another_answer_answers_only_whether_that_is_right(
    reply: str, choice: str | None, yes_no: str
) -> None:
    found, decided = read_choice(reply, TRUTH), read_yes_no(reply)
    assert (found.value if found else None) == choice
    assert decided is not None
    assert decided.value == yes_no


@pytest.mark.parametrize(("reply", "gold"), CHOICES[PLACES])
def test_without_the_choices_no_other_letter_is_read(reply: str, gold: str | None) -> None:
    found = read_answer(reply)
    if gold is not None and found is not None and found.kind == "choice":
        assert found.value == gold


READ = [
    ("She sells 9 * 2 = 18 eggs.\n#### 18", "number", "18"),
    ("The answer is $1,234.56.", "number", "1234.56"),
    ("Answer: 8/3", "number", "8/3"),
    ("Answer: 1/8", "number", "0.125"),
    ("Reasoning: he went there.\nAnswer: the Garden.", "text", "garden"),
    ("Reasoning: x. Answer: hall\n**Answer:** **garden**", "text", "garden"),
    ("**Final Answer**: apple,football", "text", "apple, football"),
    ("so \\boxed{\\text{garden}}.", "text", "garden"),
    ("Answer: maybe", "text", "maybe"),
    ("Reasoning: he is not mentioned.\nAnswer: unknown", "text", "unknown"),
    ("So the correct answer is (B) kitchen.", "choice", "B"),
    ("The answer is B because it is cool.", "choice", "B"),
    ("b", "choice", "B"),
    ("**B**", "choice", "B"),
    ("Answer: Yes, since he is there.", "yes_no", "true"),
    ("**No**, he is not.", "yes_no", "false"),
    ("Answer: 3 pm", "text", "3 pm"),
    ("Answer: 10:30 am", "text", "10:30 am"),
    ("Answer: 3:45 P.M.", "text", "3:45 pm"),
    ("Answer: 10:30", "text", "10:30"),
    ("Answer: 3-2", "text", "3-2"),
    ("Answer: 2021-04-12", "text", "2021-04-12"),
    ("Answer: 12 April 2021", "text", "12 april 2021"),
    ("Answer: x=1 or x=2", "text", "x=1 or x=2"),
    ("\\boxed{x = 5}", "number", "5"),
    ("\\boxed{2x + 1}", "formula", "2x + 1"),
    ("\\boxed{2x - y + 9 = 0}", "formula", "2x - y + 9 = 0"),
    ("\\boxed{\\frac{\\sqrt{2}}{2}}", "formula", "\\frac{\\sqrt{2}}{2}"),
    ("\\boxed{(1, 2)}", "formula", "(1, 2)"),
]


@pytest.mark.parametrize(("reply", "kind", "value"), READ)
def test_what_a_reply_answers_without_a_form(reply: str, kind: str, value: str) -> None:
    found = read_answer(reply)
    assert found is not None
    assert (found.kind, found.value) == (kind, value)


@pytest.mark.parametrize(
    "reply",
    [
        "", "  \n", "...", "Answer:", "Answer:\nReasoning: he", "No idea at all what to say here", "<think>Answer: 5",
        "\\boxed{", "Answer: " + "word " * 100, "Answer: yes and no", "Answer: A or B",
        "Agent 2's answer is correct.", "Your answer is wrong. Let's see.",
    ],
)  # fmt: skip
def test_what_cannot_be_read(reply: str) -> None:
    assert read_answer(reply) is None


def test_what_was_written_is_kept() -> None:
    for reply, written in [
        ("It costs **$1,234.56** in all.\nAnswer: $1,234.56!", "$1,234.56"),
        ("Answer: two hundred and fifty eggs", "two hundred and fifty"),
        ("The answer is $2\\frac{1}{2}$.", "2\\frac{1}{2}"),
        ("Answer: ٣٦", "٣٦"),
        ("<think>5</think>Answer: 5 million", "5 million"),
    ]:
        found = read_answer(reply)
        assert found is not None
        assert found.written == written
        assert reply[slice(*found.span)] == written


EQUAL = [
    ("1,000", "$1000"), ("1000", "1000.0"), ("1000 dollars", "$1,000.00"), ("0.5", "1/2"), ("1.5e3", "1500"),
    ("\\boxed{\\frac{1}{2}}", ".5"), ("2½", "5/2"), ("Answer: 5 dozen", "60"), ("50%", "50"),
    ("\\boxed{x^2+1}", "\\boxed{1+x^2}"), ("\\boxed{\\frac{\\sqrt{2}}{2}}", "\\boxed{1/\\sqrt{2}}"), ("(B)", "B."),
    ("Answer: the garden", "Garden."), ("Answer: apple, football", "Answer: apple,football"), ("yes", "True"),
    ("Answer: 3:45 PM", "Answer: 3:45 p.m."), ("Answer: 3 pm", "Answer: 3:00 pm"), ("Answer: 03:45", "Answer: 3:45"),
    ("Answer: 2:3", "Answer: 4:6"), ("\\boxed{2, 3}", "\\boxed{3, 2}"),
    ("\\boxed{1, 2 \\text{ and } 3}", "Answer: 3, 2, 1"),
    ("Answer: B, since it is cool", "(B) cellar"), ("Answer: 48 m²", "Answer: 48 square metres"),
    ("\\boxed{2x - y + 9 = 0}", "\\boxed{4x - 2y + 18 = 0}"),
]  # fmt: skip
UNEQUAL = [
    ("yes", "no"), ("10", "100"), ("-5", "5"), ("3 am", "3 pm"), ("garden", "kitchen"), ("5 million", "5"),
    ("\\boxed{x+1}", "\\boxed{x-1}"), ("Answer: 5 dozen", "Answer: 5"), ("Answer: 3k", "Answer: 3"),
    ("\\boxed{(1,2)}", "\\boxed{(2,1)}"), ("south, east", "east, south"), ("0.333", "1/3"), ("A", "B"),
    ("Answer: 10:30", "Answer: 5:15"), ("Answer: 2021-04-12", "Answer: 2021-12-04"), ("Answer: 3-2", "Answer: 4-3"),
    ("Answer: 04/12/2021", "Answer: 12/04/2021"), ("Answer: 2:30", "Answer: 4:60"), ("Answer: 2:3", "Answer: 3:2"),
    ("Answer: 1/2^60", "Answer: 1/2^61"), ("\\boxed{1/2^{60}}", "\\boxed{1/2^{61}}"),
    ("\\boxed{2x-y+9=0}", "\\boxed{2x+4y+11=0}"), ("Answer: 2 2/3", "Answer: 2"),
    ("Answer: New Hampshire", "Answer: Hampshire"), ("\\boxed{4}", "\\boxed{4\\sqrt(2)}"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_the_same_answer(a: str, b: str) -> None:
    assert same_answer(read_answer(a), read_answer(b))
    assert same_answer(read_answer(b), read_answer(a))


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_not_the_same_answer(a: str, b: str) -> None:
    assert read_answer(a) is not None
    assert not same_answer(read_answer(a), read_answer(b))
    assert not same_answer(read_answer(b), read_answer(a))


def test_formulas_are_compared_outside_the_main_thread() -> None:
    """math-verify's time-outs are signals, which raise in any other thread; the engine has a thread of its own."""
    found: list[bool] = []
    thread = threading.Thread(
        target=lambda: found.append(same_answer(read_answer("\\boxed{2x+3}"), read_answer("\\boxed{3+2x}")))
    )
    thread.start()
    thread.join()
    assert found == [True]


def test_a_pattern_reads_the_answer_instead() -> None:
    found = read_answer("Result => 7 (not 8)", pattern=r"=> (\d+)")
    assert found == Reading("number", "7", "7", (10, 11), "pattern", Fraction(7))
    assert read_answer("no result", pattern=r"=> (\d+)") is None
    assert read_answer("<think>=> 7</think>none", pattern=r"=> (\d+)") is None
    letter = read_answer("Choose: cellar", pattern=r"Choose: (.*)", form=AnswerForm("choice", PLACES))
    assert letter is not None
    assert letter.value == "B"
    with pytest.raises(ValueError, match="is no regular expression"):
        check_pattern("(")


def test_a_reply_that_runs_on_is_cut() -> None:
    assert cut_run_on("Answer: 5\nAgent 2: No, 6.") == ("Answer: 5", True)
    assert cut_run_on("Answer: 5\n\n**Question 2:** what?") == ("Answer: 5", True)
    assert cut_run_on("Answer: 5\nThe question: done.") == ("Answer: 5\nThe question: done.", False)
    assert cut_run_on("\nQuestion: is all there is") == ("\nQuestion: is all there is", False)


QUESTION = "How many tulips are left after the rabbits came?"


def test_examples_recited_before_the_question_do_not_count() -> None:
    recited = f"Q: A ferry?\nAnswer: 22.5\n\nQ: {QUESTION}\nA: 24 - 5 = 19.\nAnswer: 19\n\nQ: Next?\nAnswer: 3"
    for reply in (recited, f"Answer: 19. That answers: {QUESTION}"):
        found = read_number(reply, QUESTION)
        assert found is not None
        assert found.number == 19
    stem = "Where would a baker keep bread warm?"
    choice = read_choice(f"Q: x? (A) y\nAnswer: (A)\n\nQ: {stem} (A) oven\nA: Hm.\nAnswer: (B)", PLACES, stem)
    assert choice is not None
    assert choice.value == "B"


def test_votes() -> None:
    said = [read_answer(t) for t in ("5", "no words to read here at all", "7", "5.0", "$7")]
    result = vote(said)
    assert (result.winner, result.counts, result.tie, result.unparsable) == (0, (("5", 2.0), ("7", 2.0)), True, 1)
    weighted = vote(said, [0.1, 9.0, 0.2, 0.1, 0.2])
    assert weighted.winner == 2
    assert not weighted.tie
    assert vote([None, None]).winner is None
    assert not all_agree([None, None])
    assert not all_agree([])
    assert all_agree([read_answer("5"), read_answer("5.00")])


UNLETTERED = AnswerForm("choice", ("33 minutes", "33 hours"), lettered=False)
FORMS = [
    ("Where? (A) oven (B) cellar (C) river\nAnswer:", AnswerForm("choice", ("oven", "cellar", "river"))),
    ("Where? (A) oven (B) the cellar. Answer with the letter.", AnswerForm("choice", ("oven", "the cellar"))),
    ("Which?\nA. one\nB. two words\nC. three\n\nAnswer:", AnswerForm("choice", ("one", "two words", "three"))),
    ("Which?\nA) one\nB) two\n", AnswerForm("choice", ("one", "two"))),
    ("Q: x? (A) a (B) b\nAnswer: (A)\n\nQ: y? (A) c (B) d (C) e\nAnswer:", AnswerForm("choice", ("c", "d", "e"))),
    ("Determine the correctness. Birds fly. (A) True (B) False\n", AnswerForm("choice", ("True", "False"))),
    ("Is Mary in the kitchen?", AnswerForm("yes_no")),
    ("Mary went to the hall.\nQuestion: Is Mary in the kitchen?\n", AnswerForm("yes_no")),
    ("Birds fly. Answer yes or no.", AnswerForm("yes_no")),
    ("True or false: birds fly.", AnswerForm("yes_no")),
    ("Is it Mary or John?", AnswerForm()),
    ("How many eggs are left?", AnswerForm()),
    ("Where is Mary?", AnswerForm()),
    ("(A) is a letter.", AnswerForm()),
    ("Bake it for how long?\n Choices: ['33 minutes', '33 hours']\n Hint: ", UNLETTERED),
    ('Bake it for how long?\nOptions: ["33 minutes", "33 hours"]. Answer in JSON.', UNLETTERED),
    ("Bake it for how long?\n**Options:**\n- 33 minutes\n- 33 hours\n\nAnswer:", UNLETTERED),
    ("Choices: ['1', '2']\n\nBake it for how long?\nOptions:\n* 33 minutes\n* 33 hours", UNLETTERED),
    ("Does it rain?\n Choices: ['no', 'Yes']\n", AnswerForm("yes_no")),
    ("Which?\nOptions: ['a', 'b']\n(A) one (B) two\n", AnswerForm("choice", ("one", "two"))),
    ("Which?\nChoices: [1, 2]", AnswerForm()),
    ("Which?\nChoices: ['a', 'a']", AnswerForm()),
    ("Which?\nChoices: ['a' 'b'], ['c'", AnswerForm()),
    ("Which?\nChoices: ['only one']", AnswerForm()),
    (f"Which?\nChoices: {[str(n) for n in range(27)]}", AnswerForm()),
    ("You have two options:\nstay or leave", AnswerForm()),
    ("There are two options:\n- adult: $5\n- child: $3\nHow much do four adults pay?", AnswerForm()),
    ("Bake it for how long?\nPossible choices:\n• 33 minutes\n• 33 hours", UNLETTERED),
    ("", AnswerForm()),
]


@pytest.mark.parametrize(
    ("reply", "value", "rule"),
    [
        ('```json\n{"answer": "33 hours", "solution": "33 minutes is too short."}\n```', "33 hours", "heading"),
        ('{"answer": 1, "solution": "Not 33 minutes."}', "33 hours", "json"),
        ("{'Answer': '33 Minutes', 'solution': '33 hours is too long'}", "33 minutes", "heading"),
        ("It takes a while. The answer is 33 hours.", "33 hours", "statement"),
        ("33 minutes", "33 minutes", "line"),
        ('{"answer": "33 days", "solution": "33 hours"}', None, None),
        ("33", None, None),
    ],
)
def test_options_without_letters_are_told_apart_by_their_texts(reply: str, value: str | None, rule: str | None) -> None:
    found = read_answer(reply, form=UNLETTERED)
    assert (found and found.value, found and found.rule) == (value, rule)
    assert found is None or reply[slice(*found.span)] == found.written
    position = read_json_choice(reply, UNLETTERED.choices).choice
    assert value == (None if position is None else UNLETTERED.choices[position]), "a vote and a score never differ"


@pytest.mark.filterwarnings("error")
def test_latex_in_a_python_notation_warns_nobody() -> None:
    form = answer_form("Which?\nChoices: ['\\sum', '\\pi']\n")
    assert form.choices == ("\\sum", "\\pi")
    found = read_answer("{'answer': '\\pi', 'solution': 'It is \\*so*.'}", form=form)
    assert found is not None
    assert found.value == "\\pi"


def test_answers_with_equal_numbers_and_other_units_are_two_options() -> None:
    replies = [f'{{"answer": "33 {unit}"}}' for unit in ("minutes", "hours", "hours")]
    result = vote([read_answer(reply, form=UNLETTERED) for reply in replies])
    assert result.counts == (("33 minutes", 1.0), ("33 hours", 2.0))


@pytest.mark.parametrize(("prompt", "form"), FORMS)
def test_what_a_prompt_asks_for(prompt: str, form: AnswerForm) -> None:
    assert answer_form(prompt) == form


def test_a_yes_no_question_may_be_answered_by_another_word() -> None:
    form = AnswerForm("yes_no")
    for reply, value in (("Answer: no", "false"), ("Answer: maybe", "maybe"), ("The answer is yes.", "true")):
        found = read_answer(reply, form=form)
        assert found is not None
        assert found.value == value
    assert read_answer("Answer: yes and no", form=form) is None


COLONIES = ("Maryland", "New Hampshire", "Rhode Island", "Vermont")
JSON = [
    ('{"answer": "B", "explanation": "by its shape"}', 1, "by its shape"),
    ('```json\n{"answer": "New Hampshire", "solution": "shape"}\n```', 1, "shape"),
    ("{'answer': 'B. New Hampshire', 'solution': 'shape'}", 1, "shape"),
    ('<think>{"answer": "A"}</think>\n{"answer": "B"}', 1, ""),
    ('{"result": {"answer": "B"}}', 1, ""),
    ('{"answer": "B because of its shape"}', 1, ""),
    ('{"answer": "**B**"}', 1, ""),
    ('{"answer": 1}', 1, ""),
    ('{"choice": "(B)"}', 1, ""),
    ('{"answer": ["New Hampshire"]}', 1, ""),
    ('{"answer": ["Vermont", "Maryland"]}', None, ""),
    ('{"answer": "Ohio", "solution": "a guess"}', None, "a guess"),
    ('{"answer": "New Hampshire", "solution": "cut o', 1, "cut o"),
    ("{answer: New Hampshire}", None, ""),
    ("The colony is New Hampshire.", 1, "The colony is New Hampshire."),
    ('analysisMaybe {"answer": "A"}.assistantfinal{"answer": "B"}', 1, ""),
    ("<think>the answer is B", None, ""),
    ("", None, ""),
]


@pytest.mark.parametrize(("reply", "choice", "explanation"), JSON)
def test_replies_in_json_style(reply: str, choice: int | None, explanation: str) -> None:
    found = read_json_choice(reply, COLONIES)
    if reply != "{answer: New Hampshire}":  # what such a reply explains is of no matter
        assert found.explanation == explanation
        assert found.choice == choice


def test_reading_loads_no_heavy_library() -> None:
    code = (
        "import sys; import harness_ext.reading; from harness_ext.reading import read_answer, same_answer;"
        "same_answer(read_answer('Answer: 5'), read_answer('5'));"
        "heavy = ('sympy', 'math_verify', 'torch', 'numpy', 'lm_eval', 'harness_ext.records');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
