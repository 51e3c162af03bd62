"""BM25 (Robertson and Zaragoza, 2009) with Lucene's idf, stop words and Porter's stemmer, as one sparse matrix."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import Stemmer
from numpy.typing import NDArray
from scipy import sparse

# The settings of the published figures that the collections' baselines are compared with.
K1 = 0.9
B = 0.4
# Lucene's default English stop words.
_STOP_WORDS = """a an and are as at be but by for if in into is it no not of on or such that the their then there
these they this to was will with"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_WORD = re.compile(r"\w+")
_STEMMER = Stemmer.Stemmer("porter")


def terms(text: str) -> list[str]:
    """Stemmed words of a text, in order, stop words left out."""
    return _STEMMER.stemWords([word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS])


class Bm25:
    """An index over a list of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._vocabulary: dict[str, int] = {}
        rows, columns, counts, lengths = [], [], [], []
        for row, text in enumerate(texts):
            found = terms(text)
            lengths.append(len(found))
            for term, count in Counter(found).items():
                rows.append(row)
                columns.append(self._vocabulary.setdefault(term, len(self._vocabulary)))
                counts.append(count)
        tf = np.asarray(counts, dtype=np.float32)
        length = np.asarray(lengths, dtype=np.float32)
        frequency = np.bincount(columns, minlength=len(self._vocabulary))
        idf = np.log(1.0 + (len(texts) - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
        norm = K1 * (1.0 - B + B * length[rows] / length.mean())
        weights = idf[columns] * tf / (tf + norm)
        shape = (len(self._vocabulary), len(texts))
        self._weights = sparse.csr_matrix((weights, (columns, rows)), shape=shape)

    def scores(self, query: str) -> NDArray[np.float32]:
        """The score of every text, `[texts]`."""
        known = [self._vocabulary[term] for term in terms(query) if term in self._vocabulary]
        if not known:
            return np.zeros(self._weights.shape[1], dtype=np.float32)
        return np.asarray(self._weights[known].sum(axis=0), dtype=np.float32).ravel()


def best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Places of the `count` highest scores above 0, best first, ties by place."""
    count = min(count, len(scores))
    found = np.argpartition(-scores, count - 1)[:count]
    found = found[np.lexsort((found, -scores[found]))]
    return found[scores[found] > 0]
