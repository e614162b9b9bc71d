import hashlib
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from adapt import tasks
from adapt.methods import METHODS
from adapt.tasks import accuracy, sample
from skelcore.errors import InputError


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), way=st.integers(1, 4), shot=st.integers(1, 3), query=st.integers(1, 3))
def test_an_episode_has_distinct_classes_and_each_clip_once(seed, way, shot, query):
    labels = np.random.default_rng(seed).permutation(np.repeat([-1, 0, 2, 3, 7], [5, 6, 9, 20, 6]))
    found = sample(labels, way, shot, query, 50, seed)
    assert (found.classes.shape, found.support.shape, found.queries.shape) == ((50, way), (50, way, shot),
                                                                              (50, way, query))
    for classes, support, queries in zip(found.classes, found.support, found.queries, strict=True):
        assert len(set(classes)) == way
        assert set(classes) <= {0, 2, 3, 7}
        assert (labels[np.concatenate([support, queries], 1)] == classes[:, None]).all()
        assert len(set(support.ravel()) | set(queries.ravel())) == way * (shot + query)


def test_classes_clips_and_roles_are_equally_likely():
    labels = np.repeat(np.arange(5), [4, 5, 6, 7, 8])
    found = sample(labels, 2, 1, 2, 20_000, 0)
    assert chisquare(np.bincount(found.classes.ravel(), minlength=5)).pvalue > 1e-4
    ordered = np.bincount(found.classes[:, 0] * 5 + found.classes[:, 1], minlength=25).reshape(5, 5)
    assert (np.diag(ordered) == 0).all()
    assert chisquare(ordered[~np.eye(5, dtype=bool)]).pvalue > 1e-4
    for c in range(5):
        members, chosen = np.flatnonzero(labels == c), found.classes == c
        position = np.concatenate([found.support, found.queries], 2)[chosen] - members[0]
        # Every ordered triple of distinct clips, as a naive loop of permutations would draw them.
        triples = np.bincount(position @ [len(members) ** 2, len(members), 1], minlength=len(members) ** 3)
        size = len(members)
        assert np.count_nonzero(triples) == size * (size - 1) * (size - 2)
        assert chisquare(triples[triples > 0]).pvalue > 1e-4


def test_a_seed_gives_the_same_everywhere():
    labels = np.repeat(np.arange(6), 20)
    first, again, other = (sample(labels, 5, 1, 10, 100, seed) for seed in (3, 3, 4))
    assert first.sha256 == again.sha256 != other.sha256
    assert first.sha256 == "1844db236d060d9cae4b30ffa3c486bcf6e9046ba6c35d45c9f2857537562034"
    text = b"".join(int(each).to_bytes(8, "little") for part in (first.support, first.queries) for each in part.ravel())
    assert first.sha256 == hashlib.sha256(text).hexdigest()


def test_ten_thousand_episodes_take_no_loop_over_them():
    labels = np.random.default_rng(0).integers(0, 20, 20_000)
    started = time.perf_counter()
    sample(labels, 5, 5, 10, 10_000, 0)
    assert time.perf_counter() - started < 5  # a twentieth of a second on an idle machine; a plain loop takes seconds


@pytest.mark.parametrize(("labels", "arguments", "message"), [
    ([0] * 9 + [1] * 9, (3, 1, 2), "way=3: only 2 classes"),
    ([0] * 9 + [-1] * 9, (2, 1, 2), "way=2: only 1 classes"),
    ([0] * 9 + [4] * 3, (2, 2, 2), "k_shot=2, episode_queries=2: class 4 has only 3 clips"),
])
def test_too_few_classes_or_clips_are_told(labels, arguments, message):
    with pytest.raises(InputError, match=message):
        sample(np.array(labels), *arguments, 10, 0)


@pytest.mark.parametrize("method", METHODS)
def test_accuracy_is_that_of_one_episode_after_another(method, monkeypatch):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 12)
    features = torch.from_numpy(random.normal(size=(6, 8))[labels] + random.normal(size=(72, 8)))
    found = sample(labels, 4, 2, 5, 9, 0)
    wanted = []
    for support, queries in zip(found.support, found.queries, strict=True):
        known = torch.stack([features[i] for i in support.ravel()])
        asked = torch.stack([features[i] for i in queries.ravel()])
        predicted = METHODS[method](known[None], torch.eye(4).double().repeat_interleave(2, 0))(asked)[0].argmax(-1)
        wanted.append(np.mean([predicted[i] == i // 5 for i in range(20)]))
    np.testing.assert_allclose(accuracy(method, found, features), wanted)
    assert 0.3 < np.mean(wanted) < 1
    monkeypatch.setattr(tasks, "_VALUES", 1)
    np.testing.assert_allclose(accuracy(method, found, features), wanted)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"logistic"}))
def test_clips_of_unknown_classes_are_told_apart_by_chance(method):
    """Labels that have nothing to do with the features."""
    random = np.random.default_rng(0)
    found = sample(random.integers(0, 10, 1000), 5, 1, 10, 400, 0)
    features = torch.from_numpy(random.normal(size=(1000, 16)))
    assert abs(accuracy(method, found, features).mean() - 0.2) < 0.01
