"""Sampling order, time resampling and loading, against naive loops and across processes."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skelcore import layouts, shards
from skelcore.batches import Batch, ClipDataset, ClipSampler, loader
from skelcore.errors import InputError, RunError
from skelcore.sequence import PoseSequence
from skelcore.shards import Block
from skelcore.store import Subset

COCO = layouts.get("coco17")


class Memory:
    """A store in memory."""

    channels, classes, splits, fingerprint = 2, ("x", "y"), {}, "0" * 64

    def __init__(self, sequences: list[PoseSequence], layout=COCO) -> None:
        self.sequences, self.layout = sequences, layout
        self.channels = sequences[0].keypoints.shape[-1]
        self.labels = np.arange(len(sequences)) % 2
        self.ids = self.groups = [f"s{i}" for i in range(len(sequences))]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> PoseSequence:
        return self.sequences[index]


def poses(seed: int, frames: int, persons: int = 1, missing: float = 0.3, channels: int = 2) -> PoseSequence:
    generator = np.random.default_rng(seed)
    scores = generator.random((persons, frames, 17))
    scores[generator.random(scores.shape) < missing] = 0
    return PoseSequence(generator.random((persons, frames, 17, channels)) * 300, scores, COCO, (300, 300), 15.0)


def naive(sequence: PoseSequence, frames: int, persons: int) -> tuple[np.ndarray, np.ndarray]:
    """One clip, joint by joint."""
    have, length, joints, channels = sequence.keypoints.shape
    keypoints, scores = np.zeros((have, frames, joints, channels)), np.zeros((have, frames, joints))
    for step in range(frames):
        time = step * (length - 1) / (frames - 1) if frames > 1 else (length - 1) / 2
        low = int(np.floor(time + 1e-9))
        weight = max(time - low, 0.0)
        high = min(low + 1, length - 1)
        for person in range(have):
            for joint in range(joints):
                before, after = (float(sequence.scores[person, frame, joint]) for frame in (low, high))
                share = weight if before > 0 and after > 0 else float(weight > 0.5 + 1e-9)
                score = (1 - share) * before + share * after
                scores[person, step, joint] = score
                if score > 0:
                    keypoints[person, step, joint] = ((1 - share) * sequence.keypoints[person, low, joint].astype(float)
                                                      + share * sequence.keypoints[person, high, joint])
    best = sorted(sorted(range(have), key=lambda person: -(scores[person] > 0).sum())[:persons])
    shape = (persons, frames, joints)
    all_keypoints, all_scores = np.zeros((*shape, channels)), np.zeros(shape)
    all_keypoints[:len(best)], all_scores[:len(best)] = keypoints[best], scores[best]
    return all_keypoints, all_scores


def write(path, sequences: list[PoseSequence]) -> shards.ShardStore:
    """One block of each two sequences, over two shards."""
    blocks = [Block(f"v{i:03d}", sequences[i:i + 2], [{} for _ in sequences[i:i + 2]], {"label": f"c{i % 3}"}, {})
              for i in range(0, len(sequences), 2)]
    shards.write(path / "a.tar", blocks[:len(blocks) // 2])
    shards.write(path / "b.tar", blocks[len(blocks) // 2:])
    return shards.read(path)


@pytest.mark.parametrize("frames", [1, 2, 7, 16, 40])
@pytest.mark.parametrize("persons", [1, 2, 4])
def test_resampling_equals_a_naive_loop(frames, persons):
    store = Memory([poses(0, 16), poses(1, 1), poses(2, 31, 3), poses(3, 2, 2, missing=0.9), poses(4, 7, missing=0)])
    batch = ClipDataset(store, frames, persons).__getitems__(range(5))
    for clip, sequence in enumerate(store.sequences):
        keypoints, scores = naive(sequence, frames, persons)
        assert_allclose(batch.scores[clip], scores, atol=1e-6)
        assert_array_equal(batch.scores[clip] > 0, scores > 0)
        assert_allclose(batch.keypoints[clip], keypoints, atol=1e-3)


def test_shards_give_the_clips_of_the_sequences_they_hold(tmp_path):
    sequences = [poses(i, 1 + 5 * i % 37, 1 + i % 3 * (i % 2)) for i in range(40)]
    store = write(tmp_path, sequences)
    held = Memory([store[i] for i in range(len(store))])
    for frames, persons in ((1, 1), (13, 2), (37, 3)):
        order = np.random.default_rng(0).permutation(40)
        found = ClipDataset(store, frames, persons).__getitems__(order)
        expected = ClipDataset(held, frames, persons).__getitems__(order)
        assert_allclose(found.keypoints, expected.keypoints, atol=1e-3)
        assert_allclose(found.scores, expected.scores, atol=1e-6)
        assert_array_equal(found.scores > 0, expected.scores > 0)
        assert_array_equal(found.labels, store.labels[order])
        assert_array_equal(found.index, order)
        # Against the poses before they were quantised: within half a step of 1.5 x 300 pixels.
        one = naive(sequences[order[0]], frames, persons)
        assert np.abs(found.keypoints[0].numpy() - one[0]).max() < 450 / 65535


def test_a_clip_at_its_own_length_is_unchanged():
    sequence = poses(0, 23)
    batch = ClipDataset(Memory([sequence]), 23)[0]
    assert_array_equal(batch.keypoints[0], sequence.keypoints)
    assert_array_equal(batch.scores[0], sequence.scores)


def test_layouts_convert_as_sequences_do(tmp_path):
    sequences = [poses(i, 9) for i in range(4)]
    target = layouts.get("ntu25")
    batch = ClipDataset(Memory(sequences), 9, layout="ntu25").__getitems__(range(4))
    for clip, sequence in enumerate(sequences):
        converted = sequence.to_layout(target)
        assert_allclose(batch.keypoints[clip], converted.keypoints, atol=1e-4)
        assert_allclose(batch.scores[clip], converted.scores)
    assert (batch.scores.numpy() > 0).any(axis=(0, 1, 2)).sum() < 25  # hand tips and thumbs stay missing
    from_shards = ClipDataset(write(tmp_path, sequences), 9, layout=target)
    assert from_shards.layout == target
    assert_allclose(from_shards.__getitems__(range(4)).keypoints, batch.keypoints, atol=0.01)


def test_depth_can_be_dropped_but_not_invented():
    store = Memory([poses(0, 5, channels=3)])
    assert_array_equal(ClipDataset(store, 5, channels=2)[0].keypoints[0], store[0].keypoints[..., :2])
    assert ClipDataset(store, 5)[0].keypoints.shape == (1, 1, 5, 17, 3)
    with pytest.raises(InputError, match="channels=3, but the data have 2"):
        ClipDataset(Memory([poses(0, 5)]), 5, channels=3)


def test_subset_reads_its_part_and_numbers_it_by_itself(tmp_path):
    store = write(tmp_path, [poses(i, 6) for i in range(10)])
    subset = Subset(Subset(store, np.array([8, 3, 5, 1])), np.array([2, 0]))
    batch = ClipDataset(subset, 6).__getitems__([1, 0])
    assert batch.index.tolist() == [1, 0] and batch.labels.tolist() == store.labels[[8, 5]].tolist()
    assert_array_equal(batch.keypoints, ClipDataset(store, 6).__getitems__([8, 5]).keypoints)


def test_sets_in_memory_are_resampled_once_when_they_are_small(monkeypatch):
    store = Memory([poses(i, 6) for i in range(600)])
    first = ClipDataset(store, 4).__getitems__([599, 3])
    dataset = ClipDataset(store, 4)
    monkeypatch.setattr(Memory, "__getitem__", None)
    assert_array_equal(dataset.__getitems__([599, 3]).keypoints, first.keypoints)
    monkeypatch.undo()
    monkeypatch.setattr("skelcore.batches._CACHE_BYTES", 0)
    assert_array_equal(ClipDataset(store, 4).__getitems__([599, 3]).keypoints, first.keypoints)


# Clips, processes, clips a process and step, seed, shuffle, drop_last.
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 6), st.integers(1, 8), st.integers(0, 5), st.booleans(),
                  st.booleans())


def samplers(length, world, each, seed, shuffle, drop_last, epoch):
    found = [ClipSampler(length, world * each, seed, rank, world, shuffle, drop_last) for rank in range(world)]
    for sampler in found:
        sampler.set_epoch(epoch)
    return found


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(0, 3))
def test_processes_share_an_epoch_exactly(sizes, epoch):
    length, world, each, seed, shuffle, drop_last = sizes
    if drop_last and world * each > length:
        length += world * each
    ranks = [list(sampler) for sampler in samplers(length, world, each, seed, shuffle, drop_last, epoch)]
    single = list(samplers(length, 1, world * each, seed, shuffle, drop_last, epoch)[0])
    assert {len(batches) for batches in ranks} == {len(single)}
    for step, batch in enumerate(single):
        parts = [batches[step] for batches in ranks]
        assert all(part == batch[rank::world] for rank, part in enumerate(parts))
        assert sorted(index for part in parts for index in part) == sorted(batch)
        if drop_last:
            assert {len(part) for part in parts} == {each}
    seen = [index for batch in single for index in batch]
    assert len(set(seen)) == len(seen) == (length // (world * each) * (world * each) if drop_last else length)
    assert shuffle or seen == list(range(len(seen)))


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 200))
def test_resumed_order_is_the_uninterrupted_one(sizes, stop):
    length, world, each, seed, shuffle, _ = sizes
    sampler = samplers(length, world, each, seed, shuffle, False, 2)[-1]
    whole = list(sampler)
    for _ in range(min(stop, len(whole))):
        sampler.advance()
    resumed = ClipSampler(length, world * each, seed, world - 1, world, shuffle, False)
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(2)
    assert list(resumed) == whole[min(stop, len(whole)):]


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed, epoch):
        return [i for batch in samplers(100, 1, 10, seed, True, True, epoch)[0] for i in batch]

    assert order(0, 0) == order(0, 0) != order(0, 1) != order(1, 0) != order(0, 0)


SOURCES = st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 3.5)), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(SOURCES, st.integers(1, 4), st.integers(0, 3))
def test_weights_decide_how_often_a_clip_occurs(sources, world, epoch):
    lengths, weights = zip(*sources, strict=True)
    ranks = [ClipSampler(lengths, world, 3, rank, world, drop_last=False, weights=weights) for rank in range(world)]
    single = ClipSampler(lengths, world, 3, drop_last=False, weights=weights)
    for sampler in (*ranks, single):
        sampler.set_epoch(epoch)
    order = [index for batch in single for index in batch]
    assert order == [index for step in zip(*ranks, strict=True) for part in step for index in part]
    counts = np.bincount(order, minlength=sum(lengths))
    assert len(order) == single.length
    for begin, (length, weight) in zip(np.cumsum([0, *lengths]), sources, strict=False):
        of_source = counts[begin:begin + length]
        shown = max(1, round(weight * length))
        assert of_source.sum() == shown and set(of_source) <= {shown // length, shown // length + 1}


def test_the_part_of_a_pass_is_drawn_anew_in_each_epoch():
    sampler = ClipSampler([40, 10], 10, 0, weights=[0.25, 2])
    shown = np.zeros(50)
    for epoch in range(400):
        sampler.set_epoch(epoch)
        order = np.concatenate(list(sampler))
        assert_array_equal(np.bincount(order, minlength=50)[40:], 2)
        shown += np.bincount(order, minlength=50)
    assert np.abs(shown[:40] / 400 - 0.25).max() < 0.1  # 4.6 standard deviations
    assert len(set(order[order < 40].tolist())) == 10


def test_an_epoch_takes_a_new_length_at_its_beginning_only():
    sampler = ClipSampler([10, 4], 2, 0, weights=[1, 0.5])
    sampler.advance()
    with pytest.raises(ValueError, match="step 1 of an epoch"):
        sampler.resize([12, 4])
    sampler.next_epoch()
    sampler.resize([12, 4])
    fresh = ClipSampler([12, 4], 2, 0, weights=[1, 0.5])
    fresh.set_epoch(1)
    assert list(sampler) == list(fresh) and len(sampler) == 7


@pytest.mark.parametrize("weights", [[0.0], [-1.0], [float("nan")], [float("inf")]])
def test_weights_must_be_positive(weights):
    with pytest.raises(InputError, match="must be positive"):
        ClipSampler(9, 3, 0, weights=weights)


@pytest.mark.parametrize(("arguments", "message"), [
    ((10, 3, 0, 0, 2), "batch_size=3 must be a positive multiple of the number of processes, 2"),
    ((10, 16, 0), "batch_size=16 exceeds the 10 clips"), ((0, 1, 0), "no clips"), ((9, 0, 0), "batch_size=0"),
    ((9, 2, 0, 2, 2), "rank 2 is not one of 2"),
])
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ClipSampler(*arguments)


def test_saved_orders_of_other_data_are_refused():
    sampler = ClipSampler(20, 4, 0)
    for change, message in (({"lengths": [21]}, r"lengths=\[21\]"), ({"weights": [2.0]}, r"weights=\[2.0\]"),
                            ({"seed": 1}, "seed=1"), ({"step": 6}, "step 6")):
        with pytest.raises(InputError, match=message):
            sampler.load_state_dict({**sampler.state_dict(), **change})
    sampler.load_state_dict({"epoch": 3, "step": 2})
    assert (sampler.epoch, sampler.step) == (3, 2)


@pytest.fixture
def dataset(tmp_path) -> ClipDataset:
    return ClipDataset(write(tmp_path, [poses(i, 5 + i) for i in range(22)]), 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_counts_what_was_used_and_resumes_there(dataset, workers):
    def run(sampler, most=10**6):
        return [batch.index.tolist() for batch, _ in zip(loader(dataset, sampler, workers), range(most), strict=False)]

    sampler = ClipSampler(22, 4, 7)
    first, second = run(sampler), run(sampler)
    assert len(first) == len(second) == 5 and first != second and (sampler.epoch, sampler.step) == (2, 0)
    stopped = ClipSampler(22, 4, 7)
    batches = iter(loader(dataset, stopped, workers))
    used = [next(batches).index.tolist() for _ in range(2)]
    state = stopped.state_dict()  # while the workers have read ahead
    assert (state["epoch"], state["step"]) == (0, 2)
    resumed = ClipSampler(22, 4, 7)
    resumed.load_state_dict(state)
    rest = run(resumed)
    assert used + rest == first
    assert run(resumed) == second


def test_an_epoch_saved_after_its_last_batch_goes_on_with_the_next(dataset):
    sampler = ClipSampler(22, 11, 0)
    batches = iter(loader(dataset, sampler, 0))
    next(batches), next(batches)
    resumed = ClipSampler(22, 11, 0)
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(0)
    assert list(loader(dataset, resumed, 0)) == [] and (resumed.epoch, resumed.step) == (1, 0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same_batches(dataset, method):
    expected = list(loader(dataset, ClipSampler(22, 8, 0, drop_last=False), 0))
    parallel = loader(dataset, ClipSampler(22, 8, 0, drop_last=False), 1)
    parallel._loader.multiprocessing_context = method
    found = list(parallel)
    assert [len(batch) for batch in found] == [8, 8, 6]
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("keypoints", "scores", "labels", "index", "video"):
            assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_is_named_in_one_line(tmp_path, workers):
    dataset = ClipDataset(write(tmp_path, [poses(i, 5) for i in range(8)]), 4)
    (tmp_path / "b.tar").unlink()
    with pytest.raises(RunError, match=r"b\.tar: the shard has vanished") as caught:
        list(loader(dataset, ClipSampler(8, 2, 0), workers))
    assert "\n" not in str(caught.value)


def test_clips_of_one_video_have_one_number(tmp_path):
    store = write(tmp_path, [poses(i, 3) for i in range(12)])
    order = [11, 3, 2, 10, 7, 6]
    video = ClipDataset(store, 3).__getitems__(order).video.tolist()
    assert [video.index(number) for number in video] == [0, 1, 1, 0, 4, 4]
    # Another set with some of the videos, read in another way, knows them by the same numbers.
    held = Memory([store[i] for i in (2, 10, 11)])
    held.groups = [store.groups[i] for i in (2, 10, 11)]
    assert ClipDataset(held, 3).__getitems__([0, 1, 2]).video.tolist() == [video[1], video[0], video[0]]
    assert ClipDataset(Subset(store, np.array(order)), 3).__getitems__(range(6)).video.tolist() == video


def test_loading_leaves_torchs_global_generator_alone(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(dataset, ClipSampler(22, 8, 0), 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_process_without_a_share_of_the_last_batch_gets_an_empty_one(dataset):
    batches = list(loader(dataset, ClipSampler(22, 21, 0, rank=2, world=3, drop_last=False), 0))
    assert [len(batch) for batch in batches] == [7, 0]
    assert batches[1].keypoints.shape == (0, 1, 8, 17, 2) and batches[1].scores.shape == (0, 1, 8, 17)


def test_batches_move_and_datasets_pickle(dataset):
    batch = dataset.__getitems__([1, 2])
    assert isinstance(batch.to("cpu"), Batch) and batch.to("meta").keypoints.device.type == "meta"
    assert batch.keypoints.dtype == batch.scores.dtype == torch.float32 and batch.labels.dtype == torch.int64
    copied = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own object, as a worker gets it
    assert_array_equal(copied.__getitems__([1, 2]).keypoints, batch.keypoints)
