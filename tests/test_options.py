"""Model arguments to a checked run: conversions, ambiguous types, secrets, and all problems at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import instances, scripted_pair

from harness_ext.backends.registry import parse_spec
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.cli import doctor
from harness_ext.config.levels import flatten
from harness_ext.config.run_plan import plan_run
from harness_ext.errors import ConfigurationError
from harness_ext.models.baseline import Baseline, BaselineLM
from harness_ext.models.debate import Debate
from harness_ext.models.feedback_pair import REFINE_USER, FeedbackPair
from harness_ext.models.speculative_pair import SpeculativePair
from harness_ext.options import PromptText, build, convert
from harness_ext.terminal import outside


@dataclass(frozen=True)
class Options:
    rounds: int = 3
    share: float = 0.5
    flag: bool = False
    label: str = "x"
    folder: Path | None = None
    mode: Literal["auto", "on", "off"] = "auto"
    prompt: PromptText = field(default_factory=lambda: PromptText("say {review}"))
    free: Any = None


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("rounds", 3, 3),
        ("rounds", "3", 3),
        ("rounds", 3.0, 3),
        ("rounds", -1, -1),
        ("share", 1, 1.0),
        ("share", "0.25", 0.25),
        ("share", 1e5, 1e5),
        ("flag", True, True),
        ("flag", "on", True),
        ("flag", "False", False),
        ("flag", 0, False),
        ("flag", 1, True),
        ("label", "text", "text"),
        ("label", 2024, "2024"),
        ("label", "", ""),
        ("folder", "a/b", Path("a/b")),
        ("folder", 2024, Path("2024")),
        ("folder", None, None),
        ("folder", Path("p"), Path("p")),
        ("mode", "on", "on"),
        ("mode", True, "on"),
        ("mode", False, "off"),
        ("mode", "auto", "auto"),
        ("free", [1], [1]),
    ],
)
def test_conversions(name: str, given: object, wanted: object) -> None:
    problems: list[str] = []
    options = build(Options, {name: given}, problems)
    assert problems == []
    value = getattr(options, name)
    assert (value, type(value)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("rounds", 2.5, "a whole number"),
        ("rounds", "many", "a whole number"),
        ("rounds", True, "a whole number"),
        ("rounds", None, "a whole number"),
        ("rounds", float("inf"), "a whole number"),
        ("rounds", [3], "a whole number"),
        ("share", "half", "a number"),
        ("share", True, "a number"),
        ("share", None, "a number"),
        ("flag", "maybe", "on or off"),
        ("flag", 2, "on or off"),
        ("flag", None, "on or off"),
        ("label", 1e5, "quote it"),
        ("label", True, "quote it"),
        ("label", None, "quote it"),
        ("folder", 1.5, "quote it"),
        ("folder", False, "quote it"),
        ("mode", "of", "one of auto, on, off"),
        ("mode", 1, "one of auto, on, off"),
        ("prompt", "/no/such/file", "a readable UTF-8 text file"),
        ("prompt", "/", "a readable UTF-8 text file"),
        ("prompt", "a\0b", "a readable UTF-8 text file"),
    ],
)
def test_values_that_do_not_fit(name: str, given: object, expected: str) -> None:
    problems: list[str] = []
    assert build(Options, {name: given}, problems, "student.") is None
    (problem,) = problems
    assert problem.startswith(f"`student.{name}={outside(given)}`: expected ")
    assert expected in problem


@settings(deadline=None)
@given(st.from_type(int) | st.floats() | st.text() | st.booleans() | st.none() | st.lists(st.integers(), max_size=2))
def test_conversion_returns_the_declared_type_or_says_what_it_expected(value: object) -> None:
    for annotation in (int, float, bool, str, Path, Literal["a", "b"]):
        try:
            converted = convert(value, annotation)
        except ValueError as error:
            said = str(error)
        else:
            said = ""
            assert converted in ("a", "b") if annotation is Literal["a", "b"] else isinstance(converted, annotation)  # type: ignore[arg-type]
        assert "invalid literal" not in said


def test_prompt_files(tmp_path: Path) -> None:
    good, bad, binary = tmp_path / "good.txt", tmp_path / "bad.txt", tmp_path / "binary.txt"
    good.write_text("Teacher said {review} – { other } {{review}}\n\n", encoding="utf-8")
    bad.write_text("no mark here", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe{review}")
    problems: list[str] = []
    options = build(Options, {"prompt": str(good)}, problems)
    assert options is not None
    filled = options.prompt.fill(review="{other} {review}")
    assert filled == "Teacher said {other} {review} – { other } {{other} {review}}"
    for path, reason in ((bad, f"with {{review}}, which the file {bad} does not contain"), (binary, "readable UTF-8")):
        problems = []
        assert build(Options, {"prompt": str(path)}, problems) is None
        assert reason in problems[0]


@settings(deadline=None)
@given(st.text(), st.text())
def test_inserted_text_is_never_filled_again(draft: str, review: str) -> None:
    text = PromptText("<{draft}|{review}|{draft}|{unknown}>")
    assert text.fill(draft=draft, review=review) == f"<{draft}|{review}|{draft}|{{unknown}}>"


# -- plan_run ----------------------------------------------------------------------------------------------------------


def pair() -> dict[str, ScriptedBackend]:
    student, teacher = scripted_pair(str, str)
    return {"student": student, "teacher": teacher}


def problems_of(protocol: Any, arguments: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        plan_run(protocol, arguments)
    return raised.value.problems


def test_a_secret_is_refused_before_anything_else() -> None:
    problems = problems_of(FeedbackPair, {"student": "hf:x", "student.api_key": "sk-" + "1" * 30, "nonsense": 1})
    assert problems == (problems[0],)
    assert "`student.api_key` looks like a secret" in problems[0]
    assert "111" not in problems[0]


def test_all_problems_come_at_once() -> None:
    problems = problems_of(
        FeedbackPair,
        {
            "studnet": "hf:x",
            "max_round": 3,
            "window": "wide",
            "on_failure": "ignore",
            "verdict": "loud",
            "teacher": "vlm:x",
            "teacher.chat": "maybe",
            "review_user": "/no/file",
            "student.price_in": "cheap",
        },
    )
    text = "\n".join(problems)
    for part in (
        "no argument `studnet` (did you mean `student`?)",
        "no argument `max_round` (did you mean `max_rounds`?)",
        "`window=wide`: expected a whole number",
        "`on_failure=ignore`: expected one of stop, score",
        "`verdict=loud`: expected one of auto, decision, text",
        "`teacher.chat=maybe`: expected one of auto, on, off",
        "`review_user=/no/file`",
        "`student.price_in=cheap`: expected a number",
        "the seat `student` (answers the task and refines its answer) has no model",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vlm:x", r"`vlm` in `vlm:x` is not a backend \(did you mean `vllm`\?\)"),
        ("dummy:", "names no model"),
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("hf:./no/such", "there is no folder ./no/such"),
        ("feedback_pair:x", "is a protocol: write `protocol:feedback_pair`"),
    ],
)
def test_specifications_that_name_no_model(spec: str, message: str) -> None:
    import re

    import lm_eval.models  # noqa: F401

    (problem,) = problems_of(Baseline, {"student": spec})
    assert problem.startswith("`student`: ")
    assert re.search(message, problem), problem


def test_the_names_that_can_take_a_seat_are_those_that_are_accepted() -> None:
    with pytest.raises(ValueError, match="is not a backend") as error:
        parse_spec("no_such_backend:x", {})
    names = str(error.value).partition("The names: ")[2].split(", ")
    assert {"hf", "openai", "vllm", "local-completions", "classifier"} <= set(names)
    assert not {"feedback_pair", "harness_ext.debate", "skyline"} & set(names), "a protocol is no backend"
    assert [parse_spec(f"{name}:x", {}).backend for name in names] == names
    (listed,) = (finding.text for finding in doctor.models() if finding.text.startswith("for seats: "))
    assert listed.removeprefix("for seats: ").split(", ") == names


def test_limits_of_options() -> None:
    assert "`window` and `reason_max_tokens` must be 1 or more" in problems_of(FeedbackPair, {**pair(), "window": 0})
    (problem,) = problems_of(FeedbackPair, {**pair(), "max_rounds": -1})
    assert "`max_rounds` and `max_malformed` must be 0 or more" in problem


SERVED = "openai:m@http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student.price_in": -1}, "`student`: `price_in` and `price_out` must be 0 or more"),
        ({"teacher.price_out": -0.5}, "`teacher`: `price_in` and `price_out` must be 0 or more"),
        ({"student.price_in": "nan"}, "`student.price_in=nan`: expected a number that is finite"),
        ({"student.price_in": float("inf")}, "expected a number that is finite"),
        ({"student.parameters": -7}, "`parameters=-7`: expected the number of the model's weights"),
        ({"student.parameters": 7}, "`parameters=7`: expected the number of the model's weights (`7e9`)"),
        ({"student.timeout": "nan"}, "`timeout=nan`: expected a number that is finite"),
        ({"student.timeout": float("inf")}, "`timeout=inf`: expected a number that is finite"),
        ({"student.connect_timeout": 0}, "`connect_timeout`, `requests_per_minute` and `tokens_per_minute` must be"),
        ({"student.requests_per_minute": -1}, "`requests_per_minute` and `tokens_per_minute` must be above 0"),
        ({"student.tokens_per_minute": 0}, "`requests_per_minute` and `tokens_per_minute` must be above 0"),
        ({"student.max_wait": -1}, "`max_wait` must be 0 or more"),
        ({"student.tokenizer": "/no/such", "student.endpoint": "completions"}, "`tokenizer=/no/such` cannot be read"),
        ({"student.tokenizer": "/no/such"}, "`tokenizer` is used with `endpoint=completions` only"),
        ({"max_rounds": 1e9}, "`max_rounds=1000000000.0`: expected a whole number of at most 10,000,000"),
        ({"max_rounds": 10_001}, "`max_rounds=10001`: expected at most 10,000 rounds"),
        ({"window": 10**30}, "expected a whole number of at most"),
        ({"run_dir": ""}, "`run_dir` is empty"),
        ({"run_dir": " "}, "`run_dir` is empty"),
        ({"run_dir": "x" * 300}, "`run_dir`: no folder can have this name"),
        ({"run_dir": "a\0b"}, "`run_dir`: no folder can have this name"),
        ({"store": ""}, "`store` is empty: name a folder, or run without a store (`store=off`)"),
        ({"store": "s/" + "x" * 300}, "`store`: no folder can have this name"),
        ({"model": ""}, "`model`, the run's label, names folders and has 0 characters"),
        ({"model": "x" * 300}, "has 300 characters: give one of 1 to 150"),
        ({"model": "é" * 100}, "`model`, the run's label"),
        ({"model": ".."}, "`model=..`, the run's label, names folders: none can have this name"),
        ({"model": "a\0b"}, "`model=a<U+0000>b`, the run's label, names folders: none can have this name"),
        ({"model": "a\nb"}, "`model=a b`, the run's label, names folders: none can have this name"),
        ({"student.gen.temperature": "abc"}, "`student`: `gen.temperature=abc`: expected a number from 0 to 100"),
        ({"student.gen.temperature": -1}, "expected a number from 0 to 100"),
        ({"student.gen.temperature": float("nan")}, "expected a number from 0 to 100"),
        ({"student.gen.top_p": 2}, "`gen.top_p=2`: expected a number from 0 to 1"),
        ({"student.gen.max_gen_toks": 0}, "`gen.max_gen_toks=0`: expected a whole number from 1 to 10,000,000"),
        ({"student.gen.max_gen_toks": 1e30}, "`gen.max_gen_toks=1e+30`: expected a whole number from 1 to 10,000,000"),
        ({"student.gen.top_k": 1.5}, "`gen.top_k=1.5`: expected a whole number from -1"),
        ({"student.gen.do_sample": "perhaps"}, "`gen.do_sample=perhaps`: expected True or False"),
        ({"student.gen.until": 7}, "`gen.until=7`: expected a text or a list of texts"),
        ({"student": "openai:m@http://localhost:65536/v1"}, "is not an address: Port out of range 0-65535"),
        ({"student": "openai:m@http://localhost:port/v1"}, "is not an address"),
        ({"student": "openai:m@http://localhost:0/v1"}, "no server can have the port 0"),
        ({"student": "openai:m@http://[::1/v1"}, "is not an address"),
        ({"student": "openai:m@http://my host:8000/v1"}, "is not an address: it contains white space"),
        ({"student": "openai:m@http://localhost:8000\n/v1"}, "is not an address: it contains white space"),
        ({"student": "openai:m@ftp://localhost/v1"}, "must be `<model>@<base url>`"),
        (
            {"student": "local-completions:m", "student.base_url": "http://h:99999/v1"},
            "`base_url=http://h:99999/v1` is not an address: Port out of range 0-65535",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_loaded(arguments: dict[str, Any], message: str) -> None:
    (problem,) = problems_of(FeedbackPair, {"student": SERVED, "teacher": SERVED, **arguments})
    assert message in problem


@pytest.mark.parametrize("key", ["line\nbreak-in-key", "trailing-break\n", "a key with spaces", "bell\x07-in-the-key"])
def test_a_key_that_no_header_can_hold_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", key)
    (problem,) = problems_of(Baseline, {"student": SERVED, "student.api_key_env": "SOME_VARIABLE"})
    assert "the environment variable SOME_VARIABLE contains white space" in problem
    assert key not in problem


@pytest.mark.parametrize("url", ["http://user@host/v1", "https://host/v1?sig=abc", "http://host:99999/v1"])
def test_the_address_in_the_environment_is_checked_as_well(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", "some-long-key")
    (problem,) = problems_of(Baseline, {"student": "openai:m"})
    assert "OPENAI_BASE_URL" in problem
    assert "user@" not in problem
    assert "abc" not in problem


def test_a_team_of_a_thousand_million_members_is_refused() -> None:
    assert "`agents`: a team has at most 1000 members, not 1000000000" in problems_of(Debate, {"agents": 10**9})


def test_settings_of_a_task_are_checked_before_anything_is_asked(tmp_path: Path) -> None:
    asked: list[str] = []
    student = scripted_pair(asked.append, str)[0]  # type: ignore[arg-type]
    lm = BaselineLM(student=student, store="off", run_dir=tmp_path / "r", progress="off")
    with pytest.raises(ConfigurationError) as raised:
        lm.generate_until(instances(["a", "b"], {"until": [], "temperature": "abc"}))
    (problem,) = raised.value.problems
    assert "`temperature=abc`: expected a number from 0 to 100. Change it in the task or in `--gen_kwargs`" in problem
    assert not asked


def test_missing_capabilities_are_reported() -> None:
    seats = pair()
    seats["teacher"].capabilities = frozenset({"generate"})
    assert plan_run(FeedbackPair, seats).seats["teacher"].backend is seats["teacher"]
    speculative = {**seats, "unit": "step", "accept": "reward", "reward": seats["teacher"]}
    first, _ = problems_of(SpeculativePair, speculative)
    assert first == "`reward`: this run needs a model that can reward, but teacher cannot"


def test_nested_and_dotted_arguments_are_equivalent() -> None:
    backends = pair()
    nested = {"student": {"model": backends["student"], "chat": "off", "price_in": 1}, "teacher": backends["teacher"]}
    dotted = {
        "student": backends["student"],
        "student.chat": False,
        "student.price_in": "1.0",
        "teacher": backends["teacher"],
    }
    plans = [plan_run(FeedbackPair, arguments) for arguments in (nested, dotted)]
    assert plans[0].seats == plans[1].seats
    assert plans[0].seats["student"].chat == "off"
    assert plans[0].seats["student"].price_in == 1.0
    assert flatten({"a": {"b": {"c": 1}}, "s": {"model_kwargs": {"x": 2}}}) == {"a.b.c": 1, "s.model_kwargs": {"x": 2}}


@pytest.mark.parametrize(("given", "wanted"), [(False, "off"), ("off", "off"), (2024, "2024"), ("a/b", "a/b")])
def test_values_of_the_store(given: object, wanted: str) -> None:
    assert plan_run(Baseline, {"student": pair()["student"], "store": given}).options.store == wanted


def test_store_true_is_the_default_store() -> None:
    student = pair()["student"]
    usual = plan_run(Baseline, {"student": student}).options.store
    assert plan_run(Baseline, {"student": student, "store": True}).options.store == usual


def test_names_that_lm_eval_reads_as_numbers() -> None:
    student = pair()["student"]
    options = plan_run(Baseline, {"student": student, "run_dir": 2024, "model": 7}).options
    assert (options.run_dir, options.model) == (Path("2024"), "7")
    (problem,) = problems_of(Baseline, {"student": student, "run_dir": 1e5})
    assert problem == "`run_dir=100000.0`: expected text; lm-eval read it as 100000.0, so quote it: '…'"


def test_without_a_model_the_demonstration_pair_is_used() -> None:
    plan = plan_run(FeedbackPair, {"max_rounds": 2}, device="cpu")
    assert plan.demonstration
    assert [Path(s.backend.name).name for s in plan.seats.values()] == ["student", "teacher"]
    assert not plan_run(FeedbackPair, pair()).demonstration


def test_a_seats_object_must_be_a_model() -> None:
    (problem,) = problems_of(Baseline, {"student": object()})
    assert "a seat takes a specification, a Backend or an lm_eval LM, not object" in problem


def test_the_default_prompts_have_their_marks() -> None:
    assert PromptText(REFINE_USER).marks == {"review", "demand"}
