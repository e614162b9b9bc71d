"""The errors of real pose detectors: jitter, bursts, exchanged sides, lost limbs, and scores that tell of them.

The constants below are fitted by ``benchmarks/detector_noise.py``, which prints measured beside simulated numbers.
Errors are in body scales (``skelcore.views.body_scale``), time is in the frames of the loaded clip (15 a second where
BlazePose was measured; MoveNet's, each video's own).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from skelcore.layouts import Layout
from skelcore.views.draws import uniform
from skelcore.views.parts import KINDS, OUTER, REGIONS, kind, side

KNOTS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # the quantiles of which a part's scores are given
LARGEST = 1.0  # a burst's standard deviation at most; limbs are about so long
LOSS = 2.5  # how much harder the joints of a lost limb are to see

_SWAPS = {"arms": ("elbow", "wrist"), "legs": ("knee", "ankle"), "body": KINDS}


@dataclass(frozen=True)
class Memory:
    """Autocorrelation of a process in time: ``steady + (1 - steady - fresh) exp(-lag / frames)`` for lags above 0."""

    steady: float
    fresh: float
    frames: float

    def correlation(self, lag: float) -> float:
        """Correlation of two instants ``lag`` frames apart."""
        return 1.0 if lag == 0 else self.steady + (1 - self.steady - self.fresh) * math.exp(-lag / self.frames)


@dataclass(frozen=True)
class Part:
    """The noise of one kind of joint.

    Its error has the standard deviation ``calm`` along each axis, times ``exp(growth * excess)`` where a latent
    standard normal exceeds ``onset``: bursts. ``link`` is that latent's correlation with the hardness that the scores
    fall with; ``scores`` are the scores' quantiles at KNOTS.
    """

    calm: float
    onset: float
    growth: float
    link: float
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Detector:
    """Fitted statistics of one detector.

    ``body`` and ``limb`` are the shares of a joint's hardness that it has in common with all joints and with those of
    its limb, ``error`` and ``hardness`` their memories. ``swaps`` says how often a frame begins an exchange of left
    and right (arms, legs or the whole body) and for how many frames it lasts on average; ``losses`` the same of an
    arm or a leg that the detector loses, so that its scores fall and its joints wander off.
    """

    parts: dict[str, Part]
    error: Memory
    hardness: Memory
    body: float
    limb: float
    swaps: dict[str, tuple[float, float]]
    losses: tuple[float, float]


def corrupt(points: Tensor, scores: Tensor, layout: Layout, detector: Detector, size: Tensor, which: Tensor,
            floor: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """What the detector would answer for true points (N, C, M, T, V), in the clips where ``which`` (N,) is true.

    ``size`` (N,) is the body scale. Its scores replace those of the present joints; joints that are missing stay
    missing. With ``floor``, a clip's joints with scores below a threshold of its own, up to ``floor``, are missing, as
    after a detector whose unsure joints were dropped.
    """
    clips, channels, persons, frames, _ = points.shape
    seen, which = scores > 0, which[:, None, None, None]
    swapped = swaps(clips, persons, frames, layout, detector, generator) & which
    other = torch.from_numpy(layout.mirror).to(points.device)
    swapped = swapped & seen & seen.index_select(-1, other)
    points = torch.where(swapped[:, None], points.index_select(-1, other), points)
    hard = hardness(clips, persons, frames, layout, detector, generator)
    offset = errors(hard, channels, layout, detector, generator) * which[:, None]
    points = torch.addcmul(points, offset.to(points.dtype), size.to(points.dtype)[:, None, None, None, None])
    answer = believed(hard, layout, detector)
    least = uniform((clips, 1, 1, 1), 0, floor, generator)
    answer = answer * (answer >= least) * seen
    scores = torch.where(which, answer.to(scores.dtype), scores)
    return points * (scores > 0)[:, None], scores


def swaps(clips: int, persons: int, frames: int, layout: Layout, detector: Detector, generator: Generator) -> Tensor:
    """(N, M, T, V), true where a joint and its mirror image have exchanged their places."""
    parts = part_names(layout)
    total = torch.zeros((clips, persons, frames, len(layout)), dtype=torch.bool, device=generator.device)
    for name, (rate, length) in detector.swaps.items():
        among = torch.tensor([part in _SWAPS[name] for part in parts], device=generator.device)
        total |= spans((clips, persons, frames), rate, length, generator)[..., None] & among
    return total


def spans(shape: tuple[int, ...], rate: float, length: float, generator: Generator) -> Tensor:
    """(..., T), true within spans that begin in any frame with probability ``rate``, ``length`` frames on average."""
    frames = shape[-1]
    # Spans that began before the clip reach into it; a geometric length has no memory, so they start at frame 0.
    first = torch.full((frames,), rate, device=generator.device)
    first[0] = _share(rate, length)
    begins = torch.rand(shape, generator=generator, device=generator.device) < first
    draw = uniform(shape, 1e-6, 1, generator)
    stays = max(1 - 1 / length, 1e-6)
    lasts = (draw.log() / math.log(stays)).floor() + 1
    now = torch.arange(frames, device=generator.device)
    return ((now + lasts) * begins).cummax(-1).values > now


def hardness(clips: int, persons: int, frames: int, layout: Layout, detector: Detector,
             generator: Generator) -> Tensor:
    """How hard each joint is to see (N, M, T, V): standard normal, alike within a limb; LOSS more in a lost limb."""
    numbers, outer = limbs(layout), _outer(layout, generator.device)
    sizes = (1, max(numbers) + 1, len(layout))
    drawn = _process((clips, persons, frames, sum(sizes)), detector.hardness, generator)
    body, limb, own = drawn.split(sizes, -1)
    lost = spans((clips, persons, sizes[1], frames), *detector.losses, generator).transpose(-1, -2)
    place = torch.tensor(numbers, device=generator.device)
    return (body * math.sqrt(detector.body) + limb[..., place] * math.sqrt(detector.limb)
            + own * math.sqrt(1 - detector.body - detector.limb) + LOSS * (lost[..., place] & outer))


def errors(hard: Tensor, channels: int, layout: Layout, detector: Detector, generator: Generator) -> Tensor:
    """Errors (N, C, M, T, V) in body scales of joints that are ``hard`` (N, M, T, V) to see."""
    clips, persons, frames, joints = hard.shape
    calm, onset, growth, link = _table(layout, detector, generator.device)
    free = _process((clips, persons, frames, joints), detector.hardness, generator)
    burst = hard * link + free * (1 - link**2).sqrt()
    deviation = (calm * ((burst - onset).clamp(min=0) * growth).exp()).clamp(max=LARGEST)
    return _process((clips, channels, persons, frames, joints), detector.error, generator) * deviation[:, None]


def believed(hard: Tensor, layout: Layout, detector: Detector) -> Tensor:
    """Scores (N, M, T, V) of joints that are ``hard`` to see, with the detector's own distribution for each joint."""
    knots = torch.tensor(KNOTS, device=hard.device)
    table = torch.tensor([detector.parts[part].scores for part in part_names(layout)], device=hard.device)
    outer, share = _outer(layout, hard.device), _share(*detector.losses)
    # The distribution of hardness, with the share of lost joints, so that the scores' own comes out.
    usual, lost = torch.special.ndtr(-hard), torch.special.ndtr(LOSS - hard)
    rank = torch.lerp(usual, lost, share * outer.to(hard.dtype)).contiguous()
    low = (torch.bucketize(rank, knots) - 1).clamp(0, len(KNOTS) - 2)
    place = low + torch.arange(len(layout), device=hard.device) * len(KNOTS)
    below, above = table.flatten()[place], table.flatten()[place + 1]
    return below + (above - below) * (rank - knots[low]) / (knots[low + 1] - knots[low])


def part_names(layout: Layout) -> list[str]:
    """For each joint, the part whose statistics it takes; a joint of an unknown name takes the elbow's."""
    return [kind(joint) or "elbow" for joint in layout.joints]


def limbs(layout: Layout) -> list[int]:
    """For each joint, the number of what is hard to see together: head, trunk, each arm beyond the shoulder, each leg.
    """
    keys = [(REGIONS[part], side(joint) if REGIONS[part] in OUTER else "")
            for part, joint in zip(part_names(layout), layout.joints, strict=True)]
    order = list(dict.fromkeys(keys))
    return [order.index(key) for key in keys]


def _outer(layout: Layout, device: torch.device) -> Tensor:
    """(V,), true for the joints of arms and legs, which can be lost."""
    return torch.tensor([REGIONS[part] in OUTER for part in part_names(layout)], device=device)


def _share(rate: float, length: float) -> float:
    """Share of frames within spans of that mean ``length`` that begin at that small ``rate``, and may overlap."""
    return -math.expm1(-rate * length)


def _table(layout: Layout, detector: Detector, device: torch.device) -> Tensor:
    rows = [detector.parts[part] for part in part_names(layout)]
    return torch.tensor([[row.calm, row.onset, row.growth, row.link] for row in rows], device=device).T


def _process(shape: tuple[int, ...], memory: Memory, generator: Generator) -> Tensor:
    """Standard normal numbers (..., T, V) with that memory along T."""
    white = torch.empty(shape, device=generator.device).normal_(generator=generator)
    with torch.autocast(white.device.type, enabled=False):
        return _root(shape[-2], memory).to(white.device) @ white


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a tensor made in that mode would stay one of it in the cache
def _root(frames: int, memory: Memory) -> Tensor:
    """The matrix (T, T) that turns independent numbers into ones with that memory."""
    lags = torch.arange(frames, dtype=torch.double)
    lags = (lags[:, None] - lags).abs()
    slow = 1 - memory.steady - memory.fresh
    covariance = memory.steady + slow * torch.exp(-lags / memory.frames) + memory.fresh * (lags == 0)
    return torch.linalg.cholesky(covariance + 1e-9 * torch.eye(frames, dtype=torch.double)).float()


# BlazePose in 37 clips (1,665 frames) of the mannequin: 13 actions, 20 persons, 37 views, some behind an obstacle. Lost
# limbs are as frequent as measured but last 2.7 frames instead of 3.1.
BLAZEPOSE = Detector(
    parts={
        "nose": Part(0.0293, -0.578, 0.474, 0.313, (0.836, 0.964, 0.986, 0.993, 0.998, 0.999, 1, 1, 1)),
        "eye": Part(0.0311, -0.419, 0.323, 0.744, (0.754, 0.94, 0.978, 0.989, 0.997, 0.999, 1, 1, 1)),
        "ear": Part(0.0218, 0.176, 0.474, 0.733, (0.495, 0.909, 0.973, 0.989, 0.997, 0.999, 1, 1, 1)),
        "shoulder": Part(0.0176, -0.614, 0.563, 0.639, (0.592, 0.894, 0.99, 0.995, 0.998, 1, 1, 1, 1)),
        "elbow": Part(0.0297, 0.05, 1.168, 0.701, (0.012, 0.049, 0.415, 0.669, 0.936, 0.983, 0.995, 0.998, 1)),
        "wrist": Part(0.0413, 0.549, 1.331, 0.98, (0.004, 0.029, 0.12, 0.395, 0.875, 0.959, 0.982, 0.992, 0.999)),
        "hip": Part(0.0225, -0.6, 0.587, 0.304, (0.857, 0.954, 0.989, 0.995, 0.998, 0.999, 1, 1, 1)),
        "knee": Part(0.0295, 0.795, 1.632, 0.79, (0.063, 0.202, 0.349, 0.75, 0.951, 0.99, 0.995, 0.997, 0.999)),
        "ankle": Part(0.0368, 0.534, 1.965, 0.745, (0.013, 0.071, 0.165, 0.459, 0.951, 0.987, 0.994, 0.996, 0.999)),
    },
    error=Memory(0.7, 0, 2.66),
    hardness=Memory(0.648, 0, 2.74),
    body=0.486, limb=0.328,
    swaps={"arms": (8e-05, 1.42), "legs": (0.00304, 1.69), "body": (0.00729, 1.33)},
    losses=(0.00154, 7.31),
)

# MoveNet in 265 push-up videos from the web, at their own frame rates. Their truth is unknown: sizes are fitted to how
# far a joint lies from the middle between its neighbours in time, which shows fast errors only. How much of an error is
# slow, its memory, is BlazePose's; errors that last were not measured, so the sizes are no estimate of the whole error.
# Lost limbs are as frequent as measured but last 2.7 frames instead of 3.8, exchanged arms about 3.3 instead of 5.6.
MOVENET = Detector(
    parts={
        "nose": Part(0.0025, -1.343, 1.245, 0.554, (0.028, 0.175, 0.325, 0.39, 0.48, 0.569, 0.652, 0.721, 0.901)),
        "eye": Part(0.0033, -0.728, 1.475, 0.448, (0.015, 0.224, 0.367, 0.423, 0.507, 0.595, 0.679, 0.748, 0.905)),
        "ear": Part(0.0029, -0.676, 1.541, 0.598, (0.02, 0.23, 0.374, 0.439, 0.54, 0.648, 0.742, 0.806, 0.937)),
        "shoulder": Part(0.0022, -1.458, 1.277, 0.39, (0.021, 0.23, 0.393, 0.46, 0.561, 0.666, 0.754, 0.818, 0.954)),
        "elbow": Part(0.0054, -0.117, 1.637, 0.484, (0.028, 0.134, 0.234, 0.309, 0.465, 0.623, 0.739, 0.826, 0.981)),
        "wrist": Part(0.005, 0.361, 1.787, 0.795, (0.012, 0.096, 0.209, 0.291, 0.474, 0.645, 0.77, 0.844, 0.962)),
        "hip": Part(0.0019, -1.499, 1.249, 0.529, (0.024, 0.242, 0.413, 0.503, 0.604, 0.689, 0.759, 0.809, 0.934)),
        "knee": Part(0.0062, -0.068, 1.869, 0.806, (0.016, 0.083, 0.187, 0.278, 0.448, 0.601, 0.711, 0.779, 0.955)),
        "ankle": Part(0.0035, 0.105, 2.55, 0.929, (0.005, 0.033, 0.08, 0.132, 0.366, 0.604, 0.716, 0.789, 0.937)),
    },
    error=Memory(0.7, 0, 2.66),
    hardness=Memory(0.488, 0.105, 7.73),
    body=0.283, limb=0.216,
    swaps={"arms": (0.00015, 5.55), "legs": (0.00083, 4.6), "body": (0.00093, 3.43)},
    losses=(0.00221, 12.62),
)

DETECTORS = {"blazepose": BLAZEPOSE, "movenet": MOVENET}
