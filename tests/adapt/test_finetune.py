"""Fine-tuning: what it draws and how fast, that it learns, and that it touches nothing but its copy."""

import math

import numpy as np
import pytest
import torch

from adapt import episodes, features, finetune
from adapt.config import AdaptConfig
from skelcore import annotations, layouts
from skelcore.encoders import build
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
    return build("stgcn++", store.layout, width=8), clips, drawn


@pytest.mark.parametrize("count", [1, 5, 32, 50])
def test_every_clip_is_drawn_equally_often_and_in_a_new_order(count):
    generator = torch.Generator().manual_seed(0)
    first, second = (finetune._draw(count, generator) for _ in range(2))
    times = torch.bincount(first, minlength=count)
    assert len(first) == finetune.BATCH and times.max() - times.min() <= 1
    assert count == 1 or not torch.equal(first, second)


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing():
    rates = [finetune._schedule((step + 0.5) / 150) for step in range(150)]
    assert rates[:15] == pytest.approx([(step + 0.5) / 15 for step in range(15)])
    assert rates[15:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * (step + 0.5) / 135) for step in range(135)])


def test_one_step_is_adamws(task, monkeypatch):
    """Without views and in one step, the linear layer moves by the rate against the sign of its gradient."""
    encoder, clips, drawn = task
    monkeypatch.setattr(finetune, "Views", lambda config: lambda keypoints, scores, *_: (keypoints, scores))
    rows, labels = drawn.support(2)[0], torch.from_numpy(drawn.labels(2))
    untouched, start = finetune.train(encoder, clips, clips.rows(rows), labels, 3, 0, 7)
    _, head = finetune.train(encoder, clips, clips.rows(rows), labels, 3, 1, 7)
    order = finetune._draw(len(rows), torch.Generator().manual_seed(7))
    batch = clips.rows(rows[order.numpy()])
    logits = start(untouched.train()(*encoder.inputs(batch.keypoints, batch.scores)))
    loss = -(logits.log_softmax(1) * (0.9 * torch.eye(3) + 0.1 / 3)[labels[order]]).sum(1).mean()
    gradient, = torch.autograd.grad(loss, start.weight)
    rate = finetune.RATE * finetune._schedule(0.5)
    expected = start.weight * (1 - rate * finetune.DECAY) - rate * gradient.sign()
    clear = gradient.abs() > 1e-4
    torch.testing.assert_close(head.weight[clear], expected[clear], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_it_learns_what_tells_the_classes_and_leaves_the_encoder_alone(task):
    encoder, clips, drawn = task
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    before = torch.get_rng_state()
    steps = AdaptConfig.model_fields["finetune_steps"].default
    predicted = finetune.predict(encoder, clips, drawn.first(1), 2, steps, 0)
    assert predicted.shape == (1, 12) and (predicted == drawn.query_labels).mean() > 0.8
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in encoder.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_a_draw_does_not_depend_on_those_beside_it(task):
    encoder, clips, drawn = task
    both = finetune.predict(encoder, clips, drawn, 2, 3, 0)
    np.testing.assert_array_equal(finetune.predict(encoder, clips, drawn.first(1), 2, 3, 0), both[:1])
    support, labels = clips.rows(drawn.support(2)[0]), torch.from_numpy(drawn.labels(2))
    first, again, other = (finetune.train(encoder, clips, support, labels, 3, 2, seed)[1].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
