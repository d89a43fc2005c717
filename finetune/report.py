"""Builds the tokenised data set, and a report on what happened to its rows."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.args import PREFERENCE_METHODS, TrainArgs
from harness_ext.finetune.encoding import (
    IGNORED,
    BadRow,
    DataError,
    Encoded,
    EncodedPair,
    Preference,
    encode,
    encode_pair,
    parse,
)
from harness_ext.finetune.sources import Rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SHOWN = 10
EXAMPLE_CHARACTERS = 1500


@dataclass
class DataReport:
    """What happened to the rows of a source.

    source: where the rows come from.
    rows, used: number of rows read, and of rows that are trained on.
    dropped: the labels of the dropped rows, by reason.
    truncated: number of used rows that lost their beginning or end.
    duplicates: number of rows that repeat an earlier one.
    tokens, learned: number of tokens in the used rows, and of those that are learned.
    longest: length of the longest used row, in tokens.
    stop_token: the end-of-sequence token.
    stops: number of used rows in which the end-of-sequence token is learned.
    example: the first row, with the learned part marked.
    digest: hash of the tokenised rows in their order.
    """

    source: str
    rows: int = 0
    used: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)
    truncated: int = 0
    duplicates: int = 0
    tokens: int = 0
    learned: int = 0
    longest: int = 0
    stop_token: str = ""
    stops: int = 0
    example: str = ""
    digest: str = ""

    def facts(self) -> dict[str, Any]:
        """Return the report as JSON values. Of the dropped rows, it contains the number and the first labels."""
        dropped = {why: {"rows": len(which), "first": which[:SHOWN]} for why, which in self.dropped.items()}
        return {**dataclasses.asdict(self), "dropped": dropped}

    def text(self) -> str:
        """Return the report as text."""
        out = [f"{self.source}: {self.rows} rows, {self.used} used, {self.rows - self.used} dropped"]
        for why, which in self.dropped.items():
            more = ", …" if len(which) > SHOWN else ""
            out.append(f"  dropped, {why}: {len(which)} ({', '.join(which[:SHOWN])}{more})")
        used = max(self.used, 1)
        out.append(f"  truncated to the maximum length: {self.truncated} ({self.truncated / used:.1%})")
        out.append(f"  duplicates of an earlier row: {self.duplicates}")
        out.append(f"  tokens: {self.tokens}, learned {self.learned}; longest row {self.longest}")
        out.append(f"  the stop token {self.stop_token} is learned in {self.stops} of {self.used} rows")
        if self.stops < self.used:
            out.append("  WARNING: the other rows do not teach the model to stop")
        out.append("  first row, with the ⟦learned part⟧ marked:")
        out += [f"    {line}" for line in self.example.splitlines()]
        return "\n".join(out)


def build_dataset(
    values: Rows, tokenizer: PreTrainedTokenizerBase, args: TrainArgs, source: str, golden: bool = False
) -> tuple[Dataset, DataReport]:
    """Return the tokenised data set and the report on it.

    Its columns are `input_ids` and `labels`, or `prompt_ids`, `chosen_ids` and `rejected_ids` for preferences. Raises
    DataError if there are bad rows and `bad_rows` or `too_long` is `stop`, or if no row is left.

    values: the rows with their labels, such as `line 7`.
    tokenizer: the model's tokenizer.
    args: the run's settings.
    source: name of the source, for the report and for error messages.
    golden: whether to use golden targets whatever `args.targets` says. Default false.
    """
    from datasets import Dataset

    report = DataReport(source, stop_token=str(tokenizer.eos_token))
    preference = args.method in PREFERENCE_METHODS
    columns = ("prompt_ids", "chosen_ids", "rejected_ids") if preference else ("input_ids", "labels")
    kept: dict[str, list[Any]] = {name: [] for name in columns}
    problems: list[str] = []
    seen: set[bytes] = set()
    digest = hashlib.sha256()
    for label, value in values:
        report.rows += 1
        try:
            one = _encoded(value, tokenizer, args, golden, report)
        except BadRow as error:
            if (args.too_long if error.kind == "too long" else args.bad_rows) == "drop":
                report.dropped.setdefault(error.kind, []).append(label)
            else:
                problems.append(f"{label}: {error}")
            continue
        packed = {name: array("i", getattr(one, name)) for name in columns}
        key = hashlib.sha256(b"|".join(ids.tobytes() for ids in packed.values())).digest()
        if key in seen:
            report.duplicates += 1
            if args.drop_duplicates:
                report.dropped.setdefault("duplicate", []).append(label)
                continue
        seen.add(key)
        digest.update(key)
        _count(report, one, tokenizer)
        for name, ids in packed.items():
            kept[name].append(ids)
    if problems:
        raise DataError(_complaint(problems, source))
    if not report.used:
        reasons = ", ".join(f"{len(which)} {why}" for why, which in report.dropped.items())
        raise DataError(f"{source} contains no rows to train on." + (f" Dropped: {reasons}." if reasons else ""))
    report.digest = digest.hexdigest()
    return Dataset.from_dict({name: [ids.tolist() for ids in rows] for name, rows in kept.items()}), report


def _complaint(problems: list[str], source: str) -> str:
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return (
        f"{len(problems)} rows of {source} cannot be trained on:\n"
        + "\n".join(f"  - {one}" for one in [*problems[:SHOWN], *more])
        + "\nFix these rows, or set `bad_rows: drop` or `too_long: drop`, `keep_end` or `keep_start`. "
        "The data report counts the rows that are dropped or truncated."
    )


def _encoded(
    value: Any, tokenizer: PreTrainedTokenizerBase, args: TrainArgs, golden: bool, report: DataReport
) -> Encoded | EncodedPair:
    row = parse(value, args, golden)
    if isinstance(row, Preference):
        pair = encode_pair(row, tokenizer)
        if pair.chosen_ids == pair.rejected_ids:
            raise BadRow("identical pair", "chosen and rejected have the same tokens")
        length = len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))
        if length > args.max_length:
            raise BadRow("too long", f"{length} tokens, more than max_length {args.max_length}")
        return pair
    one = encode(row, tokenizer)
    excess = len(one.input_ids) - args.max_length
    if excess <= 0:
        return one
    if args.too_long in ("stop", "drop"):
        raise BadRow("too long", f"{len(one.input_ids)} tokens, more than max_length {args.max_length}")
    part = slice(excess, None) if args.too_long == "keep_end" else slice(None, args.max_length)
    one = Encoded(one.input_ids[part], one.labels[part])
    if all(label == IGNORED for label in one.labels[1:]):
        raise BadRow("nothing learned", "after truncation, nothing is left to learn")
    report.truncated += 1
    return one


def _count(report: DataReport, one: Encoded | EncodedPair, tokenizer: PreTrainedTokenizerBase) -> None:
    if isinstance(one, EncodedPair):
        replies = [one.chosen_ids, one.rejected_ids]
        tokens, learned = 2 * len(one.prompt_ids) + sum(map(len, replies)), sum(map(len, replies))
        longest = len(one.prompt_ids) + max(map(len, replies))
        stops = all(reply[-1] == tokenizer.eos_token_id for reply in replies)
    else:
        tokens = longest = len(one.input_ids)
        learned = sum(label != IGNORED for label in one.labels)
        stops = tokenizer.eos_token_id in one.labels
    if not report.used:
        report.example = _shown(one, tokenizer)
    report.used += 1
    report.tokens += tokens
    report.learned += learned
    report.longest = max(report.longest, longest)
    report.stops += stops


def _shown(one: Encoded | EncodedPair, tokenizer: PreTrainedTokenizerBase) -> str:
    if isinstance(one, EncodedPair):
        prompt, chosen, rejected = map(tokenizer.decode, (one.prompt_ids, one.chosen_ids, one.rejected_ids))
        return _short(f"{prompt}\n  chosen: ⟦{chosen}⟧\n  rejected: ⟦{rejected}⟧")
    out, start = "", 0
    flags = [label != IGNORED for label in one.labels]
    for at in range(1, len(flags) + 1):
        if at == len(flags) or flags[at] != flags[start]:
            text = tokenizer.decode(one.input_ids[start:at])
            out += f"⟦{text}⟧" if flags[start] else text
            start = at
    return _short(out)


def _short(text: str) -> str:
    half = EXAMPLE_CHARACTERS // 2
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:half]} […] {text[-half:]}"
