"""Representations: several checkpoints as runs or as streams, views of a clip, and what statistics are learnt from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adapt import features, run
from adapt.config import AdaptConfig
from adapt.represent import TOKEN_SEGMENTS, Clips
from skelcore import checkpoint
from skelcore.encoders import build
from tests.adapt import clips as made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write(tmp_path_factory.mktemp("data") / "clips.pkl", classes=6, train=4, test=3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A joint and a bone stream of a graph encoder, and a heatmap encoder."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, (name, channels, stream) in enumerate((("stgcn++", 3, "joint"), ("stgcn++", 3, "bone"),
                                                     ("x3d-shallow", 17, "joint"))):
        torch.manual_seed(seed)
        checkpoint.save_encoder(folder / f"{seed}.pt", build(name, "coco17", channels, 8), frames=16, stream=stream)
    return [str(folder / f"{seed}.pt") for seed in range(3)]


def opened(data: Path, folder: Path, **values: object) -> Clips:
    config = AdaptConfig(data=str(data), output=str(folder), draws=2, k_shot=[1], scratch_inits=2, **values)
    return run.prepare(config).clips


def test_several_runs_are_several_initialisations(data: Path, weights: list[str], tmp_path: Path) -> None:
    both = opened(data, tmp_path, checkpoint=weights[:2])
    alone = [opened(data, tmp_path, checkpoint=path).features("pretrained")[0] for path in weights[:2]]
    for one, other in zip(both.features("pretrained"), alone, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(both.features("fused")) == 2 and len(both.features("scratch")) == 2


def test_streams_and_encoders_of_two_kinds_stand_side_by_side(data: Path, weights: list[str], tmp_path: Path) -> None:
    found, = opened(data, tmp_path, checkpoint=[weights]).features("pretrained")
    alone = [opened(data, tmp_path, checkpoint=path).features("pretrained")[0] for path in weights]
    assert found.shape[1] == sum(each.shape[1] for each in alone)
    start, count = 0, 24  # the support split's clips
    for each in alone:  # each stream has the same share of the distance between clips
        part = found[:, start:start + each.shape[1]]
        assert np.square(part[:count]).sum(1).mean() == pytest.approx(1, rel=1e-4)
        assert np.allclose(part * np.linalg.norm(each) / np.linalg.norm(part), each, atol=1e-5)
        start += each.shape[1]
    scratch = opened(data, tmp_path, checkpoint=[weights]).features("scratch")
    assert len(scratch) == 2 and scratch[0].shape == found.shape


def test_mirrored_and_windowed_features_are_the_mean_of_each_view(data: Path, weights: list[str],
                                                                  tmp_path: Path) -> None:
    clips = opened(data, tmp_path, checkpoint=weights[0], mirror=True, windows=2, whiten="none")
    source = clips.sources[0]
    rows = []
    for look in features.looks(2, True):
        seen = features.Clips(source.clips.store, 16, 1, source.encoder.layout, "joint", look=look)
        rows.append(features.encode(source.encoder, seen.inputs(source.encoder)))
    assert not np.allclose(rows[0], rows[1]) and not np.allclose(rows[0], rows[2])
    mean = np.mean(rows, 0)
    np.testing.assert_allclose(clips.features("pretrained")[0], mean - mean[:24].mean(0), atol=1e-5)


def test_a_mirror_image_has_left_and_right_exchanged(data: Path, tmp_path: Path) -> None:
    clips = opened(data, tmp_path)._coordinates()
    plain, mirrored = (next(iter(features.Clips(clips.store, 16, 1, clips.layout, look=look).batches()))
                       for look in (features.Look(), features.Look(mirror=True)))
    other = clips.layout.mirror
    torch.testing.assert_close(mirrored.scores, plain.scores[..., other])
    torch.testing.assert_close(mirrored.keypoints[..., 0], -plain.keypoints[..., other, 0])
    torch.testing.assert_close(mirrored.keypoints[..., 1], plain.keypoints[..., other, 1])


def test_a_window_is_a_stretch_of_the_clip(data: Path, tmp_path: Path) -> None:
    clips = opened(data, tmp_path)._coordinates()
    plain, half = (next(iter(features.Clips(clips.store, 17, 1, clips.layout, fill=0.1, look=look).batches()))
                   for look in (features.Look(), features.Look(0, 0.5)))
    torch.testing.assert_close(half.keypoints[:, :, ::2], plain.keypoints[:, :, :9])
    mean = (plain.keypoints[:, :, :8] + plain.keypoints[:, :, 1:9]) / 2
    torch.testing.assert_close(half.keypoints[:, :, 1::2], mean)


def test_tokens_are_of_stretches_and_parts_and_centred(data: Path, weights: list[str], tmp_path: Path) -> None:
    for path, parts in ((weights[0], 6), (weights[2], 9)):
        clips = opened(data, tmp_path, checkpoint=path)
        found, = clips.tokens("pretrained")
        assert found.shape[1:3] == (TOKEN_SEGMENTS, parts)
        assert np.abs(found[:clips.learned].mean((0, 1))).max() < 1e-5
    assert len(opened(data, tmp_path, checkpoint=weights[0]).tokens("scratch")) == 2
    both, = opened(data, tmp_path, checkpoint=[weights]).tokens("pretrained")
    assert both.shape[1:3] == (TOKEN_SEGMENTS, 6 + 6 + 9)
    np.testing.assert_array_equal(both[:, :, 12:], found)


def test_statistics_are_of_the_base_classes_where_there_are_some(data: Path, weights: list[str],
                                                                 tmp_path: Path) -> None:
    clips = opened(data, tmp_path, checkpoint=weights[0], benchmark="episodes", way=2, episode_queries=2, episodes=5)
    found, = clips.features("pretrained")
    assert clips.learned == 3 * 7 and len(found) == clips.learned + 2 * 7
    assert np.abs(found[:clips.learned].mean(0)).max() < 1e-5 < np.abs(found.mean(0)).max()
