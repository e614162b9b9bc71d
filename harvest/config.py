"""The harvest's configuration."""

from __future__ import annotations

import os.path
from typing import Any

from pydantic import Field, field_validator

from skelcore.config import Config, digest

# Where `ray up` and `ray submit` leave the cluster file on the head node.
BOOTSTRAP = "~/ray_bootstrap_config.yaml"
# The smallest video-only stream of at least 360 lines, then anything; never a merge, so ffmpeg is not needed.
FORMAT = ("bv[height>=360][height<=720][vcodec^=avc1][ext=mp4]/bv[height>=360][ext=mp4]/bv[height>=360]/"
          "b[height>=360]/bv/b")
OWN_OPTIONS = {"outtmpl", "paths", "logger", "progress_hooks", "match_filter", "ignoreerrors", "max_filesize",
               "postprocessors", "quiet", "noprogress", "enable_file_urls"}

# What may differ between two runs into one output folder.
_FREE = {"sources", "output", "workers", "shard_size", "limits", "fetch"}


class Limits(Config):
    """What one source may cost."""

    max_seconds: float = Field(1800, gt=0, description="longest video taken, in seconds")
    max_bytes: int = Field(2_000_000_000, gt=0, description="largest file taken")
    deadline_seconds: float = Field(7200, gt=0, description="time after which a video in hand is given up")


class Gates(Config):
    """Thresholds that a track must pass to be kept; see gates.py for what each number means."""

    min_seconds: float = Field(0.6, ge=0, description="too_short: shortest track")
    min_frames: int = Field(5, ge=1, description="too_short: fewest observed frames")
    min_observed: float = Field(0.6, ge=0, le=1, description="gaps: share of frames in which the person was seen")
    min_presence: float = Field(0.9, ge=0, le=1, description="hallucinated: mean belief of the model in the person")
    min_detected: float = Field(0.2, ge=0, le=1, description="hallucinated: share of detector passes that agree")
    sure_presence: float = Field(0.99, ge=0, le=1, description="presence that needs no detector to agree")
    min_score: float = Field(0.65, ge=0, le=1, description="low_score: mean score of the body joints")
    min_complete: float = Field(0.3, ge=0, le=1, description="few_joints: share of frames showing most body joints")
    max_outside: float = Field(0.25, ge=0, le=1, description="truncated: share of joints outside the frame")
    min_height: float = Field(0.15, ge=0, description="small: median height of the person over that of the frame")
    min_pixels: float = Field(40, ge=0, description="small: median height of the person in pixels")
    min_motion: float = Field(0.002, ge=0, description="frozen: spread of the joints over the person's height")


class Fetch(Config):
    """How URLs are downloaded."""

    retries: int = Field(2, ge=0, description="further tries after a transient failure")
    wait_seconds: float = Field(5.0, ge=0, description="pause before the first retry; doubles with each")
    options: dict[str, Any] = Field(default_factory=dict, description="yt-dlp options (its Python names) over our own")

    @field_validator("options")
    @classmethod
    def _free(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(OWN_OPTIONS.intersection(value))
        if taken:
            raise ValueError(f"{', '.join(taken)}: set by the harvest itself and not free")
        return value


class Harvest(Config):
    """Videos to pose shards."""

    sources: list[str] = Field(min_length=1, description="files, folders, globs, URLs, or lists of them "
                               "(.txt, or .csv/.jsonl with url or path, and id, label, split, licence ...)")
    output: str = Field(min_length=1, description="folder that receives plan, ledger, shards and summary")
    estimator: str = Field("blazepose", description="pose model, or module:Class for your own")
    layout: str = Field("coco17", description="joint layout of the shards")
    fps: float = Field(15.0, gt=0, le=240, description="frame rate of the poses; slower videos keep their own")
    detect_every: int = Field(5, ge=1, description="frames between two passes of the person detector")
    max_persons: int = Field(8, ge=1, description="most persons estimated in one frame, the surest first")
    short_side: int = Field(720, ge=64, description="larger frames are first scaled down to this short side")
    workers: int | None = Field(None, ge=1, description="estimating processes; default: all CPUs that Ray may use")
    shard_size: int = Field(64, ge=1, description="sources in one shard")
    limits: Limits = Limits.model_validate({})
    gates: Gates = Gates.model_validate({})
    fetch: Fetch = Fetch.model_validate({})

    @field_validator("sources", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("output")
    @classmethod
    def _local(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("must be a local folder, not a URL")
        return os.path.expanduser(value)

    def settings(self) -> dict[str, Any]:
        """What decides the content of a block: it must not change within one output folder."""
        return self.model_dump(mode="json", exclude=_FREE)

    @property
    def fingerprint(self) -> str:
        """Hash of ``settings``."""
        return digest(self, exclude=_FREE)
