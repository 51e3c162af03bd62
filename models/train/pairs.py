"""From texts to batches of pairs: tokens, windows of long passages, no padding waste."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .reranker import CLS, SEP, Pairs

MOST_QUERY_TOKENS = 48


@dataclass(frozen=True)
class PairTokens:
    """One pair, not yet padded."""

    token_ids: list[int]
    passage_from: int
    """The first token of the passage: kinds are 1 from here."""


class PairTokenizer:
    """Writes `[CLS] query [SEP] passage [SEP]`; texts are tokenized once."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._known: dict[str, list[int]] = {}

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text without special ones."""
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._known[text]

    def pair(self, query: str, passage: str, most: int, start: int = 0) -> PairTokens:
        """A pair of at most `most` tokens; of a longer passage the window that begins at token `start`."""
        asked = self.tokens(query)[:MOST_QUERY_TOKENS]
        room = most - len(asked) - 3
        told = self.tokens(passage)[start : start + room]
        return PairTokens([CLS, *asked, SEP, *told, SEP], len(asked) + 2)


def padded(pairs: Sequence[PairTokens]) -> Pairs:
    """One batch, as wide as its longest pair."""
    width = max(len(pair.token_ids) for pair in pairs)
    token_ids = torch.zeros((len(pairs), width), dtype=torch.long)
    mask, kinds = torch.zeros_like(token_ids), torch.zeros_like(token_ids)
    for row, pair in enumerate(pairs):
        length = len(pair.token_ids)
        token_ids[row, :length] = torch.tensor(pair.token_ids)
        mask[row, :length] = 1
        kinds[row, pair.passage_from : length] = 1
    return Pairs(token_ids, mask, kinds)


def by_length(pairs: Sequence[PairTokens], size: int) -> Iterator[tuple[list[int], Pairs]]:
    """Batches of pairs of similar length, with their places in `pairs`."""
    order = sorted(range(len(pairs)), key=lambda place: len(pairs[place].token_ids))
    for start in range(0, len(order), size):
        places = order[start : start + size]
        yield places, padded([pairs[place] for place in places])


def in_order(places: Sequence[int], values: Sequence[Tensor]) -> Tensor:
    """Undoes the order of `by_length`: values of the batches, joined, back at their places."""
    joined = torch.cat(list(values))
    return joined[torch.argsort(torch.tensor(places))]
