"""What a reader returns, and what it can be told about the question."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Kind = Literal["number", "choice", "yes_no", "formula", "text"]


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer as it was found in a reply.

    `written` is the answer exactly as the reply has it, which stands at `span` of the reply. `value` is the form in
    which answers are shown and compared: a number as a decimal (`1234.56`) or, where it has none, as a fraction
    (`8/3`), the letter of a choice (its text where options have no letters), `true` or `false`, or the words in lower
    case without articles. `rule` names the rule that found it (docs/reading.md lists them); `number` is the exact value
    of a number.
    """

    kind: Kind
    written: str
    value: str
    span: tuple[int, int]
    rule: str
    number: Fraction | None = None


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What a question asks for.

    `kind` is `number`, `choice` or `yes_no`; None leaves it to the reply. `choices` are the texts of the options, in
    order and without their letters; `lettered` is False where the question names them by their texts alone.
    """

    kind: Literal["number", "choice", "yes_no"] | None = None
    choices: tuple[str, ...] = ()
    lettered: bool = True


def decimal_text(value: Fraction) -> str:
    """Return a number as text: a decimal where it has a finite one of reasonable length, else a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        places = max(places, count)
    if rest != 1 or places > 30:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
