"""The lines of the reports of `harness-ext doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    state: `ok`; `note`, for a setting or an optional part; or `problem`, for something that cannot work.
    text: what was found.
    remedy: what to do about it. Default nothing.
    """

    state: State
    text: str
    remedy: str = ""
