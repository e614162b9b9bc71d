"""What TensorBoard reads back, from a folder and from a URL."""

from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

from pretrain.board import Board
from skelcore.errors import InputError
from skelcore.layouts import LAYOUTS
from skelcore.sequence import PoseSequence

COCO = LAYOUTS["coco17"]


def clip(seed: int = 0, frames: int = 9) -> PoseSequence:
    shape = (1, frames, len(COCO))
    return PoseSequence(np.random.default_rng(seed).uniform(20, 180, (*shape, 2)), np.ones(shape), COCO)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_scalars_and_figures_are_read_back(tmp_path: Path) -> None:
    one = clip()
    points, scores = torch.from_numpy(one.keypoints[0]), torch.from_numpy(one.scores[0])
    with Board(str(tmp_path)) as board:
        board.scalars({"loss/total": 2.5, "loss/nan": float("nan"), "loss/inf": float("inf")}, 3)
        board.scalars({"loss/total": 1.5}, 4)
        board.views([one, one], ["clip", "view"], 4)
        board.reconstruction(points, scores, torch.rand(3, 17) < 0.9, points + 5, COCO, 4)
    events = read(tmp_path)
    assert events.Tags()["scalars"] == ["loss/total"]
    assert [(point.step, point.value) for point in events.Scalars("loss/total")] == [(3, 2.5), (4, 1.5)]
    assert sorted(events.Tags()["images"]) == ["reconstruction", "views"]
    assert events.Images("reconstruction")[0].step == 4 and events.Images("views")[0].height > 200


def test_what_lies_beyond_the_step_of_resumption_is_taken_back(tmp_path: Path) -> None:
    with Board(str(tmp_path), purge_step=1) as board:
        for step in range(1, 8):
            board.scalars({"loss": step}, step)
    with Board(str(tmp_path), purge_step=5) as board:
        board.scalars({"loss": 50}, 5)
    points = read(tmp_path).Scalars("loss")
    assert [(point.step, point.value) for point in points] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]


def test_the_projector_finds_features_names_and_a_sprite_of_each_clip(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    clips, others = [clip(seed) for seed in range(11)], [f"c{i}" for i in range(10)]
    with Board(str(tmp_path)) as board:
        board.projector(features, ["jump\tup\nhigh", *others], clips)
        with pytest.raises(InputError, match="11 features, 11 names and 10 clips"):
            board.projector(features, ["x"] * 11, clips[:10])
    np.testing.assert_allclose(_read_tensor_tsv_file(str(tmp_path / "projector.tsv")), features, rtol=1e-5)
    assert (tmp_path / "projector_names.tsv").read_text().splitlines() == ["jump up high", *others]
    sheet = cv2.imread(str(tmp_path / "projector.png"))
    assert sheet.shape == (256, 256, 3)
    tiles = sheet.reshape(4, 64, 4, 64, 3).swapaxes(1, 2).reshape(16, -1)
    assert ((tiles < 255).any(1) == (np.arange(16) < 11)).all()
    config = (tmp_path / "projector_config.pbtxt").read_text()
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    [embedding] = text_format.Parse(config, ProjectorConfig()).embeddings
    assert list(embedding.sprite.single_image_dim) == [64, 64]
    for path in (embedding.tensor_path, embedding.metadata_path, embedding.sprite.image_path):
        assert (tmp_path / path).is_file()


def test_hyperparameters_are_in_the_run_itself(tmp_path: Path) -> None:
    config = {"epochs": 3, "encoder": {"name": "stgcn++", "width": None}, "compile": False, "data": ["a", "b"]}
    with Board(str(tmp_path)) as board:
        board.hyperparameters(config, ["knn/accuracy"])
        board.scalars({"knn/accuracy": 0.5}, 1)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    events = read(tmp_path)
    plugin = events.PluginTagToContent("hparams")
    values = metadata.parse_session_start_info_plugin_data(plugin[metadata.SESSION_START_INFO_TAG]).hparams
    assert values["epochs"].number_value == 3 and values["encoder.name"].string_value == "stgcn++"
    assert values["encoder.width"].string_value == "None" and values["compile"].string_value == "False"
    experiment = metadata.parse_experiment_plugin_data(plugin[metadata.EXPERIMENT_TAG])
    assert [info.name.tag for info in experiment.metric_infos] == ["knn/accuracy"]
    assert [point.value for point in events.Scalars("knn/accuracy")] == [0.5]


def test_events_reach_a_url_when_flushed_and_when_closed(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.makedirs("/board-run", exist_ok=True)

    def steps(to: Path) -> list[int]:
        to.mkdir()
        for path in memory.ls("/board-run", detail=False):
            memory.get_file(path, str(to / path.rpartition("/")[2]))
        return [point.step for point in read(to).Scalars("loss")]

    with Board("memory://board-run", purge_step=1) as board:
        board.scalars({"loss": 1.0}, 1)
        board.flush()
        assert steps(tmp_path / "first") == [1]
        board.scalars({"loss": 1.0}, 2)
        board.projector(np.zeros((1, 2)), ["a"], [clip()])
    with Board("memory://board-run", purge_step=2) as board:
        board.scalars({"loss": 1.0}, 2)
    assert steps(tmp_path / "second") == [1, 2]
    assert {"projector.png", "projector_config.pbtxt"} <= {path.name for path in (tmp_path / "second").iterdir()}


def test_a_board_of_no_output_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = clip()
    with Board(None, purge_step=3) as board:
        board.scalars({"loss": 1.0}, 1)
        board.views([one], ["clip"], 1)
        board.reconstruction(torch.zeros(9, 17, 2), torch.ones(9, 17), torch.ones(3, 17) > 0, torch.zeros(9, 17, 2),
                             COCO, 1)
        board.projector(np.zeros((1, 2)), ["a"], [one])
        board.hyperparameters({"a": 1}, [])
        board.flush()
    assert list(tmp_path.iterdir()) == []
