"""Short stories in the manner of the bAbI tasks, with questions, rationales, mistakes and hints.

The generator is the project's own: it simulates people who move, carry and hand over things, and writes sentences in
the vocabulary and the shapes of bAbI tasks 1, 2, 6, 7, 8, 9, 10, 11, 12 and 13 (Weston et al. 2015, arXiv:1502.05698).
It holds no sentence of the published data set.
"""

from harness_ext.stories.families import FAMILIES, Family
from harness_ext.stories.generator import Story, StoryGenerator
from harness_ext.stories.questions import Ask, Draft, Note, answer, read, render
from harness_ext.stories.sentences import Sentence, parse_sentence, resolve

__all__ = [
    "FAMILIES",
    "Ask",
    "Draft",
    "Family",
    "Note",
    "Sentence",
    "Story",
    "StoryGenerator",
    "answer",
    "parse_sentence",
    "read",
    "render",
    "resolve",
]
