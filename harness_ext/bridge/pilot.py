"""A pilot: what a protocol wants to know about the run's first questions before it answers any."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from harness_ext.bridge.session import Session, torch_seed
from harness_ext.errors import ConfigurationError
from harness_ext.protocol import Protocol, Question
from harness_ext.records import Transcript

PILOT_QUESTIONS = 32


def informed(session: Session, questions: Iterable[tuple[int, Question]]) -> Protocol:
    """Return the run's protocol, informed by its pilot on the first questions of each process if it has one.

    The pilot's calls are stored, and the run reuses them. Raises ConfigurationError without a call store, and whatever
    ends a run.
    """
    protocol = session.plan.protocol
    pilot = protocol.pilot
    if pilot is None:
        return protocol
    if session.store is None:
        raise ConfigurationError(["`accept_at=auto` asks the first questions in advance: it needs a call store"])
    found: list[Transcript] = []
    engine = session.plan.engine(session.store, session.budget, torch_seed())
    first = (question for _, question in islice(questions, PILOT_QUESTIONS))
    engine.run(pilot, session.plan.seats, first, lambda position, transcript: found.append(transcript))
    details = [transcript.details or {} for transcript in found if transcript.failure is None]
    return protocol.informed([one for part in session.ranks.gather(details) for one in part])
