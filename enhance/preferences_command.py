"""The stages `preferences` and `rank` of `harness-ext enhance`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from harness_ext.enhance.command_options import (  # fmt: skip
    STOPPED,
    add_estimate,
    add_rows,
    add_seats,
    arguments,
    assumptions,
    pairs,
    say,
    templates_of,
)
from harness_ext.enhance.schedules import SCHEDULES
from harness_ext.errors import ConfigurationError


def add(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the two stages to the parser."""
    make = stages.add_parser("preferences", help="write and judge candidate answers; make prompt/chosen/rejected rows")
    make.add_argument("input", type=Path, help="rows with a prompt: the output of `prepare`, or any file of rows")
    make.add_argument("output", type=Path, help="the JSON-lines file to write")
    make.add_argument("--student", help="the model that writes candidates, or `embedded` (default: rows have them)")
    make.add_argument("--judge", required=True, help="the model that compares, `embedded`, or `gold`")
    make.add_argument("--field", default="text", help="the field with the prompt (default: text)")
    make.add_argument("--templates", help="how gold answers are found (default: those `prepare` used)")
    make.add_argument("--k", type=int, default=8, help="candidates per prompt (default: 8)")
    make.add_argument("--method", default="sample", choices=("sample", "diverse_beams"))
    make.add_argument("--temperature", type=float, default=0.8, help="temperature of sampling (default: 0.8)")
    make.add_argument("--top_p", type=float, default=1.0, help="nucleus of sampling (default: 1)")
    make.add_argument("--diversity_penalty", type=float, default=0.8, help="of diverse beam search (default: 0.8)")
    make.add_argument("--near_duplicates", type=float, default=0.95, help="share of shared words above which to drop")
    make.add_argument("--as_chat", action="store_true", help="send the prompt as a user message")
    make.add_argument("--schedule", default="single_elimination", choices=SCHEDULES)
    make.add_argument("--rounds", type=int, default=0, help="number of rounds (default: all; ceil(log2 k) for Swiss)")
    make.add_argument("--orders", default="both", choices=("both", "one"), help="orders in which to show a pair")
    make.add_argument(
        "--style",
        default="pairwise",
        choices=("pairwise", "choice", "review"),
        help="show two candidates and read the reply, show two and ask a choice question, or show one",
    )
    make.add_argument("--fallbacks", default="json_inside,key", help="rules for replies that are not JSON, or `none`")
    make.add_argument("--judge_max_tokens", type=int, default=350, help="tokens per judge reply (default: 350)")
    add_rows(make)
    add_seats(make)
    add_estimate(make)
    make.set_defaults(run=_preferences)

    rank = stages.add_parser("rank", help="make pairs from stored judgements, without calls")
    rank.add_argument("input", type=Path, help="<output>.judgements.jsonl")
    rank.add_argument("output", type=Path, help="the JSON-lines file to write")
    rank.add_argument("--fallbacks", help="rules for replies that are not JSON (default: those of the run)")
    rank.set_defaults(run=_rank)


def _preferences(options: argparse.Namespace) -> int:
    from harness_ext.enhance import forecast
    from harness_ext.enhance.annotate import settings
    from harness_ext.enhance.call_costs import table
    from harness_ext.enhance.candidates import Candidates
    from harness_ext.enhance.preferences import PreferenceJob, write_candidates, write_judgements, write_pairs
    from harness_ext.enhance.row_files import check_field, check_output
    from harness_ext.enhance.running import plan_seats
    from harness_ext.enhance.tournament import Tournament

    check_output(options.output)
    check_field(options.input, options.field, options.split, options.limit)
    templates = templates_of(options)
    if options.judge == "gold" and (templates is None or not templates.gold):
        raise ConfigurationError(["`--judge gold` needs gold answers: pass `--templates` with a `gold` template"])
    shared = {"batch_size": options.batch_size, "device": options.device}
    own, student, judge = _by_seat(arguments(options))
    choices = {name: getattr(options, name) for name in ("schedule", "rounds", "orders", "style", "fallbacks")}
    choices |= {"judge_max_tokens": options.judge_max_tokens, "seed": options.seed}
    choices |= {name: own.pop(name) for name in ("judge_system", "judge_user") if name in own}
    students = judges = None
    if options.student:
        how = ("k", "method", "temperature", "top_p", "diversity_penalty", "as_chat")
        chosen = {name: getattr(options, name) for name in how}
        students = plan_seats(Candidates, {"student": options.student}, {**own, **student, **chosen}, **shared)
    if options.judge == "gold":
        protocol = Tournament(schedule=options.schedule, rounds=options.rounds, seed=options.seed)
    else:
        judges = plan_seats(Tournament, {"judge": options.judge}, {**own, **judge, **choices}, **shared)
        assert isinstance(judges.protocol, Tournament)
        protocol = judges.protocol
    job = PreferenceJob(
        options.input, options.output, options.field, settings(templates, pairs(options.gen_kwargs)), templates,
        options.near_duplicates, options.split, options.limit, options.seed,
    )  # fmt: skip
    if options.estimate:
        print(table(forecast.preferences(job, students, protocol, judges, assumptions(options))))
        return 0
    for stage in (lambda: write_candidates(job, students), lambda: write_judgements(job, protocol, judges)):
        manifest = stage()
        say(manifest["counts"], job.candidates if "student" in manifest else job.judgements)
        if stopped := manifest.get("stopped"):
            print(f"[harness-ext] {stopped}", file=sys.stderr)
            return STOPPED
        if cut := manifest.get("cut_off"):
            print(
                f"[harness-ext] {cut} candidates were cut off by the token limit: training does not teach to stop "
                "there (`chosen_finished` and `rejected_finished` are false)",
                file=sys.stderr,
            )
    return _say_report(write_pairs(job.judgements, job.target), job.target)


def _rank(options: argparse.Namespace) -> int:
    from harness_ext.enhance.preferences import write_pairs
    from harness_ext.enhance.tournament import read_fallbacks

    if options.fallbacks is not None:
        try:
            read_fallbacks(options.fallbacks)
        except ValueError as error:
            raise ConfigurationError([str(error)]) from error
    return _say_report(write_pairs(options.input, options.output, options.fallbacks), options.output)


def _by_seat(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split arguments into those of both seats, those of the student and those of the judge."""
    parts: dict[str, dict[str, Any]] = {"": {}, "student": {}, "judge": {}}
    for name, value in given.items():
        seat = name.partition(".")[0] if "." in name else ""
        parts[seat if seat in parts else ""][name] = value
    return parts[""], parts["student"], parts["judge"]


def _say_report(report: dict[str, Any], target: Path) -> int:
    print(json.dumps(report, indent=2))
    print(f"[harness-ext] {report['pairs']} preferences: {target}", file=sys.stderr)
    return 0
