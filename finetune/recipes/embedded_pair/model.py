"""The untrained model that both seats start from: a Llama model of about a million weights, and its tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness_ext.finetune.recipes.embedded_pair.prompts import trained_prompts
from harness_ext.finetune.recipes.embedded_pair.tokenizer import build_tokenizer

POSITIONS = 8192
PROMPTS_FILE = "prompts.json"


@dataclass(frozen=True)
class Shape:
    """The size of a model.

    width: hidden size.
    layers: number of layers.
    inner: hidden size of the feed-forward layers.
    heads: number of attention heads.
    """

    width: int
    layers: int
    inner: int
    heads: int


SHAPE = Shape(128, 6, 256, 8)


def write_untrained(folder: Path, seed: int) -> int:
    """Write the untrained model, its tokenizer and the hash of the prompts; return the number of weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=SHAPE.width,
        intermediate_size=SHAPE.inner,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    (folder / PROMPTS_FILE).write_text(json.dumps(trained_prompts()) + "\n", encoding="utf-8")
    return sum(weights.numel() for weights in model.parameters())
