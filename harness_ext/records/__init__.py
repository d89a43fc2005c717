"""The records of a run: messages, results, transcripts and usage, the call store and the run directory."""

from harness_ext.records.message import Message
from harness_ext.records.results import (
    BATCHED,
    CallResult,
    Completion,
    Decision,
    Finish,
    Loglikelihood,
    Source,
    TokenCounts,
    Verification,
)
from harness_ext.records.transcript import Failure, Identity, Inner, Solution, Transcript, Turn
from harness_ext.records.usage import SeatCost, Usage, add

__all__ = [
    "BATCHED",
    "CallResult",
    "Completion",
    "Decision",
    "Failure",
    "Finish",
    "Identity",
    "Inner",
    "Loglikelihood",
    "Message",
    "SeatCost",
    "Solution",
    "Source",
    "TokenCounts",
    "Transcript",
    "Turn",
    "Usage",
    "Verification",
    "add",
]
