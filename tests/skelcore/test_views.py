import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from skelcore import config, layouts
from skelcore.errors import InputError
from skelcore.views import (
    STREAMS,
    ViewConfig,
    Views,
    body_scale,
    centre,
    features,
    noise,
    normalise,
    occlusion,
    smoothing,
    spatial,
    temporal,
)
from tests.paths import PARITY, need
from tests.skelcore.clips import clips, seeded

COCO = layouts.get("coco17")
OFF = {"crop_min": 1, "speed": 0, "mirror": 0, "affine": 0, "noise": 0, "joint_dropout": 0, "part_mask": 0,
       "frame_dropout": 0}
EVERYTHING = {"smoothing": 0.5, "axis_mask": 0.5, "limb_loss": 0.2, "occluder": 0.5, "detector": 0.7,
              "detector_floor": 0.2}


def planes(keypoints):
    return keypoints.movedim(-1, 1)


def separable(some, others):
    """Whether a straight line has all of one set of points (K, 2) on one side and the others on the other."""
    angles = np.radians(np.arange(0, 360, 0.15))
    directions = np.stack([np.cos(angles), np.sin(angles)])
    return bool(((some @ directions).min(0) > (others @ directions).max(0)).any())


class TestNormalise:
    @settings(max_examples=30, deadline=None)
    @given(st.floats(0.01, 100), st.floats(-2000, 2000), st.floats(-2000, 2000), st.integers(0, 99))
    def test_is_invariant_to_scale_and_place(self, factor, x, y, seed):
        keypoints, scores = clips(3, seed=seed)
        valid = (scores > 0)[..., None]
        moved = (keypoints.double() * factor + torch.tensor([x, y])) * valid
        expected = normalise(keypoints.double(), scores)
        torch.testing.assert_close(normalise(moved, scores), expected, rtol=1e-6, atol=1e-6)

    def test_equals_a_naive_loop(self):
        keypoints, scores = clips(4)
        scores[1, 1] = 0  # an absent person
        keypoints = keypoints * (scores > 0)[..., None]
        for clip in range(4):
            points = [keypoints[clip, m, t, v].numpy() for m, t, v in np.argwhere(scores[clip].numpy() > 0)]
            middle = np.mean(points, 0)
            sizes = []
            for m in range(2):
                for t in range(16):
                    seen = keypoints[clip, m, t][scores[clip, m, t] > 0].numpy()
                    if len(seen) > 1:
                        sizes.append(np.sqrt(((seen - seen.mean(0)) ** 2).sum(1).mean()))
            np.testing.assert_allclose(centre(keypoints, scores)[clip], middle, rtol=1e-5)
            np.testing.assert_allclose(body_scale(keypoints, scores)[clip], np.mean(sizes), rtol=1e-4)
            expected = (keypoints[clip].numpy() - middle) / np.mean(sizes) * (scores[clip].numpy() > 0)[..., None]
            np.testing.assert_allclose(normalise(keypoints, scores)[clip], expected, rtol=1e-3, atol=1e-4)

    def test_does_not_depend_on_how_far_the_body_moves(self):
        keypoints, scores = clips(2, persons=1, missing=0)
        walk = torch.linspace(0, 5000, 16)[:, None, None]
        walking = body_scale(keypoints + walk, scores)
        torch.testing.assert_close(walking, body_scale(keypoints, scores), rtol=1e-2, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_short_floats_do_not_overflow(self, dtype):
        """1,000 pixels squared, and the sum of a clip's pixels, exceed 65,504."""
        keypoints, scores = clips(missing=0.1)
        keypoints = (keypoints * 4).to(dtype)
        for measure in (centre, body_scale, normalise):
            expected = measure(keypoints.float(), scores)
            ours = measure(keypoints, scores.to(dtype))
            assert ours.dtype == dtype
            torch.testing.assert_close(ours, expected.to(dtype))

    def test_nothing_or_one_joint_to_measure(self):
        keypoints, scores = torch.zeros(2, 1, 3, 17, 2), torch.zeros(2, 1, 3, 17)
        keypoints[1, 0, 1, 4], scores[1, 0, 1, 4] = 7.0, 1.0
        assert not normalise(keypoints, scores).any()


class TestFeatures:
    def test_streams_equal_a_naive_loop(self):
        keypoints, scores = clips()
        parents = {joint: parent for joint, parent in COCO.bones}

        def minus(a, b, sa, sb):
            return np.append(a - b, (sa + sb) / 2) if sa > 0 and sb > 0 else np.zeros(3)

        def bones(k, s):
            out = np.zeros((*s.shape, 3))
            for index in np.ndindex(s.shape):
                parent = (*index[:-1], parents.get(index[-1], index[-1]))
                out[index] = minus(k[index], k[parent], s[index], s[parent])
            return out

        def motion(x):
            out = np.zeros_like(x)
            for n, m, t, v in np.ndindex(x.shape[:-1]):
                if t + 1 < x.shape[2]:
                    one, other = x[n, m, t + 1, v], x[n, m, t, v]
                    out[n, m, t, v] = minus(one[:2], other[:2], one[2], other[2])
            return out

        joint = np.concatenate([keypoints.numpy(), scores.numpy()[..., None]], -1)
        bone = bones(keypoints.numpy(), scores.numpy())
        naive = {"joint": joint, "bone": bone, "joint_motion": motion(joint), "bone_motion": motion(bone)}
        assert naive.keys() == STREAMS.keys()
        for stream, expected in naive.items():
            np.testing.assert_allclose(features(keypoints, scores, COCO, stream), expected, rtol=1e-5, atol=1e-3)

    @pytest.mark.parametrize("item", ["p1", "p2", "p2_short", "p2_long"])
    def test_equal_the_reference_where_nothing_is_missing(self, item):
        cases = np.load(need(PARITY / "pipeline.npz"))
        assert f"feat_j/{item}" in json.loads(str(cases["meta_json"]))
        x = torch.from_numpy(cases[f"feat_j/{item}/keypoint"].astype(np.float32))[None]
        seen = (x[..., -1] > 0)
        streams = (("bone", "b"), ("joint_motion", "jm"), ("bone_motion", "bm"))
        for stream, short in streams:
            ours = features(x[..., :-1], x[..., -1], COCO, stream)
            theirs = torch.from_numpy(cases[f"feat_{short}/{item}/keypoint"].astype(np.float32))[None]
            used = ours[..., -1] > 0  # where a joint is missing the reference subtracts zeros; ours gives zero
            if "motion" in stream:
                assert not ours[:, :, -1].any()
            assert used.sum() > 0.5 * seen.sum()
            torch.testing.assert_close(ours[used], theirs[used], rtol=2e-3, atol=2e-3)

    def test_errors(self):
        keypoints, scores = clips()
        with pytest.raises(InputError, match=r"velocity.*joint_motion"):
            features(keypoints, scores, COCO, "velocity")
        with pytest.raises(InputError, match="penn13"):
            features(keypoints, scores, layouts.get("penn13"))


class TestTemporal:
    def test_resample_equals_a_naive_loop(self):
        keypoints, scores = clips(4, frames=9, missing=0.4)
        times = torch.rand(4, 12, generator=seeded()) * 8
        times[0, :4] = torch.tensor([0.0, 8.0, 3.0, 2.5])
        ours, our_scores = temporal.resample(planes(keypoints), scores, times)
        k, s = keypoints.numpy(), scores.numpy()
        for n, m, i, v in np.ndindex(4, 2, 12, 17):
            time = float(times[n, i])
            low = math.floor(time)
            high, share = min(low + 1, 8), time - low
            ends = [(1 - share, low), (share, high)]
            seen = [(w, t) for w, t in ends if s[n, m, t, v] > 0]
            total = sum(w for w, _ in seen)
            point, score = np.zeros(2), 0.0
            if total >= 0.5:
                point = sum(w * k[n, m, t, v] for w, t in seen) / total
                score = sum(w * s[n, m, t, v] for w, t in seen) / total
            np.testing.assert_allclose(ours[n, :, m, i, v], point, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(our_scores[n, m, i, v], score, rtol=1e-4, atol=1e-6)

    @settings(max_examples=30, deadline=None)
    @given(st.floats(0.1, 1), st.floats(0, 0.99), st.integers(1, 60), st.integers(0, 99))
    def test_crop_times_stay_inside_and_run_forward(self, shortest, speed, frames, seed):
        times = temporal.crop_times(8, frames, shortest, 1.0, speed, 0.0, seeded(seed))
        assert times.min() >= 0 and times.max() <= frames - 1
        assert (times.diff(dim=1) >= -1e-4).all()
        length = times[:, -1] - times[:, 0]
        assert (length >= shortest * (frames - 1) - 1e-3).all() or frames == 1

    def test_reverse(self):
        keypoints, scores = clips(missing=0)
        settings = ViewConfig(**{**OFF, "reverse": 1})
        ours, _ = Views(settings)(keypoints, scores, COCO, seeded())
        torch.testing.assert_close(ours, keypoints.flip(2), rtol=1e-4, atol=1e-2)


class TestSmoothing:
    def test_equals_a_naive_loop(self):
        keypoints, scores = clips(3, frames=12, missing=0.4)
        scores[1, 0, :, 4] = 0  # never seen
        keypoints = keypoints * (scores > 0)[..., None]
        width = torch.tensor([0.7, 3.0, 0.0])
        ours = smoothing.smooth(planes(keypoints), scores, width)
        k, s = keypoints.double().numpy(), scores.numpy()
        for n, m, t, v in np.ndindex(3, 2, 12, 17):
            expected = np.zeros(2)
            if s[n, m, t, v] > 0:
                weight = np.exp(-((np.arange(12) - t) ** 2) / (2 * max(float(width[n]), 1e-3) ** 2))
                weight = weight * (s[n, m, :, v] > 0)
                expected = weight @ k[n, m, :, v] / weight.sum()
            np.testing.assert_allclose(ours[n, :, m, t, v], expected, rtol=1e-5, atol=1e-2)
        torch.testing.assert_close(ours[2], planes(keypoints)[2], rtol=1e-6, atol=1e-4)

    @settings(max_examples=20, deadline=None)
    @given(st.floats(0, 30), st.integers(1, 40), st.integers(0, 99))
    def test_the_kernel_is_normalised(self, width, frames, seed):
        """A joint at rest stays where it is, however wide the kernel and whatever is missing."""
        keypoints, scores = clips(2, frames=frames, missing=0.5, seed=seed)
        rest = keypoints[:, :, :1].expand_as(keypoints) * (scores > 0)[..., None]
        ours = smoothing.smooth(planes(rest), scores, torch.full((2,), width))
        torch.testing.assert_close(ours, planes(rest), rtol=1e-5, atol=1e-3)

    def test_takes_jitter_away_and_keeps_slow_movement(self):
        time = torch.linspace(0, 2 * math.pi, 64)[:, None, None]
        path = (200 * torch.sin(time)).expand(64, 17, 2)[None, None]
        scores = torch.ones(1, 1, 64, 17)
        noisy = path + torch.randn(path.shape, generator=seeded()) * 20
        ours = smoothing.smooth(planes(noisy), scores, torch.tensor([2.0])).movedim(1, -1)
        inner = (slice(None), slice(None), slice(6, -6))
        assert (ours - path)[inner].std() < 0.45 * (noisy - path)[inner].std()

    def test_short_floats_and_autocast_do_not_round_the_sums(self):
        keypoints, scores = clips(3, frames=60, missing=0.3)
        points, width = planes(keypoints).half(), torch.tensor([0.0, 2.0, 9.0])
        expected = smoothing.smooth(points.float(), scores, width)
        torch.testing.assert_close(smoothing.smooth(points, scores.half(), width), expected.half())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(smoothing.smooth(points.float(), scores, width), expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_in_views(self, dtype):
        keypoints, scores = clips(200)
        views = Views(ViewConfig(**{**OFF, "smoothing": 0.5, "smoothing_width": 4}))
        ours, seen = views(keypoints.to(dtype), scores.to(dtype), COCO, seeded())
        assert ours.dtype == dtype and torch.equal(seen > 0, scores > 0)
        changed = ((ours - keypoints).abs().flatten(1).amax(1) > 5).float().mean()
        assert changed == pytest.approx(0.5, abs=0.12)


class TestSpatial:
    def test_affine_is_what_it_says(self):
        keypoints, scores = clips(channels=3, missing=0)
        maps = spatial.random_maps(6, 3, 40, 0.2, 0.2, 0.5, 0.3, seeded())
        middle = centre(keypoints, scores)
        ours = spatial.affine(planes(keypoints), maps, middle).movedim(1, -1)
        for n in range(6):
            naive = (keypoints[n] - middle[n]) @ maps[n].T + middle[n]
            torch.testing.assert_close(ours[n], naive, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(centre(ours, scores), middle, rtol=1e-4, atol=1e-2)

    @pytest.mark.parametrize("settings", [
        {"smoothing": 1}, {"detector": 1, "detector_floor": 0.3}, {"occluder": 1, "limb_loss": 0.3}, {"axis_mask": 1},
        {"mirror": 0.5}, {"affine": 1}, {"crop_min": 0.4, "speed": 0.3}, {"noise": 1, "mirror": 0.5}, {},
    ])
    def test_views_follow_the_clip_when_it_moves_and_grows(self, settings):
        """View of (a x + b) = a (view of x) + b, for everything but the scores."""
        keypoints, scores = clips(seed=3)
        views = Views(ViewConfig(**({**OFF, **settings} if settings else {})))
        one, seen = views(keypoints.double(), scores.double(), COCO, seeded(5))
        valid = (scores > 0)[..., None]
        place = torch.tensor([-900.0, 420.0], dtype=torch.double)
        other, seen_again = views((keypoints.double() * 2.5 + place) * valid, scores.double(), COCO, seeded(5))
        torch.testing.assert_close(seen, seen_again)
        expected = (one * 2.5 + place) * (seen > 0)[..., None]
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-3)

    @pytest.mark.parametrize("layout", layouts.LAYOUTS)
    def test_mirror_twice_is_the_identity(self, layout):
        layout = layouts.get(layout)
        keypoints, scores = clips(layout=layout)
        views = Views(ViewConfig(**{**OFF, "mirror": 1}))
        once, seen = views(keypoints, scores, layout, seeded())
        twice, again = views(once, seen, layout, seeded())
        torch.testing.assert_close(twice, keypoints, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(again, scores)
        middle = centre(keypoints, scores)
        for joint, other in enumerate(layout.mirror):
            visible = scores[..., other] > 0
            torch.testing.assert_close(seen[..., joint], scores[..., other])
            there, here = (x - middle[:, None, None] for x in (keypoints[..., other, :], once[..., joint, :]))
            expected = there * torch.tensor([-1.0, 1.0])
            torch.testing.assert_close(here[visible], expected[visible], rtol=1e-3, atol=1e-2)

    @pytest.mark.parametrize("channels", [2, 3])
    def test_axis_mask_leaves_an_axis_without_information(self, channels):
        keypoints, scores = clips(300, channels=channels, frames=6)
        views = Views(ViewConfig(**{**OFF, "axis_mask": 0.6, "occluder": 0.5}))
        ours, seen = views(keypoints, scores, COCO, seeded())
        missing = (seen == 0)[..., None].expand_as(ours)
        assert not ours[missing].any()
        flat = normalise(ours, seen).abs().amax((1, 2, 3)) < 1e-4  # (N, C)
        seen_at_all = seen.flatten(1).any(1)
        assert flat[seen_at_all].sum(1).max() == 1
        assert flat[seen_at_all].any(1).float().mean() == pytest.approx(0.6, abs=0.09)
        assert flat[seen_at_all].float().mean(0).tolist() == pytest.approx([0.6 / channels] * channels, abs=0.09)
        kept = ours.movedim(-1, 1)[~flat & seen_at_all[:, None]]
        original = (keypoints * (seen > 0)[..., None]).movedim(-1, 1)[~flat & seen_at_all[:, None]]
        torch.testing.assert_close(kept, original, rtol=1e-5, atol=1e-2)

    @pytest.mark.parametrize("channels", [2, 3])
    def test_rotations_keep_distances(self, channels):
        maps = spatial.random_maps(200, channels, 180, 0, 0, 0, 0, seeded())
        eye = torch.eye(channels).expand(200, -1, -1)
        torch.testing.assert_close(maps @ maps.transpose(1, 2), eye, rtol=1e-5, atol=1e-5)
        assert (torch.linalg.det(maps) > 0.99).all()
        angles = torch.atan2(maps[:, 1, 0], maps[:, 0, 0])
        assert angles.min() < -2 and angles.max() > 2 and angles.abs().mean() > 1

    def test_are_exact_under_autocast(self):
        keypoints, scores = clips(channels=3)
        maps, middle = spatial.random_maps(6, 3, 40, 0.2, 0.2, 0.5, 0.3, seeded()), centre(keypoints, scores)
        mapped, moved = spatial.affine(planes(keypoints), maps, middle), noise.displacement(
            torch.Size([3, 2, 1, 9, 17]), 0, 1, 0, seeded())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(spatial.random_maps(6, 3, 40, 0.2, 0.2, 0.5, 0.3, seeded()), maps)
            assert torch.equal(spatial.affine(planes(keypoints), maps, middle), mapped)
            assert torch.equal(noise.displacement(torch.Size([3, 2, 1, 9, 17]), 0, 1, 0, seeded()), moved)

    def test_limits_of_the_maps(self):
        maps = spatial.random_maps(500, 2, 0, 0.1, 0.05, 0.3, 0.2, seeded())
        x, y = maps[:, 0, 0], maps[:, 1, 1]
        assert math.exp(-0.15) * 0.7 <= x.min() < 0.68 and 1.05 < x.max() <= math.exp(0.15)
        assert math.exp(-0.15) <= y.min() < 0.9 and 1.1 < y.max() <= math.exp(0.15)
        assert 0.15 < (maps[:, 0, 1] / y).abs().max() <= 0.2
        turned = spatial.random_maps(500, 2, 20, 0, 0, 0, 0, seeded())
        assert 18 < torch.rad2deg(torch.asin(turned[:, 1, 0])).abs().max() <= 20.001


class TestNoise:
    def test_strengths(self):
        shape = torch.Size([200, 2, 1, 64, 17])
        fast = noise.displacement(shape, 0.1, 0, 0, seeded())
        # A uniform strength times a standard normal has the variance strength^2 / 3.
        assert fast.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
        slow = noise.displacement(shape, 0, 0.1, 0, seeded())
        assert slow.diff(dim=3).std() < 0.3 * slow.std() < 0.3 * 0.07
        assert fast.diff(dim=3).std() == pytest.approx(math.sqrt(2) * fast.std().item(), rel=0.05)
        drift = noise.displacement(shape, 0, 0, 0.5, seeded())
        assert drift.diff(dim=3).diff(dim=3).abs().max() < 1e-5
        assert 0.45 < (drift[:, :, 0, -1] - drift[:, :, 0, 0]).abs().max() <= 0.5

    def test_is_relative_to_the_body(self):
        keypoints, scores = clips(64, missing=0)
        views = Views(ViewConfig(**{**OFF, "noise": 1, "drift": 0}))
        small = (views(keypoints, scores, COCO, seeded())[0] - keypoints).std()
        large = (views(keypoints * 10, scores, COCO, seeded())[0] - keypoints * 10).std()
        assert large == pytest.approx(10 * small.item(), rel=0.02)


class TestOcclusion:
    def test_parts_of_known_layouts(self):
        names = {name: {part: [layouts.get(name).joints[i] for i in joints]
                        for part, joints in occlusion.parts(layouts.get(name)).items()} for name in layouts.LAYOUTS}
        assert names["coco17"] == {
            "head": ["nose", "left_eye", "right_eye", "left_ear", "right_ear"],
            "left arm": ["left_elbow", "left_wrist"], "right arm": ["right_elbow", "right_wrist"],
            "left leg": ["left_knee", "left_ankle"], "right leg": ["right_knee", "right_ankle"]}
        assert "left_hand_tip" in names["ntu25"]["left arm"] and "right_foot" in names["ntu25"]["right leg"]
        assert names["mediapipe33"]["left arm"][-3:] == ["left_pinky", "left_index", "left_thumb"]
        assert list(names["hand21"]) == ["thumb", "index", "middle", "ring", "pinky"]
        assert all(len(parts) == 5 for parts in names.values())

    def test_part_mask_hides_one_part_of_a_person(self):
        kept = occlusion.part_mask(500, 2, COCO, 0.4, seeded()).view(-1, 17)
        hidden = {tuple(torch.nonzero(~row)[:, 0].tolist()) for row in kept}
        assert hidden == {(), *(tuple(joints) for joints in occlusion.parts(COCO).values())}
        assert (~kept).any(1).float().mean() == pytest.approx(0.4, abs=0.05)

    def test_limb_mask_hides_parts_for_stretches(self):
        kept = occlusion.limb_mask(400, 2, 30, COCO, 0.3, seeded())
        table = list(occlusion.parts(COCO).values())
        assert kept[..., [5, 6, 11, 12]].all(), "shoulders and hips are of no part"
        for joints in table:
            part = kept[..., joints]
            assert (part.any(-1) == part.all(-1)).all()
            hidden = ~part[..., 0]
            assert hidden.any(-1).float().mean() == pytest.approx(0.3, abs=0.05)
            assert (hidden.float().diff(dim=-1).abs().sum(-1) <= 2).all(), "one stretch"
            lengths = hidden.sum(-1)[hidden.any(-1)]
            assert 6 <= lengths.min() <= 8 and lengths.max() >= 28
        number = torch.stack([~kept[..., joints[0]].all(-1) for joints in table], -1).sum(-1)
        assert number.max() >= 3, "several parts at once"

    def test_occluder_covers_one_rectangle_or_half_plane_that_stays(self):
        """Of a grid of joints on which it lies."""
        keypoints, scores = clips(1, persons=1, frames=5, missing=0)
        middle, size = centre(keypoints, scores), body_scale(keypoints, scores)
        side = torch.linspace(-3, 3, 40)
        places = torch.cartesian_prod(side, side)
        grid = (places.T * size + middle.T)[None, :, None, None].expand(-1, -1, 1, 5, -1)
        lines, boxes, durations = 0, 0, []
        for seed in range(60):
            hidden = ~occlusion.occluder_mask(grid, middle, size, 1.0, seeded(seed))[0, 0]
            covered, during = hidden.any(0), hidden.any(1)
            assert torch.equal(hidden, covered & during[:, None]) and during.any()
            durations.append(int(during.sum()))
            inside, outside = places[covered].numpy(), places[~covered].numpy()
            if separable(inside, outside):
                lines += 1
                assert 0.2 < covered.float().mean() < 0.6, "beyond a line at most about half the body is hidden"
            else:
                boxes += 1
                assert (Delaunay(inside).find_simplex(outside) < 0).all(), "convex"
                assert 0.4 * 0.4 * 0.7 < covered.float().mean() * 36 < 1.6 * 1.6 * 1.3
        assert lines > 15 and boxes > 15 and set(durations) == {1, 2, 3, 4, 5}

    def test_occluder_probability_and_person(self):
        keypoints, scores = clips(400, missing=0)
        middle, size = centre(keypoints, scores), body_scale(keypoints, scores)
        kept = occlusion.occluder_mask(planes(keypoints), middle, size, 0.5, seeded())
        assert (~kept).flatten(1).any(1).float().mean() == pytest.approx(0.5, abs=0.07)
        everywhere = (~kept).flatten(1).float().mean(1)
        assert everywhere.max() < 0.8, "never the whole clip"

    def test_new_kinds_of_loss_are_off_by_default_and_draw_nothing(self):
        keypoints, scores = clips()
        one, other = seeded(), seeded()
        off = ViewConfig(smoothing=0, axis_mask=0, limb_loss=0, occluder=0, detector=0)
        first, second = Views(ViewConfig())(keypoints, scores, COCO, one), Views(off)(keypoints, scores, COCO, other)
        assert torch.equal(first[0], second[0]) and torch.equal(one.get_state(), other.get_state())

    def test_rates(self):
        rate = (~occlusion.joint_mask(500, 2, 17, 0.4, seeded())).float().mean()
        assert rate == pytest.approx(0.2, abs=0.02)
        frames = ~occlusion.frame_mask(500, 50, 0.2, 1, seeded())[:, 0, :, 0]
        assert frames.sum(1).max() == 10 and frames.float().mean() == pytest.approx(0.1, abs=0.01)
        assert (frames.float().diff(dim=1).abs().sum(1) <= 2).all(), "one span is contiguous"
        assert not (~occlusion.frame_mask(5, 50, 0.5, 0, seeded())).any()


class TestViews:
    def test_switched_off_it_changes_nothing(self):
        keypoints, scores = clips()
        ours, seen = Views(ViewConfig(**OFF))(keypoints, scores, COCO, seeded())
        torch.testing.assert_close(ours, keypoints, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(seen, scores, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("layout", "channels"), [("coco17", 2), ("ntu25", 3), ("hand21", 2)])
    def test_missing_joints_have_no_coordinates_and_stay_missing(self, layout, channels):
        layout = layouts.get(layout)
        keypoints, scores = clips(16, layout=layout, channels=channels)
        scores[:, :, :, 3] = 0
        scores[2], scores[5, 1] = 0, 0
        keypoints = keypoints * (scores > 0)[..., None]
        for more in ({}, EVERYTHING):
            self.absent(Views(ViewConfig(mirror=0, **more))(keypoints, scores, layout, seeded()))

    def absent(self, view):
        ours, seen = view
        assert not seen[:, :, :, 3].any() and not seen[2].any() and not seen[5, 1].any()
        assert not ours[seen == 0].any() and ours[seen > 0].all()
        assert torch.isfinite(ours).all() and seen.min() >= 0 and seen.max() <= 1

    def test_depends_on_the_seed_alone(self):
        keypoints, scores = clips(channels=3)
        views = Views(ViewConfig(reverse=0.5, **EVERYTHING))
        torch.manual_seed(1)
        first = views(keypoints, scores, COCO, seeded(4))
        torch.manual_seed(2)
        second, other = views(keypoints, scores, COCO, seeded(4)), views(keypoints, scores, COCO, seeded(5))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        assert not torch.equal(first[0], other[0])

    def test_clips_do_not_depend_on_each_other(self):
        keypoints, scores = clips()
        changed, hidden = keypoints.clone(), scores.clone()
        changed[3] *= 7
        hidden[3, :, 5:] = 0
        one = Views(ViewConfig())(keypoints, scores, COCO, seeded())
        other = Views(ViewConfig())(changed * (hidden > 0)[..., None], hidden, COCO, seeded())
        rest = [0, 1, 2, 4, 5]
        assert torch.equal(one[0][rest], other[0][rest]) and torch.equal(one[1][rest], other[1][rest])
        assert not torch.equal(one[0][3], other[0][3])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_everything_at_once_in_other_precisions_and_lengths(self, dtype):
        for frames in (1, 7):
            keypoints, scores = (x.to(dtype) for x in clips(frames=frames))
            ours, seen = Views(ViewConfig(**EVERYTHING))(keypoints, scores, COCO, seeded())
            assert ours.dtype == seen.dtype == dtype and ours.shape == keypoints.shape
            assert torch.isfinite(ours).all() and not ours[seen == 0].any()
            # Whatever the dtype of the input, the view is computed in float32 at least and rounded once.
            expected, certain = Views(ViewConfig(**EVERYTHING))(keypoints.float(), scores.float(), COCO, seeded())
            torch.testing.assert_close(ours, expected.to(dtype), rtol=1e-4, atol=1e-2)
            torch.testing.assert_close(seen, certain.to(dtype), rtol=1e-4, atol=1e-4)

    def test_what_stands_at_a_missing_joint_does_not_matter(self):
        keypoints, scores = clips()
        keypoints, scores = keypoints.double(), scores.double()
        expected = Views(ViewConfig(**EVERYTHING))(keypoints, scores, COCO, seeded())
        for anything in (torch.nan, torch.inf, 1e6):
            filled = keypoints.masked_fill((scores == 0)[..., None], anything)
            ours = Views(ViewConfig(**EVERYTHING))(filled, scores, COCO, seeded())
            assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])
        uncertain = scores.masked_fill(scores == 0, torch.nan)
        ours = Views(ViewConfig(**EVERYTHING))(keypoints, uncertain, COCO, seeded())
        assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_everything_on_a_gpu(self):
        keypoints, scores = (x.cuda() for x in clips(64))
        views = Views(ViewConfig(reverse=0.5, **EVERYTHING))
        ours, seen = views(keypoints, scores, COCO, seeded(1, "cuda"))
        again = views(keypoints, scores, COCO, seeded(1, "cuda"))
        assert ours.is_cuda and torch.equal(ours, again[0]) and torch.equal(seen, again[1])
        assert torch.isfinite(ours).all() and not ours[seen == 0].any() and not torch.equal(ours, keypoints)
        still, certain = Views(ViewConfig(**OFF))(keypoints, scores, COCO, seeded(1, "cuda"))
        torch.testing.assert_close(still, keypoints, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(certain, scores, rtol=1e-5, atol=1e-5)

    def test_every_clip_has_its_own_draw(self):
        keypoints, scores = clips(1, missing=0)
        ours, _ = Views(ViewConfig())(keypoints.expand(8, -1, -1, -1, -1), scores.expand(8, -1, -1, -1), COCO, seeded())
        distances = torch.cdist(ours.flatten(1), ours.flatten(1)) + torch.eye(8) * 1e9
        assert distances.min() > 10

    def test_leaves_its_input_alone(self):
        keypoints, scores = clips()
        before = keypoints.clone(), scores.clone()
        Views(ViewConfig())(keypoints, scores, COCO, seeded())
        assert torch.equal(keypoints, before[0]) and torch.equal(scores, before[1])

    def test_autocast_does_not_round_coordinates(self):
        keypoints, scores = clips()
        plain, _ = Views(ViewConfig())(keypoints, scores, COCO, seeded())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(Views(ViewConfig())(keypoints, scores, COCO, seeded())[0], plain)

    def test_one_frame(self):
        keypoints, scores = clips(frames=1, missing=0)
        ours, _ = Views(ViewConfig())(keypoints, scores, COCO, seeded())
        assert ours.shape == keypoints.shape and torch.isfinite(ours).all()

    def test_errors(self):
        keypoints, scores = clips()
        fewer = keypoints[:, :, :, :13], scores[..., :13]
        empty = [(x[0], x[1]) for x in ([each.narrow(axis, 0, 0) for each in (keypoints, scores)] for axis in range(3))]
        line = keypoints[..., :1], scores
        for wrong in ((keypoints[:, 0], scores), (keypoints, scores[..., :3]), fewer, line, *empty):
            with pytest.raises(InputError, match="coco17"):
                Views(ViewConfig())(*wrong, COCO, seeded())
        for key, value in (("smoothing_width", 0), ("detector", 2), ("occluder", -1)):
            with pytest.raises(InputError, match=key):
                config.build(ViewConfig, {key: value}, "test")
        for key, value in (("mirror", 1.5), ("crop_min", 0), ("jitter", -1), ("speed", 1), ("rotate", 10)):
            with pytest.raises(InputError, match=key):
                config.build(ViewConfig, {key: value}, "test")
        with pytest.raises(InputError, match="crop_min"):
            config.build(ViewConfig, {"crop_min": 0.8, "crop_max": 0.5}, "test")
