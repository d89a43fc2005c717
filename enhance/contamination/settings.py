"""What counts as a training row that contains an evaluation document."""

from __future__ import annotations

from dataclasses import dataclass

# As in Brown et al. (2020, arXiv 2005.14165, appendix C). Of gsm8k's training rows, 606 share 8 words with a test row,
# mostly calculations such as `35 / 7 = <<35/7=5>>5`, and 6 share 13.
NGRAM = 13
SIMILARITY = 0.8
LEAST_SIMILARITY = 0.1


@dataclass(frozen=True)
class SearchSettings:
    """What counts as containing a document.

    ngram: the number of consecutive words that a row shares with a document. Default 13.
    similarity: the least similarity of a text of a row and a text of a document, from 0.1 to 1. Default 0.8.
    """

    ngram: int = NGRAM
    similarity: float = SIMILARITY

    def problems(self, prefix: str) -> list[str]:
        """Return what is wrong with the settings, one sentence per problem.

        prefix: what comes before the settings' names where the user sets them, such as `--`.
        """
        found = []
        if self.ngram < 1:
            found.append(f"`{prefix}ngram` is {self.ngram}; it must be at least 1.")
        if not LEAST_SIMILARITY <= self.similarity <= 1:
            found.append(f"`{prefix}similarity` is {self.similarity}; it must be between {LEAST_SIMILARITY} and 1.")
        return found


DEFAULT = SearchSettings()
