"""Stage `encode`: vectors, token vectors and sparse vectors of every passage and labelled question.

Takes the longest of the stages before training and is done once. A collection that is complete is not done again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .command import Folders, command
from .corpora import CORPORA
from .encoders import OnnxEncoder, unit

EMBEDDER = "all-minilm-l6-v2/53aa5117"
SPARSE = "splade-tiny-msmarco/96e1dd8d"
DIMENSIONS = 384
TEXTS_A_PART = 256
TOKEN_SCALE = 127.0
"""Token vectors have length 1 and are kept as int8: `round(127 x)`."""


@dataclass(frozen=True)
class Encoded:
    """The vectors of a list of texts."""

    dense: NDArray[np.float32]
    """`[texts, 384]`, mean-pooled, length 1."""
    tokens: NDArray[np.int8]
    """`[tokens of all texts, 384]`, times 127; special tokens left out."""
    offsets: NDArray[np.int64]
    """`[texts + 1]`: text `i` has the rows `offsets[i]..offsets[i + 1]`."""
    terms: sparse.csr_matrix
    """`[texts, vocabulary]`: SPLADE weights."""

    @staticmethod
    def load(folder: Path) -> "Encoded":
        """What `encode_texts` left in `folder`; the token vectors stay on disk."""
        return Encoded(
            np.load(folder / "dense.npy").astype(np.float32),
            np.load(folder / "tokens.npy", mmap_mode="r"),
            np.load(folder / "offsets.npy"),
            sparse.load_npz(folder / "terms.npz").tocsr(),
        )

    def states(self, index: int) -> NDArray[np.float32]:
        """Token vectors of one text, `[tokens, 384]`."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.float32) / TOKEN_SCALE


def encode_texts(texts: Sequence[str], models: Path, folder: Path) -> None:
    """Encodes `texts` into `folder`; `terms.npz` is written last and marks completeness.

    Works through parts of a few hundred texts, and after an interruption goes on with the part it was at.
    """
    if (folder / "terms.npz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(texts), TEXTS_A_PART)
    missing = [start for start in starts if not _part(folder, start).exists()]
    if missing:
        encoders = OnnxEncoder(models / EMBEDDER), OnnxEncoder(models / SPARSE)
        for start in missing:
            _encode_part(texts[start : start + TEXTS_A_PART], encoders, _part(folder, start))
    _join([_part(folder, start) for start in starts], folder)
    for start in starts:
        _part(folder, start).unlink()


def _part(folder: Path, start: int) -> Path:
    return folder / f"part-{start:06}.npz"


def _encode_part(texts: Sequence[str], encoders: tuple[OnnxEncoder, OnnxEncoder], path: Path) -> None:
    """Encodes a few texts; written beside and renamed, so that a part is whole or absent."""
    embedder, learned = encoders
    dense = np.zeros((len(texts), DIMENSIONS), dtype=np.float16)
    states = [np.zeros((0, DIMENSIONS), dtype=np.int8)] * len(texts)
    for row in embedder.rows(texts):
        dense[row.index] = unit(row.output.mean(axis=0, keepdims=True))[0]
        states[row.index] = np.round(unit(row.output[1:-1]) * TOKEN_SCALE).astype(np.int8)
    rows = [sparse.csr_matrix((1, 1))] * len(texts)
    for row in learned.rows(texts):
        rows[row.index] = sparse.csr_matrix(row.output[None].astype(np.float32))
    terms = sparse.vstack(rows, format="csr")
    beside = path.with_name(f"partial-{path.name}")
    np.savez(
        beside,
        dense=dense,
        states=np.concatenate(states),
        lengths=np.asarray([len(rows) for rows in states]),
        **{f"terms_{name}": getattr(terms, name) for name in ("data", "indices", "indptr", "shape")},
    )
    beside.replace(path)


def _join(parts: Sequence[Path], folder: Path) -> None:
    lengths = np.concatenate([np.load(part)["lengths"] for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.int8, (int(offsets[-1]), DIMENSIONS))
    dense, terms, filled = [], [], 0
    for part in parts:
        file = np.load(part)
        states = file["states"]
        tokens[filled : filled + len(states)] = states
        filled += len(states)
        dense.append(file["dense"])
        cells = tuple(file[f"terms_{name}"] for name in ("data", "indices", "indptr"))
        terms.append(sparse.csr_matrix(cells, shape=file["terms_shape"]))
    tokens.flush()
    np.save(folder / "dense.npy", np.concatenate(dense))
    np.save(folder / "offsets.npy", offsets)
    sparse.save_npz(folder / "terms.npz", sparse.vstack(terms, format="csr"))


def main() -> None:
    """Encodes the passages of every collection, small ones first."""
    parser = command(__doc__)
    parser.add_argument("--only", nargs="*", help="names of collections; left out: all")
    given = parser.parse_args()
    for corpus in CORPORA:
        if given.only and corpus.name not in given.only:
            continue
        started = time.process_time()
        passages = corpus.passages(given.corpora)
        folder = Folders.of(given).encoded / corpus.name
        encode_texts([passage.written for passage in passages], given.models, folder)
        seconds = time.process_time() - started
        print(f"{corpus.name}: {len(passages)} passages, {seconds:.0f} CPU-s", flush=True)


if __name__ == "__main__":
    main()
