"""The student and the graphs made of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from train.bert import Shape
from train.export import INPUTS, Exporter, Precision, logits_of, tensors_of
from train.graph import Graph
from train.pairs import PairTokens, by_length, in_order, padded
from train.reranker import CLS, SEP, CrossEncoder

SHORT = PairTokens([CLS, 2000, 2001, SEP, 3000, 2001, SEP], 4)
LONG = PairTokens([CLS, 2000, SEP, *range(3000, 3040), SEP], 3)


@pytest.fixture(params=["interaction", "classifier"])
def model(request: pytest.FixtureRequest) -> CrossEncoder:
    """An untrained student of one layer."""
    torch.manual_seed(6)
    return CrossEncoder(Shape(layers=1), request.param).eval()


def test_a_pairs_logit_does_not_depend_on_the_pairs_beside_it(model: CrossEncoder) -> None:
    with torch.inference_mode():
        alone, beside = model(padded([SHORT])), model(padded([SHORT, LONG]))

    assert torch.allclose(alone[0], beside[0], atol=1e-5)


def test_values_come_back_in_the_order_of_the_pairs() -> None:
    batches = list(by_length([LONG, SHORT, LONG], 2))
    places = [place for at, _ in batches for place in at]
    lengths = in_order(places, [pairs.mask.sum(dim=1) for _, pairs in batches])

    assert lengths.tolist() == [44, 7, 44]


@pytest.mark.parametrize("precision", list(Precision))
def test_the_graphs_compute_what_pytorch_does(model: CrossEncoder, precision: Precision, tmp_path: Path) -> None:
    pairs = padded([SHORT, LONG])
    arrays = {name: tensor.numpy() for name, tensor in tensors_of(model).items()}
    path = tmp_path / "graph.onnx"
    path.write_bytes(Exporter(Graph(), arrays, 1, precision).write())

    batch = (pairs.token_ids, pairs.mask, pairs.kinds)
    with torch.inference_mode():
        expected = model(pairs).numpy()

    assert len(batch) == len(INPUTS)
    assert np.abs(logits_of(path, batch) - expected).max() < (1e-4 if precision is Precision.FP32 else 0.3)
