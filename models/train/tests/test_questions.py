"""How questions and their passages are found."""

from train.collection import Passage, Question
from train.questions import Locator, holds_answer, identifiers


def test_an_answer_counts_as_whole_words_alone() -> None:
    assert holds_answer("It happened in 1901, in Sweden.", ["1901"])
    assert not holds_answer("It cost 19015 crowns.", ["1901"])


def test_a_question_without_its_answer_near_the_top_is_not_located() -> None:
    passages = [Passage("a", "", "The prize went to Röntgen in 1901."), Passage("b", "", "Cats sleep by day.")]
    locator = Locator(passages)

    found = locator.locate(Question("q", "Who got the prize?", ("Röntgen",)))

    assert found is not None and found.id == "a"
    assert locator.locate(Question("q", "Who got the prize?", ("Cats",))) is None


def test_identifiers_are_asked_for_as_written_and_as_words() -> None:
    text = "Call acceptDrops before it. " + "Filling words. " * 20
    passages = [Passage("a", "", text), Passage("b", "", text.replace("acceptDrops", "QDropEvent"))]

    assert {question.text for question in identifiers(passages)} == {"q drop event", "acceptDrops"}
