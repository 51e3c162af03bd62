"""Ranking metrics and how sure they are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 5_000


def ndcg(ranked: Sequence[str], grades: dict[str, int], cut: int = 10) -> float:
    """nDCG (Järvelin and Kekäläinen, 2002) with linear gain, as trec_eval has it."""
    gains = [max(0, grades.get(id_, 0)) for id_ in ranked[:cut]]
    ideal = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:cut]
    best = sum(gain / np.log2(rank + 2) for rank, gain in enumerate(ideal))
    return float(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)) / best) if best else 0.0


def interval(values: NDArray[np.float64], seed: int = 6) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean (Efron, 1979); of paired differences if given those."""
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
