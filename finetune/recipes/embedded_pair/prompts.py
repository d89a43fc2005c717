"""The prompts that the embedded pair is trained on, and a hash that reveals changes made after training."""

from __future__ import annotations

import hashlib
import json

from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.models.feedback_pair import REVIEW_AGAIN, REVIEW_SYSTEM, REVIEW_USER

__all__ = [
    "INSTRUCTION",
    "REFINE_USER",
    "REVIEW_AGAIN",
    "REVIEW_SYSTEM",
    "REVIEW_USER",
    "prompts_hash",
    "story_text",
    "trained_prompts",
]


def trained_prompts() -> dict[str, object]:
    """Return the content of the model folder's `prompts.json`: the hash, and the prompts that replace defaults."""
    return {"sha256": prompts_hash(), "prompts": {"refine_user": REFINE_USER}}


def prompts_hash() -> str:
    """Return the SHA-256 of all prompt texts together, in hexadecimal."""
    texts = [INSTRUCTION, story_text(["#", "#"], "#"), REVIEW_SYSTEM, REVIEW_USER, REVIEW_AGAIN, REFINE_USER]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


# The pair keeps the prompt of its training where the protocol's default has changed since.
REFINE_USER = '''\
Your teacher found a mistake in your answer. The feedback:
"""
{review}
"""

Write a corrected answer in the same style and format. Follow the feedback, but mention neither it nor your previous answer.'''  # noqa: E501
