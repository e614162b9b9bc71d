"""Masked latent prediction: its targets from loops, the teacher's way, what is hidden from whom, and that it learns."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pretrain.distributed import Group
from pretrain.momentum import rising
from pretrain.objectives.latent import SPANS, InputMasking, Latent, LatentConfig, centred
from pretrain.objectives.vicreg import covariance_loss, variance_loss
from skelcore.batches import Batch
from skelcore.encoders.transformer import PATCH
from skelcore.errors import InputError
from skelcore.store import Store
from skelcore.views import ViewConfig
from tests.pretrain.objectives import learning
from tests.skelcore.clips import clips, seeded

FAMILIES = ["transformer", "stgcn++", "posec3d", "potion"]
STILL = ViewConfig(affine=0, mirror=0, noise=0, joint_dropout=0, part_mask=0, frame_dropout=0, crop_min=1, speed=0)


def objective(name: str = "transformer", **config: object) -> Latent:
    made = learning.objective(Latent, LatentConfig(**config), name, 32 if name == "transformer" else 8, views=STILL)
    assert isinstance(made, Latent)
    return made.train()


def batch(count: int = 3, persons: int = 1, **options: object) -> Batch:
    keypoints, scores = clips(count, persons, 16, **options)
    index = torch.arange(count)
    return Batch(keypoints, scores, index, index, index)


def naive_target(features: Tensor, clip: int, place: int) -> list[float]:
    values = [float(features[clip, place, d] - sum(float(f[place, d]) for f in features) / len(features))
              for d in range(features.shape[2])]
    mean = sum(values) / len(values)
    spread = sum((v - mean) ** 2 for v in values) / len(values)
    return [(v - mean) / (spread + 1e-5) ** 0.5 for v in values]


def test_targets_equal_a_naive_loop() -> None:
    features = torch.randn(4, 3, 5, generator=seeded(0))
    found = centred(features, Group())
    for clip in range(4):
        for place in range(3):
            assert found[clip, place].tolist() == pytest.approx(naive_target(features, clip, place), abs=1e-5)


def test_targets_do_not_say_where_they_are() -> None:
    features, place = torch.randn(4, 3, 5, generator=seeded(0)), torch.randn(3, 5, generator=seeded(1))
    torch.testing.assert_close(centred(features + 10 * place, Group()), centred(features, Group()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["transformer", "stgcn++"])
def test_the_loss_is_the_weighted_sum_of_naive_terms(name: str) -> None:
    made = objective(name, prediction=2.0, clip=7.0, variance=3.0, covariance=5.0, confidence=True)
    embedded = [x.detach() for x in made.embed(*made.see(batch(), seeded(1)))]
    predicted, target, weights, summary, whole, pooled = embedded
    loss, terms = made.loss(*embedded)
    squared = (predicted - target).square().mean(-1).flatten()
    prediction = sum(w * e for w, e in zip(weights.flatten(), squared, strict=True)) / weights.sum()
    assert terms["prediction"].item() == pytest.approx(prediction.item(), rel=1e-5)
    assert loss.item() == pytest.approx(
        (2 * prediction + 7 * (summary - whole).square().mean() + 3 * variance_loss(pooled)
         + 5 * covariance_loss(pooled)).item(), rel=1e-5)


@torch.no_grad()
def test_the_teacher_reads_the_whole_clip_at_the_tokens_asked_for() -> None:
    made = objective(confidence=True)
    keypoints, scores, kept, wanted = made.see(batch(), seeded(1))
    _, target, weights, _, whole, pooled = made.embed(keypoints, scores, kept, wanted)
    maps = made.teacher.features(made.teacher.inputs(keypoints, scores)[0])[:, 0].flatten(2).transpose(1, 2)
    for clip in range(3):
        for q, token in enumerate(wanted[clip, 0].tolist()):
            step, joint = divmod(token, 17)
            assert target[clip, 0, q].tolist() == pytest.approx(naive_target(maps, clip, token), abs=1e-4)
            seen = scores[clip, 0, step * PATCH: (step + 1) * PATCH, joint]
            assert weights[clip, 0, q].item() == pytest.approx(seen.mean().item(), abs=1e-6)
    assert whole[0].tolist() == pytest.approx(naive_target(maps.mean(1, keepdim=True), 0, 0), abs=1e-4)
    assert pooled.shape == (3, 32)


@torch.no_grad()
@pytest.mark.parametrize("name", ["stgcn++", "posec3d", "potion"])
def test_the_teacher_reads_the_whole_clip_moment_by_moment(name: str) -> None:
    made = objective(name)
    keypoints, scores, seen = made.see(batch(), seeded(1))
    before = copy.deepcopy(made.teacher)
    target, whole = (made.embed(keypoints, scores, seen)[i] for i in (1, 4))
    features = before.timeline(*before.inputs(keypoints, scores)).transpose(1, 2)
    for clip in range(3):
        assert target[clip, 0].tolist() == pytest.approx(naive_target(features, clip, 0), abs=1e-3)
    assert whole[0].tolist() == pytest.approx(naive_target(features.mean(1, keepdim=True), 0, 0), abs=1e-3)


@torch.no_grad()
def test_hidden_tokens_have_no_influence_on_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    made = objective()
    # Normalising looks at the whole clip; what the tokens themselves give away is tested here.
    monkeypatch.setattr(type(made.encoder), "inputs",
                        lambda _encoder, points, scores, _stream: (torch.cat([points, scores[..., None]], -1), None))
    keypoints, scores, kept, wanted = made.see(batch(), seeded(1))
    found = made.masking.student(made.encoder, keypoints, scores, kept, wanted)
    hidden = torch.ones(3, 1, 4 * 17, dtype=torch.bool).scatter(2, kept, False).view(3, 1, 4, 17)
    hidden = hidden.repeat_interleave(PATCH, 2)[..., None]
    for which, same in ((hidden, True), (~hidden, False)):
        other = made.masking.student(made.encoder, keypoints + 50 * which, scores, kept, wanted)
        assert [torch.equal(*pair) for pair in zip(other, found, strict=True)] == [same, same]


@torch.no_grad()
@pytest.mark.parametrize("name", ["stgcn++", "posec3d", "potion"])
def test_hidden_joints_and_spans_have_no_influence_on_the_student(name: str) -> None:
    made = objective(name)
    keypoints, scores, seen = made.see(batch(persons=2), seeded(1))
    found = made.masking.student(made.encoder, keypoints, scores, seen)
    for which, same in ((~seen, True), (seen, False)):
        noise = 50 * torch.randn(keypoints.shape, generator=seeded(2)) * which[..., None]
        other = made.masking.student(made.encoder, keypoints + noise, scores, seen)
        assert [torch.equal(*pair) for pair in zip(other, found, strict=True)] == [same, same]
    shown = made.masking.teacher(made.teacher, keypoints, scores, seen)[0]
    noise = 50 * torch.randn(keypoints.shape, generator=seeded(2)) * ~seen[..., None]
    assert not torch.allclose(made.masking.teacher(made.teacher, keypoints + noise, scores, seen)[0], shown)


def test_masks_are_uniform() -> None:
    made = objective("stgcn++", joints=0.4, spans=0.25)
    assert isinstance(made.masking, InputMasking)
    (seen,) = made.masking.masks(torch.ones(2000, 2, 16, 17), seeded(0))
    joints, spans = seen.any(2), seen.any(3).any(1).unflatten(1, (SPANS, -1))
    assert torch.equal(seen, joints[:, :, None] & spans.flatten(1)[:, None, :, None])
    assert (joints.sum(2) == round(0.6 * 17)).all() and (spans.all(2).sum(1) == 6).all()
    assert torch.equal(spans.any(2), spans.all(2)), "a span is hidden whole"
    for found, share in ((joints.flatten(0, 1), 10 / 17), (spans[..., 0], 0.75)):
        bound = 4.5 * (share * (1 - share) / len(found)) ** 0.5
        assert (found.float().mean(0) - share).abs().max() < bound
    assert (joints[:, 0] != joints[:, 1]).any(), "each person has a draw of its own"


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_the_student_and_not_the_teacher(name: str) -> None:
    made = objective(name)
    embedded = made.embed(*made.see(batch(4), seeded(1)))
    assert [x.requires_grad for x in embedded] == [True, False, False, True, False, True]
    made.loss(*embedded)[0].backward()
    # A bias before a batch norm has a gradient of zero, but it has one.
    assert not [key for key, p in made.named_parameters() if p.grad is None and not key.startswith("teacher.")]
    weights = [p for module in (made.encoder, made.masking, made.summary) for p in module.parameters() if p.ndim > 1]
    assert all(p.grad.any() for p in weights)
    assert all(p.grad is None and not p.requires_grad for p in made.teacher.parameters())


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_teacher_follows(progress: float) -> None:
    made = objective("stgcn++", momentum=0.9)
    with torch.no_grad():
        for parameter in made.encoder.parameters():
            parameter.add_(1)
    made.encoder(*made.encoder.inputs(batch().keypoints, batch().scores))  # moves running statistics
    old, student = copy.deepcopy(made.teacher.state_dict()), made.encoder.state_dict()
    made.update(progress)
    m = rising(0.9, progress)
    weights = dict(made.teacher.named_parameters())
    for key, found in made.teacher.state_dict().items():
        expected = m * old[key] + (1 - m) * student[key] if key in weights else student[key]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (m == pytest.approx(0.9)) if progress == 0 else (m == 1 or progress < 1)


def test_the_teacher_is_kept_in_the_state() -> None:
    made, again = objective(), objective()
    with torch.no_grad():
        made.encoder.joints.add_(1)
    made.update(0.0)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.teacher.joints, made.teacher.joints)
    assert not torch.equal(again.teacher.joints, again.encoder.joints)


@pytest.mark.parametrize("name", ["transformer", "stgcn++"])
def test_absent_persons_change_nothing(name: str) -> None:
    made, given = objective(name), batch(persons=1)
    seen = made.see(given, seeded(2))
    ghost = [torch.cat([part, torch.zeros_like(part)], 1) for part in seen]
    state = copy.deepcopy(made.state_dict())
    loss = made(*seen)[0]
    made.load_state_dict(state)
    torch.testing.assert_close(made(*ghost)[0], loss, rtol=1e-4, atol=1e-4)


def test_the_student_is_given_a_tenth_of_the_tokens() -> None:
    made, given = objective(), []
    for encoder in (made.encoder, made.teacher):
        assert isinstance(encoder.blocks, nn.Sequential)
        encoder.blocks[0].register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0].shape[1]))
    made(*made.see(batch(), seeded()))
    assert sorted(given) == [7, 68]


def test_collapse_costs_the_whole_hinge() -> None:
    made = objective()
    pooled, zero = torch.ones(8, 32), torch.zeros(8, 1, 3, 32)
    _, terms = made.loss(zero, zero, torch.ones(8, 1, 3, 1), pooled, pooled, pooled)
    assert terms["variance"].item() == pytest.approx(0.99, abs=1e-6) and terms["prediction"] == 0


def test_one_clip_is_refused() -> None:
    made = objective()
    with pytest.raises(InputError, match="at least 2 clips"):
        made(*made.see(batch(1), seeded()))


@pytest.mark.parametrize("wrong", [{"hidden": 1.0}, {"joints": 1.0}, {"momentum": 1.0}, {"asked": 0}, {"mask": 0.9}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        LatentConfig(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("transformer", 250), ("stgcn++", 100)])
def test_it_beats_a_random_encoder(name: str, steps: int, store: Store) -> None:
    views = ViewConfig(noise=0, joint_dropout=0, part_mask=0, frame_dropout=0)
    assert learning.gain(Latent, LatentConfig(), store, steps, name=name, views=views) > 0
