"""Every case of the reference's transforms (pipeline.npz), run through the package's functions with its numbers."""

import functools
import json
import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skelcore import kinetics, layouts
from skelcore.views import crop, heatmaps, reference, sampling
from skelcore.views.features import features
from skelcore.views.normalise import align_body, normalise_by_box, normalise_by_image
from tests.paths import PARITY, need

COCO, NTU = layouts.get("coco17"), layouts.get("ntu25")
STREAMS = {"j": "joint", "b": "bone", "jm": "joint_motion", "bm": "bone_motion"}


@dataclass
class Clip:
    """One clip on its way: keypoints (1, M, T, V, C) and, in 2D, scores (1, M, T, V) and size (1, 2)."""

    keypoints: Tensor
    scores: Tensor | None
    sizes: Tensor
    draws: reference.Draws
    test: bool
    lengths: Tensor
    indices: Tensor | None = None
    quadruple: Tensor = field(default_factory=lambda: torch.tensor([[0.0, 0.0, 1.0, 1.0]]).double())
    centre: Tensor | None = None
    images: Tensor | None = None

    def stacked(self) -> Tensor:
        return self.keypoints if self.scores is None else torch.cat([self.keypoints, self.scores[..., None]], -1)

    def here(self) -> Tensor:
        return (self.keypoints != 0).any(-1).float() if self.scores is None else self.scores


def sample(clip, clip_len, num_clips=1):
    length = int(clip.lengths)
    if clip.test:
        return replace(clip, indices=sampling.uniform_test(clip.lengths, clip_len, num_clips))
    return replace(clip, indices=reference.sample(length, clip_len, clip.draws, num_clips))


def sample_decode(clip, clip_len, num_clips=1):
    indices = sampling.uniform_test(clip.lengths, clip_len, num_clips, ordered=False)
    assert clip.test
    joined = sampling.gather(clip.stacked().float(), indices.flatten(1))
    return replace(clip, keypoints=joined, scores=None)


def decode(clip):
    if clip.indices is None:
        return replace(clip, keypoints=clip.keypoints.float())
    rows = clip.indices.flatten(1)
    scores = None if clip.scores is None else sampling.gather(clip.scores.float(), rows)
    return replace(clip, keypoints=sampling.gather(clip.keypoints.float(), rows), scores=scores)


def normalise_2d(clip, mode="fix"):
    keypoints, scores = clip.keypoints.float(), clip.scores.float()
    if mode == "fix":
        keypoints = normalise_by_image(keypoints, scores, clip.sizes, 0.01)
    else:
        keypoints = normalise_by_box(keypoints, scores, 0.01)
    return replace(clip, keypoints=torch.cat([keypoints, scores[..., None]], -1), scores=None)


def normalise_3d(clip, align_spine=True):
    keypoints, _, lengths = align_body(clip.keypoints, clip.here(), NTU, spine=align_spine)
    length = int(lengths)
    first = align_body(clip.keypoints, clip.here(), NTU, centre=False, spine=False)[0]
    return replace(clip, keypoints=keypoints[:, :, :length], lengths=lengths, centre=first[0, 0, 0, 1])


def stream(clip, dataset, feats):
    if dataset == "coco":
        keypoints, scores = clip.keypoints[..., :2], clip.keypoints[..., 2]
        return replace(clip, keypoints=features(keypoints, scores, COCO, STREAMS[feats[0]], compat=True))
    scores = torch.ones(clip.keypoints.shape[:4])  # the reference's 3D streams have none
    return replace(clip, keypoints=features(clip.keypoints, scores, NTU, STREAMS[feats[0]], compat=True)[..., :3])


def pad(clip, length, mode):
    padded = sampling.pad_frames(clip.keypoints, clip.lengths, length, loop=mode == "loop")
    return replace(clip, keypoints=padded, lengths=torch.tensor([length]))


def format_gcn(clip, num_person):
    x = sampling.pad_persons(clip.keypoints, num_person)
    count = 1 if clip.indices is None else clip.indices.shape[1]
    return replace(clip, keypoints=x.unflatten(2, (count, -1)).transpose(1, 2)[0])


def compact(clip, padding=0.25, hw_ratio=None, allow_imgpad=True):
    tight = crop.subject_box(clip.keypoints, clip.scores, compat=True)
    box = crop.compact_box(tight, clip.sizes, padding, hw_ratio, allow_imgpad)
    keypoints, sizes = crop.crop(clip.keypoints, clip.scores, box, compat=True)
    return replace(clip, keypoints=keypoints, sizes=sizes,
                   quadruple=crop.fraction(box, clip.sizes, within=clip.quadruple))


def resize(clip, scale, keep_ratio=True):
    target = crop.short_side(clip.sizes, max(scale)) if keep_ratio else (scale[1], scale[0])
    keypoints, sizes = crop.resize(clip.keypoints, clip.sizes, target)
    return replace(clip, keypoints=keypoints, sizes=sizes)


def random_crop(clip, area_range):
    box = reference.random_box(clip.sizes, clip.draws, tuple(area_range))
    keypoints, sizes = crop.crop(clip.keypoints.double(), torch.ones_like(clip.scores), box)
    return replace(clip, keypoints=keypoints, sizes=sizes)


def flip(clip, flip_ratio, left_kp, right_kp):
    order = np.arange(17)
    order[left_kp + right_kp] = right_kp + left_kp
    np.testing.assert_array_equal(order, COCO.mirror)
    which = reference.flips(clip.draws, flip_ratio)
    keypoints, scores = crop.flip(clip.keypoints, clip.scores, clip.sizes[:, 1], COCO, which, compat=True)
    return replace(clip, keypoints=keypoints, scores=scores)


def draw(clip, sigma=0.6, use_score=True, with_kp=True, with_limb=False, skeletons=None, double=False, scaling=1.0,
         **sides):
    size = tuple(int(side * scaling + 0.5) for side in clip.sizes[0].tolist())
    scores = clip.scores if use_score else torch.ones_like(clip.scores)
    points = clip.keypoints * scaling
    if with_limb:
        assert [tuple(pair) for pair in skeletons] == list(COCO.limbs)
        images = heatmaps.limbs(points, scores, COCO.limbs, size, sigma)
    else:
        images = heatmaps.joints(points, scores, size, sigma)
    if double:
        images = torch.cat([images, heatmaps.mirror(images, COCO, "bone" if with_limb else "joint")])
    return replace(clip, images=images)


def rotate(clip, theta):
    return replace(clip, keypoints=reference.random_rotation(clip.keypoints, clip.draws, theta))


def scale(clip, scale):
    return replace(clip, keypoints=reference.random_scale(clip.keypoints, clip.draws, scale))


def jitter(clip, sigma):
    return replace(clip, keypoints=reference.random_jitter(clip.keypoints, clip.draws, sigma))


STEPS = {"UniformSampleFrames": sample, "UniformSample": sample, "UniformSampleDecode": sample_decode,
         "PoseDecode": decode, "PreNormalize2D": normalise_2d, "PreNormalize3D": normalise_3d, "GenSkeFeat": stream,
         "PadTo": pad, "FormatGCNInput": format_gcn, "PoseCompact": compact, "Resize": resize,
         "RandomResizedCrop": random_crop, "Flip": flip, "GeneratePoseTarget": draw, "RandomRot": rotate,
         "RandomScale": scale, "RandomGaussianNoise": jitter, "FormatShape": lambda clip, input_format: clip}


@functools.cache
def fixture():
    with np.load(need(PARITY / "pipeline.npz")) as file:
        return dict(file)


def names(decompressed=False):
    path = PARITY / "pipeline.npz"
    if not path.exists():
        return ["absent"]
    with np.load(path) as file:
        cases = json.loads(str(file["meta_json"]))
    return [name for name in cases if name.startswith("decompress") == decompressed]


def read(item, seed, test):
    record = {key.rsplit("/", 1)[1]: value for key, value in fixture().items() if key.startswith(f"in/{item}/")}
    scores = record.get("keypoint_score")
    return Clip(torch.from_numpy(record["keypoint"])[None], None if scores is None else torch.from_numpy(scores)[None],
                torch.from_numpy(record["img_shape"])[None], reference.Draws(seed), test,
                torch.tensor([int(record["total_frames"])]))


def global_states():
    """The state of every global generator, which no function may touch."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (kind, keys.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


RESULTS = {"keypoint": "keypoints", "keypoint_score": "scores", "frame_inds": "indices", "img_shape": "sizes",
           "crop_quadruple": "quadruple", "total_frames": "lengths", "body_center": "centre", "imgs": "images"}


@pytest.mark.parametrize("name", names())
def test_equals_the_reference(name):
    case = json.loads(str(fixture()["meta_json"]))[name]
    states = global_states()
    clip = read(case["src"], case["seed"], case["test_mode"])
    for options in case["cfg"]:
        clip = STEPS[options["type"]](clip, **{key: value for key, value in options.items() if key != "type"})
    assert case["keys"]
    for key in case["keys"]:
        expected = fixture()[f"{name}/{key}"]
        ours = getattr(clip, RESULTS[key]).numpy().reshape(expected.shape)
        if expected.dtype.kind == "i":
            np.testing.assert_array_equal(ours, expected)
        elif key == "imgs":
            off = np.abs(ours - expected)
            if "RandomResizedCrop" in {options["type"] for options in case["cfg"]}:
                # The reference goes on in float64, our maps in float32: at a pixel exactly three sigma away one
                # draws what the other cuts, less than exp(-4.5).
                assert off.max() < np.exp(-4.5)
                off = off[off <= np.quantile(off, 1 - 1e-5)]
            np.testing.assert_array_less(off, 1e-4)
        else:
            np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-5)
    assert global_states() == states


@pytest.mark.parametrize("name", names(decompressed=True))
def test_decompression_equals_the_reference(name):
    options = json.loads(str(fixture()["meta_json"]))[name]["cfg"][0]
    record = fixture()
    total = 60 if not options["squeeze"] else 10**6
    keypoints, scores = kinetics.decompress(record["in/k400/keypoint"], record["in/k400/frame_inds"], total,
                                            options["max_person"], options["squeeze"])
    np.testing.assert_array_equal(keypoints, record[f"{name}/keypoint"])
    np.testing.assert_array_equal(scores, record[f"{name}/keypoint_score"])
    assert keypoints.shape[1] == record[f"{name}/total_frames"]
