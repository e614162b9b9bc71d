import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from adapt.methods import align, prototype


def naive_soft_dtw(costs):
    """All monotone paths, one by one."""
    rows, columns = costs.shape

    def paths(row, column):
        if (row, column) == (rows - 1, columns - 1):
            return [costs[row, column]]
        steps = [(row + 1, column), (row, column + 1), (row + 1, column + 1)]
        return [costs[row, column] + rest for step in steps if step[0] < rows and step[1] < columns
                for rest in paths(*step)]

    return -align.SMOOTH * logsumexp(-np.array(paths(0, 0)) / align.SMOOTH)


def unit(row):
    return row / max(np.linalg.norm(row), 1e-12)


def naive_rerank(scores, support, targets, queries, top):
    """Scores (Q, W) of one draw, pair by pair."""
    def segments(clip):
        return np.array([np.concatenate([unit(part) for part in each]) / np.sqrt(len(each)) for each in clip])

    templates = []
    for c in range(targets.shape[1]):
        mean = np.mean([segments(clip) for clip, target in zip(support, targets, strict=True) if target[c]], 0)
        templates.append(np.array([unit(each) for each in mean]))
    found = scores.copy()
    for row, clip, first in zip(found, queries, scores, strict=True):
        best = np.argsort(-first, kind="stable")[:top]
        mine = segments(clip)
        distances = [naive_soft_dtw(1 - mine @ templates[c].T) / len(mine) for c in best]
        order = np.argsort(-(first[best] - align.WEIGHT * np.array(distances)), kind="stable")
        row[best[order]] = first[best]
    return found


def episode(seed=0, draws=2, classes=6, k=2, queries=7, shape=(4, 3, 5)):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(draws, queries, classes, generator=generator, dtype=torch.float64)
    support = torch.randn(draws, classes * k, *shape, generator=generator, dtype=torch.float64)
    targets = torch.eye(classes, dtype=torch.float64).repeat_interleave(k, 0)
    return scores, support, targets, torch.randn(queries, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 4), (5, 3)])
def test_soft_dtw_is_the_soft_minimum_over_all_paths(shape):
    costs = np.random.default_rng(0).random((*shape, 3))
    wanted = [naive_soft_dtw(costs[..., i]) for i in range(3)]
    np.testing.assert_allclose(align.soft_dtw(torch.from_numpy(costs)).numpy(), wanted)


@pytest.mark.parametrize("top", [1, 3, 5, 9])
def test_equals_its_naive_implementation(top):
    scores, support, targets, queries = episode()
    wanted = [naive_rerank(one.numpy(), draw.numpy(), targets.numpy(), queries.numpy(), top)
              for one, draw in zip(scores, support, strict=True)]
    np.testing.assert_allclose(align.rerank(scores, support, targets, queries, top).numpy(), wanted)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), top=st.integers(1, 6))
def test_the_best_classes_stay_the_best_and_scores_are_only_dealt_out_anew(seed, top):
    scores, support, targets, queries = episode(seed)
    found = align.rerank(scores, support, targets, queries, top)
    torch.testing.assert_close(found.sort(-1).values, scores.sort(-1).values)
    best, kept = (each.topk(top, -1).indices.sort(-1).values for each in (scores, found))
    assert torch.equal(best, kept)
    assert top > 1 or torch.equal(found, scores)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_score_depends_on_no_other_query_nor_draw_nor_part_of_the_work(seed):
    scores, support, targets, queries = episode(seed)
    found = align.rerank(scores, support, targets, queries)
    own = align.rerank(scores, support, targets, queries.expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(own, found)
    torch.testing.assert_close(align.rerank(scores[1:, 2:3], support[1:], targets, queries[2:3]), found[1:, 2:3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align, "_COSINES", 1)
        torch.testing.assert_close(align.rerank(scores, support, targets, queries), found)


def moving(delays, classes, generator):
    """Clips (n, 6, 1, 8) in which the class's three poses follow one another, begun at a delay; the sets of poses of
    classes 2 c and 2 c + 1 are the same, in opposite orders."""
    poses = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(1))
    clips = []
    for delay, label in zip(delays, classes, strict=True):
        three = poses[label // 2] if label % 2 == 0 else poses[label // 2].flip(0)
        order = [0] * (1 + delay) + [1, 2] + [2] * (3 - delay)
        clips.append(three[order])
    return torch.stack(clips)[:, :, None] + 0.3 * torch.randn(len(clips), 6, 1, 8, generator=generator)


def test_order_in_time_tells_apart_what_the_mean_over_time_does_not():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(8).repeat_interleave(20)
    labels, delays = torch.arange(8).repeat_interleave(2), torch.tensor([1, 2] * 8)
    support = moving(delays, labels, generator)
    queries = moving(torch.randint(1, 3, (160,), generator=generator), truth, generator)
    targets = torch.eye(8)[labels]
    scores = prototype.fit(support.mean((1, 2))[None], targets)(queries.mean((1, 2)))
    first = (scores[0].argmax(-1) == truth).float().mean()
    found = (align.rerank(scores, support[None], targets, queries)[0].argmax(-1) == truth).float().mean()
    assert first < 0.8
    assert found > 0.95
    # Labels in a random order say nothing, in either stage.
    chance = []
    for _ in range(20):
        mixed = targets[torch.randperm(16, generator=generator)]
        scores = prototype.fit(support.mean((1, 2))[None], mixed)(queries.mean((1, 2)))
        chance.append((align.rerank(scores, support[None], mixed, queries)[0].argmax(-1) == truth).float().mean())
    assert abs(torch.stack(chance).mean() - 1 / 8) < 0.08


def test_other_names_for_the_classes_change_nothing():
    scores, support, targets, queries = episode()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(align.rerank(scores[..., order], support, targets[:, order], queries),
                               align.rerank(scores, support, targets, queries)[..., order])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_tokens_without_variance_leave_the_first_stage_as_it_is(value):
    scores, support, targets, queries = episode()
    found = align.rerank(scores, torch.full_like(support, value), targets, torch.full_like(queries, value))
    torch.testing.assert_close(found, scores)
    one = align.rerank(scores[..., :1], support[:, :1], torch.ones(1, 1, dtype=torch.float64), queries)
    torch.testing.assert_close(one, scores[..., :1])


def test_condensed_tokens_are_standardised_and_keep_the_products_of_few_features():
    random = np.random.default_rng(0)
    tokens = random.normal(size=(40, 4, 3, 8)) * random.uniform(1, 50, (3, 8)) + random.normal(size=(3, 8))
    tokens = tokens.astype(np.float32)
    found = align.condense(tokens, 30)
    seen = tokens[:30].astype(np.float64)
    scaled = (tokens - seen.mean((0, 1))) / seen.std((0, 1))
    assert found.dtype == np.float32
    assert found.shape == tokens.shape  # 8 features need no more than 8 axes
    wanted = np.einsum("itpc,jspc->itjsp", scaled, scaled)
    np.testing.assert_allclose(np.einsum("itpc,jspc->itjsp", found, found), wanted, atol=1e-3)


def test_condensed_tokens_keep_the_directions_of_most_variance():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(align.WIDTH, 64))
    tokens = (random.normal(size=(200, 4, 3, align.WIDTH)) @ mixing).astype(np.float32)
    found = align.condense(tokens, 200)
    assert found.shape == (200, 4, 3, align.WIDTH)
    scaled = (tokens - tokens.mean((0, 1))) / tokens.std((0, 1))
    kept = np.square(found).sum() / np.square(scaled).sum()
    assert kept > 0.99
    assert np.isfinite(align.condense(np.zeros((5, 4, 3, 8), np.float32), 5)).all()
