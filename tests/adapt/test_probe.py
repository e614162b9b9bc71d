"""All labels: the nearest neighbour and the linear layer against naive loops."""

import dataclasses

import numpy as np
import pytest
import torch

from adapt import probe
from adapt.methods import ridge
from tests.adapt.test_evaluate import episodes


def features(drawn, classes=3, width=5, spread=1.0, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, width)) * 4
    return (torch.from_numpy(centres[labels] + spread * random.normal(size=(len(labels), width)))
            for labels in (drawn.pool_labels, drawn.query_labels))


def inductive():
    """Episodes whose queries are in no support."""
    drawn = episodes()
    return dataclasses.replace(drawn, queries=drawn.queries + len(drawn.pool))


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_both_equal_a_naive_loop(spread):
    drawn = inductive()
    assert not drawn.transductive
    pool, queries = features(drawn, spread=spread)
    x, y = pool.numpy(), queries.numpy()
    nearest = [drawn.pool_labels[np.argmax([row @ query / np.linalg.norm(row) for row in x])] for query in y]
    targets = np.eye(3)[drawn.pool_labels]
    mean = x.mean(0)
    penalty = ridge.PENALTY * np.mean([row @ row for row in x - mean])
    system = (x - mean).T @ (x - mean) + penalty * np.eye(5)
    weights = np.linalg.solve(system, (x - mean).T @ (targets - targets.mean(0)))
    linear = ((y - mean) @ weights + targets.mean(0)).argmax(1)
    assert probe.accuracies(drawn, pool, queries) == {
        "knn": pytest.approx((np.array(nearest) == drawn.query_labels).mean()),
        "linear": pytest.approx((linear == drawn.query_labels).mean())}


def test_separable_classes_are_told_apart_and_noise_is_chance():
    drawn = inductive()
    assert probe.accuracies(drawn, *features(drawn, spread=0.1)) == {"knn": 1.0, "linear": 1.0}
    pool, queries = features(drawn, spread=0.1)
    found = probe.accuracies(drawn, pool, queries[torch.randperm(40, generator=torch.Generator().manual_seed(0))])
    assert max(found.values()) < 0.7


def test_clips_that_would_be_their_own_neighbours_are_not_asked():
    drawn = episodes()
    assert drawn.transductive and probe.accuracies(drawn, *features(drawn)) == {}
