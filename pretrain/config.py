"""The configuration of a pretraining run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pretrain.objectives import ObjectiveConfig, VICRegConfig
from skelcore.config import Config
from skelcore.encoders import ENCODERS
from skelcore.sources import Source, Sources
from skelcore.views import ViewConfig


class EncoderConfig(Config):
    """Which encoder, and how wide."""

    name: str = Field("stgcn++", description="encoder; `skelshot encoders` lists the names and what each costs")
    width: PositiveInt | None = Field(None, description="channels of the first stage; null is the published size")
    scale: float = Field(1.0, gt=0, le=4, description="factor on the published size, where width is null")

    @property
    def channels(self) -> int:
        """The width, a multiple of 8."""
        if self.width is not None:
            return self.width
        return max(8, 8 * round(ENCODERS[self.name].WIDTH * self.scale / 8)) if self.name in ENCODERS else 8


class OptimizerConfig(Config):
    """The optimiser and its schedule: linear warm-up, then cosine to zero."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="sgd uses Nesterov momentum 0.9")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, description="not applied to biases and normalisation")
    warmup_epochs: float = Field(5, ge=0, description="epochs of linear warm-up")
    clip: float = Field(5.0, gt=0, description="largest gradient norm")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the rate of each encoder layer below the last; "
                                                           "for second stages that start from init=")
    ema: float = Field(0.0, ge=0, lt=1, description="momentum of an average of the encoder's weights, which is then "
                                                   "watched and saved in its place; 0 is none")


class MonitorConfig(Config):
    """The label-using monitor: it reports and chooses nothing."""

    data: str | None = Field(None, description="labelled set (same kinds as data=); none: no kNN curve")
    split: str | None = Field(None, description="split of that set; leave-one-video-out within it")
    k: PositiveInt = Field(5, description="neighbours that vote")
    every_epochs: PositiveInt = Field(5, description="epochs between two looks")
    projector: bool = Field(False, description="write TensorBoard's embedding projector at the end")


class PretrainConfig(Config):
    """Label-free pretraining of an encoder on pose sequences."""

    data: Sources = Field(description="PYSKL pickle, folder of NTU .skeleton files, folder/glob/URL of pose shards, "
                                      "procedural:COUNT; or a list of such sources, each with weight and thresholds")
    output: str = Field(description="folder or URL for checkpoints, summary and TensorBoard events")
    data_layout: str | None = Field(None, description="layout of pickles whose joint count does not tell it; a "
                                                      "source's own comes first")
    split: str | None = Field(None, description="train only on this split; a source's own, even null, comes first")
    layout: str | None = Field(None, description="layout to train in; none: the data's own")
    init: str | None = Field(None, description="checkpoint whose encoder the run starts from, as a second stage does")
    frames: PositiveInt = Field(64, description="frames a clip is resampled to")
    persons: PositiveInt = Field(1, description="persons a clip")
    fill: float = Field(0.0, ge=0, lt=1, description="score that a joint gets while it is missing and interpolated in "
                                                     "time instead, in evaluation, too; 0 leaves it missing")
    stream: Literal["joint", "bone", "joint_motion", "bone_motion", "joint_bone"] = Field(
        "joint", description="what the encoder sees; heatmaps show joint, bone (limbs) or joint_bone (both)")
    encoder: EncoderConfig = EncoderConfig()
    objective: Annotated[ObjectiveConfig, Field(discriminator="name")] = VICRegConfig()
    views: ViewConfig = ViewConfig()
    view_parts: PositiveInt = Field(1, description="parts of a batch that draw their views apart; a run on as many "
                                                   "processes draws the same as one process with that many parts")
    optimizer: OptimizerConfig = OptimizerConfig()
    monitor: MonitorConfig = MonitorConfig()
    epochs: PositiveInt = Field(100, description="passes over the data")
    batch_size: int = Field(128, ge=2, description="clips of a loss, over all processes; each is seen in two views")
    accumulate: PositiveInt = Field(1, description="batches whose gradients make one step")
    seed: int = Field(0, ge=0, description="seed of weights, sample order and views")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU when there is one")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on a GPU, fp32 on a CPU")
    compile: bool = Field(False, description="compile the encoder with torch.compile: minutes first, faster steps then")
    workers: int = Field(0, ge=0, description="loader processes; 0 reads in the training process")
    distributed: Literal["auto", "ray"] = Field("auto", description="auto: one process, or those that torchrun started")
    num_workers: PositiveInt = Field(1, description="training processes of distributed=ray")
    save_every_epochs: PositiveInt = Field(10, description="epochs between two checkpoints")
    keep: PositiveInt = Field(2, description="checkpoints kept, the newest included")
    log_every_steps: PositiveInt = Field(10, description="steps between two TensorBoard points")

    @field_validator("objective", mode="before")
    @classmethod
    def _default_objective(cls, value: Any) -> Any:
        return {"name": "vicreg", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        if self.batch_size % self.view_parts:
            raise ValueError(f"view_parts={self.view_parts} must divide batch_size={self.batch_size}")
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """The data, each source with this run's split and layout where it names none itself."""
        defaults = {"split": self.split, "data_layout": self.data_layout}
        return tuple(source.model_copy(update={key: value for key, value in defaults.items()
                                               if key not in source.model_fields_set}) for source in self.data)
