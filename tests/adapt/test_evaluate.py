from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from adapt import evaluate, results
from adapt.episodes import Episodes
from adapt.methods import METHODS, TRANSDUCTIVE, align


def episodes(draws=3, classes=3, k=4, per_class=6, queries=40, seed=0):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    drawn = np.array([[random.permutation(np.flatnonzero(labels == c))[:k] for c in range(classes)]
                      for _ in range(draws)])
    asked = random.uniform(size=(draws, queries)) < 0.7
    return Episodes(tuple("abc"[:classes]), (), np.arange(len(labels)), labels, np.arange(queries),
                    random.integers(0, classes, queries), drawn, tuple(range(draws)), asked)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - TRANSDUCTIVE))
def test_predictions_equal_a_loop_over_draws_and_queries(method, monkeypatch):
    drawn = episodes()
    generator = torch.Generator().manual_seed(0)
    pool, queries = torch.randn(18, 5, generator=generator), torch.randn(40, 5, generator=generator)
    whole = evaluate.predict(method, drawn, pool, queries, 2)
    monkeypatch.setattr(evaluate, "_SCORES", 3 * 6 * 7)  # chunks of seven queries
    np.testing.assert_array_equal(evaluate.predict(method, drawn, pool, queries, 2), whole)
    for draw in range(3):
        rows = drawn.draws[draw, :, :2].reshape(-1)
        targets = torch.eye(3)[torch.from_numpy(drawn.pool_labels[rows])]
        head = METHODS[method](pool[rows][None], targets)
        np.testing.assert_array_equal([head(query[None])[0, 0].argmax().item() for query in queries], whole[draw])


@pytest.mark.parametrize("method", sorted(TRANSDUCTIVE))
def test_transductive_heads_meet_exactly_the_queries_of_their_draw(method):
    drawn = episodes()
    generator = torch.Generator().manual_seed(0)
    pool, queries = torch.randn(18, 5, generator=generator), torch.randn(40, 5, generator=generator)
    for asked in (drawn.asked, np.ones_like(drawn.asked)):
        given = replace(drawn, asked=asked)
        whole = evaluate.predict(method, given, pool, queries, 2)
        for draw in range(3):
            rows = drawn.draws[draw, :, :2].reshape(-1)
            head = METHODS[method](pool[rows][None], torch.eye(3)[torch.from_numpy(drawn.pool_labels[rows])])
            np.testing.assert_array_equal(head(queries[asked[draw]])[0].argmax(-1), whole[draw][asked[draw]])


def test_aligned_predictions_are_the_re_ranked_ones_of_the_prototypes():
    drawn = episodes()
    generator = torch.Generator().manual_seed(0)
    pool, queries = torch.randn(18, 5, generator=generator), torch.randn(40, 5, generator=generator)
    tokens, asked = torch.randn(18, 4, 3, 6, generator=generator), torch.randn(40, 4, 3, 6, generator=generator)
    found = evaluate.aligned(drawn, pool, queries, tokens, asked, 2)
    for draw in range(3):
        rows = drawn.draws[draw, :, :2].reshape(-1)
        targets = torch.eye(3)[torch.from_numpy(drawn.pool_labels[rows])]
        scores = METHODS["prototype"](pool[rows][None], targets)(queries)
        ranked = align.rerank(scores, tokens[rows][None], targets, asked)
        np.testing.assert_array_equal(ranked[0].argmax(-1), found[draw])
    assert (found != evaluate.predict("prototype", drawn, pool, queries, 2)).any()


def test_accuracy_and_confusion_count_only_the_queries_that_are_asked():
    drawn = episodes()
    predicted = np.random.default_rng(1).integers(0, 3, (3, 40))
    overall, by_class = evaluate.accuracies(predicted, drawn)
    counts = np.zeros((3, 3), int)
    for draw in range(3):
        hits: dict[int, list[bool]] = {0: [], 1: [], 2: []}
        for query in np.flatnonzero(drawn.asked[draw]):
            truth = drawn.query_labels[query]
            hits[truth].append(predicted[draw, query] == truth)
            counts[truth, predicted[draw, query]] += 1
        assert overall[draw] == pytest.approx(np.mean(np.concatenate(list(hits.values()))))
        assert by_class[draw] == pytest.approx(np.mean([np.mean(each) for each in hits.values()]))
    np.testing.assert_array_equal(evaluate.confusion(predicted, drawn), counts)


def test_a_class_without_queries_is_not_in_the_mean_over_classes():
    drawn = episodes()
    drawn.query_labels[:] = np.where(drawn.query_labels == 1, 0, drawn.query_labels)
    perfect = np.broadcast_to(drawn.query_labels, (3, 40))
    for each in evaluate.accuracies(perfect, drawn):
        np.testing.assert_array_equal(each, 1)


def test_interval_is_students():
    values = np.random.default_rng(0).normal(0.6, 0.05, 10)
    mean, half = results.interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_differences_are_paired_by_draw():
    base = np.random.default_rng(0).uniform(0.2, 0.8, 10)  # draws that vary much more than the difference
    rows = [results.row("pretrained", "ridge", 5, (base + 0.1)[None], base[None]),
            results.row("scratch", "ridge", 5, np.stack([base - 0.02, base + 0.02]), base[None]),
            results.row("raw", "rbf", 5, base[None], base[None])]
    found = results.differences(rows)
    assert [(each.method, each.minus, each.k) for each in found] == [("ridge", "scratch", 5)]
    assert found[0].mean == pytest.approx(0.1)
    assert found[0].half_width == pytest.approx(0, abs=1e-12)
    assert rows[1].inits == pytest.approx([base.mean() - 0.02, base.mean() + 0.02])


def test_the_confusion_matrix_is_of_a_head_that_no_accuracy_chooses():
    def rows(order):
        names = [("raw", "rbf"), ("raw", "ridge"), ("pretrained", "rbf"), ("pretrained", "ridge")]
        return [results.row(*name, k, np.full((1, 2), 0.1 * rank), np.full((1, 2), 0.1 * rank))
                for name, rank in zip(names, order, strict=True) for k in (5, 1)]

    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (0, 1, 3, 2)):
        found = rows(order)
        assert (results.shown(found).name, results.shown(found).k) == ("pretrained/ridge", 5)
        assert results.shown(found[:4]).name == "raw/ridge"
        assert results.shown([row for row in found if row.method != "ridge"]).name == "pretrained/rbf"
