"""Builds the tokenised data set, and a report on what happened to its rows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.args import PREFERENCE_METHODS, TrainArgs
from harness_ext.finetune.columns import check_columns
from harness_ext.finetune.encoded_rows import encoded_rows, trained_columns
from harness_ext.finetune.encoding import IGNORED, DataError, by_target, target_column
from harness_ext.finetune.rows import Rows
from harness_ext.finetune.stop_tokens import shown, stop_ids

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SHOWN = 10
EXAMPLE_CHARACTERS = 1500


@dataclass
class Dropped:
    """Rows that were dropped for one reason: their number, and the labels of the first."""

    rows: int = 0
    first: list[str] = field(default_factory=list)


@dataclass
class DataReport:
    """What happened to the rows of a source.

    source: where the rows come from.
    rows, used: number of rows read, and of rows that are trained on.
    dropped: the dropped rows, by reason.
    truncated: number of used rows that lost their beginning or end.
    duplicates: number of rows that repeat an earlier one.
    tokens, learned: number of tokens in the used rows, and of those that are learned.
    longest: length of the longest used row, in tokens.
    stop_tokens: the tokens at which generation with the model ends.
    stops: number of used rows in which one of them is learned.
    open_ends: number of used rows in which none of them is learned, but another token ends the turns, by that token.
    decisions: number of used rows of which only the label of a typed question's answer is learned.
    example: the first row, with the learned part marked.
    digest: hash of the tokenised rows in their order.
    """

    source: str
    rows: int = 0
    used: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    truncated: int = 0
    duplicates: int = 0
    tokens: int = 0
    learned: int = 0
    longest: int = 0
    stop_tokens: list[str] = field(default_factory=list)
    stops: int = 0
    open_ends: dict[str, int] = field(default_factory=dict)
    decisions: int = 0
    example: str = ""
    digest: str = ""

    def facts(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Return the report as text."""
        out = [f"{self.source}: {self.rows} rows, {self.used} used, {self.rows - self.used} dropped"]
        for why, which in self.dropped.items():
            more = ", …" if which.rows > SHOWN else ""
            out.append(f"  dropped, {why}: {which.rows} ({', '.join(which.first)}{more})")
        used = max(self.used, 1)
        out.append(f"  truncated to the maximum length: {self.truncated} ({self.truncated / used:.1%})")
        out.append(f"  duplicates of an earlier row: {self.duplicates}")
        out.append(f"  tokens: {self.tokens}, learned {self.learned}; longest row {self.longest}")
        if self.decisions:
            out.append(f"  decisions, of which only the label is learned: {self.decisions}")
        written = self.used - self.decisions
        if written or not self.used:
            tokens = " or ".join(self.stop_tokens)
            named = f"a stop token ({tokens})" if len(self.stop_tokens) > 1 else f"the stop token {tokens}"
            out.append(f"  {named} is learned in {self.stops} of {written} rows")
        for token, rows in self.open_ends.items():
            out.append(
                f"  WARNING: in {rows} of {written} rows, turns end with {token}, at which generation does not stop. "
                "Remedy: add its id to `eos_token_id` in the model's generation_config.json"
            )
        if others := written - self.stops - sum(self.open_ends.values()):
            out.append(f"  WARNING: {others} of {written} rows do not teach the model to stop")
        out.append("  first row, with the ⟦learned part⟧ marked:")
        out += [f"    {line}" for line in self.example.splitlines()]
        return "\n".join(out)


def build_dataset(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, args: TrainArgs, source: str, golden: bool = False
) -> tuple[Dataset, DataReport]:
    """Return the tokenised data set and the report on it.

    Its columns are `input_ids` and `labels`, or `prompt_ids`, `chosen_ids` and `rejected_ids` for preferences. Raises
    DataError if no row has a column that is needed, if there are bad rows and `bad_rows` or `too_long` is `stop`, or if
    no row is left.

    rows: the rows.
    tokenizer: the model's tokenizer.
    args: the run's settings.
    source: name of the source, for the report and for error messages.
    golden: whether to use golden targets whatever `args.targets` says. Default false.
    """
    import numpy as np

    check_columns(rows, args, golden)
    stops = stop_ids(tokenizer, args.trust_remote_code)
    encoded = encoded_rows(rows, tokenizer, args, stops, golden)
    columns = list(trained_columns(args))
    facts = encoded.select_columns([n for n in encoded.column_names if n not in columns]).with_format("arrow")[:]
    good = facts["kind"].is_null().to_numpy()
    why: dict[int, str] = dict(zip(np.flatnonzero(~good).tolist(), facts["kind"].drop_null().to_pylist(), strict=True))
    if not good.any():
        raise DataError(_none_left(rows, facts["problem"], why, source, args, golden))
    stopping = [at for at, kind in why.items() if (args.too_long if kind == "too long" else args.bad_rows) != "drop"]
    if stopping:
        raise DataError(_complaint(rows, facts["problem"].take(stopping), stopping, source))
    repeats = _repeats(facts["key"], np.flatnonzero(good))
    if args.drop_duplicates:
        good[repeats] = False
        why.update(dict.fromkeys(repeats, "duplicate"))
    chosen = np.flatnonzero(good)
    data = encoded.select_columns(columns)
    data = data.select(chosen) if why else data
    used = facts.take(chosen) if why else facts
    report = DataReport(
        source,
        rows=len(rows),
        used=len(data),
        dropped=_dropped(rows, why),
        truncated=_total(used["truncated"]),
        duplicates=len(repeats),
        tokens=_total(used["tokens"]),
        learned=_total(used["learned"]),
        longest=int(used["longest"].to_numpy().max()),
        stop_tokens=shown(stops, tokenizer),
        stops=_total(used["stops"]),
        open_ends=_open_ends(used["open_end"], tokenizer),
        decisions=_total(used["decision"]),
        example=_shown(data[0], tokenizer),
        digest=_digest(used["key"]),
    )
    return data, report


def _open_ends(ends: pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return how often each token occurs, by its text, the most frequent one first."""
    counted = Counter(ends.drop_null().to_pylist())
    return {str(tokenizer.convert_ids_to_tokens(end)): rows for end, rows in counted.most_common()}


def _dropped(rows: Rows, why: Mapping[int, str]) -> dict[str, Dropped]:
    dropped: dict[str, Dropped] = {}
    for at in sorted(why):
        one = dropped.setdefault(why[at], Dropped())
        one.rows += 1
        if len(one.first) < SHOWN:
            one.first.append(rows.label(at))
    return dropped


def _complaint(rows: Rows, problems: pa.ChunkedArray, at: Sequence[int], source: str) -> str:
    """Return what is wrong with the rows at these positions."""
    return (
        f"{len(at)} rows of {source} cannot be trained on:{_listed(rows, problems, at)}\n"
        "Fix these rows, or set `bad_rows: drop` or `too_long: drop`, `keep_end` or `keep_start`. "
        "The data report counts the rows that are dropped or truncated."
    )


def _none_left(
    rows: Rows, problems: pa.ChunkedArray, why: Mapping[int, str], source: str, args: TrainArgs, golden: bool
) -> str:
    """Return what is wrong with all rows, once if it is the same, and what to do: to drop them would leave none."""
    if len(rows) > 1 and len(problems.unique()) == 1:
        said = f". All {len(rows)} have the same problem: {problems[0]}."
    else:
        counted = ", ".join(f"{number} {kind}" for kind, number in Counter(why.values()).items())
        said = f" ({counted}):{_listed(rows, problems, range(len(rows)))}"
    remedies = "; ".join(dict.fromkeys(_remedy(kind, args, golden) for kind in why.values()))
    return f"no row of {source} can be trained on{said}\nRemedy: {remedies}."


def _listed(rows: Rows, problems: pa.ChunkedArray, at: Sequence[int]) -> str:
    listed = [f"{rows.label(one)}: {problems[number]}" for number, one in enumerate(at[:SHOWN])]
    more = [f"and {len(at) - SHOWN} more"] if len(at) > SHOWN else []
    return "".join(f"\n  - {one}" for one in [*listed, *more])


def _remedy(kind: str, args: TrainArgs, golden: bool) -> str:
    """Return what to do if all rows have a problem of this kind."""
    if kind in ("too long", "nothing learned"):
        cut = args.method in PREFERENCE_METHODS or args.too_long == "keep_end"
        return "set a larger `max_length`" + ("" if cut else ", or `too_long: keep_end`")
    if args.method in PREFERENCE_METHODS:
        return "correct `prompt`, `chosen` and `rejected`, or set method: sft to learn replies"
    column = "column"
    if by_target(args):
        column = "golden_column" if target_column(args, golden) == args.golden_column else "teacher_column"
    return f"correct the rows, or learn other columns: name them with `{column}` and `prompt_column`"


def _repeats(keys: pa.ChunkedArray, good: np.ndarray) -> list[int]:
    """Return the positions, among those given, of rows whose key occurs before."""
    import numpy as np

    codes = keys.take(good).combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.unique(codes, return_index=True)[1]
    return np.delete(good, first).tolist()


def _digest(keys: pa.ChunkedArray) -> str:
    digest = hashlib.sha256()
    for batch in keys.chunks:
        digest.update(b"".join(batch.to_pylist()))
    return digest.hexdigest()


def _total(numbers: pa.ChunkedArray) -> int:
    return int(numbers.to_numpy().sum())


def _shown(row: Mapping[str, list[int]], tokenizer: PreTrainedTokenizerBase) -> str:
    if "prompt_ids" in row:
        prompt, chosen, rejected = (
            tokenizer.decode(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        return _short(f"{prompt}\n  chosen: ⟦{chosen}⟧\n  rejected: ⟦{rejected}⟧")
    out, start = "", 0
    flags = [label != IGNORED for label in row["labels"]]
    for at in range(1, len(flags) + 1):
        if at == len(flags) or flags[at] != flags[start]:
            text = tokenizer.decode(row["input_ids"][start:at])
            out += f"⟦{text}⟧" if flags[start] else text
            start = at
    return _short(out)


def _short(text: str) -> str:
    half = EXAMPLE_CHARACTERS // 2
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:half]} […] {text[-half:]}"
