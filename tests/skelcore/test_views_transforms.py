"""Sampling, crops, normalisation and augmentation: properties, naive loops, batches against single clips, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelcore import kinetics, layouts
from skelcore.errors import InputError
from skelcore.views import augment, crop, reference, sampling
from skelcore.views.features import features
from skelcore.views.normalise import align_body, normalise_by_box, normalise_by_image
from tests.skelcore.clips import clips as random_clips
from tests.skelcore.clips import seeded
from tests.skelcore.test_views_reference import global_states

COCO, NTU = layouts.get("coco17"), layouts.get("ntu25")
few = settings(max_examples=40, deadline=None)


def clips(count=4, persons=2, frames=12, *more, **options):
    return random_clips(count, persons, frames, *more, **options)


def body(count=3, persons=2, frames=10, seed=0):
    """3D clips in which persons come and go, and their lengths."""
    keypoints, scores = clips(count, persons, frames, NTU, 3, missing=0, seed=seed)
    numbers = np.random.default_rng(seed)
    lengths = torch.from_numpy(numbers.integers(3, frames + 1, count))
    present = torch.from_numpy(numbers.random((count, persons, frames, 1)) < 0.6)
    present[:, :1, :1] = True
    present &= (torch.arange(frames) < lengths[:, None])[:, None, :, None]
    return keypoints / 100 * present[..., None], scores * present, lengths


class TestSampling:
    @few
    @given(st.lists(st.integers(1, 400), min_size=1, max_size=5), st.integers(1, 64), st.integers(0, 99))
    def test_training_frames_are_in_range_and_one_from_each_segment(self, lengths, frames, seed):
        picked = sampling.uniform_train(torch.tensor(lengths), frames, seeded(seed))
        assert picked.shape == (len(lengths), frames) and picked.dtype == torch.int64
        for length, index in zip(lengths, picked.numpy(), strict=True):
            assert index.min() >= 0 and index.max() < length
            if length < frames:
                np.testing.assert_array_equal(np.diff(index) % length, 1 % length)
            elif length < 2 * frames:
                assert (np.diff(index) >= 1).all()
            else:
                for segment, frame in enumerate(index):
                    assert segment * length // frames <= frame < (segment + 1) * length // frames

    @few
    @given(st.integers(1, 300), st.integers(1, 50), st.integers(1, 12))
    def test_test_frames_are_in_range_ordered_and_the_same_every_time(self, length, frames, count):
        states = global_states()
        one = sampling.uniform_test(torch.tensor([length]), frames, count)
        batch = sampling.uniform_test(torch.tensor([7, length, 500]), frames, count)
        assert torch.equal(batch[1], one[0]) and one.shape == (1, count, frames)
        assert one.min() >= 0 and one.max() < length
        if length >= frames:
            assert (one.diff(dim=2) >= 0).all()
        else:
            starts = [clip if length < count else clip * length // count for clip in range(count)]
            assert one[0, :, 0].tolist() == [start % length for start in starts]
        assert global_states() == states

    def test_every_choice_is_equally_likely(self):
        draws = 6000
        chosen = sampling.uniform_train(torch.full((draws,), 5), 3, seeded())
        sets, counts = np.unique(chosen.numpy(), axis=0, return_counts=True)
        naive = {tuple(np.arange(3) + np.cumsum([a in pair for a in range(4)])[:3])
                 for pair in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]}
        assert {tuple(row) for row in sets} == naive and len(naive) == 6
        assert np.abs(counts - draws / 6).max() < 5 * math.sqrt(draws / 6)
        starts = sampling.uniform_train(torch.full((draws,), 4), 9, seeded())[:, 0].bincount(minlength=4)
        assert (starts - draws / 4).abs().max() < 5 * math.sqrt(draws / 4)
        first = sampling.uniform_train(torch.full((draws,), 12), 3, seeded())[:, 0].bincount(minlength=4)
        assert len(first) == 4 and (first - draws / 4).abs().max() < 5 * math.sqrt(draws / 4)

    def test_a_share_of_the_clip_stays_together_and_reaches_everywhere(self):
        picked = sampling.uniform_train(torch.full((2000,), 100), 10, seeded(), share=(0.5, 0.5))
        spread = picked[:, -1] - picked[:, 0]
        assert spread.max() < 50 and picked.min() == 0 and picked.max() == 99
        assert sampling.uniform_train(torch.tensor([1, 2]), 4, seeded(), share=(0.1, 0.2)).max() <= 1
        rng = np.random.RandomState(0)
        drawn = torch.stack([sampling.drawn(100, 10, rng, (0.5, 0.5)) for _ in range(200)])
        assert (drawn[:, -1] - drawn[:, 0]).max() < 50 and drawn.max() >= 90

    def test_determined_by_the_generator_alone(self):
        lengths, states = torch.tensor([5, 30, 99]), global_states()
        one, two = (sampling.uniform_train(lengths, 20, seeded(3)) for _ in range(2))
        assert torch.equal(one, two) and global_states() == states
        assert not torch.equal(one, sampling.uniform_train(lengths, 20, seeded(4)))

    def test_the_number_of_draws_depends_on_the_shape_alone(self):
        generators = [seeded(), seeded()]
        for lengths, generator in zip(([5, 200], [30, 31]), generators, strict=True):
            sampling.uniform_train(torch.tensor(lengths), 20, generator)
        assert torch.equal(generators[0].get_state(), generators[1].get_state())

    def test_gather_equals_indexing(self):
        keypoints, _ = clips()
        indices = torch.randint(12, (4, 3, 7), generator=seeded())
        ours = sampling.gather(keypoints, indices)
        assert ours.shape == (4, 3, 2, 7, 17, 2)
        for clip, sample in np.ndindex(4, 3):
            assert torch.equal(ours[clip, sample], keypoints[clip][:, indices[clip, sample]])
        assert torch.equal(sampling.gather(keypoints, indices[:, 1]), ours[:, 1])

    @pytest.mark.parametrize("loop", [False, True])
    def test_padding_in_time_equals_a_naive_loop(self, loop):
        keypoints, _ = clips()
        lengths = torch.tensor([12, 5, 1, 7])
        ours = sampling.pad_frames(keypoints, lengths, 15, loop)
        for clip, length in enumerate(lengths.tolist()):
            for frame in range(15):
                same = keypoints[clip, :, frame % length]
                assert torch.equal(ours[clip, :, frame], same if loop or frame < length else torch.zeros_like(same))

    def test_persons_are_padded_cut_and_repeated(self):
        keypoints, _ = clips(persons=2)
        padded = sampling.pad_persons(keypoints, 5)
        assert torch.equal(padded[:, :2], keypoints) and not padded[:, 2:].any()
        assert torch.equal(sampling.pad_persons(keypoints, 1), keypoints[:, :1])
        assert torch.equal(sampling.pad_persons(keypoints, 5, loop=True), keypoints[:, [0, 1, 0, 1, 0]])

    def test_errors(self):
        with pytest.raises(InputError, match="frames=0"):
            sampling.uniform_train(torch.tensor([3]), 0, seeded())
        with pytest.raises(InputError, match="without frames"):
            sampling.uniform_test(torch.tensor([3, 0]), 4, 1)
        with pytest.raises(InputError, match="whole numbers"):
            sampling.uniform_train(torch.tensor([3.5]), 4, seeded())
        with pytest.raises(InputError, match="12 frames cannot be padded to 10"):
            sampling.pad_frames(clips()[0], torch.tensor([12, 1, 1, 1]), 10)


class TestCrop:
    @few
    @given(st.integers(0, 999), st.sampled_from([None, 1.0, (0.5, 2.0)]), st.booleans(), st.floats(0.1, 1))
    def test_the_subject_stays_inside(self, seed, ratio, outside, padding):
        keypoints, scores = clips(3, seed=seed)
        keypoints = keypoints.clamp(0, 600) * (scores > 0)[..., None]
        sizes = torch.tensor([[600, 600]] * 3)
        box = crop.compact_box(crop.subject_box(keypoints, scores), sizes, padding, ratio, outside)
        moved, inner = crop.crop(keypoints, scores, box)
        seen = scores > 0
        for clip in range(3):
            points = moved[clip][seen[clip]]
            assert (points >= 0).all() and (points <= inner[clip].flip(0)).all()
            assert not moved[clip][~seen[clip]].any()
            if ratio == 1.0 and outside:
                assert abs(int(inner[clip, 0] - inner[clip, 1])) <= 2  # each edge is cut towards 0
            if not outside:
                assert (inner[clip] <= 600).all()

    def test_the_shape_is_brought_within_its_bounds(self):
        sizes = torch.tensor([[600, 600]])
        for tight, ratio, shape in (([100, 100, 300, 200], 1.0, (200, 200)), ([100, 100, 200, 300], 1.0, (200, 200)),
                                    ([100, 100, 300, 180], (0.5, 2.0), (100, 200)),
                                    ([100, 100, 150, 300], (0.5, 2.0), (200, 100)),
                                    ([100, 100, 220, 300], (0.5, 2.0), (200, 120)),
                                    ([100, 100, 300, 200], None, (100, 200))):
            box = crop.compact_box(torch.tensor([tight]).double(), sizes, 0, ratio)[0]
            assert (int(box[3] - box[1]), int(box[2] - box[0])) == shape

    def test_a_small_or_absent_subject_leaves_the_image(self):
        keypoints, scores = clips(3)
        keypoints[0] = keypoints[0] / 1e3
        keypoints[1], scores[1] = 0, 0
        sizes = torch.tensor([[480, 640]] * 3)
        box = crop.compact_box(crop.subject_box(keypoints, scores), sizes)
        assert box[:2].tolist() == [[0, 0, 640, 480]] * 2 and box[2].tolist() != [0, 0, 640, 480]

    def test_a_joint_at_the_edge_counts_unless_in_parity(self):
        keypoints, scores = torch.full((1, 1, 1, 17, 2), 50.0), torch.ones(1, 1, 1, 17)
        keypoints[..., 0, 0] = 0.0
        assert crop.subject_box(keypoints, scores).tolist() == [[0, 50, 50, 50]]
        assert crop.subject_box(keypoints, scores, compat=True).tolist() == [[50, 50, 50, 50]]
        which, widths = torch.tensor([True]), torch.tensor([64])
        assert crop.flip(keypoints, scores, widths, COCO, which)[0][..., 0, 0] == 64
        assert crop.flip(keypoints, scores, widths, COCO, which, compat=True)[0][..., 0, 0] == 0

    @few
    @given(st.integers(8, 300), st.integers(8, 300), st.integers(0, 99))
    def test_random_boxes_lie_inside_with_the_area_and_aspect_asked(self, height, width, seed):
        sizes = torch.tensor([[height, width]] * 8)
        boxes = crop.random_box(sizes, seeded(seed))
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= sizes.flip(1)).all() and (sides > 0).all()
        square = (sides[:, 0] == sides[:, 1]) & (sides[:, 0] == min(height, width))
        area = sides.prod(1) / (height * width)
        slack = 1.5 / min(height, width)
        assert (square | ((area > 0.56 - 2 * slack) & (area <= 1))).all()
        aspect = sides[:, 0] / sides[:, 1]
        assert ((aspect > 0.75 - 2 * slack) & (aspect < 4 / 3 + 3 * slack)).all()

    def test_random_boxes_reach_every_place(self):
        sizes = torch.tensor([[64, 64]] * 4000)
        boxes = crop.random_box(sizes, seeded())
        room = 64 - (boxes[:, 2:] - boxes[:, :2])
        loose = (room > 0).all(1)
        assert ((boxes[:, :2] == room)[loose].float().mean(0) > 0.05).all()
        assert ((boxes[:, :2] == 0)[loose].float().mean(0) > 0.05).all()

    def test_none_fits_gives_the_middle_square(self):
        sizes = torch.tensor([[10, 100]])
        shape, found = crop.first_fitting(sizes, torch.ones(1, 10), torch.ones(1, 10))
        assert not found and shape.tolist() == [[10, 10]]
        assert crop.random_box(sizes, seeded(), area=(1, 1), aspect=(1, 1)).tolist() == [[45, 0, 55, 10]]
        assert reference.random_box(sizes, reference.Draws(0), (1, 1), (1, 1)).tolist() == [[45, 0, 55, 10]]
        assert crop.centre_box(torch.tensor([[65, 80]]), (64, 64)).tolist() == [[8, 0, 72, 64]]

    def test_fractions_of_a_chain_of_crops_lead_back_to_the_image(self):
        keypoints, scores = clips(2, missing=0)
        sizes = torch.tensor([[480, 640], [600, 600]])
        outer = torch.tensor([[100, 50, 500, 450], [0, 10, 590, 600]])
        inner = torch.tensor([[20, 30, 220, 330], [5, 5, 500, 400]])
        once, size = crop.crop(keypoints.double(), scores, outer)
        twice, last = crop.crop(once, scores, inner)
        part = crop.fraction(inner, size, within=crop.fraction(outer, sizes))[:, None, None, None]
        back = part[..., :2] + part[..., 2:] * twice / last.flip(1)[:, None, None, None]
        image = sizes.flip(1)[:, None, None, None]
        torch.testing.assert_close(back * image, keypoints.double(), rtol=1e-9, atol=1e-9)

    def test_resizing_is_undone_by_the_way_back(self):
        keypoints, _ = clips(2)
        sizes = torch.tensor([[480, 640], [90, 60]])
        assert crop.short_side(torch.tensor([[480, 640], [644, 480]]), 64).tolist() == [[64, 85], [86, 64]]
        small, new = crop.resize(keypoints, sizes, (56, 28))
        assert new.tolist() == [[56, 28]] * 2
        torch.testing.assert_close(small[0] * torch.tensor([640 / 28, 480 / 56]), keypoints[0], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(crop.resize(small, new, sizes)[0], keypoints, rtol=1e-5, atol=1e-3)

    @few
    @given(st.integers(0, 999), st.lists(st.booleans(), min_size=4, max_size=4))
    def test_flipping_twice_changes_nothing(self, seed, which):
        keypoints, scores = clips(seed=seed)
        widths, which = torch.tensor([640, 56, 1000, 3]), torch.tensor(which)
        once = crop.flip(keypoints, scores, widths, COCO, which)
        twice = crop.flip(*once, widths, COCO, which)
        torch.testing.assert_close(twice[0], keypoints, rtol=0, atol=1e-3)
        assert torch.equal(twice[1], scores)
        assert torch.equal(once[0][~which], keypoints[~which])
        left, right = COCO.index("left_wrist", "right_wrist")
        expected = torch.where(scores[..., left] > 0, widths[:, None, None] - keypoints[..., left, 0], 0)
        torch.testing.assert_close(once[0][..., right, 0][which], expected[which])

    def test_another_layout_is_refused(self):
        keypoints, scores = clips()
        with pytest.raises(InputError, match="penn13"):
            crop.flip(keypoints, scores, torch.ones(4), layouts.get("penn13"), torch.ones(4).bool())


class TestNormalise:
    @few
    @given(st.integers(0, 999), st.floats(0.2, 20), st.floats(-500, 500))
    def test_the_box_normal_form_ignores_place_and_scale(self, seed, factor, shift):
        keypoints, scores = clips(2, seed=seed)
        keypoints, seen = keypoints.double(), (scores > 0)[..., None]
        ours = normalise_by_box(keypoints, scores)
        moved = (keypoints * torch.tensor([factor, 2 * factor]) + shift) * seen
        torch.testing.assert_close(normalise_by_box(moved, scores), ours, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours.amin((1, 2, 3)), -torch.ones(2, 2).double())
        torch.testing.assert_close(ours.amax((1, 2, 3)), torch.ones(2, 2).double())

    def test_the_image_normal_form_ignores_resolution(self):
        keypoints, scores = clips(2)
        sizes = torch.tensor([[480, 640], [1080, 1920]])
        ours = normalise_by_image(keypoints, scores, sizes)
        torch.testing.assert_close(normalise_by_image(keypoints * 3, scores, sizes * 3), ours)
        for index in np.argwhere(scores.numpy() > 0)[::50]:
            height, width = sizes[index[0]].tolist()
            x, y = keypoints[tuple(index)].tolist()
            expected = torch.tensor([x / (width / 2) - 1, y / (height / 2) - 1])
            torch.testing.assert_close(ours[tuple(index)], expected, rtol=1e-5, atol=1e-6)
        assert not ours[scores == 0].any()

    def test_small_clips_and_low_scores(self):
        keypoints, scores = clips(2)
        keypoints[0] /= 100
        assert torch.equal(normalise_by_box(keypoints, scores)[0], keypoints[0])
        scores[1, 0, 0, 0] = 0.005
        sizes = torch.tensor([[480, 640]] * 2)
        assert normalise_by_image(keypoints, scores, sizes)[1, 0, 0, 0].any()
        assert not normalise_by_image(keypoints, scores, sizes, 0.01)[1, 0, 0, 0].any()

    @few
    @given(st.integers(0, 999))
    def test_aligned_bodies_stand_in_the_origin_and_look_one_way(self, seed):
        keypoints, scores, lengths = body(seed=seed)
        ours, seen, kept = align_body(keypoints.double(), scores, NTU, lengths)
        spine, right, left = NTU.index("spine", "right_shoulder", "left_shoulder")
        first = ours[:, 0, 0]
        torch.testing.assert_close(first[:, spine], torch.zeros(3, 3).double(), rtol=0, atol=1e-9)
        across = first[:, right] - first[:, left]
        torch.testing.assert_close(across[:, 1:], torch.zeros(3, 2).double(), rtol=0, atol=1e-9)
        assert (across[:, 0] > 0).all()
        for clip in range(3):
            assert (seen[clip, 0, : kept[clip]].sum(-1) > 0).all() and not seen[clip, :, kept[clip] :].any()
            assert int(kept[clip]) == max((scores[clip].sum(-1) > 0).sum(-1).tolist())

    def test_alignment_ignores_place_and_turn_of_the_camera(self):
        keypoints, scores, lengths = body()
        keypoints = keypoints.double()
        ours = align_body(keypoints, scores, NTU, lengths)[0]
        moved = (keypoints + torch.tensor([1.0, -2.0, 3.0])) * (scores > 0)[..., None]
        torch.testing.assert_close(align_body(moved, scores, NTU, lengths)[0], ours)
        assert not torch.allclose(align_body(keypoints, scores, NTU, lengths, spine=False)[0], ours)

    def test_a_batch_equals_its_clips_one_by_one(self):
        keypoints, scores, lengths = body(6, seed=5)
        batch = align_body(keypoints, scores, NTU, lengths)
        for clip, length in enumerate(lengths.tolist()):
            one = align_body(keypoints[clip : clip + 1, :, :length], scores[clip : clip + 1, :, :length], NTU)
            assert one[2] == batch[2][clip]
            torch.testing.assert_close(one[0][0], batch[0][clip, :, :length])
            torch.testing.assert_close(one[1][0], batch[1][clip, :, :length])

    def test_nobody_there_and_missing_ends(self):
        keypoints, scores, lengths = body(2)
        keypoints[0], scores[0] = 0, 0
        scores[1, :, :, NTU.index("pelvis")[0]] = 0
        ours, _, kept = align_body(keypoints, scores, NTU, lengths)
        assert not ours[0].any() and kept[0] == lengths[0] and ours.isfinite().all()

    def test_three_persons_and_errors(self):
        keypoints, scores, _ = body(1, persons=3, frames=4)
        scores[:, 1:], scores[:, :1, 1:] = 1, 0
        scores[:, 1, 3] = 0
        keypoints = keypoints * (scores > 0)[..., None]
        ours = align_body(keypoints, scores, NTU, centre=False, spine=False)
        assert torch.equal(ours[0], keypoints[:, [2, 0, 1]]) and ours[2] == 4
        with pytest.raises(InputError, match="not 3D"):
            align_body(*clips(), COCO)
        with pytest.raises(InputError, match="coco17 has no joint 'pelvis'"):
            align_body(*clips(channels=3), COCO)


class TestStreams:
    def test_parity_takes_a_missing_joint_for_one_at_the_origin(self):
        keypoints, scores = clips(1, 1, 2, missing=0)
        elbow, shoulder = COCO.index("left_elbow", "left_shoulder")
        keypoints[..., shoulder, :], scores[..., shoulder] = 0, 0
        ours = features(keypoints, scores, COCO, "bone")[..., elbow, :]
        theirs = features(keypoints, scores, COCO, "bone", compat=True)[..., elbow, :]
        assert not ours.any()
        expected = torch.cat([keypoints[..., elbow, :], scores[..., elbow, None] / 2], -1)
        torch.testing.assert_close(theirs, expected)


class TestAugment:
    def test_rotation_in_the_plane_and_in_space(self):
        point = torch.tensor([1.0, 0.0]).view(1, 1, 1, 1, 2)
        turned = augment.rotate(point, torch.tensor([[math.pi / 2]])).flatten()
        torch.testing.assert_close(turned, torch.tensor([0.0, 1.0]), rtol=0, atol=1e-6)
        keypoints, _ = clips(channels=3)
        angles = torch.rand(4, 3, generator=seeded()) * 6
        ours = augment.rotate(keypoints, angles)
        torch.testing.assert_close(ours.norm(dim=-1), keypoints.norm(dim=-1), rtol=1e-4, atol=1e-3)
        for clip in range(4):
            alone = augment.rotate(keypoints[clip : clip + 1], angles[clip : clip + 1])
            torch.testing.assert_close(alone[0], ours[clip], rtol=1e-5, atol=1e-3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(augment.rotate(keypoints, angles), ours)
        with pytest.raises(InputError, match="1 angles for 3"):
            augment.rotate(keypoints, angles[:, :1])

    def test_the_plane_is_turned_both_ways_but_in_parity(self):
        points = torch.tensor([1.0, 0.0]).expand(4000, 1, 1, 1, 2)
        for compat, upper in ((False, 0.3), (True, 1.0)):
            turned = augment.random_rotation(points, seeded(), 0.3, compat)[:, 0, 0, 0]
            angle = torch.atan2(turned[:, 1], turned[:, 0])
            assert -0.3 <= angle.min() < -0.29 and 0.98 * upper < angle.max() <= upper
            assert abs(float(angle.mean()) - (upper - 0.3) / 2) < 0.03
        theirs = [reference.random_rotation(points[:1].double(), reference.Draws(seed), 0.3) for seed in range(300)]
        angle = torch.atan2(torch.cat(theirs)[..., 1], torch.cat(theirs)[..., 0])
        assert angle.max() > 0.9 and angle.min() > -0.3

    def test_scale_and_noise_have_the_size_asked(self):
        keypoints, scores = clips(400, 1, 6, missing=0)
        keypoints[0], scores[0] = 0, 0
        factors = (augment.random_scale(keypoints, seeded(), 0.2) / keypoints)[1:, 0, 0, 0]
        assert 0.8 <= factors.min() < 0.81 and 1.19 < factors.max() <= 1.2
        scores[1, 0, 0, 0], keypoints[1, 0, 0, 0] = 0, 0
        moved = augment.random_jitter(keypoints, scores, seeded(), 0.01) - keypoints
        box = keypoints.amax(3) - keypoints.amin(3)
        share = moved[2:].norm(dim=-1) / box[2:].norm(dim=-1)[..., None]
        assert abs(float(share.square().mean().sqrt()) - 0.01) < 2e-4
        assert not moved[0].any() and not moved[1, 0, 0, 0].any() and moved.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_noise_in_short_floats(self, dtype):
        keypoints, scores = clips()
        keypoints, amount = (keypoints * 4).to(dtype), torch.full_like(scores, 0.01)
        direction = torch.randn(keypoints.shape, generator=seeded())
        expected = augment.jitter(keypoints.float(), scores, amount, direction)
        assert torch.equal(augment.jitter(keypoints, scores, amount, direction), expected)
        ours = augment.jitter(keypoints, scores, amount.to(dtype), direction.to(dtype))
        assert ours.dtype == dtype and ours.isfinite().all()
        torch.testing.assert_close(ours.float(), expected, rtol=0.01, atol=0.5)

    def test_determined_by_the_generator_alone(self):
        keypoints, scores = clips()
        states = global_states()
        for run in (lambda g: augment.random_scale(keypoints, g), lambda g: augment.random_rotation(keypoints, g),
                    lambda g: augment.random_jitter(keypoints, scores, g),
                    lambda g: crop.random_box(torch.tensor([[64, 80]] * 4), g)):
            assert torch.equal(run(seeded(1)), run(seeded(1))) and not torch.equal(run(seeded(1)), run(seeded(2)))
        assert global_states() == states

    def test_an_empty_clip_costs_the_reference_no_numbers(self):
        draws = reference.Draws(3)
        reference.random_rotation(torch.zeros(1, 1, 2, 17, 2), draws)
        assert draws.numpy.rand() == np.random.RandomState(3).rand()


class TestBatches:
    @pytest.fixture
    def batch(self):
        """Clips, scores, sizes and whether to flip them."""
        sizes = torch.tensor([[480, 640], [300, 200], [64, 64], [1000, 900], [500, 500]])
        return *clips(5), sizes, torch.tensor([True, False, True, True, False])

    def chain(self, points, seen, size, which):
        box = crop.compact_box(crop.subject_box(points, seen), size, ratio=1.0)
        points, size = crop.crop(points, seen, box)
        points, size = crop.resize(points, size, crop.short_side(size, 64))
        points, seen = crop.flip(points, seen, size[:, 1], COCO, which)
        return points, seen, size, box, normalise_by_box(points, seen), normalise_by_image(points, seen, size)

    def test_crops_equal_those_of_single_clips(self, batch):
        together = self.chain(*batch)
        for clip in range(5):
            alone = self.chain(*(x[clip : clip + 1] for x in batch))
            for one, many in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], many[clip], rtol=1e-6, atol=1e-5)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_crops_on_a_gpu(self, batch):
        for ours, expected in zip(self.chain(*(x.cuda() for x in batch)), self.chain(*batch), strict=True):
            torch.testing.assert_close(ours.cpu(), expected, rtol=1e-5, atol=1e-4)
        sizes = batch[2].cuda()
        box = crop.random_box(sizes, seeded(0, "cuda"))
        assert (box[:, :2] >= 0).all() and (box[:, 2:] <= sizes.flip(1)).all()


class TestKinetics:
    def skeletons(self, counts, joints=3, seed=0):
        rng = np.random.default_rng(seed)
        frames = np.repeat(np.arange(len(counts)), counts).astype(np.int16)
        return rng.random((len(frames), joints, 3)).astype(np.float16), frames

    @few
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(any), st.integers(1, 5), st.booleans())
    def test_equals_a_naive_loop(self, counts, most, squeeze):
        skeletons, frames = self.skeletons(counts)
        keypoints, scores = kinetics.decompress(skeletons, frames, len(counts), most, squeeze)
        shown = [frame for frame, count in enumerate(counts) if count or not squeeze]
        assert keypoints.shape == (min(max(counts), most), len(shown), 3, 2) and scores.dtype == np.float16
        for place, frame in enumerate(shown):
            here = list(skeletons[frames == frame])
            if max(counts) > most:
                here.sort(key=lambda skeleton: -skeleton[:, 2].sum())
            for person in range(keypoints.shape[0]):
                expected = here[person] if person < len(here) else np.zeros((3, 3))
                np.testing.assert_array_equal(keypoints[person, place], expected[:, :2])
                np.testing.assert_array_equal(scores[person, place], expected[:, 2])

    def test_skeletons_can_be_chosen(self):
        skeletons, frames = self.skeletons([2, 1, 2])
        keep = np.array([True, False, False, True, True])
        chosen = kinetics.decompress(skeletons, frames, 3, keep=keep)
        np.testing.assert_array_equal(chosen[0], kinetics.decompress(skeletons[keep], frames[keep], 3)[0])

    def test_errors_name_the_record(self):
        skeletons, frames = self.skeletons([2, 1])
        for change, words in (({"keypoints": skeletons[..., :2]}, "'keypoint'"), ({"frames": frames[:2]}, "frame_inds"),
                              ({"frames": frames[::-1]}, "descend"), ({"total_frames": 1}, "the clip has 1"),
                              ({"keep": np.zeros(3, bool)}, "no skeleton"), ({"max_person": 0}, "max_person=0")):
            options = {"keypoints": skeletons, "frames": frames, "total_frames": 2, "name": "k.pkl: 'a'"} | change
            with pytest.raises(InputError, match=words) as error:
                kinetics.decompress(**options)
            assert "k.pkl" in str(error.value) or "max_person" in words
