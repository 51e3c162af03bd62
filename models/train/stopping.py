"""How many of a head the cross-encoder reads before the rest can hardly matter; plumb's rule, written out again.

The rescorer's order is read from its top, first as many as are shown, then a few at a time. It stops when no unread
passage would come among those shown even if it were liked as much as the best of the last few. What was read is put on
the rescorer's scale of the same passages; what was not keeps the rescorer's opinion.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

A_FEW = 4


@dataclass(frozen=True)
class Read:
    """Mixed scores of a head, and how many of it the cross-encoder read."""

    mixed: Floats
    read: int


def standard(values: Floats) -> Floats:
    """Scores of one list with mean 0 and deviation 1."""
    return (values - values.mean()) / max(float(values.std()), 1e-9)


def on_scale_of(values: Floats, like: Floats) -> Floats:
    """`values` with the mean and deviation of `like`."""
    return like.mean() + like.std() * standard(values)


def read_head(ours: Floats, rescored: Floats, share: float, shown: int, most: int) -> Read:
    """Mixes with early stop; `most` bounds how many are read. With all read it is the weighted mean of z-scores."""
    base = standard(rescored)
    order = np.argsort(-base, kind="stable")
    most = min(most, len(order))
    read = min(max(shown, A_FEW), most)
    few = order[:read]
    while True:
        mixed = base.copy()
        at = order[:read]
        ours_there = on_scale_of(ours[at], base[at])
        mixed[at] = share * ours_there + (1 - share) * base[at]
        if read == most:
            return Read(mixed, read)
        best_of_few = float(ours_there[-len(few) :].max())
        could_reach = share * best_of_few + (1 - share) * float(base[order[read]])
        if could_reach <= np.sort(mixed[at])[::-1][min(shown, read) - 1]:
            return Read(mixed, read)
        few = order[read : min(read + A_FEW, most)]
        read += len(few)
