"""Where a clip is, how large the body in it is, and the normalisation built on them."""

from __future__ import annotations

import torch
from torch import Tensor

from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views.augment import turn
from skelcore.views.crop import extent
from skelcore.views.sampling import gather


def centre(keypoints: Tensor, scores: Tensor) -> Tensor:
    """Mean (N, C) of a clip's valid joints over persons and time; zeros for a clip without any."""
    return _centre(_wide(keypoints), scores).to(keypoints.dtype)


def body_scale(keypoints: Tensor, scores: Tensor) -> Tensor:
    """Size (N,) of the body in a clip, in the keypoints' unit.

    The root-mean-square distance of a person's valid joints from their mean in one frame, averaged over the frames
    and persons with at least two valid joints. It depends neither on the frame's size nor on how far the body moves;
    1 where there is nothing to measure.
    """
    points = _wide(keypoints)
    valid = (scores > 0).to(points.dtype)
    count = valid.sum(-1)
    at_least_one = count.clamp(min=1)
    # Relative to the clip's centre, so that the difference of squares below keeps its digits.
    local = (points - _centre(points, scores)[:, None, None, None]) * valid[..., None]
    mean = local.sum(-2) / at_least_one[..., None]
    variance = local.square().sum((-2, -1)) / at_least_one - mean.square().sum(-1)
    measurable = (count >= 2).to(points.dtype)
    size = (variance.clamp(min=0).sqrt() * measurable).sum((1, 2)) / measurable.sum((1, 2)).clamp(min=1)
    return torch.where(size > 0, size, torch.ones_like(size)).to(keypoints.dtype)


def normalise(keypoints: Tensor, scores: Tensor) -> Tensor:
    """Centre a clip (N, M, T, V, C) and divide it by its body scale; missing joints are 0.

    The result does not change when the clip is moved or scaled.
    """
    points = _wide(keypoints)
    scale = body_scale(points, scores)[:, None, None, None, None]
    moved = points - _centre(points, scores)[:, None, None, None]
    return (moved / scale * (scores > 0)[..., None]).to(keypoints.dtype)


def normalise_by_image(keypoints: Tensor, scores: Tensor, sizes: Tensor, threshold: float = 0.0) -> Tensor:
    """Pixels (N, M, T, V, 2) as fractions of half the image, -1 at its left and upper edge and 1 at the others.

    ``sizes`` (N, 2) are height and width; the result is float32 at least. Joints whose score is at most ``threshold``
    become 0; the reference's is 0.01, and it keeps their scores.
    """
    # A size of 2 in the last place makes for very short loops: all joints of a frame are one row, then complex numbers.
    keypoints = _wide(keypoints)
    half = (sizes.flip(1).to(keypoints.dtype) / 2).repeat(1, keypoints.shape[3])[:, None, None]
    moved = (keypoints.flatten(3) - half).div_(half).view_as(keypoints)
    return torch.view_as_real(torch.view_as_complex(moved).mul_(scores > threshold))


def normalise_by_box(keypoints: Tensor, scores: Tensor, threshold: float = 0.0, least: float = 10.0) -> Tensor:
    """Pixels (N, M, T, V, 2) as fractions of half the tight box of the clip's joints, from -1 to 1.

    ``threshold`` as in ``normalise_by_image``. A clip stays as it is if its box is not wider and higher than ``least``
    pixels.
    """
    seen = (scores > threshold)[..., None]
    low, high = extent(keypoints, seen)
    large = (high - low > least).all(-1, keepdim=True)
    moved = (keypoints - (high + low) / 2) / (high - low) * 2
    return torch.where(large, moved, keypoints).masked_fill(~seen, 0)


def align_body(keypoints: Tensor, scores: Tensor, layout: Layout, lengths: Tensor | None = None, centre: bool = True,
               spine: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Bring 3D clips (N, M, T, V, 3) into the view of their first person (2s-AGCN, Shi et al. 2019).

    The person seen in most frames goes first, and frames without that person are dropped: the others move up, and the
    clip ends in missing joints after its new length. Then the origin is the spine of that person's first frame
    (``centre``), and the clip is turned so that, in that frame, pelvis to spine points along z, and once more so that
    left to right shoulder points along x, which may tilt the spine again (``spine``); a turn of which an end is missing
    is left out. Distances are taken in the dtype given, as in the reference, whose records are float16; turned clips
    are float32 at least. Returns keypoints, scores and lengths; a clip without anybody stays as it is. Raises
    InputError for a layout without these joints, or 2D clips.
    """
    if keypoints.shape[-1] != 3:
        raise InputError(f"align_body: keypoints {tuple(keypoints.shape)} are not 3D")
    keypoints, scores, lengths = _lead(keypoints, scores, lengths)
    seen = (scores > 0)[..., None]
    pelvis, middle, right, left = layout.index("pelvis", "spine", "right_shoulder", "left_shoulder")
    if centre:
        keypoints = (keypoints - keypoints[:, :1, :1, middle : middle + 1]) * seen
    if not spine:
        return keypoints, scores, lengths
    body, here = keypoints[:, 0, 0], scores[:, 0, 0] > 0
    upright = _rotation(body[:, middle] - body[:, pelvis], (0, 0, 1), here[:, middle] & here[:, pelvis])
    across = (upright @ (body[:, right].double() - body[:, left].double())[..., None])[..., 0]
    total = _rotation(across, (1, 0, 0), here[:, right] & here[:, left]) @ upright
    return turn(keypoints, total.to(torch.promote_types(keypoints.dtype, torch.float32))), scores, lengths


def _wide(keypoints: Tensor) -> Tensor:
    """As float32 at least: a sum of pixels, or their square, exceeds what float16 can hold."""
    return keypoints.to(torch.promote_types(keypoints.dtype, torch.float32))


def _centre(points: Tensor, scores: Tensor) -> Tensor:
    valid = (scores > 0).to(points.dtype)
    return (points * valid[..., None]).sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp(min=1)[:, None]


def _lead(keypoints: Tensor, scores: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Clips with the person of most frames first, and only that person's frames."""
    clips, persons, frames = keypoints.shape[:3]
    device = keypoints.device
    if lengths is None:
        lengths = torch.full((clips,), frames, device=device)
    present = (scores > 0).any(3) & (torch.arange(frames, device=device) < lengths[:, None])[:, None]
    counts = present.sum(2)
    most = counts.argmax(1, keepdim=True)
    number = torch.arange(persons, device=device)
    order = torch.where(number == most, -1, number).argsort(1)
    people = torch.arange(clips, device=device)[:, None], order
    lead = present[people][:, 0]
    someone = lead.any(1)
    lead = lead | ~someone[:, None]
    kept = (~lead).long().argsort(stable=True, dim=1)
    lengths = torch.where(someone, counts.amax(1), lengths)
    inside = (torch.arange(frames, device=device) < lengths[:, None])[:, None, :, None]
    points, scores = gather(keypoints[people], kept), gather(scores[people], kept) * inside
    return points * inside[..., None], scores, lengths


def _rotation(vectors: Tensor, target: tuple[int, int, int], valid: Tensor) -> Tensor:
    """Rotations (N, 3, 3) in float64 of vectors (N, 3) onto an axis, by Rodrigues' formula; none if not ``valid``.

    The angle is taken from the unit vector in the vectors' own dtype, the axis from the vector in float64.
    """
    goal = torch.tensor(target, dtype=torch.float64, device=vectors.device)
    wide = vectors.double()
    length = wide.square().sum(1, keepdim=True).to(vectors.dtype).sqrt()
    cosine = ((vectors / length).double() @ goal).clamp(-1, 1)
    axis = torch.linalg.cross(wide, goal.expand_as(wide))
    turned = valid & (wide.abs().sum(1) >= 1e-6) & (axis.abs().sum(1) >= 1e-6) & (cosine.acos() >= 1e-6)
    x, y, z = torch.nn.functional.normalize(axis, dim=1).unbind(1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    sine = (1 - cosine.square()).sqrt()
    eye = torch.eye(3, dtype=torch.float64, device=vectors.device)
    rotation = eye + sine[:, None, None] * skew + (1 - cosine)[:, None, None] * (skew @ skew)
    return torch.where(turned[:, None, None], rotation, eye)
