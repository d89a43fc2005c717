"""`harness-ext estimate`: predicts the cost of a run from a few of its own questions.

The command takes lm-eval's arguments, and lm-eval builds the requests as for the run itself. A few documents, spread
evenly over all of them, are actually asked, and their cost is extrapolated to the whole run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from harness_ext.analysis.sampling import FIGURES, Sampler, asks_in_batches
from harness_ext.backends.served import ServedBackend
from harness_ext.engine.budget import Cap
from harness_ext.errors import ConfigurationError, HarnessExtError
from harness_ext.protocol import SeatSetup
from harness_ext.records import add

BATCH_HOURS = 24  # within which a batch API answers


@dataclass(frozen=True)
class Total:
    """An estimated total and its 95 % interval.

    value: the estimate.
    low, high: the ends of the interval; None if the sample allows none.
    reason: why there is no interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @classmethod
    def of(cls, values: Sequence[float], population: int) -> Total:
        """Extrapolate a sample's values, one per document, to `population` documents.

        The interval is that of a mean on an unknown scale (`mean_interval`), which is Student's, with the correction
        for a finite population. It does not go below the sample's own sum, which has been spent already. A sample of
        equal values has none: there is no greatest value that other documents could have, and so nothing to widen it
        by.
        """
        from harness_ext.analysis.statistics.clusters import Clusters
        from harness_ext.analysis.statistics.intervals import mean_interval

        n, value = len(values), mean(values) * population
        if n == population:
            return cls(value, reason="all documents were asked")
        if n < 2:
            return cls(value, reason="one document shows no spread")
        if min(values) == max(values):
            return cls(value, reason="no spread in the sample")
        found = mean_interval(Clusters.of(values), None)
        center, factor = mean(values), math.sqrt(1 - n / population)
        low, high = (population * (center + factor * (end - center)) for end in (found.low, found.high))
        return cls(value, max(low, sum(values)), high)


def is_shown(figure: str, total: Total | None) -> bool:
    """Return whether a figure is worth a column: FLOPs and price if they are known, thoughts if there were some."""
    if figure == "thinking_tokens":
        return total is not None and total.value > 0
    return total is not None or figure not in ("flops", "price")


def estimate(usage: Mapping[str, Mapping[str, Sequence[float | None]]], documents: int) -> dict[str, Any]:
    """Return the totals of each seat and of all seats together.

    usage: the sample's values for each seat and figure, as `Sampler.usage` returns them.
    documents: how many documents the run has.

    A figure is None if it is unknown for any document of the sample.
    """

    def totals(figures: Mapping[str, Sequence[float | None]]) -> dict[str, Total | None]:
        known = {name: [v for v in values if v is not None] for name, values in figures.items()}
        return {
            name: Total.of(known[name], documents) if len(known[name]) == len(values) else None
            for name, values in figures.items()
        }

    seats = list(usage)
    together = {
        name: [_sum([usage[seat][name][i] for seat in seats]) for i in range(len(usage[seats[0]][name]))]
        for name in FIGURES
    }
    return {**{seat: totals(usage[seat]) for seat in seats}, "total": totals(together)}


def _sum(values: Sequence[float | None]) -> float | None:
    result: float | None = 0.0
    for value in values:
        result = add(result, value)
    return result


def wall_time(totals: Mapping[str, Any], seats: Mapping[str, SeatSetup]) -> tuple[float, float]:
    """Return the shortest and the longest duration of the run: its devices always run in parallel, or never.

    Seats that are asked in batches take as long as the server likes, and are left out.

    totals: the estimated totals of each seat.
    seats: the seats of the run.
    """
    queues: dict[object, float] = {}
    for seat, setup in seats.items():
        if asks_in_batches(setup):
            continue
        seconds, backend = totals[seat]["seconds"].value, setup.backend
        if isinstance(backend, ServedBackend):
            # A server's seconds are waiting times, and the waiting times of concurrent requests overlap.
            at_once = min(backend.num_concurrent, max(1.0, totals[seat]["calls"].value))
            queues[backend] = queues.get(backend, 0.0) + seconds / at_once
        else:
            queues[backend.device] = queues.get(backend.device, 0.0) + seconds
    return max(queues.values(), default=0.0), sum(queues.values())


def main(arguments: list[str]) -> int:
    """Run `harness-ext estimate` and return its exit status."""
    from harness_ext.bridge import startup
    from harness_ext.errors import FAILED, USAGE

    own, rest = _parser().parse_known_args(arguments)
    if own.questions < 1:
        _parser().error("--questions must be 1 or more")
    startup.enforce()
    try:
        sampler = ask_sample(rest, own.questions)
        report = make_report(sampler)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return USAGE
    except HarnessExtError as error:
        print(error, file=sys.stderr)
        return FAILED
    print(json.dumps(report, indent=2) if own.json else render(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext estimate",
        usage="harness-ext estimate [--questions N] [--json] LM-EVAL'S ARGUMENTS",
        description="Estimate calls, tokens, time and price of a run from a few of its own questions.",
        epilog="All other arguments are those of `lm_eval` for the run itself: --model, --model_args, --tasks, …",
        allow_abbrev=False,
    )
    parser.add_argument("--questions", type=int, default=16, metavar="N", help="documents to ask (default: 16)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def ask_sample(arguments: Sequence[str], size: int) -> Sampler:
    """Build the run that lm-eval's arguments describe, and ask a sample of `size` documents.

    Raises ConfigurationError if the arguments are wrong, and HarnessExtError if the sample cannot be answered.
    """
    from lm_eval import simple_evaluate
    from lm_eval._cli import HarnessCLI
    from lm_eval.api.registry import get_model
    from lm_eval.config.evaluate_config import EvaluatorConfig

    from harness_ext.bridge.protocol_lm import ProtocolLM

    sys.argv = ["harness-ext estimate", "run", *(arguments[1:] if arguments[:1] == ["run"] else arguments)]
    config = EvaluatorConfig.from_cli(HarnessCLI().parse_args())
    cls = get_model(config.model)
    if not issubclass(cls, ProtocolLM):
        raise ConfigurationError(
            [f"`--model {config.model}` is not one of this package's protocols: only these can be estimated"]
        )
    label = config.model_args.get("model") or config.model
    model_args = {**config.model_args, "model": f"{label}-estimate", "run_dir": None}
    settings = {name: getattr(config, name) for name in ("batch_size", "max_batch_size", "device")}
    lm = cls.create_from_arg_obj(model_args, settings)
    sampler = Sampler(lm, size)
    sampler.install()
    seeds = config.seed or [None] * 4
    simple_evaluate(
        model=lm,
        task_manager=config.process_tasks(config.metadata),  # also resolves `config.tasks`, which the next line reads
        tasks=config.tasks,
        predict_only=True,
        random_seed=seeds[0],
        numpy_random_seed=seeds[1],
        torch_random_seed=seeds[2],
        fewshot_random_seed=seeds[3],
        **{name: getattr(config, name) for name in PASSED_ON},
    )
    return sampler


PASSED_ON = (
    "num_fewshot", "limit", "samples", "system_instruction", "apply_chat_template", "fewshot_as_multiturn",
    "gen_kwargs", "verbosity", "confirm_run_unsafe_code", "metadata",
)  # fmt: skip


def make_report(sampler: Sampler) -> dict[str, Any]:
    """Return the estimate as JSON values."""
    lm = sampler.lm
    if not sampler.sampled:
        raise ConfigurationError(["the tasks contain no documents: check `--tasks` and `--limit`"])
    totals = estimate(sampler.usage(), sampler.documents)
    least, most = wall_time(totals, lm.plan.models)
    report: dict[str, Any] = {
        "documents": sampler.documents,
        "sampled": len(sampler.sampled),
        "tasks": list(dict.fromkeys(task for task, _ in sampler.sampled)),
        "seats": {
            name: {figure: vars(total) if total is not None else None for figure, total in figures.items()}
            for name, figures in totals.items()
        },
        "wall_seconds": {"least": least, "most": most},
        "batches": sampler.batches(),
        "run": str(lm.session.run.path),
        "store": lm.plan.options.store,
    }
    if lm.plan.options.budget is not None:
        cap = Cap.parse(lm.plan.options.budget)
        unit = totals["total"]["calls"] if cap.unit == "calls" else totals["total"]["price"]
        if cap.unit == "tokens":
            parts = [totals["total"][name] for name in ("prompt_tokens", "completion_tokens")]
            needed = None if None in parts else sum(part.value for part in parts)
        else:
            needed = unit.value if unit is not None else None
        report["budget"] = {"cap": str(cap), "needed": needed}
    return report


def render(report: Mapping[str, Any]) -> str:
    """Return the report as text."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    whole = {name: None if found is None else Total(**found) for name, found in report["seats"]["total"].items()}
    figures = [name for name in FIGURES if is_shown(name, whole[name])]
    table = Table("seat", *(name.replace("_", " ") for name in figures), box=None, pad_edge=False)
    for seat, totals in report["seats"].items():
        table.add_row(seat, *(_cell(totals[name]) for name in figures))
    out = StringIO()
    Console(file=out, width=200).print(table)
    least, most = (_duration(report["wall_seconds"][name]) for name in ("least", "most"))
    time = least if least == most else f"{least} to {most} (devices always or never run in parallel)"
    lines = [
        f"{report['documents']:,} documents of {', '.join(report['tasks'][:5])}{' …' if report['tasks'][5:] else ''}, "
        f"estimated from {report['sampled']} of them (95 % intervals)",
        "",
        *(line.rstrip() for line in out.getvalue().splitlines()),
        "",
        f"Time: {time}, without loading models. Local models ran with batches no larger than the sample; full batches "
        "are faster.",
    ]
    for seat, number in report.get("batches", {}).items():
        lines.append(
            f"`{seat}` is asked in batches, each within {BATCH_HOURS} hours, which are not counted: up to {number} one "
            "after the other. The sample was asked without, at the full price."
        )
    if budget := report.get("budget"):
        lines.append(_budget_line(budget, report["documents"]))
    kept = (
        "are stored: the run will not pay for them again" if report["store"] != "off" else "are not stored: `store=off`"
    )
    lines.append(f"The sample's calls {kept}. Its records: {report['run']}")
    return "\n".join(lines)


def _budget_line(budget: Mapping[str, Any], documents: int) -> str:
    cap, needed = Cap.parse(budget["cap"]), budget["needed"]
    if not needed:
        return f"budget={cap}: unknown whether it is enough."
    if needed <= cap.limit:
        return f"budget={cap}: enough, by the estimate."
    return f"budget={cap}: not enough; it will be spent after about {100 * cap.limit / needed:.0f} % of the run."


def _cell(total: Mapping[str, Any] | None) -> str:
    if total is None:
        return "unknown"
    interval = total["reason"] or f"{_number(total['low'])} to {_number(total['high'])}"
    return f"{_number(total['value'])} ({interval})"


def _number(value: float) -> str:
    if value >= 1e9:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02} h" if hours else f"{minutes} min"
