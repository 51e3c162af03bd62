"""The loss curve as a picture."""

import csv
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

SMOOTHED_OVER = 50
"""Steps."""


def draw(log: Path, picture: Path) -> None:
    """Draws `loss.csv` of a run: each step's loss, and its running mean."""
    with log.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if len(rows) < 2:
        return
    pairs = np.asarray([int(row["pairs"]) for row in rows])
    figure, axes = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
    for axis, column, label in ((axes[0], "loss", "loss"), (axes[1], "first", "positive ranked first")):
        values = np.asarray([float(row[column]) for row in rows])
        width = min(SMOOTHED_OVER, len(values))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.plot(pairs, values, color="0.85", linewidth=0.5)
        axis.plot(pairs[width - 1 :], smooth, color="tab:blue")
        axis.set_ylabel(f"{label} (mean of {width} steps)")
    axes[1].set_xlabel("pairs seen")
    axes[0].set_title(log.parent.name)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
