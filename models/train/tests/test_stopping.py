"""Reading stops where the rest can hardly matter."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ..stopping import read_head, standard

BASE = np.arange(20, 0, -1, dtype=np.float32)


def test_all_read_is_the_weighted_mean_of_z_scores() -> None:
    ours = np.random.default_rng(6).normal(size=20).astype(np.float32)
    found = read_head(ours, BASE, 0.3, 20, 20)
    assert found.read == 20
    np.testing.assert_allclose(found.mixed, 0.3 * standard(ours) + 0.7 * standard(BASE), atol=1e-5)


@pytest.mark.parametrize(("ours", "shown", "most", "read"), [(BASE, 2, 20, 4), (BASE, 2, 3, 3), (BASE, 20, 6, 6)])
def test_what_cannot_come_among_those_shown_is_not_read(
    ours: NDArray[np.float32], shown: int, most: int, read: int
) -> None:
    assert read_head(ours, BASE, 0.5, shown, most).read == read


def test_each_few_may_give_a_reason_to_read_on() -> None:
    assert read_head(-BASE, BASE, 0.9, 2, 20).read == 20


def test_what_was_not_read_keeps_the_opinion_of_the_rescorer() -> None:
    found = read_head(BASE, BASE, 0.5, 2, 20)
    np.testing.assert_allclose(found.mixed[4:], standard(BASE)[4:], atol=1e-6)
