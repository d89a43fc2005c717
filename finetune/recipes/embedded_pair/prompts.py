"""The prompts that the embedded models are trained on, and a hash that reveals changes made after training."""

from __future__ import annotations

import hashlib
import json

from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.models.reviewing import REJECTION, REVIEW_AGAIN, REVIEW_SYSTEM, REVIEW_USER

__all__ = [
    "INSTRUCTION",
    "LOOK_USER",
    "REFINE_USER",
    "REJECTION",
    "REVIEW_AGAIN",
    "REVIEW_SYSTEM",
    "REVIEW_USER",
    "prompts_hash",
    "story_text",
    "trained_prompts",
]


def trained_prompts(model: str) -> dict[str, object]:
    """Return the content of a model folder's `prompts.json`: the hash, and the prompts that replace defaults.

    model: the name of the embedded model.
    """
    return {"sha256": prompts_hash(model), "prompts": {"refine_user": REFINE_USER, "look_user": LOOK_USER}}


def prompts_hash(model: str) -> str:
    """Return the SHA-256 of all prompt texts that a model is trained on together, in hexadecimal."""
    texts = [INSTRUCTION, story_text(["#", "#"], "#"), REVIEW_SYSTEM, REVIEW_USER, REVIEW_AGAIN, REFINE_USER]
    if model == "small_student":
        texts += [REJECTION, LOOK_USER]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


# The pair keeps the prompt of its training where the protocol's default has changed since.
REFINE_USER = '''\
Your teacher found a mistake in your answer. The feedback:
"""
{review}
"""

Write a corrected answer in the same style and format. Follow the feedback, but mention neither it nor your previous answer.'''  # noqa: E501

# It consists of words for which the embedded models have tokens. Only the small student was trained on it, but the
# student replies to it in the right form, too, which a test checks.
LOOK_USER = "Look at your answer again. It is right or wrong. Write the answer in the same style and format."
