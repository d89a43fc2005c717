"""The gate of a debate: predicts from an agent's critique of its own answer whether a debate would correct it.

The idea is that of Fan et al., "iMAD: Intelligent Multi-Agent Debate for Efficient and Accurate LLM Inference"
(arXiv 2511.11306). The classifier here is a logistic regression, fitted on earlier debates (`harness-ext train-gate`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import fsum, isfinite
from pathlib import Path
from typing import Any

from harness_ext.decisions.calibration import sigmoid

# What may differ between the debates that a gate was fitted on and those that it is used for.
GATE_OPTIONS = frozenset({"gate", "gate_file", "gate_at"})


@dataclass(frozen=True, slots=True)
class DebateGate:
    """A logistic regression on the features of a critique.

    features: the names of the features, in the order of the three that follow.
    means, scales: what is subtracted from each feature, and what it is then divided by.
    slopes: the weight of each feature, in log-odds.
    offset: the log-odds for an average critique.
    threshold: the probability at which a debate is worth it.
    settings: the options and seats of the debates that it was fitted on (`settings_of`).
    rows: how many questions it was fitted on, and a debate `helped` on that many of them.
    tasks: the tasks and splits that these came from.
    date: when it was fitted.
    """

    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    slopes: tuple[float, ...]
    offset: float
    threshold: float
    settings: Mapping[str, Any]
    rows: int
    helped: int
    tasks: tuple[str, ...]
    date: str

    def probability(self, features: Mapping[str, float]) -> float:
        """Return how probable it is that a debate corrects the answer.

        Raises KeyError if a feature is missing.
        """
        columns = zip(self.features, self.means, self.scales, self.slopes, strict=True)
        return sigmoid(self.offset + fsum(slope * (features[name] - m) / s for name, m, s, slope in columns))

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ValueError if the gate was fitted on debates with other settings.

        settings: those of the debates that it is to be used for (`settings_of`).
        """
        then, now = _flat(self.settings), _flat(settings)
        differing = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
        if differing:
            listed = ", ".join(differing[:8]) + (", …" if len(differing) > 8 else "")
            raise ValueError(
                f"`gate_file` was fitted on other debates, and says nothing about these (different: {listed}): use the "
                "settings that it was fitted on, or fit a gate for these (`gate=critique`, `harness-ext train-gate`)"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the gate as the content of its file."""
        return asdict(self)

    @classmethod
    def read(cls, given: str) -> DebateGate:
        """Read a gate.

        given: the path of its file, or the file's content.

        Raises ValueError with cause and remedy.
        """
        text, where = given, "`gate_file`"
        if not given.lstrip().startswith("{"):
            where = f"`gate_file={given}`"
            try:
                text = Path(given).expanduser().read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise ValueError(f"{where} cannot be read ({error})") from error
        try:
            return cls._of(json.loads(text))
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{where} is not a gate ({error!r}): make one with `harness-ext train-gate`") from error

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> DebateGate:
        columns = ("means", "scales", "slopes")
        given = {f.name: data[f.name] for f in fields(cls)}
        numbers = {name: tuple(float(x) for x in given[name]) for name in columns}
        gate = cls(
            **{
                **given,
                **numbers,
                "features": tuple(map(str, given["features"])),
                "offset": float(given["offset"]),
                "threshold": float(given["threshold"]),
                "settings": dict(given["settings"]),
                "tasks": tuple(map(str, given["tasks"])),
            }
        )
        if any(len(numbers[name]) != len(gate.features) for name in columns):
            raise ValueError("its lists differ in length")
        if not all(map(isfinite, (*gate.means, *gate.scales, *gate.slopes, gate.offset, gate.threshold))):
            raise ValueError("its numbers are not finite")
        if not all(scale > 0 for scale in gate.scales):
            raise ValueError("its scales are not positive")
        return gate


def settings_of(options: Mapping[str, Any], seats: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a gate must have been fitted on to be used: everything that shapes a debate, as JSON values.

    options: the options of the debate, of which those of the gate do not count.
    seats: the model and the settings of each seat, as in the `identity` of `config.json`.
    """
    kept = {name: value for name, value in options.items() if name not in GATE_OPTIONS}
    found: dict[str, Any] = json.loads(json.dumps({"options": kept, "seats": seats}, default=str))
    return found


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    options, seats = settings.get("options"), settings.get("seats")
    flat = dict(options) if isinstance(options, Mapping) else {}
    for seat, own in (seats if isinstance(seats, Mapping) else {}).items():
        flat |= {f"{seat}.{name}": value for name, value in (own if isinstance(own, Mapping) else {"": own}).items()}
    return flat
