"""The configuration of a few-shot evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from skelcore.config import Config

Representation = Literal["pretrained", "fused", "scratch", "uncalibrated", "statistics", "raw", "filled"]
COORDINATES = frozenset({"statistics", "raw", "filled"})  # what needs no encoder
Method = Literal["prototype", "ridge", "rbf", "logistic", "finetune"]
TUNED = frozenset({"pretrained", "scratch"})  # what a method that trains the encoder starts from
Shots = Annotated[int, Field(ge=1)]


class AdaptConfig(Config):
    """Which clips, which features, which heads, and how often to draw."""

    data: str = Field(description="labelled clips: PYSKL pickle, folder of .skeleton files, or pose shards")
    data_layout: str | None = Field(None, description="layout of a pickle whose joint count does not tell it")
    checkpoint: str | None = Field(None, description="pretraining checkpoint; null evaluates the coordinates only")
    output: str = Field("adapt_results", description="folder for results.json, results.md, the plots and the cache")
    cache: str | None = Field(None, description="folder of cached features; null is OUTPUT/cache")

    support: str = Field("train", description="split from which the k labelled clips a class are drawn")
    query: str = Field("test", description="split that is classified; the support split itself, without drawn videos")
    k_shot: list[Shots] = Field([1, 2, 5, 10], min_length=1, description="labelled clips a class")
    draws: int = Field(10, ge=2, description="independent nested draws of the support; the interval is over these")
    seed: int = Field(0, ge=0, le=2**32, description="seed of the first draw; draw i has seed + i")

    representations: list[Representation] = Field(
        ["pretrained", "fused", "scratch", "uncalibrated", "statistics", "raw", "filled"], min_length=1,
        description="frozen encoder; fused: its features beside the statistics, each scaled to the same share of the "
                    "distance; random weights with batch norm calibrated on the clips that whiten "
                    "learns from, and as initialised, which is nearly a linear map; kinematic statistics of "
                    "the coordinates; the coordinates themselves, missing joints 0 or filled")
    methods: list[Method] = Field(
        ["prototype", "ridge", "rbf", "logistic"], min_length=1,
        description="heads, each on each representation; and finetune, which trains the whole encoder on the k clips, "
                    "from the checkpoint (pretrained) and from random weights (scratch)")
    finetune_draws: int = Field(3, ge=2, description="the first draws on which finetune is run; it is slow")
    finetune_steps: int = Field(150, ge=1, description="steps of finetune, of 32 views each")
    scratch_inits: int = Field(3, ge=1, description="random initialisations averaged into a row of random weights")
    project: bool = Field(False, description="look at 3D poses from the camera, in 2D, for encoders of 2D poses")
    map_layout: bool = Field(False, description="convert the data to the checkpoint's layout when the two differ")

    frames: int | None = Field(None, ge=2, description="frames an encoder sees; null is the checkpoint's own number")
    persons: int | None = Field(None, ge=1, description="persons of a clip that are used, by coordinates too; null is "
                                                       "the checkpoint's own number, or 1")
    pool: Literal["mean", "segments", "parts"] = Field(
        "mean", description="encoder features: its pooled output; averages of temporal segments side by side; mean and "
                            "deviation over time of every part of the body (heatmaps: cell of a 3 x 3 grid)")
    segments: int = Field(4, ge=1, description="temporal segments of pool=segments")
    whiten: Literal["none", "standard", "pca"] = Field(
        "standard", description="rescaling learnt on the support split without its labels (transductive where that "
                                "is the query split, too): none, by feature, by axis")
    raw_frames: int = Field(32, ge=2, description="frames of raw and filled")

    batch_size: int = Field(128, ge=1, description="clips a forward pass; does not change the result")
    workers: int = Field(0, ge=0, description="processes that read clips")
    device: str = Field("auto", description="auto (GPU when there is one), cpu, cuda, cuda:0, ...")

    @model_validator(mode="after")
    def _something_to_tune(self) -> AdaptConfig:
        if set(self.methods) == {"finetune"} and not TUNED & set(self.representations):
            raise ValueError(f"finetune starts from {' or '.join(sorted(TUNED))}; add one of them to representations")
        return self

    @model_validator(mode="after")
    def _no_repeats(self) -> AdaptConfig:
        for name in ("k_shot", "representations", "methods"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} lists a value twice: {values}")
        return self
