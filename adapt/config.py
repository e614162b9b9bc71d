"""The configuration of a few-shot evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from adapt.benchmarks import check_name
from skelcore.config import Config

Representation = Literal["pretrained", "fused", "scratch", "uncalibrated", "statistics", "raw", "filled"]
COORDINATES = frozenset({"statistics", "raw", "filled"})  # what needs no encoder
Method = Literal["prototype", "knn", "power", "ridge", "rbf", "logistic", "align", "laplacian", "rectify", "finetune",
                 "lora", "affine"]
TRAINING = frozenset({"finetune", "lora", "affine"})  # methods that train the encoder
TUNED = frozenset({"pretrained", "scratch"})  # what they start from
LEARNED = frozenset({"pretrained", "scratch", "uncalibrated"})  # what has the unpooled features that align needs
Shots = Annotated[int, Field(ge=1)]
Streams = Annotated[list[str], Field(min_length=1)]
Percent = Annotated[int, Field(ge=1, le=99)]


class Tune(Config):
    """How methods that train the encoder are run."""

    draws: int = Field(3, ge=2, description="the first draws on which they are run; they are slow")
    steps: int = Field(150, ge=1, description="steps, of 32 views each")


class AdaptConfig(Config):
    """Which clips, which features, which heads, and how often to draw."""

    data: str = Field(description="labelled clips: PYSKL pickle, folder of .skeleton files, or pose shards")
    data_layout: str | None = Field(None, description="layout of a pickle whose joint count does not tell it")
    checkpoint: list[Streams] | None = Field(
        None, min_length=1,
        description="pretraining checkpoint; or several, training runs whose accuracies are averaged draw by draw; a "
                    "run may be a list of streams or encoders of any kind ([[a.pt, b.pt]]), whose features of a clip "
                    "are put side by side; null evaluates the coordinates only")
    output: str = Field("adapt_results", description="folder for results.json, results.md, the plots and the cache")
    cache: str | None = Field(None, description="folder of cached features; null is OUTPUT/cache")

    benchmark: str = Field("splits", description="the rule that says which clips are support and which are queries; "
                                                 "skelshot adapt --list tells of each")
    support: str = Field("train", description="splits: where the k labelled clips a class are drawn")
    query: str = Field("test", description="splits: what is classified; the support split itself, without drawn videos")
    lists: list[str] = Field([], description="splits: published files of ids, one id a line, each of which is a draw "
                                             "in place of ours")
    same_splits_as: str | None = Field(None, description="splits.json of an earlier run, whose draws these must equal; "
                                                         "an error says where they do not")
    auxiliary: Literal[20, 40, 60, 80, 100] = Field(100, description="ntu120-one-shot: base classes")
    k_shot: list[Shots] = Field([1, 2, 5, 10], min_length=1, description="labelled clips a class")
    percent: list[Percent] = Field([], description="shares of the labels beside k_shot, stratified, such as 1, 5, 10")
    scarce: bool = Field(False, description="a class of fewer than k videos gives all it has; otherwise an error")
    draws: int = Field(10, ge=2, description="independent nested draws of the support; the interval is over these")
    way: int = Field(5, ge=2, description="episodes: classes of an episode")
    episode_queries: int = Field(10, ge=1, description="episodes: queries a class")
    episodes: int = Field(2000, ge=2, description="episodes: how many, for each k")
    seed: int = Field(0, ge=0, le=2**32, description="seed of the first draw; draw i has seed + i")

    representations: list[Representation] = Field(
        ["pretrained", "fused", "scratch", "uncalibrated", "statistics", "raw", "filled"], min_length=1,
        description="frozen encoder; fused: its features beside the statistics, each scaled to the same share of the "
                    "distance; random weights with batch norm calibrated on the clips that whiten "
                    "learns from, and as initialised, which is nearly a linear map; kinematic statistics of "
                    "the coordinates; the coordinates themselves, missing joints 0 or filled")
    methods: list[Method] = Field(
        ["prototype", "ridge", "rbf", "logistic"], min_length=1,
        description="heads, each on each representation; align re-ranks prototype's best classes by segments and parts "
                    "of the body; laplacian and rectify classify all queries together (transductive); finetune, lora "
                    "and affine train the encoder on the k clips, from the checkpoint (pretrained) and from random "
                    "weights (scratch)")
    tune: Tune = Tune()
    scratch_inits: int = Field(3, ge=1, description="random initialisations averaged into a row of random weights")
    project: bool = Field(False, description="look at 3D poses from the camera, in 2D, for encoders of 2D poses")
    map_layout: bool = Field(False, description="convert the data to the checkpoint's layout when the two differ")

    frames: int | None = Field(None, ge=2, description="frames an encoder sees; null is the checkpoint's own number")
    persons: int | None = Field(None, ge=1, description="persons of a clip that are used, by coordinates too; null is "
                                                       "the checkpoint's own number, or 1")
    mirror: bool = Field(False, description="average an encoder's features over a clip and its mirror image")
    windows: int = Field(1, ge=1, description="average them over that many windows of four fifths of a clip as well")
    pool: Literal["mean", "segments", "parts"] = Field(
        "mean", description="encoder features: its pooled output; averages of temporal segments side by side; mean and "
                            "deviation over time of every part of the body (heatmaps: cell of a 3 x 3 grid)")
    segments: int = Field(4, ge=1, description="temporal segments of pool=segments")
    whiten: Literal["none", "standard", "pca"] = Field(
        "standard", description="rescaling learnt on the support split without its labels (transductive where that "
                                "is the query split, too), or on the base classes: none, by feature, by axis")
    raw_frames: int = Field(32, ge=2, description="frames of raw and filled")

    batch_size: int = Field(128, ge=1, description="clips a forward pass; does not change the result")
    workers: int = Field(0, ge=0, description="processes that read clips")
    device: str = Field("auto", description="auto (GPU when there is one), cpu, cuda, cuda:0, ...")

    @field_validator("checkpoint", mode="before")
    @classmethod
    def _runs_of_streams(cls, value: Any) -> Any:
        runs = [value] if isinstance(value, str) else value
        return [[run] if isinstance(run, str) else run for run in runs] if isinstance(runs, list) else runs

    @field_validator("benchmark")
    @classmethod
    def _known(cls, value: str) -> str:
        return check_name(value)

    @model_validator(mode="after")
    def _something_to_tune(self) -> AdaptConfig:
        if set(self.methods) <= TRAINING and not TUNED & set(self.representations):
            raise ValueError(f"{self.methods[0]} starts from {' or '.join(sorted(TUNED))}; add one of them to "
                             "representations")
        return self

    @model_validator(mode="after")
    def _no_repeats(self) -> AdaptConfig:
        for name in ("k_shot", "percent", "representations", "methods", "checkpoint"):
            values = getattr(self, name) or []
            if any(values.count(value) > 1 for value in values):
                raise ValueError(f"{name} lists a value twice: {values}")
        return self

    @model_validator(mode="after")
    def _alike(self) -> AdaptConfig:
        if len({len(run) for run in self.checkpoint or ()}) > 1:
            raise ValueError("checkpoint lists runs of different numbers of streams; evaluate them apart")
        return self

    @property
    def budgets(self) -> list[int | str]:
        """What is drawn of each class: ascending k, then ascending shares."""
        return [*sorted(self.k_shot), *(f"{share}%" for share in sorted(self.percent))]
