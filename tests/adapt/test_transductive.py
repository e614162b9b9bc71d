import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.methods import METHODS, TRANSDUCTIVE, laplacian, rectify


def episode(seed=0, draws=2, classes=3, k=2, width=6, queries=9):
    generator = torch.Generator().manual_seed(seed)
    support = torch.randn(draws, classes * k, width, generator=generator, dtype=torch.float64)
    targets = torch.eye(classes, dtype=torch.float64).repeat_interleave(k, 0)
    return support, targets, torch.randn(queries, width, generator=generator, dtype=torch.float64)


def clusters(draws=30, classes=4, k=1, queries=40, width=8, distance=3.0, shift=0.0):
    """Supports (D, S, F), targets, queries (D, Q, F) around the same centres, and the queries' classes."""
    generator = torch.Generator().manual_seed(0)
    centres = distance * torch.eye(classes, width)
    centres = centres - centres.mean(0)
    labels, truth = (torch.arange(classes).repeat_interleave(each) for each in (k, queries))
    support, asked = (centres[each] + torch.randn(draws, len(each), width, generator=generator)
                      for each in (labels, truth))
    return support, torch.eye(classes)[labels], asked + shift * torch.randn(width, generator=generator), truth


def unit(row):
    return row / np.linalg.norm(row)


def naive_rectified(support, targets, queries):
    known, asked = [unit(row) for row in support], [unit(row) for row in queries]
    shift = np.mean(known, 0) - np.mean(asked, 0)
    asked = [unit(row + shift) for row in asked]
    classes = targets.shape[1]
    means = [unit(np.mean([row for row, target in zip(known, targets, strict=True) if target[c]], 0))
             for c in range(classes)]
    members = [[row for row, target in zip(known, targets, strict=True) if target[c]] for c in range(classes)]
    for row in asked:
        members[int(np.argmax([row @ mean for mean in means]))].append(row)
    rectified = []
    for mean, rows in zip(means, members, strict=True):
        weights = np.array([np.exp(rectify.SHARPNESS * (row @ mean)) for row in rows])
        rectified.append(unit(weights / weights.sum() @ np.array(rows)))
    return np.array(rectified), np.array(asked)


def naive_rectify(support, targets, queries):
    prototypes, asked = naive_rectified(support, targets, queries)
    return asked @ prototypes.T


def naive_laplacian(support, targets, queries):
    prototypes, asked = naive_rectified(support, targets, queries)
    distances = np.array([[np.sum((row - mean) ** 2) for mean in prototypes] for row in asked])
    directions = np.array([unit(row) for row in queries])
    affinity = np.zeros((len(asked), len(asked)))
    for i, row in enumerate(directions @ directions.T):
        others = [j for j in np.argsort(-row) if j != i]
        affinity[i, others[:laplacian.NEIGHBOURS]] = 1
    affinity = (affinity + affinity.T) / 2

    def softmax(rows):
        return np.exp(rows) / np.exp(rows).sum(1, keepdims=True)

    shares = softmax(-distances)
    for _ in range(laplacian.UPDATES):
        shares = softmax(laplacian.PULL * affinity @ shares - distances)
    return shares


NAIVE = {"rectify": naive_rectify, "laplacian": naive_laplacian}


def test_there_is_a_naive_implementation_of_every_transductive_head():
    assert set(NAIVE) == TRANSDUCTIVE <= set(METHODS)


@pytest.mark.parametrize("queries", [1, 3, 9])
@pytest.mark.parametrize("name", NAIVE)
def test_head_equals_its_naive_implementation(name, queries):
    support, targets, asked = episode(queries=queries)
    wanted = np.array([NAIVE[name](draw.numpy(), targets.numpy(), asked.numpy()) for draw in support])
    np.testing.assert_allclose(METHODS[name](support, targets)(asked).numpy(), wanted, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(NAIVE)))
def test_scores_follow_the_queries_whatever_their_order(seed, name):
    support, targets, queries = episode(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(queries)))
    scores = METHODS[name](support, targets)(queries)
    torch.testing.assert_close(METHODS[name](support, targets)(queries[order]), scores[:, order])


@pytest.mark.parametrize("name", NAIVE)
def test_queries_help_where_one_clip_says_little(name):
    support, targets, queries, truth = clusters()
    alone = (METHODS["prototype"](support, targets)(queries).argmax(-1) == truth).float().mean()
    together = (METHODS[name](support, targets)(queries).argmax(-1) == truth).float().mean()
    assert together > alone + 0.05


def test_queries_that_all_lie_elsewhere_are_shifted_back():
    support, targets, queries, truth = clusters(k=5, distance=6.0, shift=4.0)
    alone = (METHODS["prototype"](support, targets)(queries).argmax(-1) == truth).float().mean()
    together = (METHODS["rectify"](support, targets)(queries).argmax(-1) == truth).float().mean()
    assert alone < 0.9 < 0.97 < together


def test_neighbours_are_the_same_in_parts(monkeypatch):
    rows = torch.nn.functional.normalize(torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    whole = laplacian.neighbours(rows)
    monkeypatch.setattr(laplacian, "_AFFINITIES", 700)
    assert torch.equal(laplacian.neighbours(rows), whole)
    assert (whole != torch.arange(50)[:, None]).all()
