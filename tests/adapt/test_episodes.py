from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt import episodes
from skelcore.errors import InputError


@dataclass
class Labels:
    """As much of a store as a draw looks at."""

    ids: list[str]
    labels: np.ndarray
    classes: list[str]
    splits: dict[str, list[str]]
    groups: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.groups = self.groups or self.ids

    def __len__(self):
        return len(self.ids)


def store(counts=(4, 5, 6), queries=2, names=("bow", "clap", "kick")):
    ids = [f"{names[c]}-{i}" for c, n in enumerate(counts) for i in range(n + queries)]
    labels = np.repeat(np.arange(len(counts)), np.array(counts) + queries)
    support = [f"{names[c]}-{i}" for c, n in enumerate(counts) for i in range(n)]
    return Labels(ids, labels, list(names), {"train": support, "test": [name for name in ids if name not in support]})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(3, 9), min_size=3, max_size=3))
def test_draws_are_nested_balanced_and_disjoint_from_the_queries(seed, counts):
    drawn = episodes.draw(store(counts), "train", "test", [1, 2, 3], 4, seed)
    for k in (1, 2, 3):
        support = drawn.support(k)
        assert support.shape == (4, 3 * k)
        for row in support:
            assert len(set(row)) == 3 * k
            np.testing.assert_array_equal(drawn.pool_labels[row], drawn.labels(k))
            assert not set(drawn.pool[row]) & set(drawn.queries)
    for one, two, three in zip(*(drawn.support(k) for k in (1, 2, 3)), strict=True):
        assert set(one) < set(two) < set(three)


def test_order_and_hash_are_the_published_ones():
    # Literals: these change only if the protocol does, and then every published hash is void.
    assert episodes.order(["a", "b", "c", "d", "e"], 0) == [3, 0, 2, 1, 4]
    assert episodes.draw(store(), "train", "test", [1, 2], 2, 0).hashes(2) == [
        "c957136ec588772f6e974581c464331a635bdbff1b342d7bce35fb34127d5f0d",
        "bf8836865c2fd72b9bef1ff425baf5dc4e5585a52fb428fbb0aed3506614e7d9"]


def test_other_clips_and_their_positions_change_no_relative_order():
    names = [f"clip{i}" for i in range(30)]
    whole = [names[i] for i in episodes.order(names, 7)]
    part = names[::-3]
    assert [part[i] for i in episodes.order(part, 7)] == [name for name in whole if name in part]


def test_draws_differ_and_a_draw_does_not_depend_on_how_many_there_are():
    many = episodes.draw(store((9, 9, 9)), "train", "test", [3], 5, 0)
    few = episodes.draw(store((9, 9, 9)), "train", "test", [3], 2, 3)
    assert len(set(many.hashes(3))) == 5
    assert many.hashes(3)[3:] == few.hashes(3)


def test_k_beyond_a_class_names_the_class_its_count_and_the_remedy():
    with pytest.raises(InputError, match=r"k_shot=5: class .bow. has only 4 .*videos.*lower k_shot to at most 4"):
        episodes.draw(store(), "train", "test", [1, 5], 2, 0)


def test_a_class_that_only_queries_have_is_refused():
    data = store()
    data.splits["train"] = [name for name in data.splits["train"] if not name.startswith("kick")]
    with pytest.raises(InputError, match="class 'kick' has only 0 labelled videos"):
        episodes.draw(data, "train", "test", [1], 2, 0)


def test_classes_in_neither_split_are_left_out():
    data = store()
    for split in data.splits:
        data.splits[split] = [name for name in data.splits[split] if not name.startswith("clap")]
    drawn = episodes.draw(data, "train", "test", [2], 2, 0)
    assert drawn.classes == ("bow", "kick")
    assert set(drawn.query_labels) == {0, 1}
    np.testing.assert_array_equal(np.array(drawn.ids)[drawn.queries],
                                  [name for name in data.ids if name in data.splits["test"]])


def test_splits_that_share_a_clip_are_refused():
    data = store()
    data.splits["test"].append("clap-0")
    with pytest.raises(InputError, match="share 1 clips, such as 'clap-0'"):
        episodes.draw(data, "train", "test", [1], 2, 0)


def test_unlabelled_clips_are_neither_support_nor_query():
    data = store()
    data.labels = data.labels.copy()
    data.labels[[0, len(data) - 1]] = -1
    drawn = episodes.draw(data, "train", "test", [1], 2, 0)
    assert 0 not in drawn.pool
    assert len(data) - 1 not in drawn.queries
    data.labels[:] = -1
    with pytest.raises(InputError, match="query=test: the split has no labelled clip"):
        episodes.draw(data, "train", "test", [1], 2, 0)


def test_within_one_split_the_drawn_videos_are_not_asked():
    data = store((6, 6, 6), queries=0)
    data.groups = [f"video-{name[:-1]}{int(name[-1]) // 2}" for name in data.ids]  # two tracks a video
    drawn = episodes.draw(data, "train", "train", [1, 2], 3, 0)
    for row, asked in zip(drawn.support(2), drawn.asked, strict=True):
        videos = {data.groups[i] for i in drawn.pool[row]}
        assert [data.groups[i] not in videos for i in drawn.queries] == list(asked)
        assert asked.any() and not asked.all()
    with pytest.raises(InputError, match="no query is left"):
        episodes.draw(data, "train", "train", [3], 3, 0)


def test_a_clip_that_is_pool_and_query_is_used_once():
    shared = episodes.draw(store((6, 6, 6), queries=0), "train", "train", [1], 2, 0)
    apart = episodes.draw(store(), "test", "train", [1], 2, 0)  # the pool's positions are not before the queries'
    for drawn in (shared, apart):
        assert len(set(drawn.used)) == len(drawn.used)
        np.testing.assert_array_equal(drawn.used[:len(drawn.pool)], drawn.pool)
        np.testing.assert_array_equal(drawn.used[drawn.query_rows], drawn.queries)
    assert len(shared.used) == 18 and shared.transductive
    assert len(apart.used) == len(apart.ids) and not apart.transductive


def test_two_tracks_of_one_video_are_not_two_shots():
    data = store((6, 6, 6))
    data.groups = [f"{name[:-1]}{int(name[-1]) // 2}" for name in data.ids]
    drawn = episodes.draw(data, "train", "test", [1, 3], 20, 0)
    for row in drawn.support(3):
        assert len({data.groups[i] for i in drawn.pool[row]}) == 9
    with pytest.raises(InputError, match=r"only 3 labelled videos"):
        episodes.draw(data, "train", "test", [4], 2, 0)


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(InputError, match=r"no split 'val'.*train, test"):
        episodes.draw(store(), "train", "val", [1], 2, 0)
