"""Decision: one model answers tasks with fixed choices, each as one typed question, without writing text.

Decision models and decisions endpoints (System One, the Decisions API) are evaluated this way, and so is any other
model, by the probabilities of its first token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.config.run_options import RunOptions
from harness_ext.errors import ConfigurationError
from harness_ext.options import known_names
from harness_ext.protocol import Capability, Protocol, Question, Role, Seats
from harness_ext.records import Solution


@dataclass(frozen=True)
class Decision(Protocol):
    """The protocol of `decision`. It has no options."""

    roles: ClassVar[Mapping[str, Role]] = {"decider": Role("answers the questions", frozenset())}

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        return {"decider": frozenset()}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        raise ConfigurationError([NOT_WRITTEN])  # choices are decided without a protocol's help


class DecisionLM(ProtocolLM):
    """`lm_eval --model decision --model_args pretrained=<model>`, or `base_url=<address>,model=<name>`.

    All other arguments are the model's own, the options of a seat, or those of a run. `decider=<spec>` names any other
    model.
    """

    protocol = Decision

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **{"choices": "decision", "reason": "off", **decider_arguments(arguments)})

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
        raise ConfigurationError([f"{tasks}: {NOT_WRITTEN}"])


def decider_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a run with one seat, from those of a single model.

    Raises ConfigurationError if they do not name one.
    """
    given = dict(arguments)
    if "decider" not in given:
        pretrained, base_url = given.pop("pretrained", None), given.pop("base_url", None)
        if (pretrained is None) == (base_url is None) or (base_url is not None and "model" not in given):
            raise ConfigurationError(
                ["name one model: `pretrained=<model>`, or `base_url=<address>,model=<name>`, or `decider=<spec>`"]
            )
        given["decider"] = _spec(pretrained) if base_url is None else f"openai:{given.pop('model')}@{base_url}"
    run = {*known_names(RunOptions), "decider"}
    return {(k if k in run or k.startswith("decider.") else f"decider.{k}"): v for k, v in given.items()}


def _spec(pretrained: Any) -> Any:
    from harness_ext.backends.decision_model import is_decision_model

    if not isinstance(pretrained, str):
        return pretrained
    return f"{'decision' if is_decision_model(pretrained) else 'hf'}:{pretrained}"


NOT_WRITTEN = "it asks for a written answer, and `decision` only chooses: use a task with choices"
