"""The untrained student and teacher: Llama models of about a million weights, and what their folders hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness_ext.finetune.recipes.embedded_pair.prompts import prompts_hash
from harness_ext.finetune.recipes.embedded_pair.tokenizer import build_tokenizer

POSITIONS = 8192
PROMPTS_FILE = "prompts.json"


@dataclass(frozen=True)
class Shape:
    """A model's size: width, layers, width of the feed-forward part, and attention heads."""

    width: int
    layers: int
    inner: int
    heads: int


SHAPES = {"student": Shape(128, 4, 256, 8), "teacher": Shape(128, 6, 256, 8)}


def write_untrained(seat: str, folder: Path, seed: int) -> int:
    """Write a seat's untrained model, its tokenizer and the prompts' hash; return the number of weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    shape = SHAPES[seat]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
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
    (folder / PROMPTS_FILE).write_text(json.dumps({"sha256": prompts_hash()}) + "\n", encoding="utf-8")
    return sum(weights.numel() for weights in model.parameters())
