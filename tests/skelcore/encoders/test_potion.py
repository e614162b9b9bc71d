"""PoTion: the motion image against a loop over frames, and its network's size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelcore import checkpoint, encoders
from skelcore.encoders.potion import COLOURS, colours, motion_images


def naive_images(x):
    """The images of one clip (K, T, H, W), written from the paper's equations."""
    joints, frames, *size = x.shape
    steps = COLOURS - 1
    images = []
    for k in range(joints):
        summed = torch.zeros(COLOURS, *size, dtype=x.dtype)
        for t in range(frames):
            place = t / (frames - 1) * steps if frames > 1 else 0.0
            left = min(int(place), steps - 1)
            summed[left] += (1 - (place - left)) * x[k, t]
            summed[left + 1] += (place - left) * x[k, t]
        bright = torch.stack([s / s.max() if s.max() > 0 else s for s in summed])
        intensity = bright.sum(0)
        images += [*bright, intensity, *(b / (1 + intensity) for b in bright)]
    return torch.stack(images)


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 48])
def test_images_equal_the_loop(frames):
    x = torch.rand(2, 3, frames, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1, 2] = 0  # a joint that was never seen
    x[0, 1, : frames // 2] = 0  # one that appears late
    images = motion_images(x)
    torch.testing.assert_close(images, torch.stack([naive_images(clip) for clip in x]), rtol=1e-10, atol=1e-12)
    assert not images[1, 2 * (2 * COLOURS + 1):].any()


@given(st.integers(1, 60))
@settings(deadline=None, max_examples=30)
def test_colours_sum_to_one_and_run_backwards_with_time(frames):
    weights = colours(frames, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(weights.sum(0), torch.ones(frames, dtype=torch.float64))
    if frames > 1:
        torch.testing.assert_close(weights.flip(0, 1), weights)
        assert weights[0, 0] == weights[-1, -1] == 1


def test_order_of_frames_matters_and_brightness_does_not():
    x = torch.rand(1, 2, 9, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(motion_images(3 * x), motion_images(x))
    assert not torch.allclose(motion_images(x.flip(2)), motion_images(x), atol=0.1)


def test_gradients_reach_the_heatmaps_of_a_clip_with_an_unseen_joint():
    x = torch.rand(1, 2, 4, 6, 6)
    x[:, 1] = 0
    x.requires_grad_()
    motion_images(x).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad[:, 0].any()


def test_size_and_keys():
    encoder = encoders.build("potion", "coco17")
    images, widths = 17 * (2 * COLOURS + 1), (128, 256, 512)
    count = sum(9 * (before + after) * after + 4 * after
                for before, after in zip((images, *widths), widths, strict=False))
    assert sum(p.numel() for p in encoder.parameters()) == count
    named = checkpoint.to_pyskl(encoder)
    assert named["backbone.layer1.0.conv.weight"].shape == (128, images, 3, 3)
    assert encoder.features(torch.rand(2, 17, 5, 56, 40)).shape == (2, 512, 1, 7, 5)
