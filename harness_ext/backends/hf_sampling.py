"""How a model of transformers chooses its next token: the likeliest one or a drawn one, as in `generate`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from harness_ext.backends.hf_stops import lookback
from harness_ext.backends.settings import effective_settings

# Logits processors that need nothing but the distribution itself. All others also depend on the tokens before it, so
# they are applied one position at a time.
POSITIONWISE = frozenset({"TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"})


def settings_of(lm: Any, gen_kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the generation settings as lm-eval reads them (aliases resolved), and the stop sequences."""
    from lm_eval.models.utils import handle_stop_sequences

    settings = effective_settings(gen_kwargs, lm.max_gen_toks)
    eos = lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
    return settings, [stop for stop in handle_stop_sequences(settings.pop("until", None), eos=eos) if stop]


def generate_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `HFLM` passes on to `generate` from these settings, except lengths."""
    kwargs = {k: v for k, v in settings.items() if k not in ("max_gen_toks", "max_length")}
    kwargs["temperature"] = kwargs.get("temperature", 0.0)
    if kwargs["temperature"] == 0.0 and kwargs.get("do_sample") is None:
        kwargs["do_sample"] = False
    if kwargs.get("do_sample") is False and kwargs["temperature"] == 0.0:
        del kwargs["temperature"]
    return kwargs


class Sampling:
    """Chooses tokens as `generate` does under the same settings.

    A draft must be judged by the distribution from which generation would choose, not by the raw logits. transformers
    has no public function that returns its logits processors (penalties, temperature and the like), so this class
    repeats the private steps of `generate`.

    lm: the `HFLM`.
    gen_kwargs: lm-eval's generation settings.
    """

    def __init__(self, lm: Any, gen_kwargs: Mapping[str, Any]) -> None:
        settings, self.stops = settings_of(lm, gen_kwargs)
        self.lookback = lookback(self.stops) if self.stops else 0
        self.most = int(settings["max_gen_toks"])
        self.model = lm.model
        self.config, self.unknown = lm.model._prepare_generation_config(None, **generate_settings(settings))
        lm.model._prepare_special_tokens(self.config, True, device=lm.device)
        ends = self.config.eos_token_id
        self.ends = lm.end_ids | frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.draws = bool(self.config.do_sample)
        self.positionwise = all(type(p).__name__ in POSITIONWISE for p in self.processors(1, lm.device))

    @property
    def plain(self) -> bool:
        """Return whether tokens are chosen one after the other from the model's own distribution.

        Beam search, assistants and the like are not, and neither are settings that only `generate` knows.
        """
        mode = str(getattr(self.config.get_generation_mode(), "value", ""))
        others = (self.config.forced_eos_token_id, self.config.stop_strings, self.config.max_time)
        return mode in ("greedy_search", "sample") and not self.unknown and all(other is None for other in others)

    def processors(self, prompt: int, device: Any) -> Any:
        """Return the logits processors for a prompt of this length, in tokens."""
        return self.model._get_logits_processor(self.config, input_ids_seq_length=prompt, device=device)

    def processed(self, logits: Any, row: Sequence[int], prompt: int) -> Any:
        """Return the logits of a row's last positions as `generate` would choose from them.

        logits: the raw logits, of shape (positions, vocabulary).
        row: all tokens of the row. The token before each position is the last one that its processors see.
        prompt: the length of the row's prompt, in tokens.
        """
        import torch

        processors = self.processors(prompt, logits.device)
        if not processors:
            return logits
        ids = torch.tensor([list(row)], device=logits.device)
        if self.positionwise:
            return processors(ids.expand(len(logits), -1), logits)
        # In generation, a processor sees the tokens up to the position it decides on. With the whole row, a repetition
        # penalty would also punish tokens for what follows them in the draft.
        begin = len(row) + 1 - len(logits)
        return torch.cat([processors(ids[:, : begin + i], logits[i : i + 1]) for i in range(len(logits))])


def choose(logits: Any, draws: Sequence[random.Random | None]) -> list[int]:
    """Return one token for each row: the likeliest, or one drawn from the distribution.

    logits: of shape (rows, vocabulary), in float32.
    draws: what each row draws with; None to take the likeliest token.
    """
    import torch

    tokens: list[int] = logits.argmax(dim=-1).tolist()
    drawn = [i for i, source in enumerate(draws) if source is not None]
    if drawn:
        # Inverse transform sampling in float64: sums over a large vocabulary in float32 lose small probabilities.
        sums = torch.softmax(logits[drawn].double(), dim=-1).cumsum(-1)
        points = torch.tensor([draws[i].random() for i in drawn], dtype=torch.float64)  # type: ignore[union-attr]
        points = points.to(sums.device)[:, None] * sums[:, -1:]
        for i, token in zip(drawn, torch.searchsorted(sums, points, right=True)[:, 0].tolist(), strict=True):
            tokens[i] = min(token, logits.shape[-1] - 1)
    return tokens
