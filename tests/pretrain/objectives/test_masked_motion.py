"""Masked motion prediction: its targets and weights from loops over frames, what is hidden, and that it learns."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pretrain.objectives.masked_motion import (
    MaskedMotion,
    MaskedMotionConfig,
    differences,
    integrate,
    patches,
    sizes,
)
from skelcore import procedural
from skelcore.batches import Batch
from skelcore.encoders.transformer import PATCH
from skelcore.errors import InputError
from skelcore.store import Store
from skelcore.views import ViewConfig
from tests.pretrain.objectives import learning
from tests.skelcore.clips import clips, seeded

STILL = ViewConfig(affine=0, mirror=0, noise=0, joint_dropout=0, part_mask=0, frame_dropout=0, crop_min=1, speed=0)


def objective(frames: int = 16, width: int = 32, stream: str = "joint", views: ViewConfig = STILL, **config: object
              ) -> MaskedMotion:
    settings = MaskedMotionConfig(**{"pooled": 0, **config})
    made = learning.objective(MaskedMotion, settings, "transformer", width, frames, stream, views)
    assert isinstance(made, MaskedMotion)
    return made


def batch(count: int = 3, persons: int = 2, frames: int = 16, **options: object) -> Batch:
    keypoints, scores = clips(count, persons, frames, **options)
    index = torch.arange(count)
    return Batch(keypoints, scores, index, index, index)


def naive_targets(x: Tensor, token: int, floor: float, confidence: bool) -> tuple[list[list[float]], list[float]]:
    """Motion (PATCH, C) and weights (PATCH,) of one token of a person (T, V, C + 1), frame by frame."""
    step, joint = divmod(token, x.shape[1])
    motion, weights = [], []
    for frame in range(step * PATCH, (step + 1) * PATCH):
        score = min(float(x[frame, joint, -1]), float(x[frame + 1, joint, -1])) if frame + 1 < len(x) else 0.0
        change = (x[frame + 1, joint, :-1] - x[frame, joint, :-1]).tolist() if score else [0.0] * (x.shape[2] - 1)
        motion.append(change)
        weights.append(score if confidence else float(score > 0))
    power = sum(w * c * c for w, change in zip(weights, motion, strict=True) for c in change)
    size = (power / max(len(motion[0]) * sum(weights), 1e-6) + floor**2) ** 0.5
    return [[c / size for c in change] for change in motion], weights


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("frames", [16, 14])
def test_targets_and_loss_equal_naive_loops(confidence: bool, frames: int) -> None:
    made = objective(frames, confidence=confidence, floor=0.05)
    seen = made.see(batch(frames=frames), seeded(1))
    x, _, _, wanted, target, weights = seen
    predicted = made.embed(*seen)[0]
    power = mass = 0.0
    for n in range(3):
        for m in range(2):
            for q, token in enumerate(wanted[n, m].tolist()):
                motion, certain = naive_targets(x[n, m], token, 0.05, confidence)
                torch.testing.assert_close(target[n, m, q], torch.tensor(motion))
                torch.testing.assert_close(weights[n, m, q, :, 0], torch.tensor(certain))
                error = (predicted[n, m, q].detach() - torch.tensor(motion)).square().sum(1)
                power += float((error * torch.tensor(certain)).sum())
                mass += 2 * sum(certain)
    assert not confidence or 0 < weights[weights > 0].min() < 1
    assert made(*seen)[0].item() == pytest.approx(power / mass, rel=1e-4)


def test_a_motion_with_a_missing_end_counts_for_nothing() -> None:
    x = torch.ones(1, 1, 4, 1, 3) * torch.arange(4.0)[:, None, None]
    x[..., -1] = torch.tensor([0.9, 0.4, 0.0, 0.8])[:, None]
    nothing = [0.0, 0.0, 0.0]
    torch.testing.assert_close(differences(x)[0, 0, :, 0], torch.tensor([[1, 1, 0.4], nothing, nothing, nothing]))


def test_patches_are_ordered_as_the_tokens_of_the_encoder() -> None:
    x = torch.arange(2.0 * 10 * 3).view(1, 2, 10, 3, 1)
    found = patches(x)
    assert found.shape == (1, 2, 9, PATCH, 1)
    for token in range(9):
        step, joint = divmod(token, 3)
        frames = [float(x[0, 1, t, joint, 0]) if t < 10 else 0.0 for t in range(step * PATCH, (step + 1) * PATCH)]
        assert found[0, 1, token, :, 0].tolist() == frames


def test_rest_is_no_motion_and_movement_keeps_its_direction() -> None:
    weights = torch.ones(1, PATCH, 1)
    rest, walk = torch.full((1, PATCH, 2), 1e-4), torch.tensor([[[3.0, -4.0]] * PATCH])
    assert (rest / sizes(rest, weights, 0.02)).abs().max() < 0.01
    torch.testing.assert_close(walk / sizes(walk, weights, 0.02), walk / (12.5**0.5), rtol=1e-4, atol=0)


def test_what_is_hidden_has_no_influence_and_what_is_seen_has() -> None:
    made = objective()
    x, valid, kept, wanted, target, weights = made.see(batch(), seeded(1))
    found = made.embed(x, valid, kept, wanted, target, weights)[0]
    for tokens, same in ((kept, False), (None, True)):
        other = x.clone()
        for n in range(3):
            for m in range(2):
                shown = set(kept[n, m].tolist())
                for token in (kept[n, m].tolist() if tokens is not None else set(range(4 * 17)) - shown):
                    step, joint = divmod(token, 17)
                    other[n, m, step * PATCH: (step + 1) * PATCH, joint] += 9
        assert torch.equal(made.embed(other, valid, kept, wanted, target, weights)[0], found) == same


def test_the_encoder_is_given_a_tenth_of_the_tokens() -> None:
    made, given = objective(frames=40), []
    made.encoder.blocks[0].register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0].shape[1]))
    made(*made.see(batch(frames=40), seeded()))
    assert given == [17]  # of 10 x 17


def test_targets_carry_no_gradient() -> None:
    made = objective()
    seen = made.see(batch(), seeded())
    predicted, target, weights = made.embed(*seen)
    assert predicted.requires_grad and not target.requires_grad and not weights.requires_grad
    made.loss(predicted, target, weights)[0].backward()
    lacking = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lacking


def test_absent_persons_change_nothing() -> None:
    made, alone = objective(), batch(persons=1)
    x, valid, kept, wanted, target, weights = made.see(alone, seeded(2))
    loss = made(x, valid, kept, wanted, target, weights)[0]
    ghost = [torch.cat([part, torch.zeros_like(part)], 1) for part in (x, valid, kept, wanted, target, weights)]
    for part in ghost:
        part[0] = part[0].flip(0)  # the first clip's person stands second
    torch.testing.assert_close(made(*ghost)[0], loss)


def test_a_clip_without_anybody_counts_for_nothing() -> None:
    made, both = objective(), batch(count=2, persons=1)
    both.scores[1] = 0
    seen = made.see(both, seeded(3))
    assert not seen[5][1].any() and torch.isfinite(seen[4]).all()
    torch.testing.assert_close(made(*seen)[0], made(*(part[:1] for part in seen))[0])


@pytest.mark.parametrize(("still", "moving"), [("joint", "joint_motion"), ("bone", "bone_motion")])
def test_a_motion_stream_is_its_own_target(still: str, moving: str) -> None:
    parts = [objective(stream=stream).see(batch(), seeded(4)) for stream in (still, moving)]
    torch.testing.assert_close(parts[0][4], parts[1][4])
    assert torch.equal(parts[0][5], parts[1][5])


def test_only_transformers_are_trained() -> None:
    with pytest.raises(InputError, match=r"masked_motion does not train encoder stgcn\+\+: .*only a transformer"):
        learning.objective(MaskedMotion, MaskedMotionConfig(), "stgcn++")


@pytest.mark.parametrize("wrong", [{"hidden": 1.0}, {"asked": 0}, {"depth": 0}, {"floor": 0}, {"hiden": 0.9}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        MaskedMotionConfig(**wrong)


@pytest.mark.parametrize("stream", ["joint", "joint_motion"])
def test_reconstruction_of_a_perfect_prediction_is_the_clip(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, given = objective(18, stream=stream), batch(frames=18, missing=0)

    def perfect(memory: Tensor, x: Tensor, valid: Tensor, wanted: Tensor) -> Tensor:
        motion = made._motion(x)[0, 0, wanted[0, 0]]
        return (motion[..., :-1] / sizes(motion[..., :-1], (motion[..., -1:] > 0).float(), 0.02))[None]

    monkeypatch.setattr(made, "_predict", perfect)
    shown = made.reconstruction(given, seeded())
    torch.testing.assert_close(shown.predicted, shown.points, rtol=1e-4, atol=1e-4)
    assert shown.points.shape == (18, 17, 2) and shown.hidden.shape == (5, 17)
    assert shown.hidden.sum() == 85 - 8
    monkeypatch.setattr(made, "_predict", lambda *given: 0 * perfect(*given))
    at_rest = made.reconstruction(given, seeded()).predicted
    hidden = shown.hidden.repeat_interleave(PATCH, 0)[:18]
    torch.testing.assert_close(at_rest[~hidden], shown.points[~hidden], rtol=1e-4, atol=1e-4)
    assert (at_rest - shown.points)[hidden].abs().mean() > 0.1


def test_points_go_on_from_where_they_were_last_seen() -> None:
    points, motion = torch.tensor([0.0, 5, 9, 2])[:, None, None], torch.tensor([1.0, 2, 4, 8])[:, None, None]
    seen = torch.tensor([False, False, True, False])[:, None]
    assert integrate(points, motion, seen).flatten().tolist() == [0, 1, 9, 13]


def test_it_reads_a_common_motion_off_few_tokens() -> None:
    """Clips whose joints all glide alike: one token tells how the hidden ones move, also in clips never seen."""
    def glide(seed: int) -> Batch:
        generator, index = seeded(seed), torch.arange(48)
        pose = torch.randn(48, 1, 1, 17, 2, generator=generator)
        speed = 0.3 * torch.randn(48, 1, 1, 1, 2, generator=generator)
        keypoints = pose + speed * torch.arange(16)[None, None, :, None, None]
        return Batch(keypoints, torch.ones(keypoints.shape[:-1]), index, index, index)

    made = objective()
    learning.train(made, [glide(0)] * 100)
    with torch.no_grad():
        seen = made.see(glide(1), seeded(9))
        assert made.loss(torch.zeros_like(seen[4]), *seen[4:])[0] > 0.9
        assert made(*seen)[0] < 0.1


@pytest.mark.slow
def test_it_makes_good_neighbours_of_clips_it_was_not_trained_on(store: Store) -> None:
    made = objective(pooled=1.0, hidden=0.8, views=ViewConfig(noise=0, joint_dropout=0, part_mask=0, frame_dropout=0))
    batch = learning.clips(store)
    before = learning.accuracy(made.encoder, batch, store)
    improvised = learning.clips(procedural.read("procedural:1500?seed=9"))
    learning.train(made, list(learning.batches(improvised, 64, 300)))
    assert learning.accuracy(made.encoder, batch, store) > before + 0.05
