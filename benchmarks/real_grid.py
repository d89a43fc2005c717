"""The grid of `real_results.py`: which settings run on which pairs of models and tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import MODELS

# By `harness-ext plan --baseline 0.4 --discordant 0.2 --questions 200`, a gain of 0.09 is found with power 0.8.
LIMIT = 200
ROUNDS = 2
FEEDBACK = "feedback_pair"
# The numbers of weights, for FLOPs: GGUF files do not state them.
WEIGHTS = {"smollm2": 134_515_008, "gemma": 268_098_176, "qwen-0.5b": 494_032_768, "qwen-1.5b": 1_543_714_304}


@dataclass(frozen=True)
class Task:
    """A task of the grid.

    name: its name in lm-eval.
    title: its name on the page.
    metric: the metric that counts right answers, as `metric,filter`.
    unread: the metric that counts replies without a readable answer.
    """

    name: str
    title: str
    metric: str = "exact_match,none"
    unread: str = "unparsable,none"


@dataclass(frozen=True)
class Setting:
    """A protocol with its options.

    label: the name of its rows.
    model: the name of the protocol in lm-eval.
    seats: which model each seat has, `student` or `teacher`.
    options: options of the protocol; `{feedback}` stands for the run directory of `feedback_pair`.
    about: what it does, in a few words.
    """

    label: str
    model: str
    seats: Mapping[str, str]
    options: Mapping[str, Any]
    about: str


@dataclass(frozen=True)
class Pair:
    """A student and a teacher, by their names in `models.py`."""

    student: str
    teacher: str

    @staticmethod
    def of(text: str) -> Pair:
        """Return the pair that is written `<student>+<teacher>`. Raises ValueError for anything else."""
        student, _, teacher = text.partition("+")
        if unknown := [name for name in (student, teacher) if name not in MODELS]:
            raise ValueError(
                f"{text}: there is no model {unknown[0]!r}; write <student>+<teacher> of {', '.join(MODELS)}"
            )
        return Pair(student, teacher)

    def __str__(self) -> str:
        return f"{self.student}+{self.teacher}"

    @property
    def title(self) -> str:
        """Return the names of both models."""
        return f"{MODELS[self.student].title} → {MODELS[self.teacher].title}"


@dataclass(frozen=True)
class Cell:
    """A setting on a pair and a task."""

    task: Task
    pair: Pair
    setting: Setting

    def __str__(self) -> str:
        return f"{self.task.name}, {self.pair}, {self.setting.label}"


TASKS = (
    Task("gsm8k_cot_answer", "GSM8K"),
    Task("creak_cot", "CREAK"),
    Task("ecqa_cot", "ECQA"),
    Task("strategyqa_cot", "StrategyQA"),
    Task("scienceqa_qtch", "ScienceQA", "acc,none", "unmapped,none"),
)
BOTH = {"student": "student", "teacher": "teacher"}
SETTINGS = (
    Setting("baseline", "baseline", {"student": "student"}, {}, "the student alone"),
    Setting("skyline", "skyline", {"teacher": "teacher"}, {}, "the teacher alone"),
    Setting(FEEDBACK, "feedback_pair", BOTH, {"max_rounds": ROUNDS}, "the teacher reviews, the student refines"),
    Setting(
        "second_look", "second_look", {"student": "student"}, {"rounds": ROUNDS}, "the student checks its own answer"
    ),
    Setting(
        "self_consistency", "self_consistency", {"student": "student"}, {"k": "auto:{feedback}", "by": "flops"},
        "the student votes with itself, at about the compute of `feedback_pair`",
    ),
    Setting(
        "debate", "debate", {"agent.1": "student", "agent.2": "teacher"}, {"topology": "all", "max_rounds": 1},
        "both answer, read each other and answer again",
    ),
    Setting(
        "speculative_pair", "speculative_pair", BOTH, {"unit": "step", "accept": "judge"},
        "the teacher rates each step and replaces bad ones",
    ),
    Setting(
        "self_refine", "self_refine", {"student": "student"}, {"max_rounds": ROUNDS},
        "the student criticises and refines its own answer",
    ),
    Setting(
        "chain_of_verification", "chain_of_verification", {"student": "student"}, {},
        "the student answers check questions about its answer, and revises it",
    ),
    Setting(
        "best_of_n", "best_of_n", {"student": "student", "verifier": "teacher"}, {"n": 4},
        "the teacher chooses among four answers of the student",
    ),
    Setting(
        "mixture_of_agents", "mixture_of_agents",
        {"proposer.1": "student", "proposer.2": "teacher", "aggregator": "teacher"}, {"layers": 2},
        "the teacher reads answers of both, and writes one of its own",
    ),
    Setting(
        "speculative_cot", "speculative_cot", BOTH, {"n": 3},
        "the teacher chooses among three chains of thought of the student, or writes its own",
    ),
    Setting("lookahead", "lookahead", BOTH, {}, "the teacher keeps the student's steps that agree with its own"),
    Setting(
        "cascade", "cascade", BOTH, {"k": 3, "accept_at": 1},
        "the teacher answers unless three answers of the student agree",
    ),
    Setting(
        "equal_budget", "equal_budget", {"student": "student"}, {"spend": "auto:{feedback}", "by": "flops"},
        "the student thinks on, at about the compute of `feedback_pair`",
    ),
)  # fmt: skip
PAIRS = (Pair("qwen-0.5b", "qwen-1.5b"), Pair("qwen-1.5b", "qwen-1.5b"))
# Students that are too weak to follow a teacher, and a teacher that is weaker than its student.
CONTROLS = (Pair("smollm2", "qwen-1.5b"), Pair("gemma", "qwen-1.5b"), Pair("qwen-1.5b", "qwen-0.5b"))
CONTROL_TASKS = ("creak_cot",)
CONTROL_SETTINGS = ("baseline", "skyline", FEEDBACK, "second_look")


def grid() -> Iterator[Cell]:
    """Return all cells that run by default: the pairs on all tasks with all settings, and the controls on a part."""
    yield from (Cell(task, pair, setting) for pair in PAIRS for task in TASKS for setting in SETTINGS)
    for pair in CONTROLS:
        for task in CONTROL_TASKS:
            yield from (Cell(task_named(task), pair, setting_named(label)) for label in CONTROL_SETTINGS)


def model_arguments(cell: Cell, files: Mapping[str, Path], server: Path, folder: Path, limit: int) -> dict[str, Any]:
    """Return the model arguments of a cell.

    cell: the cell.
    files: the GGUF file of each model, by its name in `models.py`.
    server: llama.cpp's server.
    folder: the folder of the call store and the run directories.
    limit: the number of questions.
    """
    found: dict[str, Any] = {"store": str(folder / "calls"), "run_dir": str(run_directory(cell, folder, limit))}
    feedback = run_directory(Cell(cell.task, cell.pair, setting_named(FEEDBACK)), folder, limit)
    for name, value in cell.setting.options.items():
        found[name] = value.replace("{feedback}", str(feedback)) if isinstance(value, str) else value
    for seat, role in cell.setting.seats.items():
        model = getattr(cell.pair, role)
        found |= {
            seat: f"serve:{files[model]}", f"{seat}.serve.binary": str(server), f"{seat}.parameters": WEIGHTS[model]
        }  # fmt: skip
    if cell.setting.label == "debate" and cell.pair.student == cell.pair.teacher:
        # Two greedy agents on one model would be one voice that is counted twice.
        found |= {"agent.2.gen.do_sample": True, "agent.2.gen.temperature": 0.7}
    return found


def run_directory(cell: Cell, folder: Path, limit: int) -> Path:
    """Return the run directory of a cell. Other numbers of questions have directories of their own."""
    return group_directory(cell.task, cell.pair, folder, limit) / cell.setting.label


def group_directory(task: Task, pair: Pair, folder: Path, limit: int) -> Path:
    """Return the folder of the run directories of a task and a pair, for a number of questions."""
    return folder / task.name / str(pair) / str(limit)


def setting_named(label: str) -> Setting:
    """Return the setting with a label."""
    return next(setting for setting in SETTINGS if setting.label == label)


def task_named(name: str) -> Task:
    """Return the task with a name."""
    return next(task for task in TASKS if task.name == name)
