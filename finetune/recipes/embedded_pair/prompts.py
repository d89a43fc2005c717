"""The prompts that the embedded pair is trained on, and a hash that reveals changes made after training."""

from __future__ import annotations

import hashlib
import json

from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.models.feedback_pair import REFINE_USER, REVIEW_AGAIN, REVIEW_SYSTEM, REVIEW_USER

__all__ = ["INSTRUCTION", "REFINE_USER", "REVIEW_AGAIN", "REVIEW_SYSTEM", "REVIEW_USER", "prompts_hash", "story_text"]


def prompts_hash() -> str:
    """Return the SHA-256 of all prompt texts together, in hexadecimal."""
    texts = [INSTRUCTION, story_text(["#", "#"], "#"), REVIEW_SYSTEM, REVIEW_USER, REVIEW_AGAIN, REFINE_USER]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
