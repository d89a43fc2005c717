"""Short stories in the manner of the bAbI tasks, with questions, rationales, mistakes and hints.

The generator simulates people who move, carry things and hand them over, and writes sentences with the vocabulary and
the patterns of bAbI tasks 1, 2, 6, 7, 8, 9, 10, 11, 12 and 13 (Weston et al. 2015, arXiv:1502.05698). It contains no
sentence of the published data set.
"""

from harness_ext.embedded.stories.families import FAMILIES, Family
from harness_ext.embedded.stories.generator import Story, StoryGenerator
from harness_ext.embedded.stories.questions import Ask, Draft, Note, answer, read, render
from harness_ext.embedded.stories.sentences import Sentence, parse_sentence, resolve

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
