"""The untrained models that the embedded ones start from: small Llama models, and their common tokenizer."""

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


SHAPES = {
    "student": Shape(128, 6, 256, 8),
    "teacher": Shape(128, 6, 256, 8),
    "small_student": Shape(64, 2, 128, 4),
}


def write_untrained(folder: Path, seed: int, model: str) -> int:
    """Write an untrained model, its tokenizer and the hash of the prompts; return the number of weights.

    folder: the folder to write to.
    seed: seed of the weights.
    model: the name of the embedded model, a key of `SHAPES`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    shape = SHAPES[model]
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
    untrained = LlamaForCausalLM(config)
    untrained.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    (folder / PROMPTS_FILE).write_text(json.dumps(trained_prompts(model)) + "\n", encoding="utf-8")
    return sum(weights.numel() for weights in untrained.parameters())
