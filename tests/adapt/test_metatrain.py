"""Meta-training: losses against naive loops, what a batch holds, which clips are used, and that it pays."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapt import base_clips, losses, metatrain, tasks
from adapt.features import Clips, encode, freeze
from adapt.metatrain import MetatrainConfig
from adapt.splits.record import Split, write
from skelcore import annotations, checkpoint
from skelcore.encoders import build
from skelcore.errors import InputError, RunError
from skelcore.seen import shared
from skelcore.store import Subset, open_store
from tests.adapt.clips import moving_joint

NAMES = [f"joint {i}" for i in range(12)]
BASE, WATCHED = NAMES[:4], NAMES[4:6]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve classes, each the swing of another joint: four of them base, two for validation, the others novel."""
    clips = [moving_joint(label, seed) for label in range(12) for seed in range(8)]
    path = tmp_path_factory.mktemp("data") / "clips.pkl"
    annotations.write_pyskl(path, clips, {"some": [clip.id for clip in clips[::2]]}, classes=NAMES)
    return str(path)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint of random weights, as pretraining writes one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "checkpoint.pt"
    checkpoint.save_encoder(path, build("stgcn++", "coco17", width=8), 12, "joint", persons=1, fill=0.25,
                            seen=torch.tensor([5]))
    return str(path)


@pytest.fixture
def config(data, start, tmp_path):
    def build_config(**changes):
        return MetatrainConfig(**{"data": data, "checkpoint": start, "output": str(tmp_path / "out"), "way": 3,
                                  "base_classes": BASE, "steps": 3, "look_every": 1, "device": "cpu", **changes})
    return build_config


def naive_supcon(features, labels, temperature):
    unit = [row / row.norm() for row in features]
    total, anchors = 0.0, 0
    for i, own in enumerate(labels):
        positives = [p for p, other in enumerate(labels) if p != i and other == own]
        if not positives:
            continue
        anchors += 1
        everybody = sum(math.exp(float(unit[i] @ unit[a]) / temperature) for a in range(len(unit)) if a != i)
        total -= sum(float(unit[i] @ unit[p]) / temperature - math.log(everybody) for p in positives) / len(positives)
    return total / anchors if anchors else 0.0


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.sampled_from([0.1, 0.5, 2.0]), st.integers(0, 99))
def test_supcon_is_equation_2(labels, temperature, seed):
    features = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(seed)).double().requires_grad_(True)
    loss = losses.supcon(features, torch.tensor(labels), temperature)
    assert loss.item() == pytest.approx(naive_supcon(features.detach(), labels, temperature), rel=1e-6, abs=1e-9)
    loss.backward()
    assert torch.isfinite(features.grad).all()


def test_supcon_is_least_where_classes_are_points_apart():
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    assert losses.supcon(apart, labels, 0.1) < 1e-6
    assert losses.supcon(torch.ones(4, 2), labels, 0.1).item() == pytest.approx(math.log(3))
    torch.testing.assert_close(losses.supcon(7 * apart, labels, 0.5), losses.supcon(apart, labels, 0.5))


@pytest.mark.parametrize(("way", "shot", "queries"), [(2, 1, 1), (3, 2, 4), (5, 3, 1)])
def test_prototypical_is_equation_2(way, shot, queries):
    generator = torch.Generator().manual_seed(way)
    support, asked = (torch.randn(way, count, 4, generator=generator).double() for count in (shot, queries))
    means = [sum(support[i, s] for s in range(shot)) / shot for i in range(way)]
    total = 0.0
    for i in range(way):
        for query in asked[i]:
            distances = [float(((query - mean) ** 2).sum()) for mean in means]
            total += distances[i] + math.log(sum(math.exp(-each) for each in distances))
    assert losses.prototypical(support, asked).item() == pytest.approx(total / (way * queries))


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_batch_holds_different_clips_of_different_classes(seed, step):
    members = [np.arange(10 * i, 10 * i + 5 + i) for i in range(4)]
    config = MetatrainConfig(data="", checkpoint="", way=3, shot=2, queries=3, seed=seed)
    rows = metatrain.draw(members, config, step)
    assert rows.shape == (3, 5) and len(np.unique(rows)) == 15
    assert (rows // 10 == rows[:, :1] // 10).all() and len(set(rows[:, 0] // 10)) == 3
    np.testing.assert_array_equal(rows, metatrain.draw(members, config, step))


def test_every_clip_and_class_gets_its_turn():
    members = [np.arange(10 * i, 10 * i + 4) for i in range(5)]
    config = MetatrainConfig(data="", checkpoint="", way=2)
    drawn = np.concatenate([metatrain.draw(members, config, step).flatten() for step in range(300)])
    times = np.unique(drawn, return_counts=True)[1]
    assert len(times) == 20 and times.min() > 30 and times.max() < 90  # 60 expected


def test_clips_are_those_of_the_named_classes(data):
    store = open_store(data)
    found = base_clips.choose(store, None, None, None, WATCHED)
    assert found.base == tuple(each for each in NAMES if each not in WATCHED) and found.validation == tuple(WATCHED)
    names = [store.classes[i] for i in store.labels[found.positions]]
    assert names == [([*found.base, *found.validation])[i] for i in found.labels]
    half = base_clips.choose(store, "some", None, BASE, [])
    assert set(half.positions) == {i for i, each in enumerate(store.ids)
                                   if each in store.splits["some"] and store.classes[store.labels[i]] in BASE}
    assert half.looks(5, 10, 0) is None and [len(each) for each in half.members(4)] == [4] * 4


def test_what_an_evaluation_asks_is_neither_trained_on_nor_looked_at(data, tmp_path):
    store = open_store(data)
    of = {name: [store.ids[i] for i in np.flatnonzero(store.labels == label)] for label, name in enumerate(NAMES)}
    parts = {"base": tuple(of["joint 0"] + of["joint 1"][:5]), "novel": tuple(of["joint 6"] + of["joint 7"])}
    write(tmp_path / "splits.json", [Split("episodes", "ours", 0, parts)])
    found = base_clips.choose(store, None, str(tmp_path / "splits.json"), None, WATCHED)
    used = [store.ids[i] for i in found.positions]
    assert used[:13] == list(parts["base"]) and set(used[13:]) == {*of["joint 4"], *of["joint 5"]}
    with pytest.raises(InputError, match="validation_classes: no clip of a class 'joint 6'"):
        base_clips.choose(store, None, str(tmp_path / "splits.json"), None, ["joint 6"])
    write(tmp_path / "other.json", [Split("splits", "ours", 0, {"query": tuple(of["joint 6"])})])
    with pytest.raises(InputError, match="no part `base`"):
        base_clips.choose(store, None, str(tmp_path / "other.json"), None, [])


@pytest.mark.parametrize(("changes", "message"), [
    ({"base_classes": ["joint 0", "joint 100"]}, "base_classes: no clip of a class 'joint 100'.*you mean 'joint 10'"),
    ({"base_classes": ["joint 0", "joint 0"]}, "base_classes: 'joint 0' is named twice"),
    ({"validation_classes": ["joint 3", "joint 4"]}, "'joint 3' is among base_classes, too"),
    ({"validation_classes": ["joint 4"]}, "name two or more"),
    ({"way": 5}, "way=5: only 4 base classes; lower way"),
    ({"queries": 8}, "base class 'joint 0' has 8 clips, shot [+] queries take 9"),
    ({"split": "none"}, "no split 'none'"),
    ({"project": True}, "project=true is for 3D poses"),
    ({"checkpoint": "nowhere.pt"}, "nowhere.pt: no such file"),
])
def test_what_cannot_be_trained_is_refused_in_one_line(config, changes, message):
    with pytest.raises(InputError, match=message):
        metatrain.prepare(config(**changes))


def test_the_checkpoint_that_it_starts_from_is_not_overwritten(config, start):
    with pytest.raises(InputError, match="would overwrite checkpoint="):
        metatrain.prepare(config(output=str(start).removesuffix("/checkpoint.pt")))
    with pytest.raises(InputError, match="no such file"):
        metatrain.prepare(config(output=str(start).removesuffix("/checkpoint.pt"), checkpoint="nowhere.pt"))


def test_the_command_writes_a_checkpoint_that_an_evaluation_reads(config, data, start, tmp_path, capsys):
    words = [f"data={data}", f"checkpoint={start}", f"output={tmp_path / 'out'}", "way=3", "steps=2", "look_every=1",
             f"base_classes={BASE}", f"validation_classes={WATCHED}", "device=cpu", "objective=protonet"]
    assert metatrain.main([*words, "--dry-run"]) == 0 and not (tmp_path / "out").exists()
    assert "protonet on 32 clips of 4 base classes" in capsys.readouterr().out
    assert metatrain.main(words) == 0 and "validation 1-shot accuracy" in capsys.readouterr().out
    encoder, meta = checkpoint.load_encoder(tmp_path / "out" / "checkpoint.pt")
    assert (meta["frames"], meta["persons"], meta["stream"], meta["fill"]) == (12, 1, "joint", 0.25)
    assert meta["base_classes"] == BASE and meta["selection"]["classes"] == WATCHED
    assert [each["step"] for each in meta["history"]] == [0, 1, 2] and meta["selection"] | meta["history"][
        meta["step"]] == meta["selection"]
    store = open_store(data)
    overlap = {store.classes[store.labels[list(store.ids).index(each)]] for each in shared(meta["seen"], store.ids)}
    assert overlap == {*BASE, *WATCHED} and 5 in meta["seen"]
    assert encoder.spec["name"] == "stgcn++" and (tmp_path / "out" / "config.yaml").exists()


def test_classes_may_be_named_by_digits():
    config = MetatrainConfig(data="", checkpoint="", base_classes=[0, 12], validation_classes=[3])
    assert config.base_classes == ["0", "12"] and config.validation_classes == ["3"]


@pytest.mark.parametrize("init", ["checkpoint", "random"])
def test_two_runs_are_equal_bit_for_bit_and_leave_all_else_alone(config, init):
    work, random = metatrain.prepare(config(init=init)), torch.get_rng_state()
    before = copy.deepcopy(work.source.encoder.state_dict())
    first, again = (metatrain.train(work, config(init=init))[0].state_dict() for _ in range(2))
    other = metatrain.train(work, config(init=init, seed=1))[0].state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in work.source.encoder.state_dict().items())


@pytest.mark.parametrize(("accuracies", "kept"), [([0.3, 0.5, 0.7, 0.6], 2), ([0.9, 0.5, 0.7, 0.6], 0),
                                                  ([0.3, 0.5, 0.5, 0.5], 1)])
def test_the_best_look_is_kept_the_first_of_equals(config, monkeypatch, accuracies, kept):
    states = []

    def look(encoder, work, step):
        states.append(copy.deepcopy(encoder.state_dict()))
        return {"step": step, "validation": accuracies[step]}

    monkeypatch.setattr(metatrain, "_look", look)
    settings = config(validation_classes=WATCHED)
    encoder, history, chosen = metatrain.train(metatrain.prepare(settings), settings)
    assert chosen["step"] == kept and len(history) == 4
    assert all(torch.equal(value, states[kept][key]) for key, value in encoder.state_dict().items())


def test_without_validation_classes_the_last_step_is_kept(config):
    encoder, history, chosen = metatrain.train(metatrain.prepare(config()), config())
    assert chosen["step"] == 3 and [each["step"] for each in history] == [0, 3] and not encoder.training


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(config, monkeypatch, tmp_path):
    monkeypatch.setattr(losses, "supcon", lambda features, *_: (features * math.nan).sum())
    with pytest.raises(RunError, match="is nan at step 1: lower lr"):
        metatrain.execute(config())
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


@pytest.mark.parametrize("objective", ["supcon", "protonet"])
def test_novel_classes_gain_from_training_on_base_classes(config, data, tmp_path, objective):
    # No mirror, in which a left joint's class is a right joint's, and no gaps: from random weights the time is short.
    views = {"mirror": 0, "joint_dropout": 0, "part_mask": 0, "frame_dropout": 0, "noise": 0}
    torch.manual_seed(0)
    checkpoint.save_encoder(tmp_path / "start.pt", build("transformer", "coco17", width=32), 12, "joint", fill=0.25)
    settings = config(objective=objective, base_classes=NAMES[:8], way=8, steps=40, look_every=40, views=views,
                      checkpoint=str(tmp_path / "start.pt"))
    work = metatrain.prepare(settings)
    store = open_store(data)
    novel = np.flatnonzero(store.labels >= 8)
    clips = Clips(Subset(store, novel), 12, 1, store.layout, fill=0.25)
    episodes = tasks.sample(np.asarray(store.labels)[novel], 4, 1, 5, 200, 0)

    def accuracy(encoder):
        features = encode(encoder, clips.inputs(encoder))
        return tasks.accuracy("prototype", episodes, torch.from_numpy(features - features.mean(0))).mean()

    before, after = accuracy(work.source.encoder), accuracy(freeze(metatrain.train(work, settings)[0]))
    assert after > before + 0.1, f"{before:.3f} -> {after:.3f}"
