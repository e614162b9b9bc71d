"""Objectives: what an encoder is trained for, one file a paper."""

from __future__ import annotations

from typing import Any, TypeAlias

from pretrain.objectives.barlow import Barlow, BarlowConfig
from pretrain.objectives.distill import Distill, DistillConfig
from pretrain.objectives.latent import Latent, LatentConfig
from pretrain.objectives.masked_motion import MaskedMotion, MaskedMotionConfig
from pretrain.objectives.moco import MoCo, MoCoConfig
from pretrain.objectives.nnclr import NNCLR, NNCLRConfig
from pretrain.objectives.objective import Objective, Setting
from pretrain.objectives.supervised import Supervised, SupervisedConfig
from pretrain.objectives.vicreg import VICReg, VICRegConfig

__all__ = ["OBJECTIVES", "Objective", "ObjectiveConfig", "Setting", "VICRegConfig"]

ObjectiveConfig: TypeAlias = (MoCoConfig | VICRegConfig | BarlowConfig | DistillConfig | MaskedMotionConfig
                              | LatentConfig | NNCLRConfig | SupervisedConfig)
# Each is called with the encoder, its own configuration, and the setting.
OBJECTIVES: dict[str, type[Any]] = {
    kind.name: kind for kind in (MoCo, VICReg, Barlow, Distill, MaskedMotion, Latent, NNCLR, Supervised)}
