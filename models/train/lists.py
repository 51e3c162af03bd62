"""Which candidates of a list are seen in a step, and which part of each passage."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .collection import Passage
from .pairs import PairTokenizer, PairTokens
from .settings import Fitting
from .teach import TaughtList

HARD_SHARE = 0.5
"""This part of the negatives is drawn from the teacher's first ones, the rest from all."""
HARDEST = 8
HEAD_OF_PASSAGE = 0.6
"""How often the window of a passage that is too long begins at its beginning."""


@dataclass(frozen=True)
class Step:
    """The pairs of one step."""

    pairs: list[PairTokens]
    """Lists one after the other, the positive first in each."""
    counts: list[int]
    """Candidates of each list."""
    teacher: Tensor
    """`[lists, candidates]`, -inf where a list is shorter."""
    label_share: Tensor
    """`[lists]`"""


class StepMaker:
    """Draws steps; equal chance gives equal steps."""

    def __init__(
        self,
        lists: Sequence[TaughtList],
        passages: dict[str, list[Passage]],
        tokenizer: PairTokenizer,
        fitting: Fitting,
        label_share: dict[str, float],
    ) -> None:
        self._lists = lists
        self._passages = passages
        self._tokenizer = tokenizer
        self._fitting = fitting
        self._label_share = label_share

    def __len__(self) -> int:
        """Lists that steps are drawn from."""
        return len(self._lists)

    def step(self, places: Sequence[int], chance: random.Random) -> Step:
        """The step with the lists at `places`."""
        pairs: list[PairTokens] = []
        counts: list[int] = []
        teacher = torch.full((len(places), self._fitting.list_length), float("-inf"))
        for row, place in enumerate(places):
            item = self._lists[place]
            drawn = self._draw(len(item.places), chance)
            counts.append(len(drawn))
            teacher[row, : len(drawn)] = torch.from_numpy(item.teacher[drawn])
            pairs += [self._pair(item, candidate, chance) for candidate in drawn]
        share = [self._label_share.get(self._lists[place].question.kind, 0.5) for place in places]
        return Step(pairs, counts, teacher, torch.tensor(share))

    def _draw(self, candidates: int, chance: random.Random) -> list[int]:
        wanted = min(self._fitting.list_length, candidates) - 1
        hard = list(range(1, min(HARDEST + 1, candidates)))
        drawn = chance.sample(hard, min(round(wanted * HARD_SHARE), len(hard)))
        others = [candidate for candidate in range(1, candidates) if candidate not in drawn]
        return [0, *drawn, *chance.sample(others, wanted - len(drawn))]

    def _pair(self, item: TaughtList, candidate: int, chance: random.Random) -> PairTokens:
        question = item.question
        passage = self._passages[question.corpus][item.places[candidate]]
        told = passage.text if question.untitled else passage.written
        most = self._fitting.max_tokens
        room = most - len(self._tokenizer.tokens(question.text)) - 3
        over = len(self._tokenizer.tokens(told)) - room
        start = 0 if over <= 0 or chance.random() < HEAD_OF_PASSAGE else chance.randrange(over + 1)
        if candidate == 0 and over > 0 and question.answers:
            start = self._start_with_answer(told, question.answers, room, chance)
        return self._tokenizer.pair(question.text, told, most, start)

    def _start_with_answer(self, told: str, answers: Sequence[str], room: int, chance: random.Random) -> int:
        found = [place for answer in answers if (place := told.lower().find(answer.lower())) >= 0]
        if not found:
            return 0
        # Tokens before and up to the answer's end; the window must hold them.
        place = min(found)
        first = len(self._tokenizer.tokens(told[:place]))
        last = first + 8
        if last <= room and chance.random() < HEAD_OF_PASSAGE:
            return 0
        latest = max(0, min(first, len(self._tokenizer.tokens(told)) - room))
        return chance.randint(min(max(0, last - room), latest), latest)
