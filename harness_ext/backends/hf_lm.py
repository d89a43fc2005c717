"""lm-eval's `hf` class, changed in what it cannot be asked for: when it loads weights, and which rows have ended."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness_ext.backends import hf_score
from harness_ext.backends.hf_rows import GeneratedRow, RowSeconds
from harness_ext.backends.hf_sampling import Sampling, generate_settings
from harness_ext.backends.hf_stops import AnswerStops
from harness_ext.backends.meter import Meter
from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers

BITSANDBYTES = ("load_in_4bit", "load_in_8bit", "bnb_4bit_", "llm_int8_")


def bitsandbytes_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return model arguments with those for bitsandbytes combined into a quantization config.

    lm-eval 0.4.13 passes `load_in_4bit` on to transformers, which no longer accepts it as of release 5.
    """
    own = {name: value for name, value in kwargs.items() if name.startswith(BITSANDBYTES)}
    rest = {name: value for name, value in kwargs.items() if name not in own}
    if not (own.get("load_in_4bit") or own.get("load_in_8bit")):
        return rest
    from transformers import BitsAndBytesConfig

    return {**rest, "quantization_config": BitsAndBytesConfig(**own)}


def token_ids(value: Any) -> frozenset[int]:
    """Return the token ids of a setting that is one id, several of them, or None."""
    return frozenset(i for i in (value if isinstance(value, list | tuple) else [value]) if i is not None)


def lazy_hflm_class() -> Any:
    """Return the subclass of lm-eval's `HFLM` that `HFBackend` uses. It is made here because torch is slow to import.

    Its instances have these attributes beside those of `HFLM`:

    rows: the generated rows whose texts `HFLM` has not reported yet, in the order of its reports.
    row_ended: called with a row of the batch as soon as it has ended, while others are still being written. Such a row
        is not in `rows`. Default None: all rows come when the batch ends.
    contexts: the prompts of the batch.
    thought_markers: how thoughts are marked; None if the stop sequences apply to the whole text.
    end_ids: the tokens that end a reply.
    generate_ends: those of them at which the model's `generate` ends a row by itself.
    samplings: how tokens are chosen, by generation settings as JSON.
    meter: what takes note of the tokens as they are written.
    """
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import StoppingCriteriaList

    class Unloaded(torch.nn.Module):
        """The placeholder that HFLM uses as its model until the weights are needed."""

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config = config

        def tie_weights(self) -> None:
            """Do nothing: there are no weights to tie."""

    class LazyHFLM(HFLM):  # type: ignore[misc]
        """lm-eval's `hf`, but it loads weights on request, keeps token ids for counting, and hands out ended rows."""

        def __init__(self, **kwargs: Any) -> None:
            self.rows: deque[GeneratedRow] = deque()
            self.row_ended: Callable[[GeneratedRow], None] | None = None
            self.contexts: Sequence[str] = ()
            self.thought_markers: Markers | None = DEFAULT_MARKERS
            self.end_ids: frozenset[int] = frozenset()
            self.samplings: dict[str, Sampling] = {}
            self.meter = Meter()
            self.scoring = hf_score.ScoreWatch()
            super().__init__(**kwargs)

        def _create_model(self, **kwargs: Any) -> None:
            self._pending = bitsandbytes_config(kwargs)
            self._model = Unloaded(self._config)

        def load_weights(self) -> None:
            pending = self._pending
            super()._create_model(**pending)
            if isinstance(self.model, torch.nn.Module):
                self.model.eval()
                self.model.tie_weights()
            placed = (
                pending["parallelize"]
                or pending.get("tp_plan")
                or pending.get("autogptq")
                or hasattr(self, "accelerator")
            )
            quantized = getattr(self.model, "is_quantized", False)
            if not placed and not quantized:
                self.model.to(self.device)
            self.generate_ends = token_ids(getattr(self.model.generation_config, "eos_token_id", None))
            self.end_ids = self.generate_ends | token_ids(self.tokenizer.eos_token_id)
            self.keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters
            if self.batch_size == "auto":
                self.batch_size_per_gpu = self._detect_batch_size()

        def _loglikelihood_tokens(self, requests: Any, **how: Any) -> Any:
            self.scoring.begin(requests, groups=self.backend == "causal" and self.logits_cache)
            return self.scoring.end(super()._loglikelihood_tokens(requests, **how))

        def _model_call(self, inps: Any, *more: Any, **how: Any) -> Any:
            self.scoring.forward(len(inps))
            return super()._model_call(inps, *more, **how)

        def tok_batch_encode(self, strings: list[str], *more: Any, **how: Any) -> Any:
            self.contexts = strings  # HFLM does not tell `_model_generate` which prompts the rows belong to
            return super().tok_batch_encode(strings, *more, **how)

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **kwargs: Any) -> Any:
            lengths = kwargs["attention_mask"].sum(dim=1).tolist()
            width = context.shape[1] if self.backend == "causal" else 0
            seconds = RowSeconds(len(lengths))
            handed_out: set[int] = set()

            def row(number: int, tokens: list[int]) -> GeneratedRow:
                share, room = seconds.end(number), max_length - width
                return GeneratedRow(lengths[number], tokens, room, stop, share, self.thought_markers, number)

            def ended(number: int, new: Any) -> None:
                # Beam search has several rows per reply, of which the best is known at the end.
                if self.row_ended is not None and len(new) == len(lengths):
                    tokens = new[number].tolist()
                    handed_out.add(number)
                    self.meter.handed_over(len(tokens))
                    self.row_ended(row(number, tokens))

            # A row that has ended by its end token gets nothing but padding. Which token that is, a request may say.
            ends = token_ids(kwargs["eos_token_id"]) if "eos_token_id" in kwargs else self.generate_ends
            stops = AnswerStops(self.tokenizer, stop, width, self.thought_markers, self.meter.wrote, ends, ended)
            try:
                # HFLM's own method, but with another stopping criterion (see `AnswerStops`).
                with torch.autocast(
                    device_type=self.device.type,
                    dtype=self.mixed_precision_dtype,
                    enabled=self.mixed_precision_dtype is not None,
                ):
                    out = self.model.generate(
                        input_ids=context,
                        max_length=max_length,
                        stopping_criteria=StoppingCriteriaList([stops]),
                        pad_token_id=self.tokenizer.pad_token_id,
                        use_cache=True,
                        **generate_settings(kwargs),
                    )
            finally:
                self.meter.handed_over()
            written = enumerate(out.tolist())
            self.rows.extend(row(number, tokens[width:]) for number, tokens in written if number not in handed_out)
            return out

    return LazyHFLM
