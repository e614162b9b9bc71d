"""Partial masking: how much it hides, which joints rather, and that something always remains."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelcore import layouts
from skelcore.layouts import Layout
from skelcore.views.partial import hide

STAR = Layout("star", ("a", "b", "c", "d", "e"), ((1, 0), (2, 0), (3, 0), (4, 0)), 0)


def clips(shape: tuple[int, int, int, int], seed: int, missing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(shape, generator=generator) * 0.5 + 0.5
    scores *= torch.rand(shape, generator=generator) >= missing
    return torch.randn(*shape, 2, generator=generator) * (scores > 0)[..., None], scores


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 12), persons=st.integers(1, 2), joints=st.floats(0, 0.99), gone=st.floats(0, 0.99),
       missing=st.sampled_from([0.0, 0.6, 1.0]), seed=st.integers(0, 99))
def test_the_given_shares_are_missing_and_the_rest_is_as_it_was(frames: int, persons: int, joints: float, gone: float,
                                                                missing: float, seed: int) -> None:
    keypoints, scores = clips((3, persons, frames, 17), seed, missing)
    before = keypoints.clone(), scores.clone()
    points, kept = hide(keypoints, scores, layouts.get("coco17"), joints, gone, torch.Generator().manual_seed(seed))
    assert torch.equal(keypoints, before[0]) and torch.equal(scores, before[1])
    assert torch.equal(kept, scores * (kept > 0)) and torch.equal(points, keypoints * (kept > 0)[..., None])
    for clip, left in zip(scores.numpy() > 0, kept.numpy() > 0, strict=True):
        shown = clip.any((0, 2))
        lost = [t for t in range(frames) if shown[t] and not left[:, t].any()]
        # A frame in which none but hidden joints were seen is empty as well, so of clips with holes more may be lost.
        assert len(lost) >= int(np.float32(shown.sum()) * np.float32(gone))
        stay = [t for t in range(frames) if t not in lost]
        for person, rest in zip(clip[:, stay], left[:, stay], strict=True):
            hidden = (person & ~rest).any(0)
            assert (rest[:, hidden] == 0).all()
            assert hidden.sum() <= int(np.float32(17) * np.float32(joints))
            if missing == 0:
                assert hidden.sum() == int(np.float32(17) * np.float32(joints))
                assert len(lost) == int(np.float32(frames) * np.float32(gone))


def test_joints_of_many_bones_are_hidden_rather() -> None:
    keypoints, scores = clips((4000, 1, 2, 5), 0)
    kept = hide(keypoints, scores, STAR, 0.2, 0, torch.Generator().manual_seed(0))[1][:, 0, 0] > 0
    assert (~kept).float().mean(0).tolist() == pytest.approx([1 / 2, *4 * [1 / 8]], abs=0.03)
    both = hide(keypoints, scores, STAR, 0.4, 0, torch.Generator().manual_seed(0))[1][:, 0, 0] > 0
    # Without replacement: the hub first (1/2), or second after one of the others (1/2 * 4/7).
    assert float((~both[:, 0]).float().mean()) == pytest.approx(1 / 2 + 1 / 2 * 4 / 7, abs=0.03)


def test_missing_joints_are_not_drawn_and_persons_are_masked_apart() -> None:
    keypoints, scores = clips((200, 2, 3, 5), 1)
    scores[..., 0] = 0
    kept = hide(keypoints, scores, STAR, 0.25, 0, torch.Generator().manual_seed(0))[1][:, :, 0] > 0
    assert kept.sum(-1).unique().tolist() == [3]
    assert not torch.equal(kept[:, 0], kept[:, 1])


def test_a_layout_without_edges_hides_all_joints_alike() -> None:
    keypoints, scores = clips((2000, 1, 1, 2), 0)
    lone = Layout("lone", ("a", "b"), (), 0)
    kept = hide(keypoints, scores, lone, 0.5, 0.9, torch.Generator().manual_seed(0))[1][:, 0, 0] > 0
    assert kept.float().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.04)


def test_seed_and_shape_determine_the_draw() -> None:
    keypoints, scores = clips((4, 1, 8, 17), 0)
    first, same, other = (hide(keypoints, scores, layouts.get("coco17"), 0.3, 0.3, torch.Generator().manual_seed(seed))
                          for seed in (0, 0, 1))
    assert torch.equal(first[1], same[1]) and not torch.equal(first[1], other[1])
