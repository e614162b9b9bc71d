"""Mixtures of sources: values, counts, thresholds, projection, and growth in the middle of a run."""

import json
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skelcore import annotations, layouts, shards
from skelcore.batches import ClipDataset, ClipSampler, loader
from skelcore.config import Config, build
from skelcore.errors import InputError, RunError
from skelcore.mixture import open_sources
from skelcore.sequence import PoseSequence
from skelcore.shards import Block
from skelcore.sources import Source, Sources
from skelcore.store import Subset, open_store
from tests.paths import DATA, need

COCO, PENN, NTU, HAND = (layouts.get(name) for name in ("coco17", "penn13", "ntu25", "hand21"))


def poses(seed, frames, layout=COCO, persons=1, channels=2, missing=0.3, label=None):
    generator = np.random.default_rng(seed)
    scores = generator.random((persons, frames, len(layout)))
    scores[generator.random(scores.shape) < missing] = 0
    keypoints = generator.random((*scores.shape, channels)) * 300
    return PoseSequence(keypoints, scores, layout, (300, 300), 15.0, f"s{seed}", label)


def shard(path, keys, layout=COCO, quality=None, tracks=2):
    """One block of two tracks a key; the poses follow from the key."""
    blocks = []
    for key in keys:
        seed = sum(key.encode())
        sequences = [poses(seed + i, 3 + (seed + 5 * i) % 17, layout) for i in range(tracks)]
        numbers = [{} if quality is None else quality(seed + i) for i in range(tracks)]
        blocks.append(Block(key, sequences, numbers, {"label": key[0]}, {}))
    path.parent.mkdir(exist_ok=True)
    return shards.write(path, blocks)


def pyskl(path, sequences, **options):
    annotations.write_pyskl(path, sequences, {}, **options)
    return str(path)


@pytest.fixture
def mixed(tmp_path):
    """Shards in coco17, a pickle in penn13 and a 3D pickle in ntu25."""
    shard(tmp_path / "web" / "a.tar", ["a1", "b1"])
    shard(tmp_path / "web" / "b.tar", ["a2"])
    penn = pyskl(tmp_path / "penn.pkl", [poses(i, 5 + i, PENN, 1 + i % 2, label=i % 2) for i in range(5)],
                 classes=["b", "z"])
    ntu = pyskl(tmp_path / "ntu.pkl", [poses(i, 9, NTU, 2, 3) for i in range(3)])
    return [Source(uri=str(tmp_path / "web"), weight=2), Source(uri=penn), Source(uri=ntu, project=True, weight=0.5)]


def same(found, expected, rows=slice(None)):
    for name in ("keypoints", "scores"):
        assert_array_equal(getattr(found, name)[rows], getattr(expected, name))


@pytest.mark.parametrize("persons", [1, 2])
def test_a_batch_holds_what_each_source_would_give_by_itself(mixed, persons):
    mixture = open_sources(mixed, "penn13")
    assert (len(mixture), mixture.lengths, mixture.weights, mixture.channels) == (14, (6, 5, 3), (2, 1, 0.5), 2)
    dataset = ClipDataset(mixture, 8, persons)
    order = np.random.default_rng(0).permutation(14)
    batch = dataset.__getitems__(order)
    begin = 0
    for part in mixture.parts:
        alone = ClipDataset(part.store, 8, persons, "penn13")
        rows = (begin <= order) & (order < begin + len(alone))
        expected = alone.__getitems__(order[rows] - begin)
        same(batch, expected, rows)
        begin += len(alone)
    subset = ClipDataset(Subset(mixture, order[:9]), 8, persons).__getitems__([7, 0, 3, 2])
    same(subset, dataset.__getitems__(order[[7, 0, 3, 2]]))
    assert dataset.__getitems__([]).keypoints.shape == (0, persons, 8, 13, 2)


def test_a_mixture_is_a_store(mixed):
    mixture = open_sources(mixed, "penn13")
    assert mixture.classes == ["a", "b", "z"]  # the third source has no labels
    assert mixture.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 2, 1, 2, 1, -1, -1, -1]
    assert mixture.ids[0] == "0:a1/0000" and mixture.ids[6] == "1:s0" and len(set(mixture.ids)) == 14
    assert mixture.groups[:2] == ["0:a1", "0:a1"]
    for index, sequence in enumerate(mixture):
        assert (sequence.id, sequence.layout, sequence.frames > 0) == (mixture.ids[index], PENN, True)
        assert sequence.label == (None if mixture.labels[index] < 0 else mixture.labels[index])
        batch = ClipDataset(mixture, sequence.frames, sequence.persons)[index]
        assert_allclose(batch.keypoints[0], sequence.keypoints, atol=1e-3)
    again = open_sources(mixed, "penn13")
    assert again.fingerprint == mixture.fingerprint != open_sources(mixed[:2], "penn13").fingerprint
    copied = pickle.loads(pickle.dumps(ClipDataset(mixture, 4)))  # noqa: S301 - as a spawned worker gets it
    same(copied.__getitems__([13, 0]), ClipDataset(mixture, 4).__getitems__([13, 0]))


def test_equal_names_in_different_data_are_different_videos(mixed, tmp_path):
    sequences = [poses(i, 4) for i in range(3)]
    one, two = (pyskl(tmp_path / name, sequences) for name in ("one.pkl", "two.pkl"))
    sources = [Source(uri=one), Source(uri=two), Source(uri=one, min_frames=2)]
    video = ClipDataset(open_sources(sources), 4).__getitems__(range(9)).video
    assert len(set(video[:6].tolist())) == 6 and torch.equal(video[6:], video[:3])
    mixture = open_sources(mixed, "penn13")
    codes, groups = mixture.group_codes, np.array(list(mixture.groups))
    assert_array_equal(codes[:, None] == codes, groups[:, None] == groups)


def test_the_loader_shows_clips_by_weight_for_any_number_of_processes_and_workers(mixed):
    dataset = ClipDataset(open_sources(mixed, "penn13"), 4)

    def epochs(world, workers):
        found = []
        samplers = [ClipSampler(dataset.lengths, 4, 1, rank, world, weights=dataset.weights) for rank in range(world)]
        loaders = [loader(dataset, sampler, workers) for sampler in samplers]
        for _ in range(2):
            steps = zip(*loaders, strict=True)
            found.append([torch.cat([part.index[i:i + 1] for i in range(4 // world) for part in parts])
                          for parts in steps])
        return torch.stack([torch.cat(epoch) for epoch in found])

    expected = epochs(1, 0)
    assert torch.equal(epochs(2, 0), expected) and torch.equal(epochs(2, 1), expected)
    # 2 x 6 + 5 + round(0.5 x 3) = 19 clips, of which 16 are in whole batches.
    assert expected.shape == (2, 16) and not torch.equal(*expected)


def test_thresholds_equal_a_naive_filter(tmp_path):
    folder = tmp_path / "web"
    keys = [f"k{i:02d}" for i in range(20)]
    shard(folder / "a.tar", keys, quality=lambda seed: {"height": seed % 7 / 7} if seed % 5 else {})
    flat = [poses(i, 2 + i, persons=2, missing=i / 40) for i in range(30)]
    flat[3].scores[1] = 0  # an absent person does not count
    pickled = pyskl(tmp_path / "flat.pkl", flat)
    common = {"min_frames": 9, "min_score": 0.48, "min_seen": 0.65}
    for source in (Source(uri=str(folder), quality={"height": (0.2, 0.8)}, **common), Source(uri=pickled, **common)):
        store, expected = open_store(source.uri), []
        for index, sequence in enumerate(store):
            present = sequence.scores[(sequence.scores > 0).any((1, 2))]
            passes = (sequence.frames >= 9 and present[present > 0].mean() >= 0.48 and (present > 0).mean() >= 0.65
                      and ("height" not in source.quality or 0.2 <= store.quality["height"][index] <= 0.8))
            expected += [index] * bool(passes)
        found = open_sources([source])
        assert list(found.ids) == [store.ids[i] for i in expected] and 0 < len(found) < len(store) / 2


def test_what_the_thresholds_drop_is_counted(tmp_path, caplog):
    frames = [2, 3, 8, 9, 10]
    uri = pyskl(tmp_path / "a.pkl", [PoseSequence(np.ones((1, t, 17, 2)), np.full((1, t, 17), 0.25 + t / 40), COCO,
                                                  id=str(t)) for t in frames])
    with caplog.at_level("INFO"):
        assert len(open_sources([Source(uri=uri, min_frames=8, min_score=0.49)])) == 1
    assert "1 of 5 clips are used; dropped by min_frames 2, min_score 2, min_seen 0" in caplog.text
    with pytest.raises(InputError, match=r"drop all 5 clips \(min_frames 2, min_score 3, min_seen 0\); lower them"):
        open_sources([Source(uri=uri, min_frames=8, min_score=0.9)])


def test_projection_looks_from_the_camera(tmp_path):
    """Kinect's axes: x to the camera's left, y up, z away from it."""
    joints = {"head": (0, 1.7, 3), "left_hand": (-0.5, 1.0, 2.5), "right_hand": (0.5, 0.9, 3)}
    keypoints = np.zeros((1, 2, 25, 3), np.float32)
    for name, place in joints.items():
        keypoints[:, :, NTU.joints.index(name)] = place
    sequence = PoseSequence(keypoints, (keypoints != 0).any(-1), NTU, id="waving")
    uri = pyskl(tmp_path / "a.pkl", [sequence])
    mixture = open_sources([Source(uri=uri, project=True)])
    seen = mixture[0]
    for name, place in joints.items():
        assert_allclose(seen.keypoints[0, 0, NTU.joints.index(name)], [-place[0], -place[1]], atol=1e-3)
    head, left, right = (seen.keypoints[0, 0, NTU.joints.index(name)] for name in joints)
    assert head[1] < left[1]  # the head is up in an image, and of those who face the camera the left is at the right
    assert left[0] > head[0] > right[0]
    assert_array_equal(ClipDataset(mixture, 2)[0].keypoints[0], seen.keypoints)
    assert not np.signbit(seen.keypoints[seen.scores == 0]).any()
    assert mixture.fingerprint != open_sources([Source(uri=uri)]).fingerprint


def test_people_who_face_a_kinect_stand_upright_and_unmirrored():
    mixture = open_sources([Source(uri=str(need(DATA / "poses" / "utdmhad.pkl")), project=True)])
    head, left, right, foot = mixture.layout.index("head", "left_shoulder", "right_shoulder", "left_foot")
    for index in range(0, len(mixture), 50):
        points = mixture[index].keypoints[0].mean(0)
        assert points[head, 1] < points[left, 1] < points[foot, 1] and points[left, 0] > points[right, 0]


class Run(Config):
    data: Sources


@pytest.mark.parametrize(("data", "expected"), [
    ("a.pkl", [{"uri": "a.pkl"}]), ({"uri": "a", "weight": 2}, [{"uri": "a", "weight": 2.0}]),
    (["a", {"uri": "b", "split": "train"}], [{"uri": "a"}, {"uri": "b", "split": "train"}]),
])
def test_sources_are_given_in_short_or_at_length(data, expected):
    found = build(Run, {"data": data}, "test")
    assert [source.model_dump(exclude_unset=True) for source in found.data] == expected
    assert build(Run, found.model_dump(mode="json"), "test") == found


@pytest.mark.parametrize(("data", "message"), [
    ([], "data: .*at least 1"), ({"uri": "a", "weight": 0}, r"weight: input should be greater than 0"),
    ({"uri": "a", "wieght": 1}, r"did you mean 'weight'"), (2024, "write a name of digits as ./2024"),
    ({"uri": "a", "quality": {"height": [0.5, 0.2]}}, "the lowest value 0.5 is above the highest 0.2"),
    ({"uri": "a", "weight": float("inf")}, "weight: .*finite"),
])
def test_sources_that_make_no_sense_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        build(Run, {"data": data}, "test")


def test_sources_that_do_not_go_together_are_refused(mixed, tmp_path):
    web, penn, ntu = mixed
    hand = Source(uri=pyskl(tmp_path / "hand.pkl", [poses(0, 5, HAND)]))
    no_depth = ntu.model_copy(update={"project": False})
    for sources, layout, message in (
            ([], None, "no sources"),
            ([web, penn], None, "layouts coco17, penn13; name the one to train in"),
            ([web, no_depth], "ntu25", "3D poses, but .*web has 2D ones; give the 3D source `project: true`"),
            ([no_depth, web], "ntu25", "2D poses, but .*ntu.pkl has 3D ones"),
            ([web.model_copy(update={"project": True})], None, "project is for 3D poses, these are 2D"),
            ([hand], "coco17", "hand.pkl, in hand21, give none of its joints"),
            ([web.model_copy(update={"quality": {"height": (0, 1)}})], None, "record no such number.*: none"),
            ([penn.model_copy(update={"quality": {"height": (0, 1)}})], None, "quality.height: data=.*penn.pkl"),
            ([web.model_copy(update={"split": "train"})], None, "no split 'train'")):
        with pytest.raises(InputError, match=message):
            open_sources(sources, layout)
    face = layouts.Layout("face", ("nose", "wrist"), ((1, 0),), 0)
    with pytest.raises(InputError, match="no joint of it is in all of coco17, hand21"):
        open_sources([web, hand], face)


def test_one_clip_is_data(tmp_path):
    uri = pyskl(tmp_path / "one.pkl", [poses(0, 1)])
    dataset = ClipDataset(open_sources([Source(uri=uri, weight=3)]), 4)
    sampler = ClipSampler(dataset.lengths, 3, 0, weights=dataset.weights)
    assert [batch.index.tolist() for batch in loader(dataset, sampler)] == [[0, 0, 0]]


class Training:
    """The data side of a run that saves, goes on and grows; ``seen`` is what it was shown: epoch, video, keypoints."""

    def __init__(self, sources, saved=None):
        self.dataset = ClipDataset(open_sources(sources, state=saved and saved["data"]), 3)
        self.sampler = ClipSampler(self.dataset.lengths, 3, 5, weights=self.dataset.weights)
        if saved:
            self.sampler.load_state_dict(saved["sampler"])
        self.seen = []

    def steps(self, count=10**6):
        """Some steps, at most to the end of the epoch."""
        epoch = self.sampler.epoch
        for batch in islice(loader(self.dataset, self.sampler), count):
            self.seen.append((epoch, batch.video.tolist(), batch.keypoints.tolist()))
        return self

    def grow(self):
        grown = self.dataset.refresh()
        if grown is not None:
            self.dataset = grown
            self.sampler.resize(grown.lengths)
        return grown is not None

    def save(self):
        return json.loads(json.dumps({"data": self.dataset.store.state_dict(), "sampler": self.sampler.state_dict()}))


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_run_that_is_resumed_while_its_shards_grow_is_the_uninterrupted_one(tmp_path, stop):
    folder = tmp_path / "web"
    fixed = pyskl(tmp_path / "fixed.pkl", [poses(i, 6) for i in range(3)])
    sources = [Source(uri=str(folder), weight=1.5, min_frames=5), Source(uri=fixed)]
    shard(folder / "b.tar", ["b1", "b2", "b3"])
    shard(folder / "c.tar", [])
    whole = Training(sources)
    assert not whole.grow()
    stopped = Training(sources).steps(stop)
    whole.steps()
    saved = stopped.save()
    shard(folder / "a.tar", ["a1", "a2"])  # stands before the others, so that positions move
    assert whole.grow() and not whole.grow()
    resumed = Training(sources, saved).steps()
    assert stopped.seen + resumed.seen == whole.seen
    assert resumed.grow() and resumed.save() == whole.save()
    assert resumed.steps().seen == (whole.steps().seen)[stop:]
    # A process that is told what another found has the same, whatever has come since.
    shard(folder / "d.tar", ["d1"])
    other = Training(sources, saved).dataset.refresh(whole.dataset.store.state_dict())
    assert other.store.state_dict() == whole.dataset.store.state_dict()
    assert other.store.parts[1] is not None and other.refresh(other.store.state_dict()) is None
    assert len(other.refresh().store) > len(other.store)


def test_growth_keeps_the_sources_that_did_not_grow(tmp_path, monkeypatch):
    shard(tmp_path / "web" / "a.tar", ["a1"])
    fixed = pyskl(tmp_path / "fixed.pkl", [poses(i, 6) for i in range(3)])
    mixture = open_sources([Source(uri=fixed), Source(uri=str(tmp_path / "web"))])
    with monkeypatch.context() as no_reading:
        no_reading.setattr(shards, "read", None)
        assert mixture.refresh() is None
    shard(tmp_path / "web" / "b.tar", ["b1"])
    grown = mixture.refresh()
    assert grown.parts[0] is mixture.parts[0] and grown.lengths == (3, 4)
    codes = dict(zip(grown.groups, grown.group_codes.tolist(), strict=True))
    assert mixture.group_codes.tolist() == [codes[name] for name in mixture.groups]


@pytest.mark.parametrize("new", [False, True])
def test_shards_that_vanish_or_change_end_the_run(tmp_path, new):
    folder = tmp_path / "web"
    for name in ("a", "b"):
        shard(folder / f"{name}.tar", [f"{name}1"])
    sources = [Source(uri=str(folder))]
    mixture = open_sources(sources)
    state = mixture.state_dict()
    if new:
        shard(folder / "c.tar", ["c1"])
    (folder / "a.manifest.json").unlink()
    with pytest.raises(RunError, match=r"a\.tar: the shard has vanished"):
        mixture.refresh()
    (folder / "a.tar").unlink()
    with pytest.raises(RunError, match=r"a\.tar: the shard has vanished"):
        mixture.refresh()
    with pytest.raises(RunError, match=r"a\.tar: the shard has vanished"):
        open_sources(sources, state=state)
    shard(folder / "a.tar", ["a2"])
    with pytest.raises(RunError, match=r"a\.tar: (the shard was replaced|changed while in use)"):
        mixture.refresh()
    with pytest.raises(RunError, match=r"a\.tar: the shard was replaced"):
        open_sources(sources, state=state)
    shard(folder / "a.tar", ["a1"])
    assert len(open_sources(sources, state=state)) == len(mixture)


def test_a_saved_run_goes_on_with_its_own_data_only(tmp_path):
    uri = pyskl(tmp_path / "a.pkl", [poses(i, 6) for i in range(3)])
    state = open_sources([Source(uri=uri)]).state_dict()
    assert open_sources([Source(uri=uri)], state=state).state_dict() == state
    for sources, message in (([Source(uri=uri, min_score=0.5)], "not the clips of the run that was saved"),
                             ([Source(uri=uri)] * 2, "2 sources, but the run that was saved had 1")):
        with pytest.raises(InputError, match=message):
            open_sources(sources, state=state)
    with pytest.raises(InputError, match=r"saved state of the data: .*sources.0.shards"):
        open_sources([Source(uri=uri)], state={"sources": [{"fingerprint": "", "shards": 3}]})
