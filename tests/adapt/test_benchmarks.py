"""Benchmarks: which clips are asked by each rule, what is recorded, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from adapt import benchmarks, probe
from adapt.config import AdaptConfig
from adapt.splits import classes as class_rule
from adapt.splits import gym, ntu, one_shot
from skelcore.errors import InputError
from tests.adapt.splits.names import official
from tests.adapt.test_episodes import Labels


def ntu_store(actions: int = 120, performers: tuple[int, ...] = (1, 3, 8)) -> Labels:
    """Labelled names of three cameras; the official exemplars (performer 8, camera 3, repetition 1) are among them."""
    ids = [f"S{s:03d}C{c:03d}P{p:03d}R001A{a:03d}" for s in (1, 2, 18) for c in (1, 2, 3) for p in performers
           for a in range(1, actions + 1)]
    return Labels(ids, np.array([int(name[-3:]) - 1 for name in ids]), [f"A{a + 1:03d}" for a in range(actions)], {})


def prepare(store: Labels, **values: object) -> benchmarks.Trial:
    return benchmarks.prepare(store, AdaptConfig(**{"data": "x", "draws": 3, "k_shot": [1, 2], **values}))


@pytest.mark.parametrize(("name", "train"), [
    ("ntu60-xsub", lambda name: name[9:12] != "003"), ("ntu60-xview", lambda name: name[5:8] != "001"),
    ("ntu120-xset", lambda name: int(name[1:4]) % 2 == 0)], ids=["xsub", "xview", "xset"])
def test_official_benchmarks_draw_from_the_training_part(name: str, train: Callable[[str], bool]) -> None:
    trial = prepare(ntu_store(), benchmark=name)
    asked, store = trial.asked, ntu_store()
    actions = 60 if "60" in name else 120
    assert len(asked.classes) == actions
    inside = [each for each in store.ids if int(each[-3:]) <= actions]
    assert {asked.ids[i] for i in asked.pool} == {each for each in inside if train(each)}
    assert {asked.ids[i] for i in asked.queries} == {each for each in inside if not train(each)}
    for draw in asked.draws:  # two shots are two performances, never two cameras of one
        for row in draw:
            assert len({ntu.view_group(asked.ids[asked.pool[i]]) for i in row}) == 2
    assert "expected" in trial.notes[0]


KSHOT_SHA256 = {  # 1-shot, 50-shot and 1 % of seed 0 on the official lists
    "ntu60-xsub": ("b00ddbbb1fd4427179347e25719ac3cd0e70cf57c50925b028867947a2d673a4",
                   "544df29c439d839554f36585360c58021221e2a14f58163ed1abca990f7a7db0",
                   "86d15571c836109275ed22eb0fcee034f251ab03bf071a71ccf7515fd411e538"),
    "ntu60-xview": ("3fb08434cad4bade6caceb0ac15a301a7f4942b5f914e9d8d2eddb0f53f4604c",
                    "aa057269a1b3f1309d8c09e2dac77e0d4e952baccba15d94d6bdc2e19282456c",
                    "6425ee23a55e2917d1a5229125daf8e7bff1595b33653bf9d027c4c9519a656f"),
    "ntu120-xsub": ("1322531d47e05eb20effb12ea6af593ed0fea0d29f7d6f64c833f11d90f6004f",
                    "151552e5b0ac4bd760f39e4f496521a41c1e17dfe2b35876282de76d62062c0c",
                    "d8afa0bf2c865f4d6202e9ca26d23cfa622011b3540adbf0d1937a80707e040c"),
    "ntu120-xset": ("443cd5fc3558373dc4db206de6558711726613b086ae44bc4eda3380204aff7d",
                    "22bdc4ac7fc340bcf2465c5919175c698e5e13966bb6a985fee5d5ca38326383",
                    "7c20a8ea21a3da8a3394ea0a2abc4859b2f89cb080173c1ac2cd44f19475abdd")}


@pytest.mark.parametrize("name", KSHOT_SHA256)
def test_draws_of_the_official_lists_are_the_published_ones(name: str) -> None:
    ids = list(official(name.split("-")[0]))
    labels = np.array([int(each[-3:]) - 1 for each in ids])
    trial = prepare(Labels(ids, labels, [f"A{a + 1:03d}" for a in range(labels.max() + 1)], {}), benchmark=name,
                    k_shot=[1, 50], percent=[1])
    assert trial.notes == ()
    assert tuple(trial.asked.hashes(k)[0] for k in trial.budgets) == KSHOT_SHA256[name]


def test_one_shot_is_the_exemplars_against_all_else() -> None:
    store = ntu_store()
    trial = prepare(store, benchmark="ntu120-one-shot")
    asked = trial.asked
    assert tuple(asked.ids[asked.pool[i]] for i in asked.support(1)[0]) == one_shot.EXEMPLARS
    novel = [name for name in store.ids if f"A{name[-3:]}" in one_shot.NOVEL]
    assert len(asked.queries) == len(novel) - 20 and trial.budgets == (1,) and len(asked.draws) == 1
    free = prepare(store, benchmark="ntu120-one-shot-leak-free").asked
    assert len(free.queries) == len(asked.queries) - 40
    assert len(asked.base) == 100 * len(store) // 120
    assert len(prepare(store, benchmark="ntu120-one-shot", auxiliary=20).asked.base) == 20 * len(store) // 120
    assert set(asked.base).isdisjoint(asked.queries) and list(asked.learned) == list(asked.base)
    assert not asked.transductive


def test_resampled_exemplars_never_meet_their_own_performance() -> None:
    asked = prepare(ntu_store(), benchmark="ntu120-one-shot-resampled").asked
    assert asked.draws.shape == (3, 20, 1) and len(set(asked.hashes(1))) == 3
    for row, counted in zip(asked.support(1), asked.asked, strict=True):
        performed = {ntu.view_group(asked.ids[asked.pool[i]]) for i in row}
        for i, counts in zip(asked.queries, counted, strict=True):
            assert counts == (ntu.view_group(asked.ids[i]) not in performed)


def test_episodes_are_of_novel_classes_and_their_statistics_of_base_ones() -> None:
    store = ntu_store(actions=40)
    trial = prepare(store, benchmark="episodes", way=4, episode_queries=3, episodes=50)
    asked = trial.asked
    rule = class_rule.split("episodes", store.classes, *class_rule.shares(40), 0)
    assert set(asked.classes) == set(rule.parts["novel"]) and len(asked.classes) == 8
    assert {store.classes[store.labels[i]] for i in asked.base} == set(rule.parts["base"])
    assert list(asked.used[asked.rows]) == list(asked.clips)
    for k, drawn in asked.tasks.items():
        assert drawn.support.shape == (50, 4, k) and drawn.queries.shape == (50, 4, 3)
        labels = asked.labels[drawn.support]
        assert (labels == labels[..., :1]).all() and (asked.labels[drawn.queries] == labels[..., :1]).all()
    with pytest.raises(InputError, match="way"):
        prepare(store, benchmark="episodes", way=9)


def test_no_labels_of_queries_are_given_away_where_support_and_queries_are_of_one_set() -> None:
    asked = prepare(ntu_store(), benchmark="ntu120-one-shot-resampled").asked
    random = torch.randn(len(asked.pool), 4, generator=torch.Generator().manual_seed(0))
    assert probe.accuracies(asked, random, random) == {}


def test_an_episode_never_shows_a_performance_twice() -> None:
    store = ntu_store(actions=40)
    asked = prepare(store, benchmark="episodes", way=4, episode_queries=3, episodes=20).asked
    shown = [ntu.view_group(store.ids[i]) for i in asked.clips]
    assert len(set(shown)) == len(shown) == len(asked.classes) * 9
    store.groups = [name[:4] for name in store.ids]  # three videos of many tracks
    store.ids = [name.replace("P", "-") for name in store.ids]
    with pytest.raises(InputError, match=r"class 'A\d+' has only \d clips"):
        prepare(store, benchmark="episodes", way=2, episode_queries=3, episodes=20)


def test_what_a_benchmark_cannot_do_is_refused() -> None:
    store = ntu_store(actions=99)
    store.labels = np.where(np.isin(store.labels, gym.NOVEL), store.labels, -1)
    with pytest.raises(InputError, match="no clip of a base class"):
        prepare(store, benchmark="gym99-episodes")
    with pytest.raises(InputError, match="lists= goes with benchmark=splits, not with episodes"):
        prepare(store, benchmark="episodes", lists=["ids.txt"])


def test_shares_of_the_labels_stand_beside_shots() -> None:
    store = ntu_store(performers=(1, 2, 3, 4, 5, 8))
    trial = prepare(store, benchmark="ntu120-xsub", percent=[10, 5])
    assert trial.budgets == (1, 2, "5%", "10%")
    asked = trial.asked
    size = int((asked.pool_labels == 0).sum())
    assert list(asked.counts("10%")) == [max(1, (10 * size + 50) // 100)] * 120
    for one, other in zip(asked.support("5%"), asked.support("10%"), strict=True):
        assert set(one) <= set(other)
        np.testing.assert_array_equal(asked.pool_labels[other], asked.labels("10%"))


def test_scarce_classes_give_what_they_have_only_where_that_is_asked_for() -> None:
    store = Labels([f"{c}{i}" for c in "ab" for i in range(4)], np.repeat([0, 1], 4), ["a", "b"], {})
    store.splits = {"train": ["a0", "a1", "b0"], "test": ["a2", "a3", "b2"]}
    with pytest.raises(InputError, match=r"only 1 labelled videos.*scarce=true"):
        prepare(store)
    asked = prepare(store, scarce=True).asked
    assert list(asked.counts(2)) == [2, 1] and list(asked.labels(2)) == [0, 0, 1]
    assert (asked.support(2) >= 0).all()


def test_published_lists_are_draws(tmp_path: Path) -> None:
    store = Labels([f"{c}{i}" for c in "ab" for i in range(5)], np.repeat([0, 1], 5), ["a", "b"], {})
    store.splits = {"test": ["a4", "b4"]}

    def trial(*lists: str) -> benchmarks.Trial:
        paths = [tmp_path / f"{i}.txt" for i in range(len(lists))]
        for path, words in zip(paths, lists, strict=True):
            path.write_text("\n".join(words.split()))
        return prepare(store, lists=[str(path) for path in paths])

    found = trial("a0 a1 b0 b1", "a2 a1 b3 b0")
    assert found.budgets == (2,)
    assert [{found.asked.ids[found.asked.pool[i]] for i in row} for row in found.asked.support(2)] == [
        {"a0", "a1", "b0", "b1"}, {"a2", "a1", "b3", "b0"}]
    np.testing.assert_array_equal(found.asked.pool_labels[found.asked.support(2)], [[0, 0, 1, 1]] * 2)
    for lists, words in ((("a0 b0", "a0 a1 b0"), "not as many"), (("a0 c9",), r"1 of its 2 ids .* 'c9'"),
                         (("a0 a1",), "no clip of class 'b'"), (("a4 b0",), "1 of its ids are queries, such as 'a4'"),
                         (("a0 b0",), "query=test: the split has no labelled clip")):
        if "no labelled" in words:
            store.labels = np.where(np.isin(store.ids, store.splits["test"]), -1, store.labels)
        with pytest.raises(InputError, match=words):
            trial(*lists)


def test_an_unknown_benchmark_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'ntu60-xsub'"):
        prepare(ntu_store(), benchmark="ntu60-xsubb")
    assert len(benchmarks.listing().splitlines()) == len(benchmarks.BENCHMARKS)
