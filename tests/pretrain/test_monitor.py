"""Monitors against naive computations and known spectra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import monitor
from pretrain.monitor import (
    alignment,
    collapse,
    effective_rank,
    feature_std,
    knn_accuracy,
    linear_probe,
    probe_accuracy,
    uniformity,
    video_folds,
)


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


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(2, 30), dim=st.integers(2, 30))
def test_effective_rank_equals_that_of_the_singular_values(seed: int, count: int, dim: int) -> None:
    features = np.random.default_rng(seed).normal(3, 2, (count, dim)).astype(np.float32)
    values = np.linalg.svd(features.astype(float) - features.mean(0, dtype=float), compute_uv=False)
    share = [value / values.sum() for value in values if value > 1e-9]
    assert effective_rank(features) == pytest.approx(np.exp(-sum(p * np.log(p) for p in share)), rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(2, 20), dim=st.integers(2, 9))
def test_alignment_and_uniformity_equal_naive_loops(seed: int, count: int, dim: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, count, dim))
    x, y = (features / np.linalg.norm(features, axis=1, keepdims=True) for features in (first, second))
    assert alignment(first, second) == pytest.approx(np.mean([((a - b) ** 2).sum() for a, b in zip(x, y, strict=True)]))
    pairs = [np.exp(-2 * ((x[i] - x[j]) ** 2).sum()) for i in range(count) for j in range(count) if i != j]
    assert uniformity(first) == pytest.approx(np.log(np.mean(pairs)))


def test_uniformity_does_not_depend_on_its_blocks_and_knows_the_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(700, 256)).astype(np.float32)
    whole = uniformity(features)
    assert whole == pytest.approx(-4, abs=0.1)
    monkeypatch.setattr(monitor, "_ROWS", 33)
    assert uniformity(features) == pytest.approx(whole, rel=1e-6)
    assert uniformity(np.ones((50, 8))) == pytest.approx(0, abs=1e-6)
    assert np.isnan(uniformity(features[:1]))


def naive_ridge(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predicted classes, with the strength of the least squared error when clips are left out one by one."""
    mean, std = x.mean(0), x.std(0)
    x, test = (x - mean) / std, (test - mean) / std

    def fit(x: np.ndarray, target: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        centre, level = x.mean(0), target.mean(0)
        weights = np.linalg.solve((x - centre).T @ (x - centre) + penalty * np.eye(x.shape[1]),
                                  (x - centre).T @ (target - level))
        return weights, level - centre @ weights

    target = (y[:, None] == np.unique(y)).astype(float)
    penalties, errors = [10.0**p * len(x) for p in range(-4, 2)], []
    for penalty in penalties:
        error = 0.0
        for i in range(len(x)):
            weights, level = fit(np.delete(x, i, 0), np.delete(target, i, 0), penalty)
            error += ((x[i] @ weights + level - target[i]) ** 2).sum()
        errors.append(error)
    weights, level = fit(x, target, penalties[int(np.argmin(errors))])
    return np.unique(y)[(test @ weights + level).argmax(1)]


@pytest.mark.parametrize("seed", range(6))
def test_linear_probe_equals_ridge_whose_strength_was_chosen_by_leaving_out(seed: int) -> None:
    generator = np.random.default_rng(seed)
    y, test_y = generator.integers(3, 6, 40), generator.integers(3, 6, 60)
    centres = generator.normal(size=(6, 5)) * 0.7
    x, test = (centres[labels] + generator.normal(size=(len(labels), 5)) for labels in (y, test_y))
    assert linear_probe(x, y, test, test_y) == pytest.approx((naive_ridge(x, y, test) == test_y).mean())


def test_linear_probe_reads_what_can_be_separated_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 4
    features = (np.eye(4)[labels] @ generator.normal(size=(4, 32)) + 0.2 * generator.normal(size=(400, 32)))
    features = np.c_[features, np.full(400, 0.1), 1e4 + generator.normal(size=400)].astype(np.float32)
    groups = [f"v{i // 2}" for i in range(400)]
    assert probe_accuracy(features, labels, groups) > 0.99
    assert probe_accuracy(1e-3 * features, labels, groups) > 0.99
    shuffled = generator.permutation(labels)
    assert 0.15 < probe_accuracy(features, shuffled, groups) < 0.35
    # More dimensions than clips fit any labels, but say nothing of others.
    assert 0.1 < probe_accuracy(generator.normal(size=(80, 200)), shuffled[:80], groups[:80]) < 0.4
    assert np.isnan(probe_accuracy(features, labels, ["v"] * 400))


def test_the_probe_never_tests_on_a_video_that_it_was_fitted_on() -> None:
    # Each video has a label of its own and features that give it away: only its other clips could teach it.
    generator = np.random.default_rng(0)
    video = np.repeat(np.arange(20), 5)
    features = np.eye(20)[video] + 0.01 * generator.normal(size=(100, 20))
    groups = [f"video {i}" for i in video]
    assert probe_accuracy(features, video, groups) == 0
    assert probe_accuracy(features, video, [str(i) for i in range(100)]) == 1


@settings(max_examples=30, deadline=None)
@given(names=st.lists(st.text(max_size=5), min_size=1, max_size=40), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_folds_are_whole_videos_dealt_out_evenly_by_name(names: list[str], folds: int, seed: int) -> None:
    fold = video_folds(names, folds)
    of = {name: int(each) for name, each in zip(names, fold, strict=True)}
    assert [of[name] for name in names] == fold.tolist()
    sizes = np.bincount(list(of.values()), minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    order = np.random.default_rng(seed).permutation(len(names))
    assert (video_folds([names[i] for i in order], folds) == fold[order]).all()


def test_collapse_is_told_from_random_and_healthy_features() -> None:
    generator = np.random.default_rng(0)

    def told(features: np.ndarray) -> str | None:
        return collapse(effective_rank(features), feature_std(features))

    assert told(generator.normal(size=(500, 64))) is None
    # Rank 2 around a large common mean, as of an encoder with random weights.
    assert told(np.abs(generator.normal(size=64)) + 0.2 * generator.normal(size=(500, 2)) @ generator.normal(
        size=(2, 64))) is None
    assert "nearly the same" in str(told(1 + 1e-4 * generator.normal(size=(500, 64))))
    line = told(generator.normal(size=(500, 1)) * np.ones(64) + 1e-3 * generator.normal(size=(500, 64)))
    assert "one direction" in str(line) and "optimizer.lr" in str(line)
