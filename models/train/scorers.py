"""What scores a question's passages: a trained candidate, or a graph such as those that ship."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from . import checkpoint
from .encode import EMBEDDER
from .pairs import PairTokenizer, by_length, in_order
from .reranker import Pairs
from .settings import Settings

PAIRS_A_PASS = 8
EXPORTED = ("fp32", "int8")

Scorer = Callable[[str, Sequence[str]], NDArray[np.float32]]


def choose(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `chosen` reads."""
    parser.add_argument("--candidate", type=Path, help="score by PyTorch with its checkpoint")
    parser.add_argument("--graph", help="score by this ONNX file; with --candidate `fp32` and `int8` are its exports")
    parser.add_argument("--tokens", type=int, default=256)


def graph_file(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Ends with a usage error if `--graph` is no file and no export of the candidate."""
    is_export = given.candidate is not None and given.graph in EXPORTED
    if given.graph is not None and not is_export and not Path(given.graph).is_file():
        parser.error(f"--graph: there is no file {given.graph}; `fp32` and `int8` need --candidate")


def chosen(given: argparse.Namespace) -> Scorer | None:
    """The scorer that the options name, if any; prints which."""
    torch.set_num_threads(1)
    tokenizer = PairTokenizer(given.models / EMBEDDER / "tokenizer.json")
    if given.candidate is None:
        if given.graph is None:
            return None
        print(f"{given.graph}\n", flush=True)
        return graph_scorer(Path(given.graph), tokenizer, given.tokens)
    settings = Settings.read(given.candidate)
    path = given.out / "runs" / settings.name / "checkpoint.pt"
    model, place = checkpoint.load_with_place(path, settings.student)
    print(f"{settings.name} at step {place.step}, {place.pairs} pairs, {place.cpu_seconds:.0f} CPU-s\n", flush=True)
    if given.graph is None:
        return torch_scorer(model, tokenizer, given.tokens)
    exported = path.parent / "export" / f"{given.graph}.onnx"
    return graph_scorer(exported if given.graph in EXPORTED else Path(given.graph), tokenizer, given.tokens)


def torch_scorer(model: torch.nn.Module, tokenizer: PairTokenizer, most: int) -> Scorer:
    """Scores of a trained candidate."""

    @torch.inference_mode()
    def score(query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        pairs = [tokenizer.pair(query, text, most) for text in texts]
        batches = list(by_length(pairs, PAIRS_A_PASS))
        places = [place for at, _ in batches for place in at]
        return in_order(places, [model(batch) for _, batch in batches]).numpy()

    return score


def graph_scorer(path: Path, tokenizer: PairTokenizer, most: int) -> Scorer:
    """Scores of an exported graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(batch: Pairs) -> torch.Tensor:
        inputs = {"input_ids": batch.token_ids, "attention_mask": batch.mask, "token_type_ids": batch.kinds}
        logits = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
        return torch.from_numpy(logits[:, 0])

    def score(query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        batches = list(by_length([tokenizer.pair(query, text, most) for text in texts], PAIRS_A_PASS))
        return in_order([place for at, _ in batches for place in at], [run(batch) for _, batch in batches]).numpy()

    return score
