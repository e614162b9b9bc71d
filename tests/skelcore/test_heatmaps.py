import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.heatmaps import plain_joints, plain_limbs
from skelcore import annotations, layouts
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views.heatmaps import channels, fit, joints, limbs, mirror, render
from tests.paths import DATA, PARITY, need

COCO = layouts.get("coco17")
STREAMS = ("joint", "bone", "joint_bone")
EDGE = float(np.exp(-4.5))  # height of a Gaussian at 3 sigma, where it is cut
seeds = st.integers(0, 10**6)


def scene(seed=0, clips=2, persons=2, frames=3, count=17, size=24, missing=0.2):
    """Points on and around a map of ``size`` pixels, on a grid of 1/8 so that whole pixels are exact in float32."""
    numbers = np.random.default_rng(seed)
    scores = numbers.uniform(0.01, 1, (clips, persons, frames, count))
    scores[numbers.random(scores.shape) < missing] = 0
    points = numbers.integers(-4 * 8, (size + 4) * 8, (*scores.shape, 2)) / 8 * (scores > 0)[..., None]
    return torch.from_numpy(points).float(), torch.from_numpy(scores).float()


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


class TestParity:
    """All else of the reference's pipelines is in test_views_reference."""

    @pytest.mark.parametrize("clip", ["p1", "p2"])
    def test_fit_is_the_reference_s_crop_but_for_whole_pixels(self, clip):
        with np.load(need(PARITY / "pipeline.npz")) as file:
            keypoints, scores = (file[f"in/{clip}/{key}"][None].astype(np.float32)
                                 for key in ("keypoint", "keypoint_score"))
        expected, side = compact(keypoints[0])
        points = fit(torch.from_numpy(keypoints), torch.from_numpy(scores), 56)
        seen = scores[0] > 0
        off = np.abs(points[0].numpy() - expected * (56 / side))[seen]
        assert off.max() <= 1.5 * 56 / side  # corner and side of the square each lose less than a pixel of the video
        assert points[0].numpy()[~seen].max() == 0


def compact(points):
    """PoseCompact to a square: points (M, T, V, 2) from its corner, and its side."""
    seen = points[(points != 0).all(-1)]
    middle = (seen.min(0) + seen.max(0)) / 2
    half = (seen.max(0) - seen.min(0)).max() / 2 * 1.25
    low, high = (middle - half).astype(int), (middle + half).astype(int)
    assert (high - low)[0] == (high - low)[1]
    return np.where(points != 0, points - low, 0).astype(np.float32), (high - low)[0]


class TestMaps:
    @settings(max_examples=25, deadline=None)
    @given(seeds, st.integers(1, 40), st.integers(1, 40), st.floats(0.2, 3), st.integers(1, 3))
    def test_equal_a_loop(self, seed, height, width, sigma, persons):
        points, scores = scene(seed, 2, persons, 2, 5, max(height, width))
        pairs = ((0, 1), (3, 1), (2, 2), (4, 0))
        clips = [(clip.numpy(), score.numpy()) for clip, score in zip(points, scores, strict=True)]
        close(joints(points, scores, (height, width), sigma),
              np.stack([plain_joints(*clip, (height, width), sigma) for clip in clips]))
        close(limbs(points, scores, pairs, (height, width), sigma),
              np.stack([plain_limbs(*clip, pairs, (height, width), sigma) for clip in clips]), 2e-5)

    def test_many_windows_and_long_limbs_equal_a_loop(self):
        points, scores = scene(3, 1, 2, 12, size=56)
        close(limbs(points, scores, COCO.limbs, 56)[0], plain_limbs(points[0].numpy(), scores[0].numpy(), COCO.limbs,
                                                                  (56, 56)), 2e-5)

    @settings(max_examples=20, deadline=None)
    @given(seeds, st.permutations(range(3)))
    def test_do_not_depend_on_the_order_of_persons(self, seed, order):
        points, scores = scene(seed, persons=3)
        close(joints(points[:, order], scores[:, order], 24), joints(points, scores, 24), 0)
        close(limbs(points[:, order], scores[:, order], COCO.limbs, 24), limbs(points, scores, COCO.limbs, 24), 1e-7)

    @settings(max_examples=20, deadline=None)
    @given(seeds, st.integers(-6, 6), st.integers(-6, 6))
    def test_shift_with_the_points(self, seed, right, down):
        points, scores = scene(seed, size=20)
        points = points + 12  # far enough from the edge that rounding towards zero is rounding down
        pairs = COCO.limbs
        for maps, moved in ((joints(points, scores, 44), joints(points + torch.tensor([right, down]), scores, 44)),
                            (limbs(points, scores, pairs, 44), limbs(points + torch.tensor([right, down]), scores,
                                                                    pairs, 44))):
            inner = slice(6, -6)
            close(moved.roll((-down, -right), (-2, -1))[..., inner, inner], maps[..., inner, inner])

    @settings(max_examples=20, deadline=None)
    @given(seeds)
    def test_of_a_batch_are_those_of_its_clips(self, seed):
        points, scores = scene(seed, 3)
        for pairs in ([(0, 0), (5, 5)], COCO.limbs):
            alone = [limbs(points[i:i + 1], scores[i:i + 1], pairs, (20, 31)) for i in range(3)]
            close(limbs(points, scores, pairs, (20, 31)), torch.cat(alone), 1e-7)

    @settings(max_examples=20, deadline=None)
    @given(seeds)
    def test_show_nothing_of_missing_joints(self, seed):
        points, scores = scene(seed, persons=1, missing=0.5)
        points = points.clamp(0, 23)
        for weigh in (True, False):
            lit = joints(points, scores, 24, weigh=weigh).flatten(3).amax(3) > 0
            assert torch.equal(lit, (scores > 0)[:, 0].movedim(1, 2))
        lit = limbs(points, scores, COCO.limbs, 24).flatten(3).amax(3) > 0
        one, other = torch.tensor(COCO.limbs).T
        both = (scores[..., one] > 0) & (scores[..., other] > 0)
        assert torch.equal(lit, both[:, 0].movedim(1, 2))

    def test_known_values(self):
        points, scores = torch.tensor([[[[[4.0, 2], [4, 7]]]]]), torch.tensor([[[[0.5, 0.25]]]])
        joint = joints(points, scores, (9, 8), sigma=1)[0, 0, 0]
        assert joint[2, 4] == 0.5
        close(joint[3, 6], 0.5 * np.exp(-2.5).astype(np.float32))
        assert joint[2, 0] == 0 and joint[5, 7] > 0 and joint[6, 4] == 0  # 4, 3 and 4 sigma away
        limb = limbs(points, scores, [(0, 1)], (9, 8), sigma=1)[0, 0, 0]
        close(limb[:, 4], [0.25 * np.exp(-d * d / 2) for d in (2, 1, 0, 0, 0, 0, 0, 0, 1)])
        close(limb[5], [0, *(0.25 * np.exp(-d * d / 2) for d in (3, 2, 1, 0, 1, 2, 3))])
        close(limbs(points, scores, [(0, 1)], (9, 8), 1, weigh=False)[0, 0, 0], limb * 4)

    def test_a_limb_without_length_is_its_first_joint(self):
        points, scores = torch.tensor([[[[[4.2, 2.6], [4.6, 3.1]]]]]), torch.tensor([[[[0.9, 0.25]]]])
        expected = joints(points, scores, 9)[:, :1]
        close(limbs(points, scores, [(0, 1)], 9), expected)
        scores[..., 1] = 0
        assert limbs(points, scores, [(0, 1)], 9).max() == 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_are_computed_in_float32_whatever_they_are_kept_in(self, dtype):
        points, scores = scene()
        expected = limbs(points, scores, COCO.limbs, 24)
        assert expected.dtype == torch.float32 and expected.is_contiguous()
        maps = limbs(points.double(), scores.double(), COCO.limbs, 24, dtype=dtype)
        assert maps.dtype == dtype and torch.equal(maps, expected.to(dtype))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(limbs(points, scores, COCO.limbs, 24), expected)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_are_the_same_on_a_gpu(self):
        points, scores = scene(clips=8, frames=48)
        for stream in STREAMS:
            close(render(points.cuda(), scores.cuda(), COCO, stream).cpu(), render(points, scores, COCO, stream))

    @pytest.mark.parametrize("far", [1e9, -1e9, 1e30])
    def test_points_far_away_leave_the_map_dark(self, far):
        points = torch.full((1, 1, 1, 2, 2), far)
        assert joints(points, torch.ones(1, 1, 1, 2), 8).max() == 0
        assert limbs(points, torch.ones(1, 1, 1, 2), [(0, 1)], 8).max() == 0

    @pytest.mark.parametrize(("wrong", "message"), [
        ({"points": torch.full((1, 1, 1, 2, 2), torch.nan)}, "NaN"),
        ({"scores": torch.full((1, 1, 1, 2), torch.inf)}, "NaN or infinity"),
        ({"scores": torch.ones(1, 1, 1, 3)}, "must be"),
        ({"points": torch.ones(1, 1, 1, 2, 3)}, "must be"),
        ({"points": torch.ones(1, 1, 0, 2, 2), "scores": torch.ones(1, 1, 0, 2)}, "not empty"),
        ({"size": 0}, "size 0"),
        ({"size": (8, 0)}, "size"),
        ({"sigma": 0.0}, "sigma 0.0"),
        ({"sigma": float("nan")}, "sigma nan"),
        ({"pairs": []}, "at least one"),
    ])
    def test_bad_input_is_refused(self, wrong, message):
        good = {"points": torch.ones(1, 1, 1, 2, 2), "scores": torch.ones(1, 1, 1, 2), "pairs": [(0, 1)], "size": 8}
        limbs(**good)
        with pytest.raises(InputError, match=message):
            limbs(**good | wrong)


class TestFit:
    @settings(max_examples=20, deadline=None)
    @given(seeds, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
    def test_does_not_depend_on_the_unit(self, seed, factor, x, y):
        keypoints, scores = scene(seed)
        other = (keypoints.double() * factor + torch.tensor([x, y])) * (scores > 0)[..., None]
        close(fit(other, scores, 56).float(), fit(keypoints, scores, 56), 1e-3)

    @settings(max_examples=20, deadline=None)
    @given(seeds, st.floats(0, 1))
    def test_square_holds_all_joints_of_all_persons_and_frames(self, seed, padding):
        keypoints, scores = scene(seed, 3)
        points = fit(keypoints, scores, 40, padding)
        for clip, valid in zip(points, scores > 0, strict=True):
            low, high = clip[valid].amin(0), clip[valid].amax(0)
            close((low + high) / 2, torch.tensor([20.0, 20]), 1e-4)
            close((high - low).max(), torch.tensor(40 / (1 + padding)), 1e-4)
            assert clip[~valid].abs().sum() == 0

    def test_clips_without_extent_or_joints(self):
        keypoints, scores = scene(clips=3)
        scores[0] = 0
        scores[1] = 0
        scores[1, 1, 2, 4] = 0.5
        points = fit(keypoints, scores, 56)
        assert points[0].abs().max() == 0
        assert points[1].abs().sum() == 56 and (points[1, 1, 2, 4] == 28).all()
        maps = render(keypoints, scores, COCO)
        assert maps[0].max() == 0 and maps[1].max() == 0.5 == maps[1, 4, 2, 28, 28]
        close(maps[2:], render(keypoints[2:], scores[2:], COCO))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_short_floats_are_fitted_in_float32(self, dtype):
        keypoints, scores = scene(size=1500)
        keypoints = keypoints.to(dtype)
        points = fit(keypoints, scores.to(dtype), 56)
        assert points.dtype == torch.float32 and torch.equal(points, fit(keypoints.float(), scores, 56))
        certain = scores.to(dtype).float()
        assert torch.equal(render(keypoints, scores.to(dtype), COCO), render(keypoints.float(), certain, COCO))

    def test_nan_is_refused(self):
        keypoints, scores = scene()
        keypoints[0, 0, 0, 0] = torch.nan
        with pytest.raises(InputError, match="NaN"):
            fit(keypoints, scores, 56)


class TestStreams:
    @pytest.mark.parametrize("name", layouts.LAYOUTS)
    @pytest.mark.parametrize("stream", STREAMS)
    def test_mirrored_maps_are_maps_of_the_mirrored_clip(self, name, stream):
        layout = layouts.get(name)
        points, scores = scene(count=len(layout), size=20, missing=0.1)
        points = torch.where((scores > 0)[..., None], points + 4, 0)
        maps = render(points, scores, layout, stream)
        assert maps.shape[1] == channels(layout, stream)
        assert torch.equal(mirror(mirror(maps, layout, stream), layout, stream), maps)
        valid = (scores > 0)[..., None]
        other = torch.where(valid, points * torch.tensor([-1, 1]), 0)[..., layout.mirror, :]
        # fit() keeps the centre at 28 whereas the middle of a map's pixels is 27.5: one pixel between the two.
        expected = render(other, scores[..., layout.mirror], layout, stream).roll(-1, -1)
        off = (mirror(maps, layout, stream) - expected).abs()
        assert off[..., :-1].max() < EDGE + 1e-3  # rounding decides which pixels at 3 sigma are still drawn
        assert (off > 1e-3).float().mean() < 0.02

    def test_joint_bone_shows_both(self):
        points, scores = scene()
        both = render(points, scores, COCO, "joint_bone", 32)
        close(both, torch.cat([render(points, scores, COCO, "joint", 32), render(points, scores, COCO, "bone", 32)], 1))
        assert both.shape == (2, channels(COCO, "joint_bone"), 3, 32, 32) and channels(COCO, "bone") == 17

    def test_limbs_without_a_mirror_image_are_refused(self):
        lame = Layout("lame", ("left_hip", "right_hip", "nose", "left_knee"), ((0, 2), (1, 2), (3, 0)), 2,
                      limbs=((0, 2),))
        with pytest.raises(InputError, match=r"limb \(0, 2\) has no mirror image; add \(1, 2\)"):
            mirror(torch.zeros(1, 1, 1, 4, 4), lame, "bone")
        with pytest.raises(InputError, match=r"2 given.* has 1"):
            mirror(torch.zeros(1, 2, 1, 4, 4), lame, "bone")

    def test_unknown_streams_and_other_layouts_are_refused(self):
        points, scores = scene()
        for call in (lambda: render(points, scores, COCO, "motion"), lambda: channels(COCO, "motion"),
                     lambda: mirror(points, COCO, "motion")):
            with pytest.raises(InputError, match="stream=motion: heatmaps show joint, bone, joint_bone"):
                call()
        with pytest.raises(InputError, match="17 joints given, but layout ntu25 has 25"):
            render(points, scores, layouts.get("ntu25"))

    def test_real_clips_peak_at_their_joints(self):
        clip = annotations.read(need(DATA / "poses" / "pushfit_movenet.pkl"))[0]
        keypoints, scores = torch.from_numpy(clip.keypoints)[None], torch.from_numpy(clip.scores)[None]
        maps, points = render(keypoints, scores, clip.layout, size=64), fit(keypoints, scores, 64)
        peaks = maps.flatten(3).argmax(3)[0].T  # (T, V)
        found = torch.stack([peaks % 64, peaks // 64], -1)
        assert (found - points[0, 0])[scores[0, 0] > 0.01].abs().max() <= 0.5
