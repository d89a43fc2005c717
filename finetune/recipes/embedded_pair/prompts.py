"""The prompts that the embedded pair is trained on, and their hash, by which a change after training is noticed."""

from __future__ import annotations

import hashlib
import json

from harness_ext.babi import INSTRUCTION, story_text
from harness_ext.models.feedback_pair import REFINE_USER, REVIEW_AGAIN, REVIEW_SYSTEM, REVIEW_USER

__all__ = ["INSTRUCTION", "REFINE_USER", "REVIEW_AGAIN", "REVIEW_SYSTEM", "REVIEW_USER", "prompts_hash", "story_text"]


def prompts_hash() -> str:
    """Return the SHA-256 of every prompt text, as hexadecimal digits."""
    texts = [INSTRUCTION, story_text(["#", "#"], "#"), REVIEW_SYSTEM, REVIEW_USER, REVIEW_AGAIN, REFINE_USER]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
