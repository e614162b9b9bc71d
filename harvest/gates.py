"""The gates that a track must pass: verdicts on the numbers that ``quality.measure`` took and the shards store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from harvest.config import Gates

# In the order in which they are asked: the first that a track fails is its reason. Causes come before what they cause:
# hidden joints score nothing, a swap moves joints, and trembling changes limbs.
REASONS = {
    "too_short": "too few seconds or observed frames",
    "crowd": "the video shows too many persons at once",
    "hallucinated": "neither the model nor the detector is sure, or the pose fills the whole frame",
    "small": "the person is low in the frame or in pixels",
    "few_joints": "too few frames show most of the body",
    "low_score": "the body joints score little",
    "truncated": "too many joints lie outside the frame",
    "gaps": "too many frames without the person",
    "frozen": "a poster or a still",
    "flip": "left and right change places from frame to frame",
    "teleport": "the body jumps from one place to another",
    "jitter": "the joints tremble",
    "limb_drift": "limbs change their lengths, or those of one side are longer",
    "duplicate": "another track shows the same (told by the search for copies, not by a number)",
}
# The frame rate that the thresholds of numbers a frame are meant for, and the least for which they are.
_ONE_SWAP = 2.5  # steps in which left and right change places, there and back, with room for rounding
_RATE = 15.0


def judge(numbers: Mapping[str, float], gates: Gates) -> str | None:
    """The first gate that a track's numbers fail, one of ``REASONS``, or None.

    A number that was not taken passes, and any number where the threshold is None. Below 15 frames/s an honest step
    grows as the time between two frames does, and a second difference as its square, and so do ``max_teleport`` and
    ``max_jitter``; above, a model's own noise stays what it is from frame to frame, and so do they.
    """
    def under(name: str, least: float | None) -> bool:
        return least is not None and numbers.get(name, least) < least

    def over(name: str, most: float | None) -> bool:
        return most is not None and numbers.get(name, most) > most

    slow = max(1.0, _RATE * _interval(numbers))
    unsure = gates.sure_presence is None or under("presence", gates.sure_presence)
    failed = {
        "too_short": under("seconds", gates.min_seconds) or under("frames", gates.min_frames),
        "crowd": over("crowd", gates.max_crowd),
        "hallucinated": (under("presence", gates.min_presence) or (unsure and under("detected", gates.min_detected))
                         or over("full_frame", gates.max_full_frame)),
        "small": under("height", gates.min_height) or under("pixels", gates.min_pixels),
        "few_joints": under("complete", gates.min_complete),
        "low_score": under("score", gates.min_score),
        "truncated": over("outside", gates.max_outside),
        "gaps": under("observed", gates.min_observed),
        "frozen": under("motion", gates.min_motion),
        # One swap and the way back is no habit, however short the track that it makes a large share of.
        "flip": over("flip", gates.max_flip) and numbers["flip"] * numbers.get("frames", math.inf) > _ONE_SWAP,
        "teleport": over("teleport", gates.max_teleport and gates.max_teleport * slow),
        "jitter": over("jitter", gates.max_jitter and gates.max_jitter * slow**2),
        "limb_drift": over("limb_drift", gates.max_limb_drift) or over("limb_ratio", gates.max_limb_ratio),
    }
    return next((name for name, bad in failed.items() if bad), None)


def main_reason(tracks: Iterable[tuple[str | None, float]]) -> str:
    """Why a video of these tracks, each with its reason and its frames, was rejected: for what its longest one was."""
    return max(((frames, reason) for reason, frames in tracks if reason), key=lambda track: track[0],
               default=(0, "no_person"))[1]


def _interval(numbers: Mapping[str, float]) -> float:
    """Seconds from one frame to the next, by what the numbers say of the track's length; 0 where they do not."""
    frames = numbers.get("frames", 0.0)
    return numbers.get("seconds", 0.0) * numbers.get("observed", 0.0) / frames if frames > 0 else 0.0
