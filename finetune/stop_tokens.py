"""The tokens at which generation with a model ends, and those with which its rows end turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def stop_ids(tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool = False) -> frozenset[int]:
    """Return the ids of the tokens at which generation with a model ends.

    These are the tokenizer's end-of-sequence token, which lm-eval adds to the stop sequences of every task, and all
    that the model's generation settings name: those of `generation_config.json`, without that file those of
    `config.json`, as transformers reads them. Chat models often name the end of a turn there and nowhere else.

    tokenizer: the model's tokenizer, loaded from the model's folder or from the hub.
    trust_remote_code: whether to run code that comes with the model. Default false.

    Raises OSError or ValueError if the model's configuration cannot be read.
    """
    from transformers import AutoConfig, GenerationConfig

    model = tokenizer.name_or_path
    try:
        settings = GenerationConfig.from_pretrained(model)
    except OSError:  # the model has no such file
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        settings = GenerationConfig.from_model_config(config)
    named = settings.eos_token_id
    found = [tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])]
    return frozenset(one for one in found if one is not None)


def turn_marks(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of the tokens that a template can end a turn with: special and added ones that are not blank."""
    special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    texts = {**{at: text for text, at in tokenizer.get_added_vocab().items()}, **dict(special)}
    return frozenset(at for at, text in texts.items() if text.strip())


def shown(ids: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts of tokens, that of the end-of-sequence token first and the others in the order of their ids.

    A token that the tokenizer does not know, which a model's settings can name, is shown by its id.
    """
    ordered = sorted(ids, key=lambda one: (one != tokenizer.eos_token_id, one))
    texts = tokenizer.convert_ids_to_tokens(ordered)
    return [f"token {one}" if text is None else str(text) for one, text in zip(ordered, texts, strict=True)]
