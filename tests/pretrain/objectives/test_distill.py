"""Contrast and distillation against naive loops, the members' queues and teachers, refusals, and that both learn."""

import copy
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pretrain.distributed import Group
from pretrain.objectives.contrast import logits
from pretrain.objectives.distill import Distill, DistillConfig, divergence
from skelcore import encoders
from skelcore.config import build
from skelcore.errors import InputError
from skelcore.store import Store
from tests.pretrain.objectives import learning
from tests.skelcore.clips import seeded

MOTION = {"name": "stgcn++", "width": 8, "stream": "joint_motion"}
BONE = {"name": "stgcn++", "width": 8, "stream": "bone"}


def softmax(values: list[float]) -> list[float]:
    return [math.exp(x) / sum(map(math.exp, values)) for x in values]


def naive_contrast(positive: float, negatives: list[float], temperature: float) -> float:
    return -math.log(softmax([x / temperature for x in (positive, *negatives)])[0])


def naive_divergence(student: list[float], teacher: list[float], neighbours: int | None = None) -> float:
    nearest = sorted(range(len(teacher)), key=lambda k: -teacher[k])[:neighbours]
    aims, found = (softmax([x[k] for k in nearest]) for x in (teacher, student))
    return sum(p * math.log(p / q) for p, q in zip(aims, found, strict=True))


def config(*partners: dict[str, object], **changes: object) -> DistillConfig:
    return build(DistillConfig, {"partners": list(partners), "queue": 64, "projection": 8, **changes}, "test")


def distill(*partners: dict[str, object], name: str = "stgcn++", width: int = 8,
            setting: dict[str, object] | None = None, **changes: object) -> Distill:
    return learning.objective(lambda encoder, config, given: Distill(encoder, config, replace(given, **setting or {})),
                              config(*partners, **changes), name, width)


def embedded(clips: int, members: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    return (*torch.randn(2, clips, members, 8, generator=generator), torch.rand(clips, generator=generator))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 4), entries=st.integers(0, 6), neighbours=st.sampled_from([None, 1, 3, 9]),
       seed=st.integers(0, 99))
def test_divergence_equals_a_naive_loop(count: int, entries: int, neighbours: int | None, seed: int) -> None:
    student, teacher = 9 * torch.randn(2, count, entries, generator=seeded(seed), dtype=torch.float64)
    assert divergence(student, teacher, neighbours).tolist() == pytest.approx(
        [naive_divergence(*rows, neighbours) for rows in zip(student.tolist(), teacher.tolist(), strict=True)])


def test_what_is_not_allowed_leaves_neither_probability_nor_nan() -> None:
    queries, teachers, keys = F.normalize(torch.randn(3, 5, 4, generator=seeded()), dim=2)
    allowed = torch.tensor([True] * 3 + [False] * 2).expand(5, -1)
    queries.requires_grad_()
    kept = divergence(queries @ keys[:3].T / 0.1, teachers @ keys[:3].T / 0.05)
    for neighbours in (None, 4):
        loss = divergence(logits(queries, keys, allowed, 0.1), logits(teachers, keys, allowed, 0.05), neighbours)
        assert torch.allclose(loss, kept, atol=1e-6)
        assert torch.autograd.grad(loss.sum(), queries, retain_graph=True)[0].isfinite().all()
    none = [logits(x, keys, allowed & False, 0.1) for x in (queries, teachers)]
    assert divergence(*none).tolist() == [0.0] * 5


@pytest.mark.parametrize(("members", "confidence"), [(2, False), (2, True), (3, True)])
def test_every_ordered_pair_of_members_enters_the_loss(members: int, confidence: bool) -> None:
    objective = distill(*(MOTION, BONE)[:members - 1], distillation=0.5, confidence=confidence)
    objective.loss(*embedded(5, members), torch.tensor([0, 1, 2, 3, 4]))
    objective.update(0)
    queries, keys, weights = embedded(3, members, seed=1)
    videos = [1, 7, 4]
    loss, terms = objective.loss(queries, keys, weights, torch.tensor(videos))
    known, *entries = objective.queue.entries()
    others = [*zip(keys, videos, strict=True), *zip(torch.stack(entries, 1), known, strict=True)]
    contrast = distillation = 0.0
    for n, video in enumerate(videos):
        weight = weights[n].item() / weights.sum().item() if confidence else 1 / 3
        near = [[[float(F.cosine_similarity(x[n, m], key[m], 0)) / t for key, other in others if other != video]
                 for m in range(members)] for x, t in ((queries, 0.1), (keys, 0.05))]
        for m in range(members):
            positive = float(F.cosine_similarity(queries[n, m], keys[n, m], 0))
            contrast += weight * naive_contrast(positive, [0.1 * x for x in near[0][m]], 0.07)
        for student, teacher in permutations(range(members), 2):
            distillation += weight * naive_divergence(near[0][student], near[1][teacher])
    assert terms["contrast"].item() == pytest.approx(contrast, rel=1e-4)
    assert terms["distillation"].item() == pytest.approx(distillation, rel=1e-4)
    assert loss.item() == pytest.approx(contrast + 0.5 * distillation, rel=1e-4)


def test_clips_of_the_same_video_are_no_neighbours() -> None:
    objective, (queries, keys, weights) = distill(MOTION), embedded(2)
    objective.queue.add(torch.tensor([0, 0, 5]), *torch.randn(2, 3, 8, generator=seeded()))

    def loss() -> float:
        return objective.loss(queries, keys, weights, torch.tensor([0, 0]))[0].item()

    before = loss()
    objective.queue.get_buffer("keys0")[:2] *= -1
    assert loss() == before
    objective.queue.get_buffer("keys0")[2] *= -1
    assert loss() != before


def test_each_queue_takes_its_own_teacher_s_keys_of_all_accumulated_clips() -> None:
    class Twice(Group):
        def gather(self, x: Tensor) -> Tensor:
            return torch.cat([x, x])

    objective = distill(MOTION, setting={"group": Twice()}).train()
    first, second = embedded(3), embedded(2, seed=1)
    objective.loss(*first, torch.arange(3))
    objective.loss(*second, torch.arange(3, 5))
    assert len(objective.queue.entries()[0]) == 0
    objective.update(0)
    videos, *keys = objective.queue.entries()
    assert videos.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 3, 4]
    for member in range(2):
        expected = [F.normalize(x[1][:, member], dim=1) for x in (first, first, second, second)]
        assert torch.equal(keys[member], torch.cat(expected))
    objective.update(0)
    assert len(objective.queue.entries()[0]) == 10


def test_teachers_follow_and_take_no_gradients(store: Store) -> None:
    objective = distill(MOTION, momentum=0.75)
    slow = [p.clone() for p in (*objective.teachers.parameters(), *objective.teacher_heads.parameters())]
    fast = [*objective.encoder.parameters(), *objective.partners.parameters(), *objective.heads.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(slow, fast, strict=True))
    with torch.no_grad():
        for p in fast:
            p += 1
    objective.update(0)
    moved = (*objective.teachers.parameters(), *objective.teacher_heads.parameters())
    assert all(torch.allclose(p + 0.25, q, atol=1e-6) for p, q in zip(slow, moved, strict=True))
    loss, _ = objective(*objective.see(learning.clips(store), seeded()))
    loss.backward()
    assert all(p.grad is None for p in moved) and all(p.grad is not None for p in fast)


def test_a_resumed_run_equals_an_uninterrupted_one(store: Store) -> None:
    parts = list(learning.batches(learning.clips(store), 4, 5))
    objective, resumed = distill(MOTION, queue=6), distill(MOTION, queue=6)
    learning.train(objective, parts[:3])
    resumed.load_state_dict(copy.deepcopy(objective.state_dict()))
    assert learning.train(objective, parts[3:5]) == learning.train(resumed, parts[3:5])
    for one, other in zip(objective.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_members_are_handed_out_with_their_streams() -> None:
    objective = distill({"name": "x3d-shallow", "width": 8, "stream": "bone"}, {**MOTION, "width": None}, width=32)
    members = objective.encoders()
    assert [(key, encoder.name, encoder.width, stream) for key, (encoder, stream) in members.items()] == [
        ("", "stgcn++", 32, "joint"), ("x3d-shallow-bone", "x3d-shallow", 8, "bone"),
        ("stgcn++-joint_motion", "stgcn++", 32, "joint_motion")]
    assert members[""][0] is objective.encoder
    published = encoders.ENCODERS["posec3d"].WIDTH
    assert distill({"name": "posec3d"}, width=32).encoders()["posec3d-joint"][0].width == published // 2


@pytest.mark.parametrize(("partner", "coordinates", "reason"), [
    ({"name": "stgcn++"}, 2, "reads joint already"),
    ({"name": "posec3d"}, 3, "heatmaps need 2D poses, not 3D"),
    ({"name": "posec3d", "stream": "joint_motion"}, 2, "joint_motion"),
    ({"name": "stgcn+", "stream": "bone"}, 2, "did you mean stgcn"),
    ({"name": "ctrgcn", "width": 4}, 2, "width must be"),
    ({"name": "ctrgcn", "stream": "depth"}, 2, "stream=depth")])
def test_partners_that_do_not_fit_are_refused(partner: dict[str, object], coordinates: int, reason: str) -> None:
    with pytest.raises(InputError, match=rf"^objective\.partners\.1: .*{reason}"):
        distill(MOTION, partner, setting={"coordinates": coordinates})


def test_there_must_be_a_partner() -> None:
    with pytest.raises(InputError, match="partners"):
        config()


@pytest.mark.parametrize(("name", "partner"), [("stgcn++", "x3d-shallow"), ("posec3d", "ctrgcn"),
                                               ("transformer", "potion")])
def test_members_of_different_families_teach_each_other(store: Store, name: str, partner: str) -> None:
    objective = distill({"name": partner, "width": 8}, name=name)
    batch = next(learning.batches(learning.clips(store), 4, 1))
    learning.train(objective, [batch])
    _, terms = objective(*objective.see(batch, seeded()))
    terms["distillation"].backward()
    for encoder, _ in objective.encoders().values():
        gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
        assert gradients and sum(g.abs().sum() for g in gradients) > 0 and all(g.isfinite().all() for g in gradients)


@pytest.mark.slow
def test_both_members_learn(store: Store) -> None:
    objective = distill({**MOTION, "width": 16}, width=16, projection=64, queue=256, momentum=0.9)
    batch = learning.clips(store)

    def accuracies() -> list[float]:
        return [learning.accuracy(encoder, batch, store, stream) for encoder, stream in objective.encoders().values()]

    for encoder, stream in objective.encoders().values():
        encoders.calibrate(encoder, [encoder.inputs(batch.keypoints, batch.scores, stream)])
    before = accuracies()
    learning.train(objective, list(learning.batches(batch, 20, 60)))
    assert all(after > b + 0.1 for after, b in zip(accuracies(), before, strict=True))
