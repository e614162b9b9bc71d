"""Nearest-neighbour contrast: whose neighbours, which negatives, the support set; and it learns."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pretrain.objectives.nnclr import NNCLR, NNCLRConfig, neighbour
from skelcore.config import build
from skelcore.errors import InputError
from skelcore.store import Store
from skelcore.views import ViewConfig
from tests.pretrain.objectives import learning

SMALL: dict[str, Any] = {"hidden": 16, "projection": 4, "support": 10, "mining_from": 0.0}
STILL = ViewConfig(crop_min=1, speed=0, mirror=0, affine=0, noise=0, joint_dropout=0, part_mask=0, frame_spans=0)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def nnclr(**changes: Any) -> NNCLR:
    objective = learning.objective(NNCLR, NNCLRConfig(**{**SMALL, **changes}))
    assert isinstance(objective, NNCLR)
    return objective.train()


@settings(max_examples=40, deadline=None)
@given(clips=st.integers(1, 5), rows=st.integers(0, 7), seed=st.integers(0, 99))
def test_neighbour_is_the_most_similar_allowed_or_the_embedding_itself(clips: int, rows: int, seed: int) -> None:
    embeddings, support = unit(clips, 3, seed=seed), unit(rows, 3, seed=seed + 100)
    allowed = torch.rand(clips, rows, generator=torch.Generator().manual_seed(seed)) < 0.5
    for embedding, may, found in zip(embeddings, allowed, neighbour(embeddings, support, allowed), strict=True):
        choices = [support[k] for k in range(rows) if may[k]]
        assert torch.equal(found, max(choices, key=lambda row: float(embedding @ row)) if choices else embedding)


def naive(first: torch.Tensor, second: torch.Tensor, from_first: torch.Tensor, from_second: torch.Tensor,
          videos: list[int], support: list[tuple[int, torch.Tensor]], weights: list[float]) -> float:
    total = 0.0
    for own, predictions in ((first, from_second), (second, from_first)):
        for i, video in enumerate(videos):
            others = [row for other, row in support if other != video]
            aim = max(others, key=lambda row: float(own[i] @ row)) if others else own[i]
            powers = {k: math.exp(float(aim @ predictions[k]) / 0.1) for k in range(len(videos))
                      if k == i or videos[k] != video}
            total -= weights[i] * math.log(powers[i] / sum(powers.values())) / 2 / sum(weights)
    return total


@pytest.mark.parametrize("confident", [False, True])
def test_loss_equals_a_naive_loop_with_an_empty_and_a_filled_support_set(confident: bool) -> None:
    objective, videos = nnclr(confidence=confident), [3, 1, 1, 2]
    views, weights = [unit(4, 4, seed=seed) for seed in range(4)], torch.tensor([0.2, 1.0, 0.5, 0.3])
    expected = weights.tolist() if confident else [1.0] * 4
    support: list[tuple[int, torch.Tensor]] = []
    for _ in range(2):
        loss, terms = objective.loss(*views, weights, torch.tensor(videos))
        assert loss.item() == pytest.approx(naive(*views, videos, support, expected), rel=1e-5)
        assert terms["contrast"].item() == loss.item()
        objective.update(0.1)
        support = list(zip(videos, views[0], strict=True))


def test_a_clips_own_embedding_of_an_earlier_epoch_is_no_neighbour() -> None:
    objective, views = nnclr(), [unit(2, 4, seed=seed) for seed in range(4)]
    objective.support.add(torch.tensor([7, 7, 9]), torch.stack([views[0][0], views[1][0], -views[0][0]]))
    support = list(zip([7, 7, 9], [views[0][0], views[1][0], -views[0][0]], strict=True))
    loss = objective.loss(*views, torch.ones(2), torch.tensor([7, 8]))[0]
    assert loss.item() == pytest.approx(naive(*views, [7, 8], support, [1.0, 1.0]), rel=1e-5)


def test_a_clips_own_view_stands_for_the_neighbour_until_mining_begins() -> None:
    objective, views, videos = nnclr(mining_from=0.5), [unit(3, 4, seed=seed) for seed in range(4)], [0, 1, 2]
    others = list(zip([5, 6, 7], unit(3, 4, seed=9), strict=True))
    objective.support.add(torch.tensor([5, 6, 7]), unit(3, 4, seed=9))
    for progress, support in ((0.4, []), (0.5, others)):
        objective.update(progress)
        resumed = nnclr(mining_from=0.5)
        resumed.load_state_dict(objective.state_dict())
        loss = resumed.loss(*views, torch.ones(3), torch.tensor(videos))[0]
        assert loss.item() == pytest.approx(naive(*views, videos, support, [1.0] * 3), rel=1e-5)


def test_gradients_flow_through_predictions_and_not_through_neighbours() -> None:
    objective = nnclr()
    views = [unit(3, 4, seed=seed).requires_grad_() for seed in range(4)]
    objective.loss(*views, torch.ones(3), torch.arange(3))[0].backward()
    assert [view.grad is not None for view in views] == [False, False, True, True]


def test_the_support_set_takes_each_pass_of_a_step_in_training_alone_and_is_saved() -> None:
    objective = nnclr()
    for seed in range(3):
        objective.loss(*[unit(4, 4, seed=seed)] * 4, torch.ones(4), torch.arange(4) + 4 * seed)
    objective.eval().loss(*[unit(4, 4, seed=9)] * 4, torch.ones(4), torch.arange(90, 94))
    objective.update(0.5)
    restored = nnclr()
    restored.load_state_dict(objective.state_dict())
    for support in (objective.support, restored.support):
        videos, rows = support.entries()
        assert sorted(videos.tolist()) == list(range(2, 12))
        assert torch.equal(rows[videos == 11][0], unit(4, 4, seed=2)[3]) and not rows.requires_grad


def test_a_resumed_objective_goes_on_as_the_saved_one(store: Store) -> None:
    parts = list(learning.batches(learning.clips(store), 8, 5))[:5]
    saved, resumed = nnclr(support=13), nnclr(support=13)
    learning.train(saved, parts[:3])
    resumed.load_state_dict(saved.state_dict())
    assert learning.train(saved, parts[3:]) == learning.train(resumed, parts[3:])


def test_one_clip_and_bad_settings_are_refused(store: Store) -> None:
    objective = nnclr()
    with pytest.raises(InputError, match="at least 2 clips"):
        objective(*objective.see(next(learning.batches(learning.clips(store), 1, 1)), torch.Generator()))
    for values in ({"support": 0}, {"temperature": 0}, {"hidden": 0}, {"mining_from": 2}, {"queue": 4}):
        with pytest.raises(InputError, match=next(iter(values))):
            build(NNCLRConfig, values, "test")


@pytest.mark.parametrize("name", ["ctrgcn", "transformer", "x3d-shallow"])
def test_every_family_trains(store: Store, name: str) -> None:
    objective = learning.objective(NNCLR, NNCLRConfig(hidden=8, projection=8, support=5), name, views=STILL)
    losses = learning.train(objective, list(learning.batches(learning.clips(store), 4, 2))[:2])
    assert all(map(math.isfinite, losses))


@pytest.mark.slow
def test_neighbours_of_another_person_beat_random_weights(store: Store) -> None:
    assert learning.gain(NNCLR, NNCLRConfig(hidden=64, projection=32, support=80, mining_from=0.5), store) > 0.1
