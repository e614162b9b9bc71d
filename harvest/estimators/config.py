"""What ``estimator:`` may hold besides a name: a mapping with the options of one pose backend."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from skelcore.config import Config

# How models run, which says nothing of what they answer.
HOW = {"batch", "threads", "providers", "device"}
# Model files: a path or a URL, and under ..._sha256 the hash that tells which file it is, wherever it lies.
FILES = ("detector", "pose", "checkpoint")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
Size = Annotated[tuple[int, int], Field(min_length=2)]


class BlazePoseConfig(Config):
    """The embedded default: two small models for a CPU."""

    name: Literal["blazepose"] = Field("blazepose", description="this backend")
    tiles: bool = Field(True, description="look at square tiles of oblong frames too, for smaller people")


class DetectorConfig(Config):
    """What the two-stage backends share: an ONNX person detector, and how the models run."""

    detector: str = Field(min_length=1, description="person detector, an .onnx file or a .zip with one: path or URL")
    detector_sha256: Sha256 | None = Field(None, description="hash of that file; needed for a URL")
    detector_kind: Literal["auto", "yolox", "rtmdet"] = Field(
        "auto", description="how frames are prepared for it; auto: yolox for a raw grid, rtmdet for dets and labels")
    detector_size: Size | None = Field(None, description="height, width of its input, where the model leaves them open")
    min_score: float = Field(0.4, ge=0, le=1, description="surest detections that are people")
    nms: float = Field(0.5, ge=0, le=1, description="overlap beyond which two detections are one person")
    keypoints: str | None = Field(None, description="layout of the model's keypoints; default: told by their number")
    batch: int = Field(16, ge=1, description="most crops or frames in one call of a model")
    threads: int = Field(1, ge=1, description="CPU threads of a model")
    providers: list[Literal["tensorrt", "cuda", "cpu"]] | None = Field(
        None, min_length=1, description="ONNX Runtime's, the best first; default: cuda where it is there, then cpu")

    @model_validator(mode="after")
    def _hashed(self) -> DetectorConfig:
        for field in FILES:
            if "://" in (getattr(self, field, None) or "") and not getattr(self, f"{field}_sha256"):
                raise ValueError(f"{field}: a URL needs {field}_sha256, the hash of the file (sha256sum FILE)")
        return self

    @field_validator("detector_size", "pose_size", check_fields=False)
    @classmethod
    def _positive(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value and min(value) < 32:
            raise ValueError("height and width must be 32 pixels or more")
        return value


class OnnxConfig(DetectorConfig):
    """Detector and top-down pose model as ONNX files, by ONNX Runtime."""

    name: Literal["onnx"] = Field("onnx", description="this backend")
    pose: str = Field(min_length=1, description="SimCC or heatmap model, an .onnx file or a .zip with one: path or URL")
    pose_sha256: Sha256 | None = Field(None, description="hash of that file; needed for a URL")
    pose_size: Size | None = Field(None, description="height, width of its input, where the model leaves them open")
    heatmap: Literal["quarter", "dark", "udp"] = Field(
        "dark", description="how points are read from heatmaps; udp also for the crops, as in training (ViTPose)")
    mean: tuple[float, float, float] = Field((123.675, 116.28, 103.53), description="of R, G, B, taken off the crop")
    std: tuple[float, float, float] = Field((58.395, 57.12, 57.375), description="of R, G, B, which then divide it")


class MMPoseConfig(DetectorConfig):
    """An MMPose top-down model by its own configuration and checkpoint (`make mmpose` installs MMPose)."""

    name: Literal["mmpose"] = Field("mmpose", description="this backend")
    config: str = Field(min_length=1, description="MMPose configuration: its name, or a .py file (which is executed)")
    checkpoint: str = Field(min_length=1, description="its weights, a .pth file: path or URL")
    checkpoint_sha256: Sha256 | None = Field(None, description="hash of that file; needed for a URL")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    flip: bool | None = Field(None, description="average with the mirrored crop; default: as the configuration says")


EstimatorConfig = BlazePoseConfig | OnnxConfig | MMPoseConfig


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return name if isinstance(name, str) else None


Choice = Annotated[
    Annotated[str, Tag("text")] | Annotated[BlazePoseConfig, Tag("blazepose")] | Annotated[OnnxConfig, Tag("onnx")]
    | Annotated[MMPoseConfig, Tag("mmpose")],
    Discriminator(_kind, custom_error_type="estimator_name", custom_error_message="give a name, or a mapping whose "
                  "name is blazepose, onnx or mmpose"),
]


def identity(choice: str | EstimatorConfig) -> dict[str, Any]:
    """What decides the answers of an estimator, as plain values: not where its files lie, nor how its models run."""
    if isinstance(choice, str) and choice != "blazepose":
        return {"name": choice}
    config = BlazePoseConfig() if isinstance(choice, str) else choice
    return nameless(config).model_dump(mode="json", exclude={*HOW, *FILES})


def nameless(config: EstimatorConfig) -> EstimatorConfig:
    """The configuration with the names of its files alone, which say nothing of the folders of a machine."""
    places = {field: place for field in (*FILES, "config") if isinstance(place := getattr(config, field, None), str)}
    return config.model_copy(update={field: PurePath(place).name for field, place in places.items()
                                     if "://" not in place})
