"""What several tests of evaluations begin with: a small labelled set, and a checkpoint of an encoder for it."""

import pytest
import torch

from skelcore import checkpoint
from skelcore.encoders import build
from tests.adapt import clips as made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return made.write(tmp_path_factory.mktemp("data") / "clips.pkl")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "checkpoint.pt"
    checkpoint.save_encoder(path, build("stgcn++", "coco17", width=8), frames=16, stream="joint")
    return path
