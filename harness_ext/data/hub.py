"""Whether the Hugging Face hub answers, so that nothing waits for it in vain.

Its libraries ask an unreachable hub again and again, for half a minute and longer. One short question in advance says
whether that is worth it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

PATIENCE = 3.0  # seconds for a connection, and for an answer
MOST = 5.0  # seconds altogether, since the look-up of a name knows no limit of its own


def hub_fault(patience: float = PATIENCE, most: float = MOST) -> str | None:
    """Return why the hub cannot be reached, or None if it answers.

    patience: the time limit of a connection and of an answer, in seconds. Default 3.
    most: the time limit of everything, in seconds. Default 5.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    endpoint = str(constants.ENDPOINT)
    found: list[str | None] = []

    def ask() -> None:
        from huggingface_hub.utils import get_session

        try:
            get_session().head(endpoint, timeout=patience)  # any status is an answer
            found.append(None)
        except Exception as error:
            found.append(f"{endpoint}: {error}")

    thread = threading.Thread(target=ask, name="harness-ext hub", daemon=True)
    thread.start()
    thread.join(most)
    return found[0] if found else f"{endpoint}: no answer within {most:g} s"


@contextmanager
def without_waiting() -> Iterator[str | None]:
    """Yield `hub_fault()`. If there is a fault, only data that are already on this machine are loaded meanwhile.

    The libraries then fail at once for everything else, as with `HF_HUB_OFFLINE=1`.
    """
    import datasets.config
    from huggingface_hub import constants

    fault = hub_fault()
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if fault is not None:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield fault
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def without_waiting_for(model: str) -> AbstractContextManager[str | None]:
    """Return `without_waiting()` for the name of a model on the hub, and a context without effect for a folder."""
    return nullcontext() if Path(model).is_dir() else without_waiting()


def is_hub_error(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, says that data were neither on this machine nor on the hub."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionError | FileNotFoundError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
