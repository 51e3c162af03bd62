"""Stage `fit`: trains one candidate; when it is told to stop it saves, and the next time goes on from there."""

import csv
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from . import checkpoint, curve
from .checkpoint import Place
from .command import Folders, command
from .corpora import corpus
from .encode import EMBEDDER
from .lists import StepMaker
from .mine import SEARCHED
from .pairs import PairTokenizer
from .settings import Fitting, Settings
from .teach import teach
from .trainer import Machine, Trainer


@dataclass(frozen=True)
class Told:
    """What is logged of a step."""

    step: int
    pairs: int
    loss: float
    first: float
    """Share of lists whose positive has the highest logit."""
    learning_rate: float
    cpu_seconds: float


class Until:
    """When to stop: after so many minutes, or at SIGTERM or SIGINT."""

    def __init__(self, minutes: float) -> None:
        self._at = time.monotonic() + 60 * minutes
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)

    def _told(self, _number: int, _frame: object) -> None:
        self._at = 0.0

    def is_reached(self) -> bool:
        """True from then on."""
        return time.monotonic() >= self._at


def order_of(lists: int, epoch: int, fitting: Fitting) -> list[int]:
    """The order in which an epoch sees the lists."""
    order = list(range(lists))
    random.Random(f"{fitting.seed}/{epoch}").shuffle(order)
    return order


def train(trainer: Trainer, maker: StepMaker, run: Path, until: Until) -> None:
    """Trains to the last step or until told to stop; leaves `checkpoint.pt`, `loss.csv` and `loss.png` in `run`."""
    fitting = trainer.settings.fitting
    run.mkdir(parents=True, exist_ok=True)
    place = checkpoint.resume(run / "checkpoint.pt", trainer.model, trainer.optimizer)
    trainer.model.train()
    an_epoch = len(maker) // fitting.questions_a_step
    steps = round(an_epoch * fitting.epochs)
    told: list[Told] = []
    before, cpu_before = place, time.process_time()
    while place.step < steps and not until.is_reached():
        epoch, within = divmod(place.step, an_epoch)
        chosen = order_of(len(maker), epoch, fitting)[within * fitting.questions_a_step :][: fitting.questions_a_step]
        step = maker.step(chosen, random.Random(f"{fitting.seed}/{place.step}"))
        share = trainer.set_learning_rate(place.step, steps)
        loss, first = trainer.take(step)
        spent = before.cpu_seconds + time.process_time() - cpu_before
        place = Place(place.step + 1, place.pairs + len(step.pairs), spent)
        told.append(Told(place.step, place.pairs, loss, first, share * fitting.learning_rate, spent))
        if place.step % fitting.steps_a_checkpoint == 0:
            leave(run, trainer, place, told)
            told.clear()
    leave(run, trainer, place, told)
    done = f"step {place.step} of {steps}, {place.pairs} pairs, {place.cpu_seconds:.0f} CPU-s"
    print(f"{trainer.settings.name}: {done}", flush=True)


def leave(run: Path, trainer: Trainer, place: Place, told: Sequence[Told]) -> None:
    """Saves the checkpoint and appends to the log; log rows of steps that a crash undid are dropped first."""
    checkpoint.save(run / "checkpoint.pt", trainer.model, trainer.optimizer, place)
    log = run / "loss.csv"
    first = told[0].step if told else place.step + 1
    rows: list[dict] = []
    if log.exists():
        with log.open(encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if int(row["step"]) < first]
    rows += [vars(item) for item in told]
    with log.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(Told.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(rows)
    curve.draw(log, run / "loss.png")


def main() -> None:
    """Trains a candidate."""
    parser = command(__doc__)
    parser.add_argument("--candidate", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default=Machine.device)
    parser.add_argument("--pairs-a-pass", type=int, default=Machine.pairs_a_pass)
    given = parser.parse_args()
    until = Until(given.minutes)
    torch.set_num_threads(given.threads)
    settings = Settings.read(given.candidate)
    torch.manual_seed(settings.fitting.seed)
    lists = teach(given.corpora, given.out, settings)
    passages = {name: corpus(name).passages(given.corpora) for name in SEARCHED}
    embedder = given.models / EMBEDDER
    tokenizer = PairTokenizer(embedder / "tokenizer.json")
    maker = StepMaker(lists, passages, tokenizer, settings.fitting, settings.teaching.label_share)
    folders = Folders.of(given)
    model = checkpoint.new_student(settings.student, embedder, given.out / "runs").to(given.device)
    teacher = None
    if settings.teaching.candidate:
        taught_by = Settings.read(given.candidate.with_name(f"{settings.teaching.candidate}.toml"))
        teacher = checkpoint.load_model(folders.run(taught_by.name) / "checkpoint.pt", taught_by.student)
        teacher = teacher.to(given.device)
    trainer = Trainer(model, settings, Machine(given.device, given.pairs_a_pass), teacher)
    train(trainer, maker, folders.run(settings.name), until)


if __name__ == "__main__":
    main()
