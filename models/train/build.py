"""Stage `build`: collects the questions to learn from and refuses to go on if a test question is among them."""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from .collection import Passage
from .command import Folders, command
from .contamination import Barred, check
from .corpora import corpus, is_free
from .questions import TrainingQuestion, headings, identifiers, labelled, located, titles

MOST = {"title": 1500, "heading": 3000, "identifier": 700}
"""At most so many of the kinds that can be made without end."""
SEED = 6


def read_built(out: Path) -> list[TrainingQuestion]:
    """What this stage left."""
    with (out / "questions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [TrainingQuestion(**{**row, **{key: tuple(row[key]) for key in ("positives", "answers")}}) for row in rows]


def collect(corpora: Path, passages: dict[str, list[Passage]]) -> list[TrainingQuestion]:
    """Every kind of question, each in an order drawn by the seed and cut to its number."""
    made: list[Iterable[TrainingQuestion]] = [
        labelled("scifact", corpora),
        labelled("feedbackqa", corpora),
        labelled("nq-open-gold", corpora),
        located(corpora, passages["squad-mid"]),
        titles(passages["scifact"], "scifact"),
        headings(passages["documentation"]),
        identifiers(passages["documentation"]),
    ]
    chance = random.Random(SEED)
    questions: list[TrainingQuestion] = []
    for kind in made:
        drawn = list(kind)
        chance.shuffle(drawn)
        questions += drawn[: MOST.get(drawn[0].kind, len(drawn))]
    return questions


def without_barred(
    questions: Sequence[TrainingQuestion], texts: dict[str, dict[str, str]], barred: Barred
) -> list[TrainingQuestion]:
    """The questions that are neither barred nor unfree, with such positives; those left without are dropped."""
    verdicts = {(q.corpus, id_): barred.bars_passage(texts[q.corpus][id_]) for q in questions for id_ in q.positives}
    kept = []
    for question in questions:
        name = question.corpus
        positives = tuple(id_ for id_ in question.positives if not verdicts[name, id_] and is_free(name, id_))
        if positives and not barred.bars_question(question.text):
            kept.append(TrainingQuestion(**{**asdict(question), "positives": positives}))
    return kept


def main() -> None:
    """Builds `questions.jsonl`; exits with 1 if the check finds anything."""
    given = Folders.of(command(__doc__).parse_args())
    names = ("scifact", "feedbackqa", "nq-open-gold", "squad-mid", "documentation")
    passages = {name: corpus(name).passages(given.corpora) for name in names}
    texts = {name: {passage.id: passage.text for passage in held} for name, held in passages.items()}
    barred = Barred.read(given.corpora)
    collected = collect(given.corpora, passages)
    questions = without_barred(collected, texts, barred)
    for (kind, name), count in sorted(Counter((q.kind, q.corpus) for q in collected).items()):
        kept = sum(q.kind == kind and q.corpus == name for q in questions)
        print(f"{kind} of {name}: {kept} of {count} kept", flush=True)
    positives = sorted({(q.corpus, id_) for q in questions for id_ in q.positives})
    found = check([q.text for q in questions], [texts[name][id_] for name, id_ in positives], barred)
    print(found.report(barred), flush=True)
    if not found.is_clean:
        sys.exit(1)
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "questions.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)


if __name__ == "__main__":
    main()
