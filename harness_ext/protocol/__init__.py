"""The parts of a protocol: the question, the seats and the base class."""

from harness_ext.backends.base import Capability
from harness_ext.protocol.base import Protocol, Role
from harness_ext.protocol.question import Question, question_hash, reply_of
from harness_ext.protocol.seat import Seat
from harness_ext.protocol.seats import Seats
from harness_ext.protocol.setup import SeatSetup
from harness_ext.records import Message

__all__ = [
    "Capability",
    "Message",
    "Protocol",
    "Question",
    "Role",
    "Seat",
    "SeatSetup",
    "Seats",
    "question_hash",
    "reply_of",
]
