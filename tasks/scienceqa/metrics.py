"""The similarity of an explanation to the lecture and the solution: five measures from maintained libraries.

Each measure is between 0 and 1 (the cosine may be negative). As in the original, the reference is
`lecture + " " + solution`, and BLEU splits at white space and full stops. A measure whose library or data is not
installed is `MISSING`, never 0.
"""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

Measure = Callable[[str, str], float]
MISSING = "missing"
SENTENCE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
REMEDIES = {
    "bleu1": "pip install 'harness-ext[scienceqa]'",
    "bleu4": "pip install 'harness-ext[scienceqa]'",
    "rougeL": "pip install 'harness-ext[scienceqa]'",
    "meteor": "pip install 'harness-ext[scienceqa]' && python -m nltk.downloader wordnet",
    "similarity": f"pip install 'harness-ext[scienceqa]' && hf download {SENTENCE_MODEL}",
}


@functools.cache
def measures() -> Mapping[str, Measure | None]:
    """Return every measure by name, or None if its library or data is missing.

    A missing measure is logged once, with the command that installs it.
    """
    makers = {"bleu1": _bleu((1.0,)), "bleu4": _bleu((0.25,) * 4), "rougeL": _rouge, "meteor": _meteor}
    found: dict[str, Measure | None] = {}
    for name, make in {**makers, "similarity": _similarity}.items():
        try:
            found[name] = make()
        except (ImportError, LookupError, OSError) as error:
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning("%s is reported as missing (%s). To install it: %s", name, cause, REMEDIES[name])
            found[name] = None
    return found


def score(reference: str, explanation: str) -> dict[str, float | str]:
    """Return all five measures and `overall`, which is 100 times their mean as in the original.

    Measures that cannot be computed are `MISSING`, and so is `overall` if any of them is.
    """
    values: dict[str, float | str] = {
        name: MISSING if measure is None else float(measure(reference, explanation)) if explanation.strip() else 0.0
        for name, measure in measures().items()
    }
    known = [v for v in values.values() if not isinstance(v, str)]
    values["overall"] = 100 * sum(known) / len(known) if len(known) == len(values) else MISSING
    return values


def _tokens(text: str) -> list[str]:
    return [token for token in re.split(r"\s|\.", text) if token]


def _bleu(weights: tuple[float, ...]) -> Callable[[], Measure]:
    def make() -> Measure:
        from nltk.translate.bleu_score import sentence_bleu

        def bleu(reference: str, explanation: str) -> float:
            with warnings.catch_warnings():  # nltk warns about every text without a common 4-gram, whose score is 0
                warnings.simplefilter("ignore")
                return float(sentence_bleu([_tokens(reference)], _tokens(explanation), weights))

        return bleu

    return make


def _rouge() -> Measure:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return lambda reference, explanation: float(scorer.score(reference, explanation)["rougeL"].fmeasure)


def _meteor() -> Measure:
    from nltk.corpus import wordnet
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import meteor_score

    wordnet.synsets("dog")  # raises LookupError if WordNet's data is missing
    split = NLTKWordTokenizer().tokenize
    return lambda reference, explanation: float(meteor_score([split(reference)], split(explanation)))


def _similarity() -> Measure:
    from huggingface_hub import snapshot_download

    weights = snapshot_download(SENTENCE_MODEL, local_files_only=True)  # before the import, which takes seconds
    from sentence_transformers import SentenceTransformer, util

    model = SentenceTransformer(weights)

    def cosine(reference: str, explanation: str) -> float:
        one, two = model.encode([reference, explanation], convert_to_tensor=True, show_progress_bar=False)
        return float(util.cos_sim(one, two))

    return cosine
