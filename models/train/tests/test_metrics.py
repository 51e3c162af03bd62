"""Metrics and first stages by hand."""

import math

import numpy as np

from train.bm25 import Bm25, best
from train.evaluate import fused
from train.metrics import interval, ndcg


def test_ndcg_discounts_by_the_logarithm_of_the_rank() -> None:
    # Found at rank 2 of one relevant passage: 1 / log2(3).
    assert math.isclose(ndcg(["x", "a"], {"a": 1}), 1 / math.log2(3))
    assert ndcg(["a"], {"a": 1}) == 1.0
    assert ndcg(["x"], {"a": 1}) == 0.0


def test_a_constant_gain_has_an_interval_of_no_width() -> None:
    assert np.allclose(interval(np.full(20, 0.25)), (0.25, 0.25))


def test_a_rare_word_outweighs_a_common_one() -> None:
    index = Bm25(["rust servers run", "python servers run", "go servers run"])

    assert best(index.scores("python servers"), 3).tolist() == [1, 0, 2]
    assert best(index.scores("of the"), 3).tolist() == []


def test_fusion_uses_ranks_alone() -> None:
    places, scores = fused([np.asarray([7, 8]), np.asarray([8])])

    assert places.tolist() == [8, 7]
    assert np.allclose(scores, [1 / 61 + 1 / 62, 1 / 61])
