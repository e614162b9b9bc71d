"""The configuration of a pretraining run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from pretrain.objectives.vicreg import VICRegConfig
from skelcore.config import Config
from skelcore.views import ViewConfig


class EncoderConfig(Config):
    """Which encoder, and how wide."""

    name: str = Field("stgcn++", description="encoder; `skelshot encoders` lists the names and what each costs")
    width: PositiveInt | None = Field(None, description="channels of the first stage; null is the published size")


class OptimizerConfig(Config):
    """The optimiser and its schedule: linear warm-up, then cosine to zero."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="sgd uses Nesterov momentum 0.9")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, description="not applied to biases and normalisation")
    warmup_epochs: float = Field(5, ge=0, description="epochs of linear warm-up")
    clip: float = Field(5.0, gt=0, description="largest gradient norm")


class MonitorConfig(Config):
    """The label-using monitor: it reports and chooses nothing."""

    data: str | None = Field(None, description="labelled set (same kinds as data=); none: no kNN curve")
    split: str | None = Field(None, description="split of that set; leave-one-video-out within it")
    k: PositiveInt = Field(5, description="neighbours that vote")
    every_epochs: PositiveInt = Field(5, description="epochs between two looks")


class PretrainConfig(Config):
    """Label-free pretraining of an encoder on pose sequences."""

    data: str = Field(description="PYSKL pickle, folder of NTU .skeleton files, or folder/glob/URL of pose shards")
    output: str = Field(description="folder for checkpoints, TensorBoard events and summary")
    data_layout: str | None = Field(None, description="layout of a pickle whose joint count does not tell it")
    split: str | None = Field(None, description="train only on this split of the data")
    layout: str | None = Field(None, description="layout to train in; none: the data's own")
    frames: PositiveInt = Field(64, description="frames a clip is resampled to")
    persons: PositiveInt = Field(1, description="persons a clip")
    stream: Literal["joint", "bone", "joint_motion", "bone_motion", "joint_bone"] = Field(
        "joint", description="what the encoder sees; heatmaps show joint, bone (limbs) or joint_bone (both)")
    encoder: EncoderConfig = EncoderConfig()
    objective: VICRegConfig = VICRegConfig()
    views: ViewConfig = ViewConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    monitor: MonitorConfig = MonitorConfig()
    epochs: PositiveInt = Field(100, description="passes over the data")
    batch_size: int = Field(128, ge=2, description="clips a step; each is seen in two views")
    seed: int = Field(0, ge=0, description="seed of weights, sample order and views")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU when there is one")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")
    workers: int = Field(0, ge=0, description="loader processes; 0 reads in the training process")
    save_every_epochs: PositiveInt = Field(10, description="epochs between two checkpoints")
    log_every_steps: PositiveInt = Field(10, description="steps between two TensorBoard points")
