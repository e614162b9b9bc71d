"""Training on a draw's support: schedule, first classifier, what each way trains, and that it touches only its copy."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt import episodes, features, tuning
from adapt.config import TRAINING, AdaptConfig
from adapt.tuning import affine, finetune, lora
from skelcore import annotations, layouts
from skelcore.encoders import ENCODERS, build
from skelcore.sequence import PoseSequence
from skelcore.store import Subset


def posture(label, take):
    """A body of random joints that tells the class, and noise."""
    body = np.random.default_rng(label).uniform(0, 100, (17, 2))
    points = body + np.random.default_rng([label, take]).normal(0, 2, (1, 12, 17, 2))
    return PoseSequence(points, np.ones((1, 12, 17)), layouts.get("coco17"), id=f"{label}-{take}", label=label)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Three classes of posture; queries are other clips."""
    sequences = [posture(label, take) for label in range(3) for take in range(8)]
    splits = {"train": [each.id for each in sequences if each.id[-1] < "4"],
              "test": [each.id for each in sequences if each.id[-1] >= "4"]}
    path = tmp_path_factory.mktemp("clips") / "clips.pkl"
    annotations.write_pyskl(path, sequences, splits)
    store = annotations.read(path)
    drawn = episodes.draw(store, "train", "test", [2], 2, 0)
    clips = features.Clips(Subset(store, drawn.used), 8, 1, store.layout)
    torch.manual_seed(0)
    encoder = build("stgcn++", store.layout, width=8)
    features.calibrate(encoder, clips.inputs(encoder))
    return encoder, clips, drawn


def trained(task, way, steps, seed=0):
    encoder, clips, drawn = task
    support, labels = clips.rows(drawn.support(2)[0]), torch.from_numpy(drawn.labels(2))
    return tuning.train(way, encoder, clips, support, labels, 3, steps, seed)


def small(name):
    """An encoder of any kind, small, and its inputs."""
    torch.manual_seed(0)
    encoder = build(name, "coco17", width=32 if name == "transformer" else 8).eval()
    x, _ = encoder.inputs(torch.rand(2, 1, 8, 17, 2) * 100, torch.ones(2, 1, 8, 17))
    return encoder, x


def test_the_ways_are_those_that_an_evaluation_names():
    assert set(tuning.WAYS) == set(TRAINING)


@pytest.mark.parametrize("count", [1, 5, 32, 50])
def test_every_clip_is_drawn_equally_often_and_in_a_new_order(count):
    generator = torch.Generator().manual_seed(0)
    first, second = (tuning._draw(count, generator) for _ in range(2))
    times = torch.bincount(first, minlength=count)
    assert len(first) == tuning.BATCH and times.max() - times.min() <= 1
    assert count == 1 or not torch.equal(first, second)


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing():
    rates = [tuning.schedule((step + 0.5) / 150) for step in range(150)]
    assert rates[:15] == pytest.approx([(step + 0.5) / 15 for step in range(15)])
    assert rates[15:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * (step + 0.5) / 135) for step in range(135)])


def test_the_first_classifier_compares_with_prototypes_as_the_naive_rule_does():
    generator = torch.Generator().manual_seed(1)
    found, labels = torch.randn(7, 5, generator=generator) + 3, torch.tensor([0, 0, 1, 1, 1, 3, 3])
    head = tuning.prototypes(found, labels, 4)
    centre = found.mean(0)
    unit = sum(float((row - centre).norm()) ** 2 for row in found) / 7
    for query in torch.randn(3, 5, generator=generator):
        logits = head(query).detach()
        assert logits[2] == pytest.approx(0, abs=1e-5)  # no clip of that class
        for label in (0, 1, 3):
            mean = sum(row - centre for row, own in zip(found, labels, strict=True) if own == label)
            expected = tuning.SHARPNESS * (query - centre) @ (mean / mean.norm()) / unit**0.5
            assert logits[label] == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_features_that_are_all_the_same_give_a_classifier_of_no_opinion():
    head = tuning.prototypes(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]), 2)
    torch.testing.assert_close(head(torch.ones(1, 3)), torch.zeros(1, 2))


def test_one_step_of_the_classifier_is_adamws(task, monkeypatch):
    """Without views and in one step, the linear layer moves by the rate against the sign of its gradient."""
    encoder, clips, drawn = task
    monkeypatch.setattr(tuning, "Views", lambda config: lambda keypoints, scores, *_: (keypoints, scores))
    labels = torch.from_numpy(drawn.labels(2))
    _, start = trained(task, "finetune", 0, 7)
    _, head = trained(task, "finetune", 1, 7)
    generator = torch.Generator().manual_seed(7)
    torch.randperm(len(labels), generator=generator)  # the order in which the first classifier sees the support
    order = tuning._draw(len(labels), generator)
    batch = clips.rows(drawn.support(2)[0][order.numpy()])
    start.requires_grad_(True)
    logits = start(copy.deepcopy(encoder).train()(*encoder.inputs(batch.keypoints, batch.scores)))
    loss = -(logits.log_softmax(1) * (0.9 * torch.eye(3) + 0.1 / 3)[labels[order]]).sum(1).mean()
    gradient, = torch.autograd.grad(loss, start.weight)
    rate = finetune.WAY.rate * tuning.schedule(0.5)
    expected = start.weight * (1 - rate * tuning.HEAD_DECAY) - rate * gradient.sign()
    clear = gradient.abs() > 1e-4
    assert clear.float().mean() > 0.5
    torch.testing.assert_close(head.weight[clear], expected[clear], rtol=1e-4, atol=1e-6)


def test_full_tuning_moves_layers_near_the_input_less(task):
    encoder, *_ = task
    groups = finetune.prepare(copy.deepcopy(encoder), torch.Generator())
    scale = {len(parameter.shape): group["scale"] for group in groups for parameter in group["params"]}
    assert scale and {round(group["scale"], 9) for group in groups} == {round(0.8**i, 9) for i in range(11)}
    tuned, _ = trained(task, "finetune", 2)
    moved = [(tuned.get_parameter(f"blocks.{i}.time.fuse.weight") - encoder.get_parameter(
        f"blocks.{i}.time.fuse.weight")).abs().max() for i in (0, 9)]
    assert 0 < moved[0] < 0.5 * moved[1]


@pytest.mark.parametrize("name", ENCODERS)
def test_adapters_start_as_the_encoder_fit_every_kind_and_leave_an_ordinary_one(name):
    encoder, x = small(name)
    with torch.no_grad():
        before, keys = encoder(x), set(encoder.state_dict())
    groups = lora.prepare(encoder, torch.Generator().manual_seed(0))
    adapted = [parameter for group in groups for parameter in group["params"]]
    assert {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad} == set(map(id, adapted))
    torch.testing.assert_close(encoder(x), before, rtol=0, atol=0)
    encoder(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapted)
    assert any(parameter.grad.abs().max() > 0 for parameter in adapted)
    with torch.no_grad():
        for parameter in adapted:
            parameter += 0.02
        changed = encoder(x)
    lora.finish(encoder)
    assert set(encoder.state_dict()) == keys and (changed - before).abs().max() > 1e-4
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), changed)


def test_an_adapter_is_the_product_of_its_two_factors():
    layer = nn.Conv2d(6, 5, (3, 1))
    before = layer.weight.detach().clone()
    holder = nn.Sequential(layer, nn.Conv2d(8, 8, 3, groups=8), nn.Linear(9, lora.RANK))
    down, up = lora.prepare(holder, torch.Generator().manual_seed(0))[0]["params"]  # the other two have none
    with torch.no_grad():
        up.normal_(generator=torch.Generator().manual_seed(1))
    for o in range(5):
        for i in range(6):
            for t in range(3):
                added = sum(up[o, r].item() * down[r, 3 * i + t].item() for r in range(lora.RANK))
                found = layer.weight[o, i, t, 0].item() - before[o, i, t, 0].item()
                assert found == pytest.approx(added * lora.ALPHA / lora.RANK, abs=1e-5)


def test_only_weights_of_adapters_change_the_encoder(task):
    encoder, *_ = task
    tuned, _ = trained(task, "lora", 2)
    for key, value in encoder.state_dict().items():
        after = tuned.state_dict()[key]
        if key.endswith("weight") and value.ndim > 1 and min(value.flatten(1).shape) > lora.RANK:
            rank = torch.linalg.matrix_rank((after - value).flatten(1), rtol=1e-3)
            assert 1 <= rank <= lora.RANK, key
        elif "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(after, value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_affine_trains_scales_and_shifts_of_norms_alone(name):
    encoder, x = small(name)
    groups = affine.prepare(encoder, torch.Generator())
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm | nn.LayerNorm)]
    expected = {id(parameter) for norm in norms for parameter in (norm.weight, norm.bias)}
    assert {id(parameter) for group in groups for parameter in group["params"]} == expected
    assert {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad} == expected
    encoder(x).square().sum().backward()
    assert all(norm.weight.grad is not None and norm.bias.grad is not None for norm in norms)


def test_prototypes_do_not_depend_on_how_a_support_sorted_by_class_falls_into_batches(task, monkeypatch):
    """Batches of one class would each be centred on it, which hides the class."""
    encoder, clips, drawn = task
    monkeypatch.setattr(tuning, "BATCH", 2)
    found = tuning._features(copy.deepcopy(encoder).train(), clips.rows(drawn.support(2)[0]), "joint",
                             torch.Generator().manual_seed(0))
    between = (found.unflatten(0, (3, 2)).mean(1) - found.mean(0)).norm()
    monkeypatch.setattr(tuning, "BATCH", 6)
    whole = tuning._features(copy.deepcopy(encoder).train(), clips.rows(drawn.support(2)[0]), "joint",
                             torch.Generator().manual_seed(0))
    assert between > 0.3 * (whole.unflatten(0, (3, 2)).mean(1) - whole.mean(0)).norm()


@pytest.mark.parametrize("way", tuning.WAYS)
def test_batch_norm_follows_the_support_and_ends_in_evaluation_mode(task, way):
    encoder, *_ = task
    tuned, _ = trained(task, way, 1)
    assert not any(module.training for module in tuned.modules())
    for key in ("blocks.0.time.fuse_bn.running_mean", "blocks.9.time.bn.running_var"):
        assert not torch.allclose(encoder.get_buffer(key), tuned.get_buffer(key))


@pytest.mark.parametrize("way", tuning.WAYS)
def test_a_prediction_depends_on_no_other_query(task, way):
    _, clips, drawn = task
    tuned, head = trained(task, way, 2)
    together = tuning.classify(tuned, head, clips.only(drawn.query_rows))
    alone = [tuning.classify(tuned, head, clips.only(drawn.query_rows[[i]]))[0] for i in range(len(drawn.queries))]
    assert together.tolist() == alone
    backwards = tuning.classify(tuned, head, replace(clips.only(drawn.query_rows[::-1]), batch_size=5))
    assert together.tolist() == backwards[::-1].tolist()
    with torch.no_grad():
        (x, valid), = clips.only(drawn.query_rows).inputs(tuned)
        torch.testing.assert_close(tuned(x, valid)[:1], tuned(x[:1], valid), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", tuning.WAYS)
def test_a_draw_does_not_depend_on_those_beside_it_and_the_encoder_is_left_alone(task, way):
    encoder, clips, drawn = task
    state, random = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    both = tuning.predict(way, encoder, clips, drawn, 2, 3, 0)
    np.testing.assert_array_equal(tuning.predict(way, encoder, clips, drawn.first(1), 2, 3, 0), both[:1])
    assert both.shape == (2, 12) and torch.equal(torch.get_rng_state(), random)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, state[key])
    first, again, other = (trained(task, way, 2, seed)[1].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_support_is_found_where_base_clips_come_first(task):
    """Statistics may come from other classes, whose clips then lie before the pool."""
    encoder, clips, drawn = task
    order = np.concatenate([drawn.queries, drawn.pool])
    moved = replace(drawn, base=drawn.queries)
    assert moved.used.tolist() == order.tolist()
    store = Subset(clips.store.store, moved.used)
    expected = tuning.predict("affine", encoder, clips, drawn.first(1), 2, 2, 0)
    np.testing.assert_array_equal(
        tuning.predict("affine", encoder, replace(clips, store=store), moved.first(1), 2, 2, 0), expected)


@pytest.mark.slow
@pytest.mark.parametrize("way", tuning.WAYS)
def test_it_learns_what_tells_the_classes(task, way):
    encoder, clips, drawn = task
    steps = AdaptConfig.model_fields["tune"].default.steps
    assert (tuning.predict(way, encoder, clips, drawn.first(1), 2, steps, 0) == drawn.query_labels).mean() > 0.8
