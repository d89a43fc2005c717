"""The scales of metrics: the least and the greatest value that a question can have."""

from __future__ import annotations

from collections.abc import Iterable

Scale = tuple[float, float]

_UNIT = (0.0, 1.0)
_PERCENT = (0.0, 100.0)
KNOWN: dict[str, Scale] = {
    **dict.fromkeys(
        ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "soft_match", "f1", "em", "contains",
         "meteor", "rouge1", "rouge2", "rougeL"),
        _UNIT,
    ),
    "mcc": (-1.0, 1.0),
    "brier_score": (0.0, 2.0),
    "bleu": _PERCENT,
    "chrf": _PERCENT,
}  # fmt: skip


def scale_of(metric: str, values: Iterable[float]) -> Scale | None:
    """Return the scale of a metric.

    metric: its name, without the filter.
    values: its values in all runs that are compared.

    It is the metric's own scale if that is known and contains the values. Otherwise it is 0 to 1 if all values are 0 or
    1, or else the range of the values. None means that all values are equal, so that the range says nothing.
    """
    found = list(values)
    low, high = min(found), max(found)
    known = KNOWN.get(metric)
    if known is not None and known[0] <= low and high <= known[1]:
        return known
    if is_binary(found):
        return _UNIT
    return (low, high) if low < high else None


def is_binary(values: Iterable[float]) -> bool:
    """Return whether all values are 0 or 1."""
    return all(value in (0.0, 1.0) for value in values)
