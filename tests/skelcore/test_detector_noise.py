"""The detector-noise model shows the statistics that were measured on real detectors, and only where it should."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import detector_noise as bench
from skelcore import config, layouts
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views import ViewConfig, Views, detector
from skelcore.views.detector import BLAZEPOSE, DETECTORS, KNOTS, LOSS, MOVENET, Memory, corrupt
from tests.paths import DATA, need
from tests.skelcore.clips import seeded

COCO = layouts.get("coco17")
QUIET = {"crop_min": 1, "speed": 0, "mirror": 0, "affine": 0, "noise": 0, "joint_dropout": 0, "part_mask": 0,
         "frame_dropout": 0}
# Measured by benchmarks/detector_noise.py: median and 90 % of a part's errors in body scales (MoveNet: of the distance
# from the middle of neighbouring frames), rank correlation of error and score.
MEASURED = {
    "blazepose": {"nose": (0.048, 0.106, -0.18), "eye": (0.044, 0.090, -0.26), "ear": (0.029, 0.062, -0.22),
                  "shoulder": (0.031, 0.084, -0.38), "elbow": (0.047, 0.152, -0.41), "wrist": (0.057, 0.146, -0.45),
                  "hip": (0.038, 0.093, -0.19), "knee": (0.038, 0.098, -0.29), "ankle": (0.051, 0.214, -0.37)},
    "movenet": {"nose": (0.011, 0.054, -0.38), "eye": (0.010, 0.052, -0.31), "ear": (0.010, 0.049, -0.44),
                "shoulder": (0.012, 0.052, -0.27), "elbow": (0.010, 0.053, -0.35), "wrist": (0.007, 0.040, -0.48),
                "hip": (0.011, 0.053, -0.40), "knee": (0.011, 0.089, -0.55), "ankle": (0.008, 0.125, -0.59)},
}
ERROR_MEMORY = (0.879, 0.809, 0.750, 0.671, 0.631, 0.635, 0.652)  # BlazePose, lags 1 2 3 5 8 15 30
HARDNESS_MEMORY = {"blazepose": (0.894, 0.820, 0.755, 0.683, 0.656, 0.631, 0.635),
                   "movenet": (0.851, 0.799, 0.761, 0.696, 0.628, 0.529, 0.477)}
LOST = {"blazepose": (0.034, 3.1), "movenet": (0.065, 3.8)}


def still(count, frames=45, layout=COCO, channels=2, persons=1, dtype=torch.float32):
    """People who hold a pose in which left and right are far apart; planes (N, C, M, T, V), all seen."""
    pose = torch.randn(channels, len(layout), generator=seeded(1), dtype=dtype) * 2
    points = pose[None, :, None, None].expand(count, -1, persons, frames, -1).contiguous()
    return points, torch.ones(count, persons, frames, len(layout), dtype=dtype)


def answer(points, scores, model, layout=COCO, which=None, floor=0.0, size=1.0, seed=0):
    size = torch.full((len(points),), size, dtype=points.dtype)
    which = torch.ones(len(points), dtype=torch.bool) if which is None else which
    return corrupt(points, scores, layout, model, size, which, floor, seeded(seed))


def as_clips(points, scores, truth):
    def flat(x):
        return x[:, :, 0].permute(0, 2, 3, 1).double().numpy()

    return [bench.Clip(p, s, t, np.ones(len(p), bool))
            for p, s, t in zip(flat(points), scores[:, 0].double().numpy(), flat(truth), strict=True)]


@pytest.fixture(scope="module", params=["blazepose", "movenet"])
def simulation(request):
    points, scores = still(300, 45 if request.param == "blazepose" else 90)
    clips = as_clips(*answer(points, scores, DETECTORS[request.param]), points)
    if request.param == "movenet":
        clips = [replace(clip, truth=None) for clip in clips]
    return request.param, clips


class TestStatistics:
    def test_errors_and_their_link_to_the_scores(self, simulation):
        name, clips = simulation
        sizes = [np.linalg.norm(each, axis=-1) for each in bench.deviations(clips)]
        assert MEASURED[name].keys() == set(bench.PARTS)
        for part, (median, most, rank) in MEASURED[name].items():
            values = bench.of_part(sizes, part)
            half, ninety = np.nanquantile(values, (0.5, 0.9))
            # Of MoveNet's, a hundredth of the body's size, part is the push-ups' own movement, which has nothing to do
            # with the scores; nobody moves here.
            least, below = (0.88, 0.08) if name == "blazepose" else (0.3, 0.15)
            assert least * median < half < 1.12 * median, part
            assert ninety == pytest.approx(most, rel=0.3), part
            found = bench.rank_correlation(values, bench.of_part([clip.scores for clip in clips], part))
            assert rank - below < found < rank + 0.08, part

    def test_memories(self, simulation):
        name, clips = simulation
        np.testing.assert_allclose(bench.autocorrelation(bench.hardness(clips)), HARDNESS_MEMORY[name], atol=0.06)
        if name == "blazepose":
            found = bench.autocorrelation(bench.tamed(bench.deviations(clips)))
            np.testing.assert_allclose(found, ERROR_MEMORY, atol=0.06)

    def test_lost_limbs(self, simulation):
        name, clips = simulation
        found, expected = bench.lost(clips), LOST[name]
        assert found[0] == pytest.approx(expected[0], rel=0.35)
        assert found[1] == pytest.approx(expected[1], rel=0.4) and found[1] > 1.8, "they last"

    def test_exchanges(self, simulation):
        """Counted against the truth, or as sudden exchanges like those that MoveNet's constants come from."""
        name, clips = simulation
        model, frames = DETECTORS[name], sum(len(clip.points) for clip in clips)
        for group in bench.GROUPS:
            rate, _ = bench.swapping(clips, group)
            expected = model.swaps[group][0] + (model.swaps["body"][0] if group != "body" else 0)
            # Three standard errors of a count of events: 26 to 48 of MoveNet's, 98 to 139 of BlazePose's.
            assert rate == pytest.approx(expected, rel=3 / math.sqrt(expected * frames)), group

    def test_scores_have_the_detectors_own_distribution(self, simulation):
        name, clips = simulation
        for part in bench.PARTS:
            scores = bench.of_part([clip.scores for clip in clips], part)
            for knot, value in list(zip(KNOTS, DETECTORS[name].parts[part].scores, strict=True))[1:-1]:
                if value < 0.99:
                    assert (scores <= value).mean() == pytest.approx(knot, abs=0.03), (part, knot)
            assert scores.min() > 0

    def test_simulated_on_real_tracks(self):
        need(DATA / bench.WEB)
        clips = bench.web(DATA)[::3]
        model = bench.simulated(clips, MOVENET)
        real, ours = bench.aims(clips), bench.aims(model)
        for part in bench.PARTS:
            ratio = np.exp(ours - real)[bench.AIM[f"size {part}"]][2:5]
            assert ratio.min() > 0.5 and ratio.max() < 1.5, part
        for name, tolerance in (*((f"rank {part}", 0.12) for part in bench.PARTS), ("error", 0.1), ("shared", 0.1)):
            np.testing.assert_allclose(ours[bench.AIM[name]], real[bench.AIM[name]], atol=tolerance, err_msg=name)
        for group in bench.GROUPS:
            # About ten exchanges in these clips; how long so few last says nothing.
            assert bench.swapping(model, group)[0] == pytest.approx(bench.swapping(clips, group)[0], rel=0.6), group

    def test_constants_come_from_the_data(self):
        need(DATA / bench.WEB)
        clips = bench.web(DATA)
        assert len(clips) == 265
        for part in bench.PARTS:
            scores = bench.of_part([clip.scores for clip in clips], part)
            np.testing.assert_allclose(np.quantile(scores, KNOTS), MOVENET.parts[part].scores, atol=2e-3)
        vector = bench.aims(clips)
        measured = {name: vector[where] for name, where in bench.AIM.items()}
        for part, (median, most, rank) in MEASURED["movenet"].items():
            sizes = np.exp(measured[f"size {part}"])
            assert (sizes[2], sizes[4]) == pytest.approx((median, most), abs=6e-4)
            assert measured[f"rank {part}"] == pytest.approx(rank, abs=6e-3)
        np.testing.assert_allclose(measured["hardness"], HARDNESS_MEMORY["movenet"], atol=1e-3)
        assert bench.lost(clips) == pytest.approx(LOST["movenet"], rel=0.02)
        for group, (rate, length) in MOVENET.swaps.items():
            found = bench.swapping(clips, group)
            body = 0 if group == "body" else MOVENET.swaps["body"][0]
            assert found == pytest.approx((rate + body, length), rel=0.02)


class TestParts:
    @pytest.mark.parametrize("memory", [BLAZEPOSE.error, MOVENET.hardness, Memory(0.0, 1.0, 1.0)])
    def test_a_process_has_its_memory(self, memory):
        series = detector._process((4000, 40, 3), memory, seeded())
        for lag in (0, 1, 2, 5, 20):
            product = (series[:, lag:] * series[:, : 40 - lag]).mean().item()
            assert product == pytest.approx(memory.correlation(lag), abs=0.03)

    def test_spans_have_their_rate_and_length_from_the_first_frame_on(self):
        inside = detector.spans((20000, 50), 0.01, 5.0, seeded())
        expected = 1 - math.prod(1 - 0.01 * 0.8**k for k in range(100))
        share = inside.float().mean(0)
        assert share[0] == pytest.approx(expected, abs=0.006)
        assert share[-5:].mean() == pytest.approx(expected, abs=0.004)
        rises = (inside[:, 1:] & ~inside[:, :-1]).float().mean()
        assert inside[:, 1:].float().mean() / rises == pytest.approx(5.0, rel=0.08)
        assert not detector.spans((100, 50), 0.0, 5.0, seeded()).any()
        single = detector.spans((5000, 50), 0.05, 1.0, seeded())
        assert single.float().mean() == pytest.approx(0.05, abs=0.004)

    def test_believed_equals_interpolation(self):
        hard = torch.randn(2, 1, 9, 17, generator=seeded())
        scores = detector.believed(hard, COCO, BLAZEPOSE)
        rate, length = BLAZEPOSE.losses
        for n, t, v in np.ndindex(2, 9, 17):
            part = detector.part_names(COCO)[v]
            h = float(hard[n, 0, t, v])
            ranks = [0.5 * math.erfc(x / math.sqrt(2)) for x in (h, h - LOSS)]
            share = 1 - math.exp(-rate * length) if part in ("elbow", "wrist", "knee", "ankle") else 0.0
            rank = (1 - share) * ranks[0] + share * ranks[1]
            expected = np.interp(rank, KNOTS, BLAZEPOSE.parts[part].scores)
            assert scores[n, 0, t, v] == pytest.approx(expected, abs=1e-4)

    def test_exchanged_limbs_are_counted_as_constructed(self):
        truth = still(1, 20)[0][0, :, 0].permute(1, 2, 0).double().numpy()
        points = truth.copy()
        legs = COCO.index("left_knee", "left_ankle", "right_knee", "right_ankle")
        points[4:7, legs] = truth[4:7][:, [legs[2], legs[3], legs[0], legs[1]]]
        clip = bench.Clip(points, np.ones((20, 17)), truth, np.ones(20, bool))
        assert bench.swapping([clip], "legs") == (1 / 20, 3.0)
        assert bench.swapping([clip], "arms")[0] == 0
        blind = replace(clip, truth=None)
        assert bench.swapping([blind], "legs") == (1 / 19, 3.0)

    def test_every_layout_has_parts(self):
        for layout in layouts.LAYOUTS.values():
            assert set(detector.part_names(layout)) <= set(BLAZEPOSE.parts)
        names = dict(zip(layouts.get("ntu25").joints, detector.part_names(layouts.get("ntu25")), strict=True))
        assert (names["left_hand_tip"], names["pelvis"], names["right_foot"]) == ("wrist", "hip", "ankle")
        assert (names["neck"], names["upper_spine"], names["head"]) == ("shoulder", "shoulder", "ear")


class TestCorrupt:
    def silent(self, **changes):
        """A detector without errors of position."""
        parts = {name: replace(part, calm=0.0) for name, part in BLAZEPOSE.parts.items()}
        return replace(BLAZEPOSE, parts=parts, **changes)

    def test_swapped_joints_truly_exchange(self):
        points, scores = still(40)
        model = self.silent(swaps={"legs": (0.05, 3.0)})
        ours, _ = answer(points, scores, model)
        other = torch.from_numpy(COCO.mirror)
        moved = (ours != points).any(1)
        assert torch.equal(ours.movedim(1, -1)[moved], points[..., other].movedim(1, -1)[moved])
        legs = torch.tensor(["knee" in joint or "ankle" in joint for joint in COCO.joints])
        assert not moved[..., ~legs].any() and 0.05 < moved[..., legs].float().mean() < 0.25
        assert (moved[..., legs].any(-1) == moved[..., legs].all(-1)).all(), "both joints of both legs"

    def test_a_joint_whose_partner_is_missing_stays(self):
        points, scores = still(20)
        scores[..., 15] = 0
        points = points * (scores > 0)[:, None]
        ours, seen = answer(points, scores, self.silent(swaps={"body": (0.5, 5.0)}))
        assert not seen[..., 15].any() and not ours[..., 15].any()
        assert torch.equal(ours[..., 16], points[..., 16]) and not torch.equal(ours[..., 14], points[..., 14])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize(("layout", "channels"), [("coco17", 2), ("ntu25", 3), ("hand21", 2)])
    def test_missing_joints_stay_missing(self, layout, channels, dtype):
        layout = layouts.get(layout)
        points, scores = still(16, 20, layout, channels, 2, dtype)
        scores[torch.rand(scores.shape, generator=seeded()) < 0.3] = 0
        scores[3], scores[5, 1] = 0, 0
        points = points * (scores > 0)[:, None]
        ours, seen = answer(points, scores, MOVENET, layout)
        assert ours.dtype == dtype and seen.dtype == dtype
        assert torch.equal(seen > 0, scores > 0) and seen.max() <= 1 and torch.isfinite(ours).all()
        gone = (seen == 0)[:, None].expand_as(ours)
        assert not ours[gone].any() and (ours[~gone] != points[~gone]).float().mean() > 0.5

    def test_only_the_chosen_clips_change(self):
        points, scores = still(8)
        scores = scores * 0.7
        which = torch.tensor([True, False] * 4)
        ours, seen = answer(points, scores, BLAZEPOSE, which=which, floor=0.9)
        assert torch.equal(ours[~which], points[~which]) and torch.equal(seen[~which], scores[~which])
        assert (ours[which] != points[which]).float().mean() > 0.9
        assert (seen[which] != scores[which]).float().mean() > 0.9

    def test_autocast_and_inference_mode_do_not_matter(self):
        points, scores = still(4, 33)
        detector._root.cache_clear()
        with torch.inference_mode():
            answer(points, scores, BLAZEPOSE)
        assert not detector._root(33, BLAZEPOSE.error).is_inference()
        expected = answer(points, scores, BLAZEPOSE)
        with torch.autocast("cpu", torch.bfloat16):
            ours = answer(points, scores, BLAZEPOSE)
        assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])

    def test_errors_grow_with_the_body(self):
        points, scores = still(8)
        model = replace(BLAZEPOSE, swaps={})
        small = answer(points.double(), scores.double(), model)[0] - points
        large = answer(points.double(), scores.double(), model, size=50.0)[0] - points
        torch.testing.assert_close(large, 50 * small)

    def test_unsure_joints_are_dropped_below_the_floor(self):
        points, scores = still(4000, 4)
        _, everything = answer(points, scores, MOVENET)
        ours, seen = answer(points, scores, MOVENET, floor=0.6)
        kept = seen > 0
        torch.testing.assert_close(seen[kept], everything[kept])
        assert not ours[~kept[:, None].expand_as(ours)].any()
        # A threshold uniform in [0, 0.6) lies above a score s with probability 1 - s / 0.6.
        expected = (1 - everything / 0.6).clamp(min=0).mean().item()
        assert (~kept).float().mean() == pytest.approx(expected, abs=0.01) and expected > 0.1

    @pytest.mark.parametrize("frames", [1, 2, 300])
    def test_any_length_and_a_layout_of_the_users_own(self, frames):
        own = Layout("own", ("hub", "left_wing", "right_wing"), ((1, 0), (2, 0)), 0)
        points, scores = still(3, frames, own)
        ours, seen = answer(points, scores, BLAZEPOSE, own)
        assert ours.shape == points.shape and torch.isfinite(ours).all() and (seen > 0).all()


class TestViews:
    def clips(self, count=12):
        points, scores = still(count, 20)
        scores = scores * torch.rand(scores.shape, generator=seeded(2)).clamp(min=0.2)
        scores[torch.rand(scores.shape, generator=seeded(3)) < 0.2] = 0
        return (points * (scores > 0)[:, None] * 100).movedim(1, -1), scores

    def test_probability_and_seed(self):
        keypoints, scores = self.clips(300)
        views = Views(ViewConfig(**{**QUIET, "detector": 0.4}))
        torch.manual_seed(1)
        first = views(keypoints, scores, COCO, seeded(4))
        torch.manual_seed(2)
        again, other = views(keypoints, scores, COCO, seeded(4)), views(keypoints, scores, COCO, seeded(5))
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0])
        changed = (first[1] - scores).abs().flatten(1).amax(1) > 1e-3
        assert changed.float().mean() == pytest.approx(0.4, abs=0.07)
        torch.testing.assert_close(first[0][~changed], keypoints[~changed])

    def test_its_frames_are_those_of_the_loaded_clip(self):
        """A view of a quarter of the clip shows errors that change a quarter as fast."""
        points, scores = still(200, 61)
        smoothness = []
        for share in (1, 0.25):
            views = Views(ViewConfig(**{**QUIET, "detector": 1, "crop_min": share, "crop_max": share}))
            ours, _ = views(points.movedim(1, -1), scores, COCO, seeded())
            change = (ours.diff(dim=2).abs()).mean() / (ours - points.movedim(1, -1)).abs().mean()
            smoothness.append(change.item())
        assert smoothness[1] == pytest.approx(smoothness[0] / 4, rel=0.2)

    def test_strength_0_draws_nothing(self):
        keypoints, scores = self.clips()
        one, other = seeded(), seeded()
        Views(ViewConfig())(keypoints, scores, COCO, one)
        Views(ViewConfig(detector_model="movenet", detector_floor=0.3))(keypoints, scores, COCO, other)
        assert torch.equal(one.get_state(), other.get_state())

    def test_the_models_differ(self):
        keypoints, scores = self.clips()
        levels = [Views(ViewConfig(**{**QUIET, "detector": 1, "detector_model": name}))(
            keypoints, scores, COCO, seeded())[1][scores > 0].mean() for name in DETECTORS]
        assert levels[0] > 0.85 and 0.45 < levels[1] < 0.7

    def test_unknown_model(self):
        with pytest.raises(InputError, match="detector_model"):
            config.build(ViewConfig, {"detector_model": "posenet"}, "test")
