"""The embedded pair's tokenizer: whole words, one token per fixed prompt text, and bytes for everything else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness_ext.embedded.stories import vocabulary
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.finetune.recipes.embedded_pair.prompts import REFINE_USER, REVIEW_AGAIN, REVIEW_SYSTEM, REVIEW_USER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# A word includes the space before it. Numbers, punctuation and line breaks are tokens of their own, so that a line
# number is the same token wherever it occurs. Single spaces are tokens, too, so every text decodes to itself.
PRE_TOKEN = r" ?\p{L}+|\p{N}|, (?=\p{N})| ?[^\s\p{L}\p{N}]|\s"
HIGHEST_NUMBER = 40
# Words of bAbI tasks for which the generator has no stories, so that they cost one token each as well.
OTHER_WORDS = """\
Antoine Bernhard Brian Cats Does Emily Gertrude Greg Jason Jessica Julius Lily Mice Sheep Sumit This Winona Wolves Yann
Yesterday This A An above afraid afternoon antoine are before below bigger blue bored box cat cats chest chocolate
chocolates color container did do east emily evening fit fits fit frog from gertrude get give go gray green hungry
inside jason jessica lion mice morning mouse north objects of pajamas pink received rectangle red rhino right school
sheep south sphere square suitcase sumit swan than thirsty this tired triangle was west white will winona wolf wolves
yann yellow yesterday you a an is are was the her his they it its be by on with who what where when why how many
much more less all some first last next before after because if that then there here same different each every any
true false yes no maybe nothing none unknown left right up down over under between equal plus minus times sum total
question answer reasoning task story line lines number step steps think look read check wrong correct""".split()
REPLY_WORDS = """\
Reasoning Answer Correct Incorrect Hint Issue So It The Look Read Ask Compare Think again line at about who is are
takes drops gives has nothing in with to on from not and or mentioned word for says something else reads lines well
rules out place what overlooked was too meant there somebody follow does notes conclusion story its end
Asked How What Where Who Is many objects carrying the no yes maybe none one two three either longer back up down put
picked he she they Then Afterwards After Following that""".split()


def fixed_texts() -> list[str]:
    """Return the constant parts of all prompts, each of which becomes one token."""
    story = story_text(["#"], "#").split("1 #\n\n")
    parts = [INSTRUCTION.strip(), REVIEW_SYSTEM, story[0], story[1].split("#")[0]]
    for template in (REVIEW_USER, REVIEW_AGAIN, REFINE_USER):
        parts += re.split(r"\{\w+\}", template)
    return sorted({part for part in parts if part})


def words() -> list[str]:
    """Return every word that has its own tokens, in a fixed order."""
    kinds = (vocabulary.PEOPLE, vocabulary.PLACES, vocabulary.OBJECTS, vocabulary.NUMBERS)
    verbs = (vocabulary.MOVE_VERBS, vocabulary.TAKE_VERBS, vocabulary.DROP_VERBS, vocabulary.GIVE_VERBS)
    known = [word for kind in (*kinds, *verbs) for phrase in kind for word in phrase.split()]
    in_prompts = [word for text in fixed_texts() for word in re.findall(r"[A-Za-z]+", text)]
    return list(dict.fromkeys([*known, *REPLY_WORDS, *OTHER_WORDS, *in_prompts]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer. It depends only on the prompts and the vocabulary, not on data."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = [PAD, BOS, EOS, *ROLES.values()]
    entries = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    spaced = [form for word in words() for form in (word, f" {word}")]
    entries += [byte_level.pre_tokenize_str(form)[0][0] for form in [*spaced, ", "] if form]
    entries += [str(number) for number in range(HIGHEST_NUMBER + 1)]
    vocab = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PRE_TOKEN.replace(r"\p{N}|", r"\p{N}{1,2}|", 1)), "isolated"), byte_level]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in fixed_texts()])
    bos = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
        padding_side="right",
    )
