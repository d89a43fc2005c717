"""Command-line options shared by several stages of `harness-ext enhance`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.errors import ConfigurationError

if TYPE_CHECKING:
    from harness_ext.enhance.forecast import Assumptions
    from harness_ext.enhance.templates import TemplateSet

STOPPED = 3


def add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", default="train", help="the split to read of a saved DatasetDict (default: train)")
    parser.add_argument("--limit", type=int, help="read only this many rows")


def add_contamination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", default="", help="lm-eval tasks whose documents to look for, separated by commas")
    parser.add_argument("--ngram", type=int, default=13, help="consecutive shared words that count (default: 13)")
    parser.add_argument(
        "--similarity", type=float, default=0.8, help="least Jaccard similarity of near-duplicates (default: 0.8)"
    )
    parser.add_argument("--include_path", help="folder with your own tasks")


def add_seats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_args", default="", help="`<seat>.<argument>=…` and run options, separated by commas")
    parser.add_argument("--gen_kwargs", default="", help="generation settings in lm-eval's format")
    parser.add_argument("--batch_size", default="8", help="batch size of local models (default: 8)")
    parser.add_argument("--device", help="cpu, cuda:1, … (default: GPUs if there are any)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampled replies and brackets (default: 0)")
    parser.add_argument("--store", help="folder of the call store, or `off`")
    parser.add_argument("--budget", help="stop before exceeding this: price:5, tokens:2e6 or calls:1000")


def add_estimate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--estimate", action="store_true", help="print calls, tokens, hours and price without running")
    parser.add_argument("--reply_tokens", type=int, help="estimate: tokens per reply (default: the token limit)")
    parser.add_argument("--seconds_a_call", type=float, help="estimate: seconds per call")
    parser.add_argument("--at_once", type=float, default=1.0, help="estimate: concurrent calls (default: 1)")
    parser.add_argument("--probe", type=int, default=0, help="estimate: measure on this many prompts (stored)")
    parser.add_argument("--batched_rounds", type=int, default=0, help="estimate: first rounds sent to a batch API")
    parser.add_argument("--batch_discount", type=float, default=0.5, help="estimate: its discount (default: 0.5)")


def assumptions(options: argparse.Namespace) -> Assumptions:
    """Return the assumptions of an estimate."""
    from harness_ext.enhance.call_costs import Pace
    from harness_ext.enhance.forecast import Assumptions

    pace = Pace(options.seconds_a_call, options.at_once)
    return Assumptions(options.reply_tokens, pace, options.probe, options.batched_rounds, options.batch_discount)


def arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the model arguments of a run."""
    found = pairs(options.model_args)
    for name in ("store", "budget"):
        if getattr(options, name) is not None:
            found[name] = getattr(options, name)
    return found


def pairs(text: str) -> dict[str, Any]:
    """Read `name=value,…` as lm-eval does. Raises ConfigurationError."""
    from lm_eval.utils import simple_parse_args_string

    try:
        found: dict[str, Any] = simple_parse_args_string(text)
    except ValueError as error:
        raise ConfigurationError([f"`{text}` is not a comma-separated list of `name=value`: {error}"]) from error
    return found


def templates_of(options: argparse.Namespace) -> TemplateSet | None:
    """Return the templates that were named, else those that `prepare` used for the input, else None."""
    from harness_ext.enhance.row_files import manifest_of
    from harness_ext.enhance.templates import load_templates, read_templates

    if options.templates:
        return load_templates(options.templates)
    found = manifest_of(options.input).get("templates")
    return read_templates(found, str(options.input)) if found else None


def say(counts: Mapping[str, Any], output: Path) -> None:
    """Print the counts of rows."""
    bad = f"; bad rows with reasons: {output.with_suffix('')}.bad.jsonl" if counts.get("bad") else ""
    print(f"[harness-ext] {output}: {json.dumps(counts)}{bad}", file=sys.stderr)
