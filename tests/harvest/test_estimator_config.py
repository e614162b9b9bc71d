"""Estimators as configurations: what is taken, what is refused, what counts as the same."""

import re

import pytest
import yaml
from pydantic import ValidationError

from harvest.config import Harvest
from harvest.estimators import build
from harvest.estimators.config import OnnxConfig
from skelcore import config as configs
from skelcore.errors import InputError
from tests.paths import ROOT


@pytest.mark.parametrize(("estimator", "words"), [
    ({"name": "onix"}, "name is blazepose, onnx or mmpose"),
    ({"name": "onnx", "detector": "a"}, "estimator.pose: field required"),
    ({"name": "onnx", "detector": "a", "pose": "b", "posse": 1}, r"key 'estimator\.posse'; did you mean 'pose'"),
    ({"name": "onnx", "detector": "https://x.org/a.onnx", "pose": "b"}, "a URL needs detector_sha256"),
    ({"name": "mmpose", "detector": "a", "config": "c", "checkpoint": "http://x.org/a.pth"}, "checkpoint_sha256"),
    ({"name": "onnx", "detector": "a", "pose": "b", "providers": ["rocm"]}, "providers"),
    ({"name": "onnx", "detector": "a", "pose": "b", "pose_sha256": "abc"}, "pose_sha256"),
    (7, "give a name, or a mapping"),
])
def test_configurations_are_checked(estimator, words):
    with pytest.raises(InputError, match=words):
        configs.build(Harvest, {"sources": ["a"], "output": "b", "estimator": estimator}, "test")


def test_configurations_in_full():
    config = configs.build(Harvest, {"sources": ["a"], "output": "b", "estimator": {
        "name": "onnx", "detector": "a", "pose": "b"}}, "test")
    assert isinstance(config.estimator, OnnxConfig)
    assert configs.build(Harvest, config.model_dump(mode="json"), "test") == config
    own = configs.build(Harvest, {"sources": ["a"], "output": "b", "estimator": "my:Own"}, "test")
    assert own.estimator == "my:Own"
    assert "estimator.name=mmpose" in configs.schema(Harvest)
    with pytest.raises(ValidationError):
        OnnxConfig(detector="a", pose="b", detector_size=(8, 8))


def test_the_examples_of_the_documentation_are_configurations():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "estimators.md").read_text(), re.S)
    assert [configs.build(Harvest, {"sources": ["a"], "output": "b", **yaml.safe_load(block)}, "test").estimator.name
            for block in blocks] == ["onnx", "mmpose"]


def test_how_a_model_runs_is_not_what_it_answers():
    def fingerprint(**options):
        estimator = {"name": "onnx", "detector": "a", "pose": "b", **options}
        return configs.build(Harvest, {"sources": ["a"], "output": "b", "estimator": estimator}, "test").fingerprint

    assert fingerprint() == fingerprint(threads=3, batch=2, providers=["cpu"])
    assert len({fingerprint(), fingerprint(pose="c"), fingerprint(min_score=0.5), fingerprint(heatmap="udp")}) == 4


@pytest.mark.parametrize("name", ["onnx", "mmpose", "nothing"])
def test_names_alone(name):
    with pytest.raises(InputError, match=f"estimator={name}: (its models must be named|unknown)"):
        build(name)
