"""A sample of a run's own questions, which is really asked, and what its calls cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness_ext.errors import HarnessExtError
from harness_ext.protocol import SeatSetup
from harness_ext.records import Decision, SeatCost, Transcript, Turn, Usage
from harness_ext.records.run_directory import read_transcripts

if TYPE_CHECKING:
    from harness_ext.bridge.protocol_lm import ProtocolLM

FIGURES = ("calls", "prompt_tokens", "completion_tokens", "thinking_tokens", "flops", "price", "seconds")


@dataclass
class Sampler:
    """Replaces the methods with which a protocol answers requests: it asks a sample of the documents and no others.

    lm: the model whose methods are replaced.
    size: how many documents to ask per call from lm-eval.
    documents: how many documents the requests are about.
    sampled: the documents that were asked, as (task, number).
    questions: how many requests there were.
    """

    lm: ProtocolLM
    size: int
    documents: int = 0
    sampled: list[tuple[str, int]] = field(default_factory=list)
    questions: int = 0

    def install(self) -> None:
        """Replace the model's own methods, and ask without batches, for which the sample would have to wait."""
        for setup in self.lm.plan.models.values():
            if asks_in_batches(setup):
                setup.backend.batches = False  # type: ignore[attr-defined]
        for method, nothing in (
            ("generate_until", ""),
            ("loglikelihood", (0.0, False)),
            ("loglikelihood_rolling", 0.0),
        ):
            setattr(self.lm, method, self._instead_of(getattr(self.lm, method), nothing))

    def _instead_of(self, method: Any, nothing: Any) -> Any:
        def answer(requests: Sequence[Any], **more: Any) -> list[Any]:
            found = list(dict.fromkeys(_document(request) for request in requests))
            chosen = spread_evenly(found, self.size)
            self.documents += len(found)
            self.sampled += chosen
            self.questions += len(requests)
            method([request for request in requests if _document(request) in set(chosen)], **more)
            return [nothing] * len(requests)

        return answer

    def usage(self) -> dict[str, dict[str, list[float | None]]]:
        """Return the values of the sampled documents for each seat and figure. A call that was reused counts once."""
        calls: dict[tuple[str, int], dict[str, Turn]] = {document: {} for document in self.sampled}
        for transcript in read_transcripts(self.lm.session.run.path):
            self._check(transcript)
            for turn in transcript.calls:
                calls[transcript.task, transcript.doc_id].setdefault(turn.key, turn)
        result: dict[str, dict[str, list[float | None]]] = {}
        for seat, setup in self.lm.plan.models.items():
            batched = setup.cost.in_batches() if asks_in_batches(setup) else setup.cost

            def cost(turn: Turn, batched: SeatCost = batched, setup: SeatSetup = setup) -> Usage:
                is_direct = isinstance(turn.result, Decision) and turn.result.source == "endpoint"
                return (setup.cost if is_direct else batched).usage(turn)

            spent = [
                Usage.total(cost(turn) for turn in turns.values() if turn.seat == seat) for turns in calls.values()
            ]
            result[seat] = {name: [getattr(usage, name) for usage in spent] for name in FIGURES}
        return result

    def batches(self) -> dict[str, int]:
        """Return, for each seat that is asked in batches, the largest number of calls of a sampled question."""
        most = {seat: 0 for seat, setup in self.lm.plan.models.items() if asks_in_batches(setup)}
        for transcript in read_transcripts(self.lm.session.run.path):
            for seat in most:
                most[seat] = max(most[seat], sum(turn.seat == seat for turn in transcript.calls))
        return most

    def _check(self, transcript: Transcript) -> None:
        if transcript.failure is not None:
            raise HarnessExtError(
                f"harness-ext: {transcript.task}, document {transcript.doc_id}, has no answer, so nothing can be "
                f"estimated from it: {transcript.failure.message}"
            )


def asks_in_batches(setup: SeatSetup) -> bool:
    """Return whether a seat's texts are asked for through a batch API in a run."""
    return getattr(getattr(setup.backend, "options", None), "batch", "off") == "on"


def _document(request: Any) -> tuple[str, int]:
    return str(request.task_name or ""), int(request.doc_id or 0)


def spread_evenly(items: Sequence[Any], size: int) -> list[Any]:
    """Return at most `size` items at even distances."""
    size = min(size, len(items))
    # The items are divided into `size` stretches of equal length; the middle item of each represents it.
    return [items[(2 * i + 1) * len(items) // (2 * size)] for i in range(size)]
