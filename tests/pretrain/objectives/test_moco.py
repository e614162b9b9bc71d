"""Momentum contrast: its keys, its queue, the videos that are never negatives, mining, strong views; and it learns."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pretrain.objectives.moco import MoCo, MoCoConfig, divergence
from skelcore.config import build
from skelcore.errors import InputError
from skelcore.store import Store
from skelcore.views import ViewConfig
from tests.pretrain.objectives import learning

SMALL: dict[str, Any] = {"projection": 4, "queue": 10, "divergence": 0.0, "mining_from": 1.0}


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def moco(**changes: Any) -> MoCo:
    objective = learning.objective(MoCo, MoCoConfig(**{**SMALL, **changes}))
    assert isinstance(objective, MoCo)
    return objective.train()


def info_nce(query: torch.Tensor, key: torch.Tensor, negatives: list[torch.Tensor], temperature: float = 0.07) -> float:
    powers = [math.exp(float(query @ k) / temperature) for k in (key, *negatives)]
    return -math.log(powers[0] / sum(powers))


def test_negatives_are_the_keys_of_other_videos_in_the_batch_and_before_it() -> None:
    objective, videos = moco(), torch.tensor([0, 1, 1, 2])
    queries, keys, later = unit(4, 4), unit(4, 4, seed=1), unit(4, 4, seed=2)
    other = [[1, 2, 3], [0, 3], [0, 3], [0, 1, 2]]
    first = objective.loss(queries, keys, torch.ones(4), videos)[0]
    assert first.item() == pytest.approx(sum(info_nce(queries[i], keys[i], [keys[j] for j in other[i]])
                                             for i in range(4)) / 4, rel=1e-5)
    objective.update(0.1)
    second = objective.loss(queries, later, torch.ones(4), videos)[0]
    assert second.item() == pytest.approx(
        sum(info_nce(queries[i], later[i], [entries[j] for entries in (later, keys) for j in other[i]])
            for i in range(4)) / 4, rel=1e-5)


def test_a_clips_own_key_of_an_earlier_epoch_does_not_matter() -> None:
    objective, queries, keys, videos = moco(), unit(2, 4), unit(2, 4, seed=1), torch.tensor([7, 8])
    before = objective.loss(queries, keys, torch.ones(2), videos)[0]
    objective._new.clear()
    objective.queue.add(torch.tensor([7]), queries[:1])  # as near to the first query as a key can be
    losses = [info_nce(queries[0], keys[0], [keys[1]]), info_nce(queries[1], keys[1], [keys[0], queries[0]])]
    assert objective.loss(queries, keys, torch.ones(2), videos)[0].item() == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert before.item() != pytest.approx(sum(losses) / 2, rel=1e-5)


def test_all_forward_passes_of_a_step_are_queued_once_and_only_in_training() -> None:
    objective = moco()
    for seed in range(3):
        objective.loss(unit(4, 4), unit(4, 4, seed=seed), torch.ones(4), torch.arange(4) + 4 * seed)
    objective.eval().loss(unit(4, 4), unit(4, 4, seed=9), torch.ones(4), torch.arange(90, 94))
    assert len(objective.queue.entries()[0]) == 0
    objective.update(0.5)
    videos, keys = objective.queue.entries()
    assert sorted(videos.tolist()) == list(range(2, 12))
    assert torch.equal(keys[videos == 11][0], unit(4, 4, seed=2)[3])
    objective.update(0.6)
    assert objective.queue.added == 12


def test_mining_adds_the_nearest_key_of_another_video_from_its_share_of_the_run_on() -> None:
    objective, queries, keys = moco(mining_from=0.5), unit(2, 4), unit(2, 4, seed=1)
    near = F.normalize(keys[0] + 0.1 * keys[1], dim=0)
    objective.queue.add(torch.tensor([5, 0, 6]), torch.stack([near, keys[0], -keys[0]]))
    videos, candidates = torch.tensor([0, 6]), [keys[1], near, -keys[0]]

    def loss() -> float:
        return objective.loss(queries, keys, torch.tensor([1.0, 0.0]), videos)[1]["contrast"].item()

    def row(positive: torch.Tensor) -> float:
        everything = [keys[0], *candidates]
        return -math.log(math.exp(float(queries[0] @ positive) / 0.07)
                         / sum(math.exp(float(queries[0] @ k) / 0.07) for k in everything))

    objective.config = objective.config.model_copy(update={"confidence": True})
    assert loss() == pytest.approx(row(keys[0]), rel=1e-5)
    objective._new.clear()
    objective.update(0.5)
    assert loss() == pytest.approx((row(keys[0]) + row(near)) / 2, rel=1e-5)
    resumed = moco(mining_from=0.5)
    resumed.load_state_dict(objective.state_dict())
    assert bool(resumed.mining) and len(resumed.queue.entries()[0]) == 3


def test_divergence_is_the_cross_entropy_to_a_target_without_gradients() -> None:
    strong, weak = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weak[:, 3] = strong[:, 3] = -1e9  # a key of the same video
    strong.requires_grad_()
    weak.requires_grad_()
    found = divergence(strong, weak)
    for row, (s, w) in enumerate(zip(strong.tolist(), weak.tolist(), strict=True)):
        kept = [0, 1, 2, 4]
        p, q = ([math.exp(x[k]) / sum(math.exp(x[j]) for j in kept) for k in kept] for x in (w, s))
        assert found[row].item() == pytest.approx(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
    found.sum().backward()
    assert weak.grad is None and strong.grad is not None and torch.isfinite(strong.grad).all()


def test_the_strong_view_costs_a_pass_only_where_it_has_a_weight(store: Store) -> None:
    batch = learning.clips(store)
    for weight, passes, views in ((0.0, 1, 4), (0.5, 2, 6)):
        objective, calls = moco(divergence=weight), []
        objective.encoder.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        seen = objective.see(batch, torch.Generator().manual_seed(0))
        loss, terms = objective(*seen)
        assert (len(calls), len(seen)) == (passes, views + 2)
        assert loss.item() == pytest.approx(sum(weight * terms[name].item() if name == "divergence" else
                                                terms[name].item() for name in terms), rel=1e-5)
    calm = moco(divergence=1, strong=ViewConfig(joint_dropout=0, part_mask=0, frame_spans=0))
    seen = calm.see(batch, torch.Generator().manual_seed(0))
    assert (seen[5] > 0).all() and not (seen[1] > 0).all()


def test_the_teacher_makes_the_keys_and_follows(store: Store) -> None:
    objective = moco(momentum=0.9)
    seen = objective.see(learning.clips(store), torch.Generator().manual_seed(0))
    queries, keys, *_ = objective.embed(*seen)
    assert queries.requires_grad and not keys.requires_grad
    assert not any(p.requires_grad for p in (*objective.slow_encoder.parameters(), *objective.slow_head.parameters()))
    fast, slow = objective.head[0].weight, objective.slow_head[0].weight
    before = slow.clone()
    with torch.no_grad():
        fast.add_(1)
    objective.update(0.1)
    assert slow.numpy() == pytest.approx((0.9 * before + 0.1 * fast).detach().numpy(), abs=1e-6)


def test_a_resumed_objective_goes_on_as_the_saved_one(store: Store) -> None:
    parts = list(learning.batches(learning.clips(store), 8, 5))[:5]
    saved, resumed = (moco(divergence=1.0, mining_from=0.0, queue=13) for _ in range(2))
    learning.train(saved, parts[:3])
    resumed.load_state_dict(saved.state_dict())
    assert learning.train(saved, parts[3:]) == learning.train(resumed, parts[3:])


@pytest.mark.parametrize("values", [{"queue": 0}, {"temperature": 0}, {"momentum": 1.0}, {"neighbours": 0},
                                    {"mining_from": 1.1}, {"divergence": -1}, {"strong": {"crop_min": 2}}, {"K": 9}])
def test_settings_out_of_bounds_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        build(MoCoConfig, values, "test")


@pytest.mark.parametrize("name", ["ctrgcn", "transformer", "x3d-shallow"])
def test_every_family_trains(store: Store, name: str) -> None:
    objective = learning.objective(MoCo, MoCoConfig(projection=8, queue=5), name)
    losses = learning.train(objective, list(learning.batches(learning.clips(store), 4, 2))[:2])
    assert all(map(math.isfinite, losses))


@pytest.mark.slow
def test_neighbours_of_another_person_beat_random_weights(store: Store) -> None:
    assert learning.gain(MoCo, MoCoConfig(projection=32, queue=50), store) > 0.1
