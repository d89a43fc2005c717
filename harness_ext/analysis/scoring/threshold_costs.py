"""Adds to a threshold curve what each threshold would have cost, since the tokens of different seats are not alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness_ext.records import SeatCost, add


def add_costs(metrics: Mapping[str, Any], costs: Mapping[str, SeatCost]) -> None:
    """Add the mean FLOPs and the mean price of a question to the points of each metric's threshold curve.

    metrics: the figures of metrics (`figures.metric_figures`); extended here.
    costs: what turns the tokens of each seat into FLOPs and money.

    Unknown figures are null. Prices are those without the discount of a batch API.
    """
    for figures in metrics.values():
        for point in (figures.get("thresholds") or {}).get("points", []):
            point["flops"] = point["price"] = 0.0
            for seat, (read, written) in point.pop("tokens_by_seat").items():
                cost = costs.get(seat, SeatCost())
                point["flops"] = add(point["flops"], cost.flops(read, written))
                point["price"] = add(point["price"], cost.price(read, written))
