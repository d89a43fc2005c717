"""The set-up of a seat: its model and its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness_ext.backends.base import Backend, ChatMode
from harness_ext.decisions.calibration import Calibration
from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers
from harness_ext.records import SeatCost

Thoughts = Literal["hide", "history", "off"]
Decide = Literal["auto", "endpoint", "logprobs", "constrained", "text"]


@dataclass(frozen=True)
class SeatSetup:
    """A seat of a run: its model and its own settings.

    backend: the model.
    chat: how conversations are rendered: `on` with the model's chat template, `off` in the plain form, `auto` with the
        template if there is one. Default `auto`.
    price_in: the price per million prompt tokens. Default None: unknown.
    price_out: the price per million completion tokens. Default None: unknown.
    batch_discount: the share of the price that a batch API takes off. Default 0.5.
    system: a system message put before every conversation. Default None.
    gen_kwargs: generation settings that override those of every call. Default: none.
    images: whether a task's images are sent (`auto`) or left out (`off`). Default `auto`.
    thoughts: what becomes of a reasoning model's thoughts: `hide` keeps them in the records, apart from the answer;
        `history` also gives them back to the seat itself in later turns; `off` takes them for a part of the answer.
        Default `hide`.
    thought_markers: pairs of marks that begin and end a thought. Default: the usual ones.
    thought_tokens: how many tokens a thought may take beyond the limit that a protocol sets for a reply (a review, a
        rating). Default 0.
    decide: how the seat decides: by a decisions `endpoint`, by the probabilities of the first token (`logprobs`), by a
        forced choice (`constrained`) or by writing a `text` that is read. `auto` takes the first of these that its
        model offers. Default `auto`.
    decide_draws: how often a forced choice is drawn, so that its probabilities are frequencies. Default 0: it is made
        once, without probabilities.
    decide_thinking: whether a reasoning model thinks before it decides. Default `off`.
    calibration: what corrects the probabilities of the seat's decisions. Default None: nothing does.
    """

    backend: Backend
    chat: ChatMode = "auto"
    price_in: float | None = None
    price_out: float | None = None
    batch_discount: float = 0.5
    system: str | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    images: Literal["auto", "off"] = "auto"
    thoughts: Thoughts = "hide"
    thought_markers: Markers = DEFAULT_MARKERS
    thought_tokens: int = 0
    decide: Decide = "auto"
    decide_draws: int = 0
    decide_thinking: Literal["off", "on"] = "off"
    calibration: Calibration | None = None

    @property
    def own(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults."""
        settings = {
            "system": self.system,
            "gen": dict(self.gen_kwargs),
            "images": self.images,
            "thoughts": self.thoughts,
            "thought_markers": None if self.thought_markers == DEFAULT_MARKERS else list(self.thought_markers),
            "thought_tokens": self.thought_tokens or None,
            "decide": self.decide,
            "decide_draws": self.decide_draws or None,
            "decide_thinking": None if self.decide_thinking == "off" else "on",
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }
        return {name: value for name, value in settings.items() if value not in (None, {}, "auto", "hide")}

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the seat in a run's identity: its model, and how it is asked."""
        return {"fingerprint": self.backend.fingerprint, "chat": self.chat, **self.own}

    @property
    def samples(self) -> bool:
        """Return whether the seat samples, whatever the task's settings are."""
        return self.backend.samples or bool(self.gen_kwargs.get("do_sample") or self.gen_kwargs.get("temperature"))

    @property
    def cost(self) -> SeatCost:
        """Return what turns tokens into FLOPs and money."""
        return SeatCost(self.backend.parameters, self.price_in, self.price_out, self.batch_discount)
