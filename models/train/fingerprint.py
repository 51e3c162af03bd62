"""When two texts are the same text: exactly after normalization, or nearly by their shingles.

Shingles and resemblance: Broder, "On the resemblance and containment of documents" (1997). Containment, not
resemblance, is compared, so that a cut passage still counts as its whole.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

SHINGLE_WORDS = 5
NEAR = 0.5
"""Two texts are near-duplicates if they share this part of the shorter one's shingles."""

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


@lru_cache(maxsize=100_000)
def normalized(text: str) -> str:
    """Equal for texts that differ in case, white space and punctuation alone."""
    return " ".join(words(text))


def shingles(text: str) -> set[int]:
    """Hashes of every run of five words; of a shorter text its only run."""
    found = words(text)
    runs = range(max(1, len(found) - SHINGLE_WORDS + 1))
    return {hash(tuple(found[start : start + SHINGLE_WORDS])) for start in runs}


class Duplicates:
    """Finds which of some texts another text repeats."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._sizes: list[int] = []
        self._holders: dict[int, list[int]] = defaultdict(list)
        for text in texts:
            self._exact.add(normalized(text))
            found = shingles(text)
            for shingle in found:
                self._holders[shingle].append(len(self._sizes))
            self._sizes.append(len(found))

    def is_exact(self, text: str) -> bool:
        """True if one of the texts is the same after normalization."""
        return normalized(text) in self._exact

    def is_near(self, text: str) -> bool:
        """True if one of the texts shares at least half of the shorter one's shingles."""
        found = shingles(text)
        shared: dict[int, int] = defaultdict(int)
        for shingle in found:
            for holder in self._holders.get(shingle, ()):
                shared[holder] += 1
        return any(count >= NEAR * min(len(found), self._sizes[holder]) for holder, count in shared.items())
