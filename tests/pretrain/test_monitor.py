"""Monitors against naive computations and known spectra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.monitor import effective_rank, feature_std, knn_accuracy


def naive_knn(features: np.ndarray, labels: np.ndarray, groups: list[str], k: int) -> float:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    correct = 0
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if groups[j] != groups[i]]
        others = sorted(others, key=lambda j: -float(unit[i] @ unit[j]))[:k]
        votes = [int(labels[j]) for j in others]
        if votes:
            best = max(votes, key=lambda label: (votes.count(label), -votes.index(label)))
            correct += best == labels[i]
    return correct / len(unit)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 6), videos=st.integers(2, 12))
def test_knn_equals_naive_loop(seed: int, k: int, videos: int) -> None:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(24, 5)).astype(np.float32)
    labels, groups = generator.integers(0, 3, 24), [f"v{i}" for i in generator.integers(0, videos, 24)]
    assert knn_accuracy(features, labels, groups, k) == pytest.approx(naive_knn(features, labels, groups, k))


def test_clips_of_one_video_never_vote_for_each_other() -> None:
    features = np.repeat(np.eye(4, dtype=np.float32), 3, 0)
    labels = np.repeat(np.arange(4), 3)
    assert knn_accuracy(features, labels, [str(i) for i in range(12)], 1) == 1
    assert knn_accuracy(features, labels, [f"v{i}" for i in labels], 1) == 0


def test_effective_rank_of_known_spectra() -> None:
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.normal(size=(500, 8)))[0]
    directions -= directions.mean(0)
    assert effective_rank(directions) == pytest.approx(8, abs=0.1)
    assert effective_rank(np.outer(generator.normal(size=100), np.ones(16))) == pytest.approx(1, abs=1e-3)


def test_feature_std_tells_isotropic_from_collapsed() -> None:
    generator = np.random.default_rng(0)
    assert feature_std(generator.normal(size=(4000, 64))) == pytest.approx(1, abs=0.02)
    assert feature_std(np.ones((100, 64)) + 1e-4 * generator.normal(size=(100, 64))) < 1e-3
