import hashlib
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.episodes import Episodes, Parts, draw_from
from adapt.splits import low_label
from adapt.splits.ntu import action_code, split
from tests.adapt.splits.names import official
from tests.adapt.test_episodes import Labels

PERCENTS = (1, 5, 10)


def clips(*counts: int) -> tuple[list[str], list[int]]:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [f"clip-{i}" for i in range(len(labels))], labels


def drawn(ids: list[str], labels: list[int], percents: tuple[int, ...], seed: int, draws: int = 1) -> Episodes:
    """The shares of one draw of those ids; one more clip of class 0 is the query."""
    store = Labels([*ids, "query"], np.array([*labels, 0]), [str(i) for i in range(max(labels) + 1)], {})
    parts = Parts(np.arange(len(ids)), np.array([len(ids)]))
    return draw_from(store, parts, [1], draws, seed, [f"{percent}%" for percent in percents])


def names(found: Episodes, percent: int) -> list[str]:
    return [found.ids[found.pool[i]] for i in found.support(f"{percent}%")[0]]


@given(st.integers(1, 10**6), st.integers(1, 100))
def test_share_is_exact_half_up(count: int, percent: int) -> None:
    exact = Decimal(count) * percent / 100
    assert low_label.share(count, percent) == max(1, int(exact.quantize(Decimal(1), ROUND_HALF_UP)))


@pytest.mark.parametrize(("count", "percent", "expected"), [
    (50, 1, 1), (150, 1, 2), (149, 1, 1), (250, 1, 3), (10, 5, 1), (30, 5, 2), (7, 100, 7), (1, 1, 1)])
def test_share_by_hand(count: int, percent: int, expected: int) -> None:
    assert low_label.share(count, percent) == expected


@given(st.lists(st.integers(1, 120), min_size=1, max_size=6), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_draws_are_stratified_nested_and_independent_of_order(counts, seed, random) -> None:
    ids, labels = clips(*counts)
    found, label_of = drawn(ids, labels, PERCENTS, seed), dict(zip(ids, labels, strict=True))
    for percent in PERCENTS:
        taken = [label_of[each] for each in names(found, percent)]
        assert [taken.count(label) for label in range(len(counts))] == [low_label.share(n, percent) for n in counts]
        assert taken == found.labels(f"{percent}%").tolist()
    assert set(names(found, 1)) <= set(names(found, 5)) <= set(names(found, 10))
    shuffled = random.sample(ids, len(ids))
    again = drawn(shuffled, [label_of[each] for each in shuffled], PERCENTS, seed)
    assert [again.hashes(f"{percent}%") for percent in PERCENTS] == [found.hashes(f"{p}%") for p in PERCENTS]


def test_draw_by_hand() -> None:
    ids, labels = clips(30, 20)
    expected = {each for label, count in ((0, 3), (1, 2)) for each in sorted(
        (each for each, own in zip(ids, labels, strict=True) if own == label),
        key=lambda each: hashlib.sha256(f"5:{each}".encode()).hexdigest())[:count]}
    assert set(names(drawn(ids, labels, (10,), 5), 10)) == expected


def test_hashes_are_pinned() -> None:
    found = drawn(*clips(300, 151, 4), PERCENTS, 0)
    assert {percent: found.hashes(f"{percent}%") for percent in PERCENTS} == {
        1: ["6deb1860809b53a127f481c545809a69af9f706192bf1748d54300c78af54459"],
        5: ["857ea94ada9926e850db4a3fc515eed87092f45f1d8ce3c3d64227704028a7c4"],
        10: ["6693759eae1fbcd0d10bb68814b94acf8ec229eb0f4497ba3ab74e72fa9c2314"]}


def test_ntu60_one_percent_is_published() -> None:
    train = list(split("ntu60_xsub", official("ntu60")).parts["train"])
    found = drawn(train, [int(action_code(each)[1:]) - 1 for each in train], PERCENTS, 0)
    assert [len(names(found, percent)) for percent in PERCENTS] == [419, 2006, 4011]
    assert len({action_code(each) for each in names(found, 1)}) == 60
    assert {percent: found.hashes(f"{percent}%") for percent in PERCENTS} == {
        1: ["86d15571c836109275ed22eb0fcee034f251ab03bf071a71ccf7515fd411e538"],
        5: ["d6313d394edfcbfc3fb5843f5f217c9a65b57e486893f60af78cad85133f5133"],
        10: ["45b4255ed48e93b3829d9af635ae516f7f8404e5f400a09c9e19d0fcdec62228"]}


def test_seeds_differ() -> None:
    assert len(set(drawn(*clips(100, 100), (10,), 0, draws=10).hashes("10%"))) == 10
