"""The columns that a method learns from, and one error for a column that no row has."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness_ext.finetune.args import PREFERENCE_METHODS, TrainArgs
from harness_ext.finetune.decision_rows import is_decision
from harness_ext.finetune.encoding import FINISHED, FINISHED_PAIR, DataError, by_target, target_column
from harness_ext.finetune.rows import Rows

SETTINGS = ("column", "prompt_column", "golden_column", "teacher_column")
# Each kind of row that names of columns determine, if no setting names them.
KINDS = (("prompt", "completion"), ("messages",), ("text",), ("state", "question", "answer"))
PREFERENCE = ("prompt", "chosen", "rejected")
MOST_NAMED = 30


def relevant_columns(args: TrainArgs) -> frozenset[str]:
    """Return the names of all columns that a row can be parsed from, with the `index` by which targets are joined."""
    named = [getattr(args, name) for name in SETTINGS]
    always = ("index", FINISHED, *FINISHED_PAIR, *PREFERENCE)
    return frozenset([*always, *(name for kind in KINDS for name in kind), *filter(None, named)])


def check_columns(rows: Rows, args: TrainArgs, golden: bool = False) -> None:
    """Raise DataError if no row has a column that is needed, or a table has one of the wrong type.

    rows: the rows; usually only the first are read.
    args: the run's settings.
    golden: whether golden targets are needed whatever `args.targets` says. Default false.
    """
    _check_types(rows, args, golden)
    filled: set[str] = set()
    columns = dict.fromkeys(rows.columns)
    kinds: Counter[tuple[str, ...]] = Counter()
    for _, value in rows:
        if isinstance(value, dict):
            kind = _kind(value, args, golden)
            here = {str(name) for name, cell in value.items() if cell is not None}
            if kind and here.issuperset(kind):
                return
            kinds[kind] += 1
            filled |= here
            columns.update(dict.fromkeys(map(str, value)))
    if not kinds:
        return  # No row is an object, and the data report says so of each.
    kind = kinds.most_common(1)[0][0]
    if not kind or any(name not in filled for name in kind):
        raise DataError(_message(rows.source, kind, filled, tuple(columns), args))


def _kind(value: Mapping[str, Any], args: TrainArgs, golden: bool) -> tuple[str, ...]:
    """Return the columns that a row needs to be learned, or none if it is of no kind that can be learned."""
    if args.method in PREFERENCE_METHODS:
        chosen = value.get("chosen")
        return PREFERENCE[1:] if isinstance(chosen, list) and len(chosen) > 1 else PREFERENCE
    if by_target(args):
        return args.prompt_column or "prompt", target_column(args, golden)
    if args.column:
        return (args.prompt_column, args.column) if args.prompt_column else (args.column,)
    found = next((kind for kind in KINDS[:-1] if any(name in value for name in kind)), ())
    return found or (KINDS[-1] if is_decision(value) else ())


def _message(source: str, kind: Sequence[str], filled: set[str], columns: Sequence[str], args: TrainArgs) -> str:
    listed = ", ".join(columns[:MOST_NAMED]) + (", …" if len(columns) > MOST_NAMED else "")
    missing = [name for name in kind if name not in filled]
    empty = [f"`{name}`" for name in missing if name in columns]
    absent = [f"`{name}`" for name in missing if name not in columns]
    parts = [f"has a column {' or '.join(absent)}"] if absent else []
    parts += [f"has a value in the column {' or '.join(empty)}"] if empty else []
    if not kind:
        missing = [name for names in KINDS for name in names]
        forms = "; ".join(" and ".join(f"`{name}`" for name in names) for names in KINDS)
        parts = [f"has the columns of a kind of row that can be learned ({forms})"]
    return (
        f"no row of {source} {' or '.join(parts)}; the columns are {listed or 'none'}.{_nearest(missing, columns)} "
        f"Remedy: {_remedy(missing, columns, args)}."
    )


def _nearest(missing: Sequence[str], columns: Sequence[str]) -> str:
    pairs = [(name, difflib.get_close_matches(name, columns, 1, 0.5)) for name in missing if name not in columns]
    near = [f"`{close[0]}` instead of `{name}`" for name, close in pairs if close]
    return f" Did you mean {', or '.join(near)}?" if near else ""


def _remedy(missing: Sequence[str], columns: Sequence[str], args: TrainArgs) -> str:
    settings = [name for name in SETTINGS if getattr(args, name) in missing]
    if settings:
        names = " and ".join(f"`{name}`" for name in settings)
        return f"name an existing column with {names}, or add the column to the rows"
    if args.method in PREFERENCE_METHODS:
        return "name the columns `prompt`, `chosen` and `rejected`, or set method: sft to learn replies"
    if {"chosen", "rejected"} <= set(columns):
        return "set method: dpo or orpo to learn preferences, or name the column to learn with `column`"
    other = next((kind[0] for kind in KINDS[1:] if kind[0] in columns and kind[0] not in missing), "")
    if other:
        return f"set column: {other} to learn that column, or add what is missing"
    return "name the column to learn with `column` and the one that it answers with `prompt_column`, or rename them"


def _check_types(rows: Rows, args: TrainArgs, golden: bool) -> None:
    features = rows.data.features if rows.columns else {}
    kind = _kind(features, args, golden)
    names = [name for name in kind if name in features and kind != KINDS[-1]]  # a question may have fields
    wrong = [f"`{name}` is {_type_name(features[name])}" for name in names if not _is_text(features[name])]
    if wrong:
        raise DataError(
            f"{rows.source} has a column of the wrong type: {'; '.join(wrong)}. It must contain text, or a list of "
            "messages with `role` and `content`. Remedy: convert it, or name another column with `column` and "
            "`prompt_column`."
        )


def _is_text(feature: Any) -> bool:
    kind = getattr(feature, "dtype", "")
    named = type(feature).__name__
    if named == "Value":
        return kind in ("string", "large_string", "string_view", "null")
    # `Json` is what `datasets` makes of values of several types; the data report says which rows are bad.
    return named in ("List", "LargeList", "Json")


def _type_name(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)
