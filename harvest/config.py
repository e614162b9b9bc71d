"""The harvest's configuration."""

from __future__ import annotations

import os.path
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from harvest.address import is_bucket, is_url
from harvest.estimators.config import HOW, Choice, EstimatorConfig
from harvest.reasons import FAILURES
from skelcore.config import Config, digest

# Where `ray up` and `ray submit` leave the cluster file on the head node.
BOOTSTRAP = "~/ray_bootstrap_config.yaml"
# The smallest video-only stream of at least 360 lines, then anything; never a merge, so ffmpeg is not needed.
FORMAT = ("bv[height>=360][height<=720][vcodec^=avc1][ext=mp4]/bv[height>=360][ext=mp4]/bv[height>=360]/"
          "b[height>=360]/bv/b")
OWN_OPTIONS = {"outtmpl", "paths", "logger", "progress_hooks", "match_filter", "ignoreerrors", "max_filesize",
               "postprocessors", "quiet", "noprogress", "enable_file_urls", "cookiefile", "proxy", "ratelimit",
               "allow_unplayable_formats"}

# What may differ between two runs into one output folder.
_FREE = {"sources", "playlists", "output", "workers", "worker", "shard_size", "limits", "fetch", "politeness", "law",
         "retry", "duplicates"}
# Of an estimator only how its models run.
_LEFT_OUT: dict[str, bool | set[str]] = {**dict.fromkeys(_FREE, True), "estimator": HOW}


class Limits(Config):
    """What one source may cost."""

    max_seconds: float = Field(1800, gt=0, description="longest video taken, in seconds")
    max_bytes: int = Field(2_000_000_000, gt=0, description="largest file taken")
    fetch_seconds: float = Field(3600, gt=0, description="time after which a download is given up")
    deadline_seconds: float = Field(7200, gt=0, description="time after which a video in hand is given up")


class Worker(Config):
    """What one worker process takes from its node, and when it makes room for a fresh one."""

    cpus: float = Field(1, ge=0, description="CPUs of the node that Ray books for a worker")
    gpus: float = Field(0, ge=0, description="GPUs, or a fraction of one, that Ray books for a worker")
    memory_bytes: int | None = Field(None, gt=0, description="memory that Ray books for a worker; empty: none")
    recycle_videos: int = Field(1000, ge=1, description="videos after which a worker is replaced")
    recycle_bytes: int = Field(8_000_000_000, gt=0, description="resident memory beyond which a worker is replaced")


# What models say of their own sureness has no common scale, so these thresholds of a preset are an estimator's. A
# top-down model has no belief of its own in a person: its detector must agree. docs/gates.md says where they are from.
_TOP_DOWN: dict[str, dict[str, float]] = {"default": {"min_score": 0.4}, "strict": {"min_score": 0.55}}
_SCALES: dict[str, dict[str, dict[str, float]]] = {
    "blazepose": {"default": {"min_presence": 0.9, "sure_presence": 0.99, "min_score": 0.65},
                  "strict": {"min_presence": 0.95, "sure_presence": 0.99, "min_score": 0.75}},
    "onnx": _TOP_DOWN,
    "mmpose": _TOP_DOWN,
}


class Gates(Config):
    """Thresholds that a track must pass to be kept, a preset's or one by one; see quality.py for the numbers.

    Those on the scores of the model are None, and ask for nothing, until they are given or ``fitted`` to an estimator.
    """

    preset: Literal["strict", "default", "all"] = Field(
        "default", exclude=True, description="where thresholds that are not given come from; `gates: strict` is short "
        "for it; strict: for clean corpora; all: keeps every track")
    min_seconds: float = Field(0.6, ge=0, description="too_short: shortest track")
    min_frames: int = Field(5, ge=1, description="too_short: fewest observed frames")
    min_observed: float = Field(0.6, ge=0, le=1, description="gaps: share of frames in which the person was seen")
    min_presence: float | None = Field(None, ge=0, le=1, description="hallucinated: mean belief of the model in the "
                                       "person; default: the estimator's; null: any")
    min_detected: float = Field(0.2, ge=0, le=1, description="hallucinated: share of detector passes that agree")
    sure_presence: float | None = Field(None, ge=0, le=1, description="presence that needs no detector to agree; "
                                        "default: the estimator's; null: none")
    min_score: float | None = Field(None, ge=0, le=1, description="low_score: mean score of the body joints; default: "
                                    "the estimator's; null: any")
    min_complete: float = Field(0.3, ge=0, le=1, description="few_joints: share of frames showing most body joints")
    max_outside: float = Field(0.25, ge=0, le=1, description="truncated: share of joints outside the frame")
    min_height: float = Field(0.15, ge=0, description="small: median height of the person over that of the frame")
    min_pixels: float = Field(40, ge=0, description="small: median height of the person in pixels")
    min_motion: float = Field(0.002, ge=0, description="frozen: spread of the joints over the person's height")
    max_jitter: float | None = Field(0.1, ge=0, description="jitter: second difference over the height; null: any")
    max_teleport: float | None = Field(0.4, ge=0, description="teleport: step of the body over its height, a frame")
    max_flip: float = Field(0.2, ge=0, le=1, description="flip: share of steps in which left and right swap")
    max_limb_drift: float | None = Field(0.65, ge=0, description="limb_drift: variation of the limbs' lengths")
    max_limb_ratio: float | None = Field(2.0, ge=1, description="limb_drift: longer over shorter of left and right")
    max_full_frame: float = Field(0.95, ge=0, le=1, description="hallucinated: share of the frame that a pose spans")
    max_crowd: int | None = Field(12, ge=1, description="crowd: most persons at once in the video")

    _PRESETS: ClassVar[dict[str, dict[str, float | None]]] = {
        "default": {},
        "strict": {"min_seconds": 2.0, "min_frames": 24, "min_observed": 0.8, "min_detected": 0.5, "min_complete": 0.7,
                   "max_outside": 0.1, "min_height": 0.2, "min_pixels": 90, "min_motion": 0.005, "max_jitter": 0.05,
                   "max_teleport": 0.25, "max_flip": 0.03, "max_limb_drift": 0.4, "max_limb_ratio": 1.5,
                   "max_full_frame": 0.9, "max_crowd": 8},
        "all": {"min_seconds": 0.0, "min_frames": 1, "min_observed": 0.0, "min_presence": 0.0, "sure_presence": 0.0,
                "min_detected": 0.0, "min_score": 0.0, "min_complete": 0.0, "max_outside": 1.0, "min_height": 0.0,
                "min_pixels": 0, "min_motion": 0.0, "max_jitter": None, "max_teleport": None, "max_flip": 1.0,
                "max_limb_drift": None, "max_limb_ratio": None, "max_full_frame": 1.0, "max_crowd": None},
    }

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        value = {"preset": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            return value
        name = str(value.get("preset", "default"))
        if name not in cls._PRESETS:
            near = get_close_matches(name, cls._PRESETS, 1)
            raise ValueError(f"unknown preset {name!r}; "
                             + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls._PRESETS)}"))
        return {**cls._PRESETS[name], **value}

    def fitted(self, estimator: str | EstimatorConfig) -> Gates:
        """With the preset's thresholds on the scores of that estimator, where they were not given.

        The scale of a user's own estimator is not known: what is not given then asks for nothing.
        """
        scale = _SCALES.get(estimator if isinstance(estimator, str) else estimator.name, {}).get(self.preset, {})
        return self.model_copy(update={key: scale[key] for key in scale.keys() - self.model_fields_set})


class Fetch(Config):
    """How URLs are downloaded."""

    ahead: int = Field(2, ge=1, le=64, description="sources that a worker fetches while it estimates another")
    retries: int = Field(2, ge=0, description="further tries after a transient failure")
    wait_seconds: float = Field(5.0, ge=0, description="pause before the first retry; doubles with each")
    user_agent: str = Field("SkelShot/0.1 (pose research; no video is kept)", min_length=1,
                            description="how direct downloads introduce themselves; add an address of yours")
    cookies: str | None = Field(None, description="a cookie file in Netscape format; each worker uses a copy")
    proxy: str | None = Field(None, description="proxy URL for all downloads")
    rate_bytes: int | None = Field(None, gt=0, description="most bytes a second of one download")
    options: dict[str, Any] = Field(default_factory=dict, description="yt-dlp options (its Python names) over our own")

    @field_validator("options")
    @classmethod
    def _free(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(OWN_OPTIONS.intersection(value))
        if taken:
            raise ValueError(f"{', '.join(taken)}: set by the harvest itself and not free")
        return value


class HostRule(Config):
    """What one host is asked for at a time; what is left empty is as for every host."""

    concurrency: int | None = Field(None, ge=1, description="downloads at once from it")
    gap_seconds: float | None = Field(None, ge=0, description="least time between the starts of two")


class Politeness(Config):
    """What a host may be asked for, over the whole cluster."""

    concurrency: int = Field(1, ge=1, description="downloads at once from one host")
    gap_seconds: float = Field(10.0, ge=0, description="least time between the starts of two from one host")
    jitter_seconds: float = Field(5.0, ge=0, description="most that chance adds to the gap")
    hosts: dict[str, HostRule] = Field(default_factory=dict, description="other rules, by host name")
    pause_seconds: float = Field(60.0, ge=0, description="pause of a host that answers 429 without Retry-After")
    bot_pause_seconds: float = Field(3600.0, ge=0, description="pause of a host that asks for a login or a captcha")
    longest_pause_seconds: float = Field(21600.0, ge=0, description="most that any pause lasts, whatever a host asks")
    pauses: int = Field(3, ge=1, description="pauses in a row after which a host is asked for nothing more in this run")
    outage_failures: int = Field(10, ge=2, description="network failures in a row, over all hosts, taken for an outage")
    outage_seconds: float = Field(30.0, ge=0, description="time between two probes while an outage lasts")


class Law(Config):
    """What may be harvested at all. Local files and buckets are exempt, but for opt_out."""

    licences: list[str] = Field(
        ["cc0", "cc by*", "cc-by*", "creative commons*", "public domain*"],
        description="licences taken, told by patterns; a video that declares none is refused; [any] takes all")
    robots: bool = Field(True, description="obey robots.txt, X-Robots-Tag and tdm-reservation on direct URLs")
    opt_out: str | None = Field(None, description="file of ids, URLs, channels and hosts that must not be harvested")


class Harvest(Config):
    """Videos to pose shards."""

    sources: list[str] = Field([], description="files, folders, globs, URLs, or lists of them (.txt, or .csv/.jsonl "
                               "with url or path, and id, start, end, label, split, licence ...)")
    playlists: list[str] = Field([], description="URLs of playlists, channels and feeds, each video of which is a "
                                 "source; looked up at every start of the command")
    output: str = Field(min_length=1, description="folder, here or in a bucket (s3://, gs:// ...), that receives "
                        "plan, ledger, shards and summary")
    estimator: Choice = Field("blazepose", description="pose model: blazepose, module:Class for your own, or a mapping")
    layout: str = Field("coco17", description="joint layout of the shards")
    fps: float = Field(15.0, gt=0, le=240, description="frame rate of the poses; slower videos keep their own")
    detect_every: int = Field(5, ge=1, description="frames between two passes of the person detector")
    max_persons: int = Field(8, ge=1, description="most persons estimated in one frame, the surest first")
    interactions: Literal["together", "apart"] = Field(
        "together", description="two persons who stay close to each other: one sample of both, or one each")
    short_side: int = Field(720, ge=64, description="larger frames are first scaled down to this short side")
    workers: int | None = Field(None, ge=1, description="estimating processes; default: all CPUs that Ray may use")
    worker: Worker = Worker.model_validate({})
    retry: list[str] = Field([], description="failed sources to try again: transient, all, or names of reasons")
    shard_size: int = Field(64, ge=1, description="sources in one shard")
    limits: Limits = Limits.model_validate({})
    gates: Gates = Field(Gates.model_validate({}), validate_default=True)
    duplicates: Literal["keep", "mark", "drop"] = Field(
        "mark", description="tracks that show the motion of another one: no search for them, a list of them in "
        "duplicates.jsonl at the end, or the list and their rejection")
    fetch: Fetch = Fetch.model_validate({})
    politeness: Politeness = Politeness.model_validate({})
    law: Law = Law.model_validate({})

    @field_validator("gates")
    @classmethod
    def _fitted(cls, value: Gates, info: ValidationInfo) -> Gates:
        # Where the estimator is wrong, that is the error.
        return value.fitted(info.data["estimator"]) if "estimator" in info.data else value

    @field_validator("sources", "playlists", "retry", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("retry")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        known = ["all", "transient", *FAILURES]
        for name in value:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise ValueError(f"{name!r} is no reason of failure; "
                                 + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"))
        return value

    @model_validator(mode="after")
    def _something(self) -> Harvest:
        if not self.sources and not self.playlists:
            raise ValueError("sources: needed, or playlists")
        return self

    @field_validator("output")
    @classmethod
    def _place(cls, value: str) -> str:
        if not is_url(value):
            return os.path.expanduser(value)
        if not is_bucket(value):
            raise ValueError("must be a local folder or a bucket's URL, such as s3://bucket/folder")
        return value.rstrip("/")

    def settings(self) -> dict[str, Any]:
        """What decides the content of a block: it must not change within one output folder."""
        return self.model_dump(mode="json", exclude=_LEFT_OUT)

    @property
    def fingerprint(self) -> str:
        """Hash of ``settings``."""
        return digest(self, exclude=_LEFT_OUT)
