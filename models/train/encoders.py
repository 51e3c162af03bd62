"""The two published models that teach: the embedder (all-MiniLM-L6-v2) and the learned-sparse model.

Both run as the int8 graphs that `plumb models fetch` makes, so that the teacher is what plumb itself would compute.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

BATCH = 8
"""Larger batches cost memory and win nothing on a CPU."""
MAX_TOKENS = 256


@dataclass(frozen=True)
class Row:
    """One encoded text."""

    index: int
    """Place in the list of texts."""
    token_ids: NDArray[np.int64]
    """`[tokens]`"""
    output: NDArray[np.float32]
    """`[tokens, hidden]` or `[vocabulary]`, as the graph gives it, without padding."""


class OnnxEncoder:
    """A BERT graph with its tokenizer."""

    def __init__(self, folder: Path, graph: str = "int8.onnx", threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / graph), options, ["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def rows(self, texts: Sequence[str]) -> Iterator[Row]:
        """Encodes `texts`, short ones first; the order of the rows is not that of the texts."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            yield from self._run(batch, [ids[index] for index in batch])

    def _run(self, batch: Sequence[int], ids: Sequence[list[int]]) -> Iterator[Row]:
        width = max(map(len, ids))
        input_ids = np.zeros((len(ids), width), dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for row, tokens in enumerate(ids):
            input_ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        feed = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(input_ids)}
        output = self._session.run(None, feed)[0]
        for row, (index, tokens) in enumerate(zip(batch, ids, strict=True)):
            found = output[row, : len(tokens)] if output.ndim == 3 else output[row]
            yield Row(index, np.asarray(tokens), found)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row of `[rows, width]` scaled to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
