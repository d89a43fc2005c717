"""Rows tokenised in batches by `datasets.map`, once per machine: later starts and other processes read its cache."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.backends import hf_decide
from harness_ext.data.progress_bars import quiet
from harness_ext.decisions import prompts, questions
from harness_ext.finetune import decision_rows, encoding, stop_tokens, tokenising
from harness_ext.finetune import rows as rows_module
from harness_ext.finetune.args import PREFERENCE_METHODS, TrainArgs
from harness_ext.finetune.encoding import IGNORED, BadRow, DataError, Encoded, EncodedPair, parse
from harness_ext.finetune.readers import cache_errors, cache_folder
from harness_ext.finetune.rows import BATCH, Rows
from harness_ext.finetune.stop_tokens import turn_marks
from harness_ext.finetune.tokenising import encode_all
from harness_ext.reading import control_tokens

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

TRAINED = ("input_ids", "labels")
TRAINED_PAIR = ("prompt_ids", "chosen_ids", "rejected_ids")
# The settings on which the tokens of a row depend, besides the presence of a teacher model.
SETTINGS = (
    "method",
    "column",
    "prompt_column",
    "targets",
    "golden_column",
    "teacher_column",
    "max_length",
    "too_long",
)
LIBRARIES = ("transformers", "tokenizers", "jinja2")
DECISION_FILES = ("decision.json", "decision_template.jinja")


def trained_columns(args: TrainArgs) -> tuple[str, ...]:
    """Return the columns of a method's tokenised rows that the trainer reads."""
    return TRAINED_PAIR if args.method in PREFERENCE_METHODS else TRAINED


def encoded_rows(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, args: TrainArgs, stops: frozenset[int], golden: bool = False
) -> Dataset:
    """Return the tokenised rows, one for each row, also for those that cannot be trained on.

    Its columns are those of `trained_columns`; `kind` and `problem` of a bad row, otherwise null; `key`, a hash of the
    tokens; the numbers of `tokens` and `learned` tokens and the length of the `longest` sequence; and whether the row
    is `truncated`, a token at which generation ends is learned (`stops`), and it is a `decision`. Where none is learned
    and a learned turn ends with another special or added token, that is `open_end`; otherwise it is null. Raises
    DataError at a line that is not JSON, and if the cache cannot be written.

    rows: the rows.
    tokenizer: the model's tokenizer.
    args: the run's settings.
    stops: the ids of the tokens at which generation with the model ends.
    golden: whether to use golden targets whatever `args.targets` says. Default false.
    """
    from datasets import is_caching_enabled
    from filelock import FileLock
    from pyarrow import ArrowInvalid

    key = _key(rows, tokenizer, args, stops, golden)
    file = cache_folder("tokens", f"{key}.arrow")
    table = rows.table()
    with cache_errors(), quiet():
        file.parent.mkdir(parents=True, exist_ok=True)
        # The first process of a machine tokenises. The others wait here and then find its result.
        with FileLock(file.with_suffix(".lock")) if is_caching_enabled() else nullcontext():
            cached = file.exists()
            try:
                return table.map(
                    functools.partial(
                        _encode_batch, rows=rows, tokenizer=tokenizer, args=args, stops=stops, golden=golden
                    ),
                    with_indices=True,
                    batched=True,
                    batch_size=BATCH,
                    remove_columns=table.column_names,
                    features=_features(args),
                    cache_file_name=str(file),
                    new_fingerprint=key[:32],
                    desc=f"Tokenising {rows.source}",
                )
            except ArrowInvalid as error:
                if not cached:
                    raise
                raise DataError(f"{file}, which caches tokens, is damaged: {error}. Remedy: delete it.") from error


def fit(one: Encoded | EncodedPair, args: TrainArgs) -> tuple[Encoded | EncodedPair, bool]:
    """Return a row that is no longer than `max_length`, and whether it was cut.

    Raises BadRow if it is too long, or if nothing that is learned is left of it.
    """
    if isinstance(one, EncodedPair):
        if one.chosen_ids == one.rejected_ids:
            raise BadRow("identical pair", "chosen and rejected have the same tokens")
        length = len(one.prompt_ids) + max(len(one.chosen_ids), len(one.rejected_ids))
    else:
        length = len(one.input_ids)
    excess = length - args.max_length
    if excess <= 0:
        return one, False
    if isinstance(one, EncodedPair) or args.too_long in ("stop", "drop"):
        raise BadRow("too long", f"{length} tokens, more than max_length {args.max_length}")
    part = slice(excess, None) if args.too_long == "keep_end" else slice(None, args.max_length)
    one = Encoded(one.input_ids[part], one.labels[part], one.decision)
    if all(label == IGNORED for label in one.labels[1:]):
        raise BadRow("nothing learned", "after truncation, nothing is left to learn")
    return one, True


def _encode_batch(
    batch: Mapping[str, list[Any]],
    positions: Sequence[int],
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    args: TrainArgs,
    stops: frozenset[int],
    golden: bool,
) -> pa.Table:
    parsed = [_or_bad(parse, value, args, golden) for value in rows.values(batch, positions)]
    found = [one if isinstance(one, BadRow) else _or_bad(fit, one, args) for one in encode_all(parsed, tokenizer)]
    return _as_table(found, trained_columns(args), stops, turn_marks(tokenizer))


def _or_bad(check: Any, *values: Any) -> Any:
    try:
        return check(*values)
    except BadRow as error:
        return error


def _as_table(
    found: Sequence[tuple[Encoded | EncodedPair, bool] | BadRow],
    columns: Sequence[str],
    stops: frozenset[int],
    marks: frozenset[int],
) -> pa.Table:
    import pyarrow as pa

    good = [None if isinstance(one, BadRow) else one[0] for one in found]
    ids = {name: [array("i", getattr(one, name) if one else ()) for one in good] for name in columns}
    packed = zip(*([one.tobytes() for one in ids[name]] for name in columns), strict=True)
    cells: dict[str, Any] = {name: _lists(parts) for name, parts in ids.items()}
    bad = [one if isinstance(one, BadRow) else None for one in found]
    cells["kind"] = pa.array([one and one.kind for one in bad], pa.string())
    cells["problem"] = pa.array([one and str(one).encode(errors="replace").decode() for one in bad], pa.string())
    cells["key"] = pa.array([hashlib.sha256(b"|".join(parts)).digest() for parts in packed], pa.binary())
    counted = [_counts(one) for one in good]
    for at, name in enumerate(("tokens", "learned", "longest")):
        cells[name] = pa.array([counts[at] for counts in counted], pa.int64())
    ends = [_ends(one, stops, marks) for one in good]
    cells["stops"] = pa.array([stopped for stopped, _ in ends], pa.bool_())
    cells["open_end"] = pa.array([end for _, end in ends], pa.int64())
    cells["truncated"] = pa.array([not isinstance(one, BadRow) and one[1] for one in found], pa.bool_())
    cells["decision"] = pa.array([isinstance(one, Encoded) and one.decision for one in good], pa.bool_())
    return pa.table(cells)


def _lists(parts: Sequence[array[int]]) -> pa.ListArray:
    import numpy as np
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    values = np.frombuffer(b"".join(part.tobytes() for part in parts), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))


def _counts(one: Encoded | EncodedPair | None) -> tuple[int, int, int]:
    """Return the numbers of tokens and of learned ones, and the length of the longest sequence."""
    if one is None:
        return 0, 0, 0
    if isinstance(one, Encoded):
        tokens = len(one.input_ids)
        return tokens, tokens - one.labels.count(IGNORED), tokens
    prompt, replies = len(one.prompt_ids), (one.chosen_ids, one.rejected_ids)
    learned = sum(map(len, replies))
    return 2 * prompt + learned, learned, prompt + max(map(len, replies))


def _ends(one: Encoded | EncodedPair | None, stops: frozenset[int], marks: frozenset[int]) -> tuple[bool, int | None]:
    """Return whether a stop token is learned, and if not, the other mark with which turns end, if there is one."""
    if one is None or (isinstance(one, Encoded) and one.decision):
        return False, None
    if isinstance(one, EncodedPair):
        return all(ids and ids[-1] in stops for ids in (one.chosen_ids, one.rejected_ids)), None
    if not stops.isdisjoint(one.labels):
        return True, None
    after = [*one.labels[1:], IGNORED]
    ends = [label for label, follows in zip(one.labels, after, strict=True) if label != IGNORED == follows]
    return False, next((end for end in reversed(ends) if end in marks), None)


def _features(args: TrainArgs) -> Any:
    from datasets import Features, List, Value

    types = {
        **dict.fromkeys(("kind", "problem"), "string"),
        "key": "binary",
        **dict.fromkeys(("tokens", "learned", "longest", "open_end"), "int64"),
        **dict.fromkeys(("stops", "truncated", "decision"), "bool"),
    }
    ids = {name: List(Value("int32")) for name in trained_columns(args)}
    return Features({**ids, **{name: Value(kind) for name, kind in types.items()}})


def _key(rows: Rows, tokenizer: PreTrainedTokenizerBase, args: TrainArgs, stops: frozenset[int], golden: bool) -> str:
    """Return a hash of everything on which the tokens, and what is said about them, depend."""
    from importlib.metadata import version

    facts = {
        "rows": rows.key(),
        "tokenizer": tokenizer_key(tokenizer),
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "teacher_model": bool(args.teacher_model),
        "golden": golden,
        "stops": sorted(stops),
        # The code itself, so that no changed version of it reads what another one has written.
        "code": [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in _code()],
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _code() -> list[str]:
    """Return the source files on which the tokens depend."""
    modules = (
        rows_module, encoding, tokenising, stop_tokens, decision_rows, hf_decide, prompts, questions, control_tokens
    )  # fmt: skip
    return [__file__, *(str(module.__file__) for module in modules)]


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a tokenizer: the same in every process, and however often it has been used."""
    from datasets.fingerprint import Hasher

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state = Hasher.hash(tokenizer)
    else:
        if backend.padding or backend.truncation:  # of the last call, which the next one sets anew
            backend = copy.deepcopy(backend)
            backend.no_padding()
            backend.no_truncation()
        state = backend.to_str()
    facts = [
        type(tokenizer).__qualname__,
        state,
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        getattr(tokenizer, "split_special_tokens", False),
        [_decision_file(str(tokenizer.name_or_path), name) for name in DECISION_FILES],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _decision_file(model: str, name: str) -> str:
    """Return what a model's folder says about how it is asked for decisions, on which those rows' tokens depend."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(model).is_dir():
        file = Path(model, name)
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    try:
        return str(try_to_load_from_cache(model, name))
    except HFValidationError:
        return model
