"""The command `harness-ext plan`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from harness_ext.analysis.planning.arguments import Arguments, ArgumentsError, read_arguments
from harness_ext.analysis.planning.costs import Cost, cost_of, sampled_cost
from harness_ext.analysis.planning.design import solve
from harness_ext.analysis.planning.drafting import claims_of, design_of, plan_of, tested_by
from harness_ext.analysis.planning.pilot import Pilot, Selection, read_pilot
from harness_ext.analysis.planning.report import Report, as_json, to_terminal
from harness_ext.errors import FAILED, OK, USAGE, ConfigurationError, HarnessExtError
from harness_ext.records.chat import repair
from harness_ext.terminal import clean


def main(arguments: Sequence[str]) -> int:
    """Plan a claim and return the exit status."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        return _plan(read_arguments(arguments))
    except (ArgumentsError, ConfigurationError) as error:
        print(f"harness-ext plan: {clean(error)}", file=sys.stderr)
        return USAGE
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext plan: {clean(error)}", file=sys.stderr)
        return FAILED


def _plan(arguments: Arguments) -> int:
    pilot = _pilot(arguments) if arguments.pilot else None
    claims = claims_of(arguments, pilot)
    comparisons = arguments.numbers.comparisons or max(1, len(claims.claims))
    design = design_of(arguments, pilot, comparisons)
    table = solve(design)
    planned = table.rows[0].questions
    plan = None if arguments.output is None else plan_of(arguments, design, table.rows[0], claims, pilot)
    costs: list[Cost] = []
    documents = None
    if planned is not None:
        costs += [cost_of(run, usages, planned) for run, usages in (pilot.usages if pilot else {}).items()]
        if arguments.lm_eval:
            from harness_ext.bridge import startup

            startup.enforce()
            label = claims.runs[0] if len(claims.runs) == 1 else "the run after --"
            sampled, documents = sampled_cost(label, arguments.lm_eval, arguments.numbers.cost_questions, planned)
            costs.append(sampled)
    pools = len({claim.pool for claim in claims.claims})
    test = tested_by(design, arguments)
    report = Report(
        design, table, test, arguments.numbers.alpha, comparisons, pilot, tuple(costs), documents, max(1, pools)
    )
    if arguments.json:
        sys.stdout.write(repair(as_json(report)))
    else:
        to_terminal(report)
    if plan is not None and arguments.output is not None:
        plan.write(arguments.output)
        print(f"harness-ext plan: wrote {clean(arguments.output)}: keep it unchanged", file=sys.stderr)
    return OK


def _pilot(arguments: Arguments) -> Pilot:
    from harness_ext.analysis.scoring.command import Scorer

    selection = Selection(arguments.tasks, arguments.metrics, arguments.groups, arguments.cluster)
    return read_pilot(arguments.pilot, selection, Scorer("plan", arguments.rest).score)
