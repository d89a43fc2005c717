"""Diverse beam search with groups of one beam (Vijayakumar et al. 2016, arXiv:1610.02424, equation 4 with B' = 1).

transformers removed group beam search from `generate` (releases from 4.57 on load it from the hub, as remote code).
With one beam per group, which is how k different candidates are drawn, greedy decoding is all that is needed: group g
takes the likeliest token after `penalty` has been subtracted once for each earlier group of the same prompt that took
that token at this step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from harness_ext.backends.base import Deliver, GenerateRequest
from harness_ext.backends.hf_rows import GeneratedRow, completion_of
from harness_ext.backends.settings import effective_settings

GROUPS, PENALTY, GROUP = "beam_groups", "diversity_penalty", "beam_group"


def wants_beams(request: GenerateRequest) -> bool:
    """Return whether a request is for one group of a diverse beam search (`beam_group` of `beam_groups`)."""
    return GROUPS in request.gen_kwargs


def beam_settings(groups: int, group: int, penalty: float, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generation settings of one group. The requests of all groups belong in one batch.

    groups: the number of groups.
    group: the index of this group, from 0.
    penalty: the diversity penalty, which is subtracted from the logits.
    more: further generation settings.
    """
    return {**more, "do_sample": False, GROUPS: groups, GROUP: group, PENALTY: penalty}


def search_beams(lm: Any, requests: Sequence[GenerateRequest], indices: list[int], deliver: Deliver) -> None:
    """Answer some of the requests, with one search per prompt and as many prompts at once as the batch size allows.

    lm: the `HFLM`.
    requests: all requests of a batch.
    indices: which of them to answer.
    deliver: called with the index and the completion of each.
    """
    from lm_eval.models.utils import handle_stop_sequences, postprocess_generated_text
    from transformers import LogitsProcessorList

    def hand_over(members: Mapping[int, Sequence[int]], until: list[str], row: GeneratedRow) -> None:
        text = postprocess_generated_text(lm.tok_decode(row.tokens), stop=until, think_end_token=None)
        for index in members.get(row.number, ()):
            deliver(index, completion_of(lm, text, row, requests[index].keep_ids))

    for settings, prompts in _searches(requests, indices):
        groups, penalty = int(settings[GROUPS]), float(settings[PENALTY])
        plain = {k: v for k, v in settings.items() if k not in (GROUPS, PENALTY)}
        plain = effective_settings(plain, lm.max_gen_toks)
        until = handle_stop_sequences(plain["until"], eos=lm.tok_decode(lm.eot_token_id, skip_special_tokens=False))
        new, at_once = plain["max_gen_toks"], max(1, int(lm.batch_size) // groups)
        for start in range(0, len(prompts), at_once):
            batch = prompts[start : start + at_once]
            texts = [requests[members[0]].prompt for members in batch for _ in range(groups)]
            context, mask = lm.tok_batch_encode(texts, left_truncate_len=lm.max_length - new, truncation=lm.truncation)
            diversity = diversity_processor(groups, penalty, context.shape[1], sorted(lm.end_ids))
            deliver_row = partial(hand_over, _members(requests, batch, groups), until)
            lm.rows.clear()
            lm.row_ended = deliver_row
            try:
                lm._model_generate(
                    context=context.to(lm.device),
                    attention_mask=mask.to(lm.device),
                    stop=until,
                    max_length=context.shape[1] + new,
                    do_sample=False,
                    logits_processor=LogitsProcessorList([diversity]),
                )
            finally:
                lm.row_ended = None
            for row in lm.rows:
                deliver_row(row)


def _members(requests: Sequence[GenerateRequest], batch: Sequence[Sequence[int]], groups: int) -> dict[int, list[int]]:
    """Return the indices of the requests that each row of a batch answers, by the row's number."""
    found: dict[int, list[int]] = {}
    for number, members in enumerate(batch):
        for index in members:
            found.setdefault(number * groups + int(requests[index].gen_kwargs[GROUP]), []).append(index)
    return found


def _searches(
    requests: Sequence[GenerateRequest], indices: Sequence[int]
) -> list[tuple[dict[str, Any], list[list[int]]]]:
    """Return the different settings, each with the indices of its requests grouped by prompt, longest prompts first."""
    found: dict[str, tuple[dict[str, Any], dict[str, list[int]]]] = {}
    for index in indices:
        shared = {k: v for k, v in requests[index].gen_kwargs.items() if k != GROUP}
        _, prompts = found.setdefault(repr(sorted(shared.items())), (shared, {}))
        prompts.setdefault(requests[index].prompt, []).append(index)
    return [(settings, sorted(p.values(), key=lambda m: -len(requests[m[0]].prompt))) for settings, p in found.values()]


def diversity_processor(groups: int, penalty: float, width: int, end_ids: Sequence[int]) -> Any:
    """Return a transformers LogitsProcessor for batches in which each prompt occupies `groups` consecutive rows.

    groups: the number of groups per prompt.
    penalty: the diversity penalty, which is subtracted from the logits.
    width: the padded length of the prompts, in tokens.
    end_ids: the tokens that end a reply. A group that has ended takes no more tokens, so it penalises none.
    """
    import torch
    from transformers import LogitsProcessor

    class Diversity(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            grouped = scores.view(-1, groups, scores.shape[-1]).clone()
            ended = torch.isin(input_ids[:, width:], torch.tensor(list(end_ids), device=input_ids.device)).any(dim=1)
            ended = ended.view(-1, groups)
            taken = torch.zeros_like(grouped[:, 0])
            for group in range(1, groups):
                token = grouped[:, group - 1].argmax(dim=-1, keepdim=True)
                taken.scatter_add_(1, token, (~ended[:, group - 1 : group]).to(taken.dtype))
                grouped[:, group] -= penalty * taken
            return grouped.view_as(scores)

    return Diversity()
