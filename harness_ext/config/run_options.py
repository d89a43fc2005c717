"""The options of a run and of its seats, apart from those of protocols and models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness_ext.backends.base import Backend, ChatMode
from harness_ext.backends.settings import settings_problems
from harness_ext.decisions.calibration import Calibration
from harness_ext.engine.budget import Cap
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import SeatSetup
from harness_ext.protocol.setup import Decide, Thoughts
from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers
from harness_ext.terminal import outside

RUNS = Path("harness_ext_runs")
LONGEST_LABEL = 150  # bytes; the time is appended, and most file systems allow 255
LONGEST_NAME = 255
OF_PROTOCOLS = ("system", "gen")  # the options of a seat that a protocol can take, too


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, apart from those of its protocol and its seats.

    model: label of the run, which also names lm-eval's output folder. Default: the protocol's name; the names of its
        models are added for that folder.
    run_dir: folder of the run's records. Default: a new folder in `harness_ext_runs/`.
    store: folder of the call store, or `off`. Default `harness_ext_runs/calls`.
    window: maximum number of questions in progress at once. Default 2048.
    on_failure: what to do about questions without an answer. `stop` finishes and stores all others, then raises an
        error; `score` answers with an empty text and counts it. Default `stop`.
    on_overflow: what to do about prompts that do not fit. `fail` fails their question; `truncate` cuts their beginning,
        as lm-eval does. Default `fail`.
    on_empty: what to do about empty replies. `keep` accepts them, as lm-eval does; `fail` fails their question. Default
        `keep`.
    budget: the most that the run may spend, as `calls:1000`, `tokens:2e6` or `price:5`. The run ends before it exceeds
        that. Default: no limit.
    reason: how to answer tasks that score choices. `on` reasons about each question before scoring its choices; `off`
        scores them as lm-eval does. Default `on`.
    choices: how a task's choices are compared: `score` scores the text of each; `decision` asks one question with the
        choices as its options, which a model that only chats can answer too. Default `score`.
    reason_max_tokens: maximum length of that rationale, in tokens. Default 256.
    prompts: folder of files that replace prompts, as `harness-ext prompts` writes it, or `preset:<name>`. Default: the
        prompts in the code.
    progress: whether to show progress, as a bar on a terminal and as lines elsewhere: `auto`, `on` or `off`. Default
        `auto`.
    trust_remote_code: whether all seats may run code that comes with their models. Default off.
    """

    model: str | None = None
    run_dir: Path | None = None
    store: str = str(RUNS / "calls")
    window: int = 2048
    on_failure: Literal["stop", "score"] = "stop"
    on_overflow: Literal["fail", "truncate"] = "fail"
    on_empty: Literal["keep", "fail"] = "keep"
    budget: str | None = None
    reason: Literal["on", "off"] = "on"
    choices: Literal["score", "decision"] = "score"
    reason_max_tokens: int = 256
    prompts: str | None = None
    reason_user: PromptText = prompt(lambda: INVITATION, "asks for the rationale, on tasks that score choices")
    closing: PromptText = prompt(lambda: CLOSING, "the text between the rationale and a choice")
    progress: Literal["auto", "on", "off"] = "auto"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.window < 1 or self.reason_max_tokens < 1:
            raise ValueError("`window` and `reason_max_tokens` must be 1 or more")
        if self.model is not None and not 0 < len(self.model.encode(errors="replace")) <= LONGEST_LABEL:
            raise ValueError(
                f"`model`, the run's label, names folders and has {len(self.model)} characters: give one of 1 to "
                f"{LONGEST_LABEL}. The models go to the seats (`<seat>=<backend>:<model>`)"
            )
        if not self.store.strip():
            raise ValueError("`store` is empty: name a folder, or run without a store (`store=off`)")
        if self.model in (".", "..") or re.search(r"[\x00-\x1f\x7f]", self.model or ""):
            raise ValueError(f"`model={outside(self.model)}`, the run's label, names folders: none can have this name")
        if self.run_dir is not None and (self.run_dir == Path() or not str(self.run_dir).strip()):
            raise ValueError(
                "`run_dir` is empty or the working directory: name a folder, or leave it out for a new one"
            )
        for name, folder in (("store", Path(self.store)), ("run_dir", self.run_dir or Path("x"))):
            if "\0" in str(folder) or max(len(part.encode(errors="replace")) for part in folder.parts) > LONGEST_NAME:
                raise ValueError(f"`{name}`: no folder can have this name; a name has at most {LONGEST_NAME} bytes")
        if self.budget is not None:
            Cap.parse(self.budget)


@dataclass(frozen=True)
class SeatOptions:
    """The options of a seat, apart from its model's own arguments.

    chat: how conversations are rendered: `auto` uses the model's chat template if it has one, `on` requires one, `off`
        uses the plain form. Default `auto`.
    price_in: price per million prompt tokens. Default: unknown.
    price_out: price per million completion tokens. Default: unknown.
    batch_discount: the share of the price that a batch API takes off. Default 0.5.
    system: the seat's own system message, which comes before the task's. Default none.
    gen: generation settings that override those of the task (`gen.temperature=0.7`). Default none.
    images: whether the seat receives a task's images: `auto` sends them, `off` leaves them out. Default `auto`.
    thoughts: what becomes of a reasoning model's thoughts: `hide` keeps them in the records, apart from the answer,
        `history` also gives them back to the seat itself in later turns, `off` takes them for a part of the answer.
        Default `hide`.
    thought_start, thought_end: the marks around a thought, if they are not among the usual ones (`<think>`, `[THINK]`,
        harmony's channels, …). Default none.
    thought_tokens: how many tokens a thought may take beyond the limit that the protocol sets for a review, a rating
        or the like. Default 0.
    decide: how the seat decides: by a decisions `endpoint`, by the probabilities of the first token (`logprobs`), by a
        forced choice (`constrained`), or by a `text` that is read. `auto` takes the first of these that its model
        offers. Default `auto`.
    decide_draws: how often a forced choice is drawn, so that its probabilities are frequencies. Default 0: it is made
        once, without probabilities.
    decide_thinking: whether a reasoning model thinks before it decides, for up to `thought_tokens` tokens. Default
        `off`.
    calibration: file that corrects the probabilities of the seat's decisions (`harness-ext calibrate`). Default none.
    """

    chat: ChatMode = "auto"
    price_in: float | None = None
    price_out: float | None = None
    batch_discount: float = 0.5
    system: PromptText | None = None
    gen: Mapping[str, Any] = field(default_factory=dict)
    images: Literal["auto", "off"] = "auto"
    thoughts: Thoughts = "hide"
    thought_start: str | None = None
    thought_end: str | None = None
    thought_tokens: int = 0
    decide: Decide = "auto"
    decide_draws: int = 0
    decide_thinking: Literal["off", "on"] = "off"
    calibration: Path | None = None

    def __post_init__(self) -> None:
        if (self.thought_start is None) != (self.thought_end is None) or "" in (self.thought_start, self.thought_end):
            raise ValueError("`thought_start` and `thought_end` go together, and neither may be empty")
        if min(self.price_in or 0, self.price_out or 0) < 0:
            raise ValueError("`price_in` and `price_out` must be 0 or more")
        if not 0 <= self.batch_discount <= 1:
            raise ValueError("`batch_discount` is a share of the price, from 0 to 1")
        if problems := settings_problems(self.gen, "gen."):
            raise ValueError("; ".join(problems))
        if self.thought_tokens < 0:
            raise ValueError("`thought_tokens` must be 0 or more")
        if self.decide == "endpoint" and self.system:
            raise ValueError("`decide=endpoint` takes no system message: leave out `system`")
        if self.decide_draws < 0:
            raise ValueError("`decide_draws` must be 0 or more")
        if self.decide_thinking == "on" and not self.thought_tokens:
            raise ValueError("`decide_thinking=on` needs `thought_tokens`, the length limit of the thought")

    @property
    def thought_markers(self) -> Markers:
        """Return the marks around a thought, the seat's own ones first."""
        if self.thought_start is None or self.thought_end is None:
            return DEFAULT_MARKERS
        return ((self.thought_start, self.thought_end), *DEFAULT_MARKERS)

    def setup(self, backend: Backend) -> SeatSetup:
        """Return a seat with these options.

        Raises ValueError with cause and remedy if its calibration cannot be read, or is another model's.
        """
        calibration = None if self.calibration is None else Calibration.read(self.calibration)
        if calibration is not None and calibration.model != backend.fingerprint:
            raise ValueError(
                f"{self.calibration} was fitted on {calibration.model_name}, or on other weights or settings of "
                f"{backend.name}: fit one for this model with `harness-ext calibrate`"
            )
        return SeatSetup(
            backend,
            chat=self.chat,
            price_in=self.price_in,
            price_out=self.price_out,
            batch_discount=self.batch_discount,
            system=self.system,
            gen_kwargs=self.gen,
            images=self.images,
            thoughts=self.thoughts,
            thought_markers=self.thought_markers,
            thought_tokens=self.thought_tokens,
            decide=self.decide,
            decide_draws=self.decide_draws,
            decide_thinking=self.decide_thinking,
            calibration=calibration,
        )


INVITATION = "Let's think step by step."
CLOSING = "Therefore, the answer is"
